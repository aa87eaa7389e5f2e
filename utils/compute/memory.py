"""What the C library does with memory that was freed."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of ``mallopt`` in <malloc.h>."""


def keep_freed_memory() -> None:
    """Let this process and those that it forks use freed memory again instead of returning it to the system.

    glibc returns blocks of 32 MB and more at once, and Linux then clears every page of the next one: a quarter of a
    training step of ViT-B/16 on a CPU and a third of one of ResNet-50. Other C libraries stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
