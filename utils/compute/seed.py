"""Random numbers of a run: seed, state of the generators, and deterministic algorithms."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and torch, all devices included.

    Args:
        seed: ``SOLVER.SEED``.
        deterministic: let torch choose algorithms that give the same bits in each run. Operations that have none only
            warn. cuBLAS reads its setting when a process first uses the GPU, so call this before.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = False


def reproducibility_note(device: torch.device, deterministic: bool) -> str:
    """Line of a run's log about bit-identical results; empty on the CPU, where they are guaranteed on one machine."""
    if device.type == "cpu":
        return ""
    if deterministic:
        return (
            f"SOLVER.DETERMINISTIC: torch is set to give the same bits in each run on {device.type}; operations "
            "without such a form are named in a warning and may differ"
        )
    return (
        f"two runs on {device.type} may differ in their last bits; SOLVER.DETERMINISTIC True sets torch to give the "
        "same ones, and is slower"
    )


@contextmanager
def seeded(device: torch.device, *key: int) -> Iterator[None]:
    """Within the block, torch's generators draw from a seed that ``key`` determines; afterwards they are as before."""
    state = RngState(device)
    before = state.state_dict()
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1)
    try:
        yield
    finally:
        state.load_state_dict(before)


class RngState:
    """The state of torch's generators on the CPU and ``device``, as a part of what a run resumes from.

    Nothing else needs keeping: batches and augmentations are drawn from generators of their own, which seed and
    epoch determine (:mod:`datasets.sampler`).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def state_dict(self) -> dict[str, Tensor]:
        """States by kind of device."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type != "cpu":
            states[self.device.type] = torch.get_device_module(self.device).get_rng_state(self.device)
        return states

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`; a device that it did not know continues from its seed."""
        torch.set_rng_state(state["cpu"])
        if self.device.type in state and self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(state[self.device.type], self.device)
