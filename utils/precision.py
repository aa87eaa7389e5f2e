"""Losses are computed in float32 or better, whatever precision the network runs in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(compute: Callable[P, R]) -> Callable[P, R]:
    """Make a method widen its floating-point tensor arguments to float32 and run outside autocast.

    Logits of un-normalised features reach the hundreds; in half precision their exponentials and the
    differences of squared norms lose the digits that a loss is made of. float64 arguments stay float64.
    """

    @wraps(compute)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        values = (*args, *kwargs.values())
        device = next(value.device.type for value in values if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return compute(*map(_widen, args), **{name: _widen(value) for name, value in kwargs.items()})

    return wrapped


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value
