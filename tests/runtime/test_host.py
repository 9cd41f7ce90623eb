import os
import platform
from importlib.metadata import version

from hemline.host import describe_host


def test_the_host_is_described() -> None:
    host = describe_host()
    assert host.cpu
    assert host.cores == os.cpu_count()
    assert host.machine == platform.machine()
    assert host.system.startswith(platform.system())
    assert host.python == platform.python_version()
    assert host.packages["numpy"] == version("numpy")
    assert "pytest" not in host.packages
