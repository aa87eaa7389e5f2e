"""Batch normalisation by the images of all processes, on any device: torch's SyncBatchNorm works on GPUs only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from utils.distributed import stack_over_processes, world_size


def synchronise_batch_norm(module: nn.Module) -> None:
    """Put a :class:`SynchronisedBatchNorm2d` in the place of every ``BatchNorm2d`` within ``module``.

    Parameters and buffers stay the same tensors under the same names.
    """
    for name, child in module.named_children():
        synchronise_batch_norm(child)
        if isinstance(child, nn.BatchNorm2d):
            norm = SynchronisedBatchNorm2d(child.num_features, child.eps, child.momentum)
            norm._parameters, norm._buffers = child._parameters, child._buffers
            setattr(module, name, norm.train(child.training))


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """``BatchNorm2d`` that in training takes mean and variance over the images [b, C, H, W] of all processes."""

    @torch.compiler.disable
    def forward(self, images: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(images)
        mean, variance, count = _statistics(images.detach())
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return _Normalise.apply(images, self.weight, self.bias, mean, variance, count, self.eps)


def _statistics(images: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and variance [C] over all processes, and how many values of a channel they are of."""
    variance, mean = torch.var_mean(images.float(), (0, 2, 3), correction=0)
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
        g, centred = gradient.float(), x.float() - mean[:, None, None]
        own = torch.stack([g.sum((0, 2, 3)), (g * centred).sum((0, 2, 3))])
        plain, product = stack_over_processes(own).sum(0) / ctx.count
        dx = g - plain[:, None, None] - centred * (scale.square() * product)[:, None, None]
        dx = (weight * scale)[:, None, None] * dx
        return dx.to(x.dtype), own[1] * scale, own[0], None, None, None, None
