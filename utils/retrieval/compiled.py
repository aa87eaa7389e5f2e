"""Loops that numba compiles, where it is installed. Torch does the same work elsewhere, with the same result."""

from __future__ import annotations

from functools import cache
from threading import Lock
from types import ModuleType

import torch

from utils.console.logger import LOGGER
from utils.optional import MissingPackageError, import_optional

WORTH_COMPILED = 2**19
"""Numbers from which on a loop pays; loading the loops takes 0.4 s, once."""


_LOADING = Lock()


def compiled_loops() -> ModuleType | None:
    """:mod:`utils.retrieval.kernels`, compiled once and kept on disk; None without numba. The log says which it is."""
    with _LOADING:  # once, whichever thread comes first
        return load_loops()


@cache
def load_loops() -> ModuleType | None:
    """The same, for :func:`compiled_loops` alone."""
    try:
        loops = import_optional("utils.retrieval.kernels")
    except MissingPackageError as error:
        LOGGER.info(
            "distances are ranked by torch (%s). With numba (pip install numba) evaluation and re-ranking take less "
            "time, with the same result.",
            error,
        )
        return None
    LOGGER.info("distances are ranked by loops that numba compiled")
    return loops


def in_pieces(*tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """The rows of all tensors, a piece for each thread."""
    step = max(1, -(-len(tensors[0]) // torch.get_num_threads()))
    return list(zip(*(tensor.split(step) for tensor in tensors), strict=True))
