"""What machine numbers are of."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """Its name, which the platform module does not give on Linux."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
