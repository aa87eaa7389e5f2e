"""Files of weights of which a part comes from a seed: rows that a training left at their start are not stored.

A small CLIP's token embedding table has 49,408 rows, and captions of hands have some two hundred words.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.errors import ReIDError

SEEDED = "seeded"
"""In the header of the file: by name, shape and deviation of a tensor whose rows may be absent; the seed."""
ROWS = ".rows"
"""Ending of the tensor with the numbers of the rows that are there."""


def start_values(name: str, shape: tuple[int, ...], deviation: float, seed: int) -> Tensor:
    """Uniform numbers with this standard deviation around 0, equal on every machine.

    They are float32 products of 24 random bits, which IEEE 754 fixes to the last bit.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))
    return torch.from_numpy((2 * rng.random(shape, dtype=np.float32) - 1) * np.float32(3**0.5 * deviation))


def without_start(tensors: Mapping[str, Tensor], deviations: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """``tensors``, those in ``deviations`` as the rows that differ from their start and the numbers of these."""
    kept = dict(tensors)
    for name, deviation in deviations.items():
        start = start_values(name, tuple(tensors[name].shape), deviation, seed)
        rows = (tensors[name] != start).any(dim=1).nonzero().flatten()
        kept[name], kept[f"{name}{ROWS}"] = tensors[name][rows], rows.int()
    return kept


def with_start(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inverse of :func:`without_start`.

    Args:
        tensors: of the file.
        record: ``{"seed": ..., "tensors": {name: [shape, deviation]}}``.

    Raises:
        ReIDError: the record does not fit the tensors.
    """
    whole = dict(tensors)
    try:
        for name, (shape, deviation) in record["tensors"].items():
            rows = whole.pop(f"{name}{ROWS}").long()
            found = whole[name]
            whole[name] = start_values(name, tuple(shape), deviation, record["seed"])
            whole[name][rows] = found
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ReIDError(f"the header's record {SEEDED!r} does not fit the tensors ({error}).") from None
    return whole
