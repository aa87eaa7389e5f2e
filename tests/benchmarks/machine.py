"""What benchmarks measure on a machine: what it is, its memory at the peak, its matrix product."""

from __future__ import annotations

import os
import platform
import time
from datetime import date
from pathlib import Path

import torch


def describe(device: torch.device) -> dict[str, object]:
    """The machine, the versions and the day, for a table of results."""
    instructions = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX512-bf16": "avx512_bf16", "AMX-bf16": "amx_bf16"}
    found: dict[str, object] = {"date": date.today().isoformat(), "torch": torch.__version__, "device": device.type}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        fields = dict(line.replace("\t", "").split(": ", 1) for line in lines if ": " in line)
        found["cpu"] = fields.get("model name", platform.processor())
        found["instructions"] = [name for name, flag in instructions.items() if flag in fields.get("flags", "").split()]
    except OSError:
        found["cpu"] = platform.processor() or platform.machine()
    found |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def finish(device: torch.device) -> None:
    """Wait until an accelerator has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Peak:
    """Highest memory use inside the block in GB; None where the system does not report it.

    Attributes:
        above: above that at the start of the block.
        total: of the process, or of the GPU's tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.above: float | None = None
        self.total: float | None = None

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
            return self
        try:
            # Linux: set the high-water mark of the resident memory back to what it is now.
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _resident("VmRSS")
        except OSError:
            self.before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        elif self.before is not None:
            # Linux counts pages by thread and sums them late: the mark can lie some pages below what was there before.
            peak = max(_resident("VmHWM"), self.before)
        else:
            return
        self.above, self.total = (peak - self.before) / 1e9, peak / 1e9


def _resident(field: str) -> int:
    """A memory figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def product_flops(device: torch.device, dtype: torch.dtype, size: int, seconds: float = 0.2) -> float:
    """FLOP/s of the product of two square matrices, the best of as many as fit in ``seconds``."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    finish(device)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        a @ b
        finish(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
