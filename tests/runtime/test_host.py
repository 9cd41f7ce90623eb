import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hemline import host as host_module
from hemline.host import describe_host, describe_machine, load_average, peak_memory_bytes


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


def test_what_the_processor_can_do() -> None:
    flags = describe_machine().cpu_flags.split()
    assert {"x86_64": {"sse2"}, "aarch64": {"fp"}}.get(platform.machine(), set()) <= set(flags)
    assert flags


def test_a_mac_names_what_its_chip_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> SimpleNamespace:
        if command[1] == "-n":
            return SimpleNamespace(stdout="Apple M1\n")
        assert command[1:] == ["hw.optional"]
        names = {"arm.FEAT_DotProd": 1, "arm.FEAT_SME": 0, "neon": 1}
        lines = [f"hw.optional.{name}: {has}\n" for name, has in names.items()]
        return SimpleNamespace(stdout="".join(lines))

    monkeypatch.setattr(host_module, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(host_module.subprocess, "run", run)
    assert describe_machine().cpu_flags == "arm.FEAT_DotProd neon"


@pytest.mark.parametrize("key", ["flags", "Features"])
def test_linux_names_what_its_chip_can_do(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{key}\t: one two\n\n{key}\t: other\n")
    (tmp_path / "scaling_governor").write_text("schedutil\n")
    monkeypatch.setattr(host_module, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(host_module, "Path", lambda path: tmp_path / Path(path).name)
    machine = describe_machine()
    assert (machine.cpu_flags, machine.governor) == ("one two", "schedutil")
    (tmp_path / "scaling_governor").unlink()
    assert describe_machine().governor is None


def test_the_load_is_told_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "os", SimpleNamespace(getloadavg=lambda: (0.5, 1.0, 2.0)))
    assert load_average() == 0.5
    monkeypatch.setattr(host_module, "os", SimpleNamespace())
    assert load_average() is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count anew by themselves")
def test_a_child_s_memory_is_its_own() -> None:
    held = bytes(300_000_000)
    code = "from hemline.host import peak_memory_bytes; print(peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert 1_000_000 < int(done.stdout) < len(held) / 3


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell")
def test_the_peak_of_memory_grows() -> None:
    before = peak_memory_bytes()
    assert before is not None
    held = np.ones(before // 8 + 10_000_000)
    after = peak_memory_bytes()
    assert after is not None
    assert after - before > held.nbytes / 4
