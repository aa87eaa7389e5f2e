"""Pseudo-labels of pixels: foreground and parts of one identity's images, by clustering (section 3.1 of the paper)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 20
"""Of k-means, as published."""

_ROWS = 2**16
"""Pixels that are compared with all centres at a time."""


def part_labels(
    features: Tensor,
    size: tuple[int, int],
    parts: int,
    *,
    enhanced: bool = True,
    by_centre: bool = False,
    restarts: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Part of each pixel of one identity's images.

    Pixels of large activation are the foreground; it is clustered into parts, which are numbered from top to bottom by
    their mean row, as published, or from the middle outwards.

    Args:
        features: of the pixels, row by row [n, h w, D].
        size: h and w.
        parts: clusters of the foreground.
        enhanced: see :func:`enhance`.
        by_centre: number the parts by their mean distance to the middle of their image's foreground, for objects that
            are not upright.
        restarts: k-means keeps the best of so many.
        generator: of the first centres.

    Returns:
        [n, h, w] of uint8: 0 is background, 1 to ``parts`` are the parts in order. There are fewer where the foreground
        has fewer pixels.
    """
    norms = features.norm(dim=2)
    activation = norm_ratio(norms)
    bright = larger_of_two(enhance(activation) if enhanced else activation) & (norms > 0)
    labels = torch.zeros(bright.shape, dtype=torch.uint8, device=features.device)
    foreground = F.normalize(features[bright], dim=1)
    if not len(foreground):
        return labels.unflatten(1, size)
    count = min(parts, len(foreground))
    clusters = k_means(foreground, count, restarts=restarts, generator=generator)
    place = (_from_centre(bright, size) if by_centre else _rows(bright, size))[bright]
    sums = torch.zeros(2, count, dtype=torch.float64, device=features.device)
    sums.index_add_(1, clusters, torch.stack([place, torch.ones_like(place)]))
    # An empty cluster has no mean and no pixel either.
    rank = (sums[0] / sums[1]).argsort().argsort()
    labels[bright] = (1 + rank[clusters]).to(torch.uint8)
    return labels.unflatten(1, size)


def _rows(bright: Tensor, size: tuple[int, int]) -> Tensor:
    """Row of each pixel [n, P]."""
    return (torch.arange(size[0] * size[1], device=bright.device) // size[1]).double().expand_as(bright)


def _from_centre(bright: Tensor, size: tuple[int, int]) -> Tensor:
    """Distance of each pixel [n, P] to the mean place of its image's foreground."""
    row = _rows(bright, size)
    column = (torch.arange(size[0] * size[1], device=bright.device) % size[1]).double().expand_as(bright)
    count = bright.sum(1, keepdim=True).clamp_min(1)
    down, across = (axis - (axis * bright).sum(1, keepdim=True) / count for axis in (row, column))
    return torch.hypot(down, across)


def norm_ratio(norms: Tensor) -> Tensor:
    """Activations of pixels [n, P] as shares of the largest of their image."""
    return norms / norms.amax(dim=1, keepdim=True).clamp_min(torch.finfo(norms.dtype).tiny)


def enhance(ratio: Tensor) -> Tensor:
    r"""The published contrast of activations, :math:`1 / (1 + e^{2 - 10 r})`."""
    return (10 * ratio - 2).sigmoid()


def larger_of_two(values: Tensor) -> Tensor:
    """Which values [..] are in the larger one of two clusters: k-means in one dimension, solved exactly.

    Sorted, the clusters are a beginning and an end; sums in float64 give the variance within them for each cut.
    """
    ordered = values.flatten().double().sort().values
    count = torch.arange(1, len(ordered), device=values.device, dtype=torch.float64)
    total, squares = ordered.cumsum(0), ordered.square().cumsum(0)
    left, right = total[:-1], total[-1] - total[:-1]
    within = squares[-1] - left.square() / count - right.square() / (len(ordered) - count)
    # Equal values are never divided.
    within = within.masked_fill(ordered[1:] == ordered[:-1], torch.inf)
    if not within.isfinite().any():
        return torch.ones_like(values, dtype=torch.bool)
    return values.double() > ordered[within.argmin()]


def k_means(points: Tensor, count: int, *, restarts: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Cluster of each point [P, D] -> [P]: Lloyd's iterations from k-means++ (Arthur and Vassilvitskii, 2007).

    A cluster that loses its last point takes the point that is farthest from its centre.
    """
    best, least = torch.zeros(len(points), dtype=torch.long, device=points.device), torch.inf
    for _ in range(restarts):
        centres = _first_centres(points, count, generator)
        for _ in range(ITERATIONS):
            distances, labels = _nearest(points, centres)
            members = torch.bincount(labels, minlength=count)
            sums = torch.zeros_like(centres).index_add_(0, labels, points)
            moved = sums / members.clamp_min(1)[:, None]
            empty = (members == 0).nonzero().flatten()
            moved[empty] = points[distances.topk(len(empty)).indices]
            if torch.equal(moved, centres):
                break
            centres = moved
        distances, labels = _nearest(points, centres)
        error = float(distances.double().sum())
        if error < least:
            best, least = labels, error
    return best


def _first_centres(points: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Points drawn in proportion to their squared distance to the nearest one drawn before."""
    draws = torch.rand(count, generator=generator, dtype=torch.float64).to(points.device)
    chosen = [points[int(draws[0] * len(points))]]
    nearest = (points - chosen[0]).square().sum(1)
    for draw in draws[1:]:
        share = nearest.double().cumsum(0)
        index = int(torch.searchsorted(share, draw * share[-1], right=True).clamp_max(len(points) - 1))
        chosen.append(points[index])
        nearest = torch.minimum(nearest, (points - points[index]).square().sum(1))
    return torch.stack(chosen)


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance [P] to the nearest centre, and its number [P]."""
    lengths = centres.square().sum(1)
    found = [(lengths - 2 * rows @ centres.T).min(1) for rows in points.split(_ROWS)]
    squared = torch.cat([one.values for one in found]) + points.square().sum(1)
    return squared.clamp_min(0), torch.cat([one.indices for one in found])
