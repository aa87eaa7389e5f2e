"""Batch normalisation by the images of all processes, on any device: torch's SyncBatchNorm works on GPUs only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm

from utils.compute.distributed import stack_over_processes, world_size
from utils.compute.precision import widened
from utils.errors import ReIDError

_SYNCHRONISED = {nn.BatchNorm1d: "1d", nn.BatchNorm2d: "2d", nn.BatchNorm3d: "3d"}

_in_front: list[bool] = []


def synchronise_batch_norm(module: nn.Module) -> None:
    """Let every BatchNorm within ``module`` normalise by the images of all processes in front of the seam.

    Behind the seam (:func:`in_front_of_seam`), where each process has the whole batch, they stay as they are.
    Parameters, buffers and names do not change.

    Raises:
        ReIDError: a layer does more than normalise.
    """
    for name, layer in module.named_modules():
        if type(layer) in _SYNCHRONISED:
            layer.__class__ = _CLASSES[type(layer)]
        elif isinstance(layer, _BatchNorm) and not isinstance(layer, _Synchronised):
            raise ReIDError(
                f"SOLVER.SYNC_BN: {name} is a {type(layer).__name__}, which may do more than normalise. Set it to "
                "False, or train in one process."
            )


@contextmanager
def in_front_of_seam() -> Iterator[None]:
    """Within the block, synchronised layers normalise by the images of all processes."""
    _in_front.append(True)
    try:
        yield
    finally:
        _in_front.pop()


@contextmanager
def without_statistics(model: nn.Module) -> Iterator[None]:
    """Do not count into running statistics what is computed a second time."""
    norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in norms]
    counts = [None if count is None else count.clone() for _, count in before]
    for layer in norms:
        layer.momentum = 0.0  # not track_running_stats: the recomputation must keep the same tensors as the first pass
    try:
        yield
    finally:
        for layer, (momentum, count), value in zip(norms, before, counts, strict=True):
            layer.momentum = momentum
            if count is not None:
                count.copy_(value)


class _Synchronised(_BatchNorm):
    """In training and in front of the seam, mean and variance over the rows [b, C, ...] of all processes."""

    @torch.compiler.disable
    def forward(self, images: Tensor) -> Tensor:
        if not self.training or world_size() == 1 or not _in_front:
            return super().forward(images)
        mean, variance, count = _statistics(images.detach())
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
        return _Normalise.apply(images, self.weight, self.bias, mean, variance, count, self.eps)


_CLASSES = {
    kind: type(f"SynchronisedBatchNorm{size}", (_Synchronised, kind), {}) for kind, size in _SYNCHRONISED.items()
}


def _all_but_channels(rows: Tensor) -> tuple[int, ...]:
    return (0, *range(2, rows.dim()))


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 2))


def _statistics(images: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and variance [C] over all processes, and how many values of a channel they are of."""
    variance, mean = torch.var_mean(widened(images), _all_but_channels(images), correction=0)
    count = mean.new_full((1,), images.numel() // len(mean))
    variances, means, counts = (stack_over_processes(part) for part in (variance, mean, count))
    share = counts / counts.sum()
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    return mean, variance, float(counts.sum())


class _Normalise(Function):
    r"""Forward :math:`y = (x - \mu) / \sigma \cdot w + b`; backward through :math:`\mu` and :math:`\sigma` too.

    With :math:`g` the gradient of y, n values of a channel in all processes and sums over these,
    :math:`dx = w / \sigma \cdot (g - \sum g / n - (x - \mu) / \sigma^2 \cdot \sum g (x - \mu) / n)`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: float, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.count, ctx.eps = count, eps
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        scale = (variance + ctx.eps).rsqrt()
        g, centred = widened(gradient), widened(x) - _per_channel(mean, x)
        own = torch.stack([g.sum(_all_but_channels(g)), (g * centred).sum(_all_but_channels(g))])
        plain, product = stack_over_processes(own).sum(0) / ctx.count
        dx = g - _per_channel(plain, x) - centred * _per_channel(scale.square() * product, x)
        dx = _per_channel(weight * scale, x) * dx
        return dx.to(x.dtype), own[1] * scale, own[0], None, None, None, None
