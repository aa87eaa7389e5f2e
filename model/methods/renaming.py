"""From the names of published checkpoints to own names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

Patterns = Iterable[tuple[str, str | Callable[[re.Match[str]], str]]]


def by_prefixes(
    state: Mapping[str, Tensor], own: Mapping[str, str], left_out: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """``state`` with each name's first fitting prefix of ``own`` replaced, without names that begin as ``left_out``."""
    renamed = {}
    for name, tensor in state.items():
        if not name.startswith(left_out):
            begin = next((begin for begin in own if name.startswith(begin)), "")
            renamed[own.get(begin, "") + name.removeprefix(begin)] = tensor
    return renamed


def by_patterns(state: Mapping[str, Tensor], own: Patterns, left_out: str = r"(?!)") -> dict[str, Tensor]:
    """``state`` with all expressions of ``own`` replaced in turn, without names that ``left_out`` matches."""
    renamed = {}
    for name, tensor in state.items():
        if not re.match(left_out, name):
            for pattern, replacement in own:
                name = re.sub(pattern, replacement, name)
            renamed[name] = tensor
    return renamed
