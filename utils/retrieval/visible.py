"""Distances of the parts that two images both show, as ISP compares persons."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from utils.errors import ReIDError
from utils.retrieval.features import GALLERY_ROWS, release, rows

VISIBLE = "visible"
"""``TEST.METRIC`` of these rows. It is no distance of vectors: only ``distances.distance_chunks`` takes it."""


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
