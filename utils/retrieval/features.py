"""Features of images with their labels, read a block of rows at a time, from memory or from a mapped file."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.errors import ReIDError

GALLERY_ROWS = 2**14
"""Gallery features read at a time: 84 MB at 1,280 dimensions."""

NORM_ROWS = 2**8
"""Features whose lengths are computed at a time."""


@dataclass(frozen=True)
class Features:
    """Features of one split with the labels of their images.

    Attributes:
        features: [N, D], a tensor or a numpy array; ``np.load(file, mmap_mode="r")`` keeps a large one on disk.
            float32 or float16; all arithmetic is done in float32 or better.
        pids: [N] identities; -1 marks junk, which is neither right nor wrong.
        camids: [N] cameras.

    Raises:
        ReIDError: the three do not have the same length.
    """

    features: Tensor | np.ndarray
    pids: Tensor | np.ndarray
    camids: Tensor | np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "pids", labels(self.pids))
        object.__setattr__(self, "camids", labels(self.camids))
        shapes = tuple(self.features.shape), tuple(self.pids.shape), tuple(self.camids.shape)
        if len(shapes[0]) != 2 or shapes[1] != shapes[0][:1] or shapes[2] != shapes[0][:1]:
            raise ReIDError(
                f"features, pids and camids have the shapes {shapes}; expected (N, D), (N,) and (N,). "
                "Give one identity and one camera per feature row."
            )

    def __len__(self) -> int:
        return int(self.features.shape[0])


def labels(values: Tensor | np.ndarray | Iterable[int]) -> Tensor:
    """Labels of any integer kind as an int64 tensor [N] on the CPU."""
    if isinstance(values, Tensor):
        return values.detach().cpu().long()
    array = values if isinstance(values, np.ndarray) else list(values)
    return torch.from_numpy(np.array(array, dtype=np.int64))


def device_of(features: Tensor | np.ndarray, device: torch.device | str | None = None) -> torch.device:
    """Where to compute: ``device`` if given, else where the features are; numpy arrays are on the CPU."""
    if device is not None:
        return torch.device(device)
    return features.device if isinstance(features, Tensor) else torch.device("cpu")


def rows(
    features: Tensor | np.ndarray,
    index: slice | Tensor,
    device: torch.device,
    dtype: torch.dtype | None = torch.float32,
) -> Tensor:
    """The rows ``index`` of ``features`` as a tensor [n, D] on ``device``; a view where nothing must change.

    ``dtype`` None leaves the numbers as they are stored.
    """
    if isinstance(features, Tensor):
        # index_select copies whole rows, in a third of the time that indexing takes.
        found = features[index] if isinstance(index, slice) else features.index_select(0, index.to(features.device))
        return found.detach().to(device=device, dtype=dtype or found.dtype)
    place = index.cpu().numpy() if isinstance(index, Tensor) else index
    found = torch.from_numpy(np.array(features[place]))
    return found.to(device=device, dtype=dtype or found.dtype)


def release(features: Tensor | np.ndarray) -> None:
    """Let the system take back the pages of a memory-mapped file, which else count as memory of this process."""
    mapping = getattr(features, "_mmap", None)
    # Copy-on-write maps ("c") would lose their changes.
    if mapping is not None and getattr(features, "mode", "c") in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def check_widths(query: Tensor | np.ndarray, gallery: Tensor | np.ndarray) -> None:
    """Raise :class:`ReIDError` unless both are [N, D] of the same D and neither is empty."""
    if len(query) == 0 or len(gallery) == 0 or query.shape[1:] != gallery.shape[1:]:
        raise ReIDError(
            f"query features have the shape {tuple(query.shape)} and gallery features {tuple(gallery.shape)}; "
            "expected two non-empty sets of the same width. Were they extracted with the same model?"
        )


def squared_norms(features: Tensor | np.ndarray) -> Tensor:
    """Squared lengths [N] of the rows in float32, where the features are; they are read in blocks.

    Raises:
        ReIDError: a row holds NaN or infinity.
    """
    # Filled in place: small results kept between large temporaries would keep the freed memory from the system.
    device = device_of(features)
    norms = torch.empty(len(features), device=device)
    for start in range(0, len(features), NORM_ROWS):
        part = rows(features, slice(start, start + NORM_ROWS), device)
        norms[start : start + NORM_ROWS] = (part * part).sum(1)
        release(features)
    check_finite(norms)
    return norms


def check_finite(norms: Tensor) -> None:
    """Raise :class:`ReIDError` unless all squared lengths [N] of features are finite."""
    broken = (~torch.isfinite(norms)).nonzero()[:, 0]
    if len(broken):
        raise ReIDError(
            f"{len(broken)} of {len(norms)} features hold NaN, infinite or far too large values (the first is row "
            f"{int(broken[0])}). The model has diverged: look at its training loss, or use an earlier checkpoint."
        )
