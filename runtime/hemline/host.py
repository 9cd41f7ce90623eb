"""The facts of the machine that a result was made on."""

import os
import platform
import subprocess
import sys
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
        system=_system(),
        python=platform.python_version(),
        packages=packages,
    )


def peak_memory_bytes() -> int | None:
    """Returns the most memory that this process has had resident; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in KiB elsewhere: getrusage(2).
    return peak if sys.platform == "darwin" else peak * 1024


def _system() -> str:
    release = platform.mac_ver()[0]
    return f"macOS {release}" if release else f"{platform.system()} {platform.release()}"


def _cpu_name() -> str:
    # platform.processor() is empty or the bare instruction set on Linux.
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        # On Apple silicon platform.processor() says `arm` of every chip.
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.stdout.strip():
            return found.stdout.strip()
    return platform.processor() or platform.machine()
