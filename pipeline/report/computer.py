"""The machine this runs on, in words."""

import os
import platform
from pathlib import Path

_CPU = Path("/proc/cpuinfo")
_MEMORY = Path("/proc/meminfo")


def describe() -> dict[str, str]:
    """What a reader needs to judge times by: system, processor, cores, memory, Python."""
    facts = {"System": platform.platform(), "Processor": _processor()}
    if _MEMORY.exists():
        kilobytes = int(_MEMORY.read_text().split("MemTotal:")[1].split()[0])
        facts["Memory"] = f"{kilobytes / 2**20:.0f} GiB"
    return {**facts, "Python": platform.python_version()}


def _processor() -> str:
    names = []
    if _CPU.exists():
        lines = [line.split(":", 1) for line in _CPU.read_text().splitlines() if ":" in line]
        names = [value.strip() for key, value in lines if key.strip() == "model name"]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
