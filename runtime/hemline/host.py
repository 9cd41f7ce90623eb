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


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A host and what decides how fast it computes.

    Attributes:
        host: the machine and what is installed on it.
        cpu_flags: what the processor can do, as the system names it, with spaces between.
        governor: what sets the clock of the first core, such as `performance`; None where the
            system does not tell.
    """

    host: Host
    cpu_flags: str
    governor: str | None


def describe_machine() -> Machine:
    """Returns the facts of this machine that its speed depends on."""
    return Machine(host=describe_host(), cpu_flags=_cpu_flags(), governor=_governor())


def load_average() -> float | None:
    """Returns how many processes wanted to run, over the last minute; None on Windows."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


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
    status = Path("/proc/self/status")
    if status.is_file():
        # On Linux a program starts with the getrusage of the process that started it, so a small
        # child of a large parent seems large. VmHWM is of its own memory alone: proc(5).
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
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
    name = _cpu_information("model name", "Model")
    if not name and sys.platform == "darwin":
        # On Apple silicon platform.processor() says `arm` of every chip.
        name = _sysctl("-n", "machdep.cpu.brand_string")
    return name or platform.processor() or platform.machine()


def _cpu_flags() -> str:
    if sys.platform == "darwin":
        lines = (line.partition(": ") for line in _sysctl("hw.optional").splitlines())
        return " ".join(name.removeprefix("hw.optional.") for name, _, has in lines if has == "1")
    # The second is the name on Arm.
    return _cpu_information("flags", "Features")


def _governor() -> str | None:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def _cpu_information(*keys: str) -> str:
    """Returns what Linux says of the first core under one of these keys, or an empty string."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith(keys):
                return line.partition(":")[2].strip()
    return ""


def _sysctl(*arguments: str) -> str:
    command = ["/usr/sbin/sysctl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
