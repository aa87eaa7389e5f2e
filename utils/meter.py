"""Averages over an epoch, kept on the device so that reading them is the only time anyone waits."""

from __future__ import annotations

import torch
from torch import Tensor


class Meters:
    """Means of named values, weighted by the number of images they stand for."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
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
        """Sums and count, for a run that goes on in the middle of an epoch."""
        return {"sums": self._sums, "count": self._count}

    def load_state_dict(self, state: dict) -> None:
        """Go on from :meth:`state_dict`."""
        self._sums, self._count = dict(state["sums"]), state["count"]
