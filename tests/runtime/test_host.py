import os
import platform
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest

from hemline import host as host_module
from hemline.host import describe_host, peak_memory_bytes


def test_the_host_is_described() -> None:
    host = describe_host()
    assert host.cpu
    assert host.cores == os.cpu_count()
    assert host.machine == platform.machine()
    assert host.system.startswith(("macOS", platform.system()))
    assert host.python == platform.python_version()
    assert host.packages["numpy"] == version("numpy")
    assert "pytest" not in host.packages


def test_a_mac_is_described_by_its_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> SimpleNamespace:
        assert command[1:] == ["-n", "machdep.cpu.brand_string"]
        return SimpleNamespace(stdout="Apple M1\n")

    monkeypatch.setattr(host_module, "Path", lambda _: SimpleNamespace(is_file=lambda: False))
    monkeypatch.setattr(host_module, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(host_module.subprocess, "run", run)
    monkeypatch.setattr(host_module.platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    host = describe_host()
    assert (host.cpu, host.system) == ("Apple M1", "macOS 15.1")


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell")
def test_the_peak_of_memory_grows() -> None:
    before = peak_memory_bytes()
    assert before is not None
    held = np.ones(before // 8 + 10_000_000)
    after = peak_memory_bytes()
    assert after is not None
    assert after - before > held.nbytes / 4
