"""Vectors in the coordinates in which float32 rounds their distances least, and pairs of them in float64."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from utils.compute.device import wide_device
from utils.compute.threads import in_threads
from utils.errors import ReIDError
from utils.retrieval.compiled import in_pieces
from utils.retrieval.features import NORM_ROWS, check_finite, release, rows
from utils.retrieval.visible import VISIBLE

METRICS = ("euclidean", "cosine")

_SAMPLED_ROWS = 2**10
_SHORTEST = 2.0**-63
"""Length up to which a vector has no direction: float32 cannot hold its square."""

_WIDE_SPREAD = 2.0**-4
"""Squared length around the origin from which the rounding of unit vectors to float32 is harmless."""

_PAIR_ELEMENTS = 2**18


def check_metric(metric: str) -> None:
    """Raise :class:`ReIDError` unless ``metric`` is one of :data:`METRICS`."""
    if metric == VISIBLE:
        raise ReIDError(
            "TEST.METRIC = visible is a ratio of two inner products and not a distance of vectors, which is needed "
            "here. Set it to euclidean or cosine."
        )
    if metric not in METRICS:
        raise ReIDError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}.")


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
        for start in range(0, len(features), NORM_ROWS):
            index = slice(start, start + NORM_ROWS)
            part = rows(features, index, self.wide, torch.float64)
            if place.cosine:
                self.inverse[index] = _inverse_lengths(part)
                part = part * self.inverse[index, None]
            part = part - self.origin
            # What the square of a zero vector lacks to be orthogonal to a unit vector is added to it.
            self.norms64[index] = torch.linalg.vecdot(part, part) + (self.inverse[index] == 0)
            release(features)
        check_finite(self.norms64)
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


def pair_distances(one: Placed, other: Placed, left: Tensor, right: Tensor, loops: ModuleType | None = None) -> Tensor:
    """Squared distances [P] in float64 of the pairs of a row ``left`` and a row ``right``, each from its difference.

    ``loops`` are the compiled ones: they add in another order than torch, so one comparison uses either throughout.
    """
    out = torch.empty(len(left), dtype=torch.float64, device=one.wide)
    arrays = [_compact(part.features) for part in (one, other)]
    if loops is not None and arrays[0] is not None and arrays[1] is not None:
        both = arrays[0], one.inverse.numpy(), arrays[1], other.inverse.numpy()
        parts = in_pieces(left, right, out)
        in_threads(lambda part: loops.pair_distances(*both, *(values.numpy() for values in part)), parts)
        return _orthogonal(out, one, other, left, right)
    step = max(1, _PAIR_ELEMENTS // one.features.shape[1])
    for start in range(0, len(left), step):
        i, j = left[start : start + step], right[start : start + step]
        difference = rows(one.features, i, one.wide, torch.float64)
        if one.place.cosine:
            second = rows(other.features, j, one.wide, torch.float64)
            difference.mul_(one.inverse[i, None]).addcmul_(second, other.inverse[j, None], value=-1)
        else:  # widened as it is subtracted, without a copy
            difference.sub_(rows(other.features, j, one.wide, None))
        found = torch.linalg.vecdot(difference, difference)
        out[start : start + step] = _orthogonal(found, one, other, i, j)
        # Scattered reads map many pages of a file each.
        release(other.features)
    return out


def _compact(features: Tensor | np.ndarray) -> np.ndarray | None:
    """Features in memory and in float32 as an array; None for others."""
    if isinstance(features, Tensor):
        fits = features.device.type == "cpu" and features.dtype == torch.float32 and features.is_contiguous()
        return features.detach().numpy() if fits else None
    fits = not isinstance(features, np.memmap) and features.dtype == np.float32 and features.flags.carray
    return features if fits else None


def _orthogonal(distance: Tensor, one: Placed, other: Placed, left: Tensor, right: Tensor) -> Tensor:
    """With the distance, in place, of pairs of which one has no direction, where directions are compared."""
    if one.place.cosine:
        distance.masked_fill_((one.inverse[left] == 0) | (other.inverse[right] == 0), 2)
    return distance


def _inverse_lengths(features: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(features, dim=1)
    return torch.where(length > _SHORTEST, 1 / length, 0)


def squared_distances(products: Tensor, q_norms: Tensor, g_norms: Tensor) -> Tensor:
    """Turn inner products [q, g] into squared Euclidean distances, in place, given squared lengths [q] and [g]."""
    return products.mul_(-2).add_(q_norms[:, None]).add_(g_norms).clamp_(min=0)


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
