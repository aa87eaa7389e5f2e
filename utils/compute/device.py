"""Which device computes, and in which number format."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from utils.compute.cores import usable_cores
from utils.compute.distributed import local_rank, world_size
from utils.errors import ReIDError


def choose_device(name: str, number: str = "0") -> torch.device:
    """The device that ``MODEL.DEVICE`` and ``MODEL.DEVICE_ID`` name.

    Args:
        name: ``auto`` (the first of the following that exists), ``cuda``, ``mps`` or ``cpu``.
        number: which of the visible GPUs; several processes take one each, whatever it says.

    Raises:
        ReIDError: this machine has no such device, or not enough of them.
    """
    alone = world_size() == 1  # several processes cannot communicate from an Apple GPU
    available = {"cuda": torch.cuda.is_available(), "mps": alone and torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available.get(name, False):
        have = ", ".join(kind for kind, there in available.items() if there)
        raise ReIDError(f"MODEL.DEVICE = {name!r}: not on this machine, which has {have}. Set it to one of these.")
    if name != "cuda":
        return torch.device(name)
    if not alone:
        return _gpu_of_process()
    if not number.isdecimal() or int(number) >= torch.cuda.device_count():
        raise ReIDError(
            f"MODEL.DEVICE_ID = {number!r}: expected the number of one of the {torch.cuda.device_count()} visible "
            "GPUs, counted from 0."
        )
    return torch.device(name, int(number))


def _gpu_of_process() -> torch.device:
    """The GPU with the number of this process on its machine, made this process's current device."""
    number, count = local_rank(), torch.cuda.device_count()
    if number >= count:
        raise ReIDError(
            f"torchrun --nproc_per_node: this machine has {count} visible GPUs and at least {number + 1} processes. "
            "Start one process for each GPU, or set MODEL.DEVICE to cpu."
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def wide_device(device: torch.device) -> torch.device:
    """Where float64 lives: on the device itself except on Apple's, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


def busy_note(device: torch.device) -> str:
    """What to know before computing on a CPU that is busy or shared; empty where there is nothing to say."""
    threads, usable = torch.get_num_threads(), usable_cores()
    if device.type != "cpu" or threads == 1:
        return ""
    if threads > usable:
        return (
            f"{threads} threads compute on the {usable} cores that this process may use (affinity, container): more "
            f"threads than cores are slower, set OMP_NUM_THREADS={usable}"
        )
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= cores:
        return ""
    return (
        f"this machine is busy (load {load:.1f} on {cores} cores): {threads} threads may be slower than one, "
        "OMP_NUM_THREADS=1"
    )


@dataclass(frozen=True)
class Precision:
    """Number format of the forward pass: ``dtype`` is float32 for none reduced."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """Context in which matrix products run in :attr:`dtype`."""
        reduced = self.dtype is not torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if reduced else None, enabled=reduced)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, at work for float16 only.

        Each of several processes computes its share of the gradients, times their number: scaled by as much less, they
        overflow where those of one process would.
        """
        scale = 2.0**16 / world_size()
        return torch.amp.GradScaler(self.device.type, init_scale=scale, enabled=self.dtype is torch.float16)


def choose_precision(name: str, device: torch.device) -> Precision:
    """The format that ``SOLVER.PRECISION`` names: ``auto``, ``fp32``, ``bf16`` or ``fp16``.

    ``auto`` is bfloat16 where the device computes in it natively and float32 elsewhere.
    """
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name == "auto":
        name = "bf16" if _native_bfloat16(device) else "fp32"
    return Precision(device, formats[name])


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # torch has only private functions for this; a release without them computes in float32
        tests = (getattr(torch.cpu, f"_is_{kind}_supported", None) for kind in ("amx_tile", "avx512_bf16"))
        return any(test() for test in tests if test is not None)
    return False
