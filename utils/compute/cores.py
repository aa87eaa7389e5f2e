"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time in a period, and the period, of a container (cgroup v2)."""


def usable_cores() -> int:
    """The machine's cores, less those outside the affinity mask (``taskset``, batch systems) or a container's quota."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(1, math.ceil(min(cores, _quota())))


def _quota() -> float:
    """Cores' worth of processor time; infinite without a limit."""
    try:
        granted, period = QUOTA.read_text(encoding="ascii").split()
        return float(granted) / float(period)
    except (OSError, ValueError):  # no such system; "max"
        return math.inf
