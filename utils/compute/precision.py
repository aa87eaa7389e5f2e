"""Which computations run in the number format of the run, and which in float32 or better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_formats: list[Callable[[], AbstractContextManager]] = []
"""Of the run; the last one counts."""


@contextmanager
def computing_in(autocast: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """Within the block, :func:`autocast_of_run` is ``autocast()``."""
    _formats.append(autocast)
    try:
        yield
    finally:
        _formats.pop()


def autocast_of_run() -> AbstractContextManager:
    """The run's autocast, for an encoder behind the seam; nothing outside a run."""
    return _formats[-1]() if _formats else nullcontext()


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
            return compute(*map(widened, args), **{name: widened(value) for name, value in kwargs.items()})

    return wrapped


def widened(value: Any) -> Any:
    """A floating-point tensor in float32, or in float64 if it is that; everything else unchanged."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value
