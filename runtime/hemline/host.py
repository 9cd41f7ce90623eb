"""The facts of the machine that a result was made on."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("hemline", "numpy", "ai-edge-litert", "onnxruntime", "coremltools", "tensorflow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine and what is installed on it.

    Attributes:
        cpu: the processor's model name.
        cores: logical cores.
        machine: instruction set, such as `x86_64` or `arm64`.
        system: operating system and release.
        python: its version.
        packages: the version of each package that has a part in results.
    """

    cpu: str
    cores: int
    machine: str
    system: str
    python: str
    packages: dict[str, str]


def describe_host() -> Host:
    """Returns the facts of this machine."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return Host(
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=packages,
    )


def _cpu_name() -> str:
    # platform.processor() is empty or the bare instruction set on Linux.
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
