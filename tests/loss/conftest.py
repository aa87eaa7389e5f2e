"""Golden losses of the published CLIP-ReID code (commit eb1898b), float32 on a CPU, with tolerances.

A tolerance is ten times the distance between that code's float32 and float64 runs.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.kit import case, index


class Golden:
    def __init__(self):
        self.arrays = case("07_losses")
        self.atol = {name: entry.get("atol", 0) for name, entry in index()["07_losses"]["arrays"].items()}

    def inputs(self, *names: str) -> list[Tensor]:
        """Fresh tensors; floating-point ones take gradients."""
        tensors = [torch.from_numpy(self.arrays[name].copy()) for name in names]
        return [t.requires_grad_() if t.is_floating_point() else t for t in tensors]

    def check(self, name: str, actual: Tensor) -> None:
        expected = torch.from_numpy(np.asarray(self.arrays[name]))
        torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=self.atol[name])

    def check_loss_and_gradients(self, case: str, loss: Tensor, gradients: dict[str, Tensor]) -> None:
        self.check(f"{case}.loss", loss)
        names, tensors = list(gradients), list(gradients.values())
        for name, gradient in zip(names, torch.autograd.grad(loss, tensors, retain_graph=True), strict=True):
            self.check(f"{case}.{name}", gradient)


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()


def pk_labels(counts: Sequence[int]) -> Tensor:
    """Label i, counts[i] times."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
