"""Progress of an epoch: bars that count images, and averages of what is logged."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.compute.distributed import shard_of
from utils.console.logger import on_terminal

PATIENCE = 2.0
"""Seconds before a bar appears; what is done by then needs none."""


def image_bar(total: int, doing: str, done: int = 0) -> tqdm:
    """A bar over ``total`` images, of which ``done`` were done before; no output without a terminal."""
    return tqdm(
        total=total,
        initial=done,
        desc=doing,
        unit=" images",
        delay=PATIENCE,
        leave=False,
        dynamic_ncols=True,
        disable=not on_terminal(),
    )


def counted(loader: DataLoader, doing: str) -> Iterator[dict[str, Tensor]]:
    """The batches of ``loader``, which visits this process's share of its images once, under a bar."""
    with image_bar(len(shard_of(len(loader.dataset))), doing) as bar:
        for batch in loader:
            yield batch
            bar.update(len(batch["images"]))


class Meters:
    """Means over an epoch of named values, weighted by numbers of images.

    Sums stay on the device, so that only reading them waits for it.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start from nothing."""
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def update(self, values: dict[str, Tensor], count: int) -> None:
        """Add the mean ``values`` of a batch of ``count`` images."""
        self._count += count
        for name, value in values.items():
            term = value.detach().to(torch.float32) * count
            self._sums[name] = self._sums[name].to(term.device) + term if name in self._sums else term

    @property
    def count(self) -> int:
        """Images so far."""
        return self._count

    def means(self) -> dict[str, float]:
        """The averages so far."""
        return {name: float(total) / max(self._count, 1) for name, total in self._sums.items()}

    def state_dict(self) -> dict:
        """Sums and count, for a run that resumes in the middle of an epoch."""
        return {"sums": self._sums, "count": self._count}

    def load_state_dict(self, state: dict) -> None:
        """Continue from :meth:`state_dict`."""
        self._sums, self._count = dict(state["sums"]), state["count"]
