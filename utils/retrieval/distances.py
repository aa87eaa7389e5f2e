"""Features with their labels, and the distances between them, one block of rows at a time."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import ReIDError
from utils.files.checkpoint import new_array

METRICS = ("euclidean", "cosine")

VISIBLE = "visible"
"""A distance of rows of another form, see :func:`visible_chunks`; only :func:`distance_chunks` has it."""

GALLERY_ROWS = 2**14
"""Gallery features read at a time: 84 MB at 1,280 dimensions."""

_NORM_ROWS = 2**8
_SAMPLED_ROWS = 2**10
_SHORTEST = 2.0**-63
"""Length up to which a vector has no direction: float32 cannot hold its square."""

_CLOSE = 2.0**-8
"""Share of |a|^2 + |b|^2 below which the squared distance of a and b is computed in float64."""

_WIDE_SPREAD = 2.0**-4
"""Squared length around the origin from which the rounding of unit vectors to float32 is harmless."""

_PAIR_ELEMENTS = 2**17
_CHUNK_ELEMENTS = {"cpu": 2**23, "other": 2**26}


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
    features: Tensor | np.ndarray, index: slice | Tensor, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The rows ``index`` of ``features`` as a tensor [n, D] on ``device``; a view where nothing must change."""
    if isinstance(features, Tensor):
        # index_select copies whole rows, in a third of the time that indexing takes.
        found = features[index] if isinstance(index, slice) else features.index_select(0, index.to(features.device))
        return found.detach().to(device=device, dtype=dtype)
    place = index.cpu().numpy() if isinstance(index, Tensor) else index
    return torch.from_numpy(np.array(features[place])).to(device=device, dtype=dtype)


def release(features: Tensor | np.ndarray) -> None:
    """Let the system take back the pages of a memory-mapped file, which else count as memory of this process."""
    mapping = getattr(features, "_mmap", None)
    # Copy-on-write maps ("c") would lose their changes.
    if mapping is not None and getattr(features, "mode", "c") in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def check_metric(metric: str) -> None:
    """Raise :class:`ReIDError` unless ``metric`` is one of :data:`METRICS`."""
    if metric == VISIBLE:
        raise ReIDError(
            "TEST.METRIC = visible is a ratio of two inner products and not a distance of vectors, which is needed "
            "here. Set it to euclidean or cosine."
        )
    if metric not in METRICS:
        raise ReIDError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}.")


def check_widths(query: Tensor | np.ndarray, gallery: Tensor | np.ndarray) -> None:
    """Raise :class:`ReIDError` unless both are [N, D] of the same D and neither is empty."""
    if len(query) == 0 or len(gallery) == 0 or query.shape[1:] != gallery.shape[1:]:
        raise ReIDError(
            f"query features have the shape {tuple(query.shape)} and gallery features {tuple(gallery.shape)}; "
            "expected two non-empty sets of the same width. Were they extracted with the same model?"
        )


def squared_norms(features: Tensor | np.ndarray, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Squared lengths [N] of the rows, which are read in blocks.

    Raises:
        ReIDError: a row holds NaN or infinity.
    """
    # Filled in place: small results kept between large temporaries would keep the freed memory from the system.
    norms = torch.empty(len(features), dtype=dtype, device=device)
    for start in range(0, len(features), _NORM_ROWS):
        part = rows(features, slice(start, start + _NORM_ROWS), device, dtype)
        norms[start : start + _NORM_ROWS] = (part * part).sum(1)
        release(features)
    _check_finite(norms)
    return norms


def _check_finite(norms: Tensor) -> None:
    broken = (~torch.isfinite(norms)).nonzero()[:, 0]
    if len(broken):
        raise ReIDError(
            f"{len(broken)} of {len(norms)} features hold NaN, infinite or far too large values (the first is row "
            f"{int(broken[0])}). The model has diverged: look at its training loss, or use an earlier checkpoint."
        )


class Coordinates:
    """How features are compared: for the cosine at unit length, and relative to a point in their midst.

    A shift changes no Euclidean distance, but |a|^2 + |b|^2 - 2 a.b is rounded to a share of the squared lengths:
    relative to zero, that error exceeds the distances of features that lie close together. The cosine distance is half
    the squared Euclidean distance of unit vectors; a vector of length zero is orthogonal to all others.

    Args:
        features: the gallery [G, D]; up to 1,024 of its rows give the point.
        metric: one of :data:`METRICS`.

    Attributes:
        origin: [D] in float64: the mean, rounded to float32 and to a grid as coarse as the spread allows, so that
            integers and other short numbers keep exact distances.
    """

    def __init__(self, features: Tensor | np.ndarray, metric: str) -> None:
        check_metric(metric)
        self.cosine = metric == "cosine"
        count = min(len(features), _SAMPLED_ROWS)
        sample = rows(features, torch.arange(count) * len(features) // count, torch.device("cpu"), torch.float64)
        release(features)
        if self.cosine:
            sample = sample * _inverse_lengths(sample)[:, None]
        mean = sample.mean(0)
        spread = torch.linalg.vector_norm(sample.sub_(mean)).div(sample.numel() ** 0.5).clamp(min=1e-150)
        grid = torch.exp2(spread.log2().floor() - 3)
        self.origin = ((mean / grid).round() * grid).nan_to_num(0, 0, 0).float().double()

    def distance(self, squared: Tensor) -> Tensor:
        """The distance of the metric, in place, from squared Euclidean ones of :class:`Placed` features."""
        return squared.mul_(0.5) if self.cosine else squared


class Placed:
    """One set of features in the coordinates of a comparison.

    Args:
        features: [N, D].
        place: the coordinates.
        device: where to compute.

    Attributes:
        norms64: squared lengths [N] of :meth:`rows` in float64, for |a|^2 + |b|^2 - 2 a.b.
        norms: the same in float32, on the device.
        rounded: :meth:`quick_rows` rounds each number to float32 before the shift as well as after it.

    Raises:
        ReIDError: a row holds NaN or infinity.
    """

    def __init__(self, features: Tensor | np.ndarray, place: Coordinates, device: torch.device) -> None:
        self.features, self.place, self.device, self.wide = features, place, device, wide_device(device)
        self.origin = place.origin.to(self.wide)
        self.norms64 = torch.empty(len(features), dtype=torch.float64, device=self.wide)
        self.inverse = torch.ones_like(self.norms64)
        """1 / length by which rows are multiplied; 0 where there is no direction."""
        for start in range(0, len(features), _NORM_ROWS):
            index = slice(start, start + _NORM_ROWS)
            part = rows(features, index, self.wide, torch.float64)
            if place.cosine:
                self.inverse[index] = _inverse_lengths(part)
                part = part * self.inverse[index, None]
            part = part - self.origin
            # What the square of a zero vector lacks to be orthogonal to a unit vector is added to it.
            self.norms64[index] = torch.linalg.vecdot(part, part) + (self.inverse[index] == 0)
            release(features)
        _check_finite(self.norms64)
        self.norms = self.norms64.to(device, torch.float32)
        self.rounded = place.cosine and bool(self.norms64.min() >= _WIDE_SPREAD)
        self._origin32 = place.origin.to(device, torch.float32)
        self._inverse32 = self.inverse.to(device, torch.float32)

    def __len__(self) -> int:
        return len(self.features)

    def quick_rows(self, index: slice) -> Tensor:
        """:meth:`rows`, for cosines in float32 throughout where no row lies close to the origin.

        Each unit vector then carries an error of up to 2^-23 of its length, one, and not of its length here.
        """
        if not self.rounded:
            return self.rows(index)
        return (rows(self.features, index, self.device) * self._inverse32[index, None]).sub_(self._origin32)

    def rows(self, index: slice | Tensor) -> Tensor:
        """The rows ``index`` relative to the origin, in float32 on the device; a new tensor [n, D]."""
        if self.place.cosine:  # the rounding of unit vectors to float32 would be a share of one, not of their spread
            return self.rows64(index).to(self.device, torch.float32)
        return rows(self.features, index, self.device) - self.origin.to(self.device, torch.float32)

    def rows64(self, index: slice | Tensor) -> Tensor:
        """The same in float64."""
        found = rows(self.features, index, self.wide, torch.float64)
        return (found * self.inverse[index, None] if self.place.cosine else found).sub(self.origin)


def pair_distances(one: Placed, other: Placed, left: Tensor, right: Tensor) -> Tensor:
    """Squared distances [P] in float64 of the pairs of a row ``left`` and a row ``right``, each from its difference."""
    out = torch.empty(len(left), dtype=torch.float64, device=one.wide)
    step = max(1, _PAIR_ELEMENTS // one.features.shape[1])
    for start in range(0, len(left), step):
        i, j = left[start : start + step], right[start : start + step]
        difference = rows(one.features, i, one.wide, torch.float64)
        second = rows(other.features, j, one.wide, torch.float64)
        if one.place.cosine:
            difference.mul_(one.inverse[i, None]).addcmul_(second, other.inverse[j, None], value=-1)
        else:
            difference.sub_(second)
        found = torch.linalg.vecdot(difference, difference)
        if one.place.cosine:
            found.masked_fill_((one.inverse[i] == 0) | (other.inverse[j] == 0), 2)
        out[start : start + step] = found
        # Scattered reads map many pages of a file each.
        release(other.features)
    return out


def _inverse_lengths(features: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(features, dim=1)
    return torch.where(length > _SHORTEST, 1 / length, 0)


def product_error(device: torch.device, width: int) -> float:
    """Bound on the error of a float32 matrix product of rows of ``width`` numbers, as a share of |a| |b|.

    Eight rounding units cover plain float32 sums (three to nine half units are seen). A small product is also
    compared with float64, so that a device set to multiply more coarsely (TF32) is noticed.
    """
    numbers = torch.sin(torch.arange(64 * width, dtype=torch.float64) ** 1.5).view(64, width).float()
    exact = numbers.double() @ numbers.double().T
    found = numbers.to(device) @ numbers.to(device).T
    seen = (found.cpu().double() - exact).abs().max() / exact.diagonal().max()
    return max(8 * torch.finfo(torch.float32).eps, 8 * float(seen))


def rows_per_chunk(columns: int, device: torch.device, chunk_size: int | None = None) -> int:
    """How many rows of ``columns`` float32 numbers to hold at once: ``chunk_size``, or what fits 32 MB (CPU)."""
    if chunk_size is not None:
        return max(1, chunk_size)
    budget = _CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "other"]
    return max(1, budget // max(1, columns))


def distance_chunks(
    query: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    *,
    metric: str = "euclidean",
    chunk_size: int | None = None,
    device: torch.device | str | None = None,
) -> Iterator[Tensor]:
    """Distances of all queries [Q, D] to all gallery items [G, D], in blocks [q, G] of float32, in order.

    ``euclidean`` is the *squared* Euclidean distance |q - g|^2 (what the published code ranks by), ``cosine`` is
    1 - q.g / (|q| |g|), ``visible`` that of :func:`visible_chunks`. Each of the
    first two is within 1e-3 of its value, usually within 1e-6, however close the features lie: short distances are
    computed in float64. The gallery may be memory-mapped; it is read once per block.

    Args:
        chunk_size: queries per block; by default what fits 32 MB (256 MB on an accelerator).
        device: where to compute; by default where the queries are.

    Raises:
        ReIDError: unknown metric, different widths, NaN features.
    """
    check_widths(query, gallery)
    where = device_of(query, device)
    step = rows_per_chunk(len(gallery), where, chunk_size)
    if metric == VISIBLE:
        return visible_chunks(query, gallery, step, where)
    check_metric(metric)
    return _blocks(query, gallery, Coordinates(gallery, metric), step, where)


def visible_chunks(
    query: Tensor | np.ndarray, gallery: Tensor | np.ndarray, step: int, device: torch.device
) -> Iterator[Tensor]:
    r"""Distances of parts that are visible in both images (ISP, arXiv 2007.13467, section 3.3), in blocks [q, G].

    A row is [f, v, K]: features of the parts, each of length 1, or 0 where it is not visible; K visibilities of 0 or 1;
    and their number. With cosines :math:`c_p` of the parts the published similarity is
    :math:`\sum_p v_p v'_p (1 + c_p) / 2 \,/\, \sum_p v_p v'_p`, so the distance, 1 less it, is
    :math:`(1 - f \cdot f' / v \cdot v') / 2`: two matrix products.

    Args:
        query, gallery: [Q, D] and [G, D].
        step: queries of a block.
        device: where to compute.

    Raises:
        ReIDError: the rows have another form.
    """
    count = _visibilities(query, gallery)
    for start in range(0, len(query), step):
        mine = rows(query, slice(start, start + step), device)[:, :-1]
        out = torch.empty(len(mine), len(gallery), device=device)
        for column in range(0, len(gallery), GALLERY_ROWS):
            theirs = rows(gallery, slice(column, column + GALLERY_ROWS), device)[:, :-1]
            shared = mine[:, -count:] @ theirs[:, -count:].T
            ratio = (mine[:, :-count] @ theirs[:, :-count].T).div_(shared)
            out[:, column : column + GALLERY_ROWS] = ratio.neg_().add_(1).mul_(0.5)
            release(gallery)
        yield out


def _visibilities(query: Tensor | np.ndarray, gallery: Tensor | np.ndarray) -> int:
    """K of :func:`visible_chunks`, which every row has at its end."""
    found = set()
    for part in (query, gallery):
        last = part[:, -1]
        found |= set((last.cpu() if isinstance(last, Tensor) else last).tolist())
        release(part)
    count = int(min(found)) if all(np.isfinite(value) for value in found) else 0
    if len(found) != 1 or count not in found or not 1 <= count <= query.shape[1] - 2:
        raise ReIDError(
            "TEST.METRIC = visible: these features hold no visibilities. Set it to euclidean, or extract the features "
            "with MODEL.METHOD isp and TEST.METRIC visible."
        )
    return count


def _blocks(
    query: Tensor | np.ndarray, gallery: Tensor | np.ndarray, place: Coordinates, step: int, device: torch.device
) -> Iterator[Tensor]:
    """The work of :func:`distance_chunks`, which has checked the arguments."""
    asked, known = Placed(query, place, device), Placed(gallery, place, device)
    for start in range(0, len(query), step):
        mine = slice(start, min(start + step, len(query)))
        part = asked.quick_rows(mine)
        out = torch.empty(len(part), len(gallery), device=device)
        for column in range(0, len(gallery), GALLERY_ROWS):
            columns = slice(column, min(column + GALLERY_ROWS, len(gallery)))
            products = part @ known.quick_rows(columns).T
            out[:, columns] = squared_distances(products, asked.norms[mine], known.norms[columns])
            release(gallery)
        _recompute_close(out, asked, known, start)
        yield place.distance(out)


def _recompute_close(out: Tensor, query: Placed, gallery: Placed, start: int) -> None:
    """Compute the short ones of the distances ``out`` [q, G] of the queries from ``start`` again, in float64."""
    # A row at a time, since a mask of all would take as much memory as the distances.
    for number, row in enumerate(out, start):
        close = (row <= _CLOSE * (query.norms[number] + gallery.norms)).nonzero()[:, 0]
        index = close.to(query.wide)
        row[close] = pair_distances(query, gallery, torch.full_like(index, number), index).to(row)


def squared_distances(products: Tensor, q_norms: Tensor, g_norms: Tensor) -> Tensor:
    """Turn inner products [q, g] into squared Euclidean distances, in place, given squared lengths [q] and [g]."""
    return products.mul_(-2).add_(q_norms[:, None]).add_(g_norms).clamp_(min=0)


def wide_device(device: torch.device) -> torch.device:
    """Where float64 lives: on the device itself except on Apple's, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


def save_distances(path: str | os.PathLike[str], chunks: Iterable[Tensor], shape: tuple[int, int]) -> Path:
    """Write blocks of rows, from :func:`distance_chunks` or from re-ranking, to a ``.npy`` file [Q, G] of float32.

    The file is written through a memory map, so it may be larger than the memory, and appears under its name only
    when complete. Read it with ``np.load(path, mmap_mode="r")``.

    Raises:
        ReIDError: the blocks do not add up to ``shape``, or there is no room for the file.
    """
    path = Path(path)
    unfinished = path.with_name(path.name + ".part")
    target = new_array(unfinished, shape)
    start = 0
    for chunk in chunks:
        stop = start + len(chunk)
        if chunk.shape[1] != shape[1] or stop > shape[0]:
            start = stop
            break
        target[start:stop] = chunk.detach().float().cpu().numpy()
        target.flush()
        release(target)
        start = stop
    del target
    if start != shape[0] or chunk.shape[1] != shape[1]:
        unfinished.unlink()
        raise ReIDError(
            f"{path}: the distance blocks have {start} rows and {chunk.shape[1]} columns (as far as read); expected "
            f"{shape[0]} queries and {shape[1]} gallery items. Give the shape of the distances."
        )
    try:
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink()
        raise ReIDError(f"{path}: cannot be written ({error.strerror}). Choose another name.") from None
    return path
