"""Which key points make up a node of the graph, and which nodes are joined, by the number of key points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

Edge = tuple[int, int]


class Skeleton(NamedTuple):
    """The local nodes of a graph.

    Attributes:
        groups: key points of each node.
        edges: pairs of nodes (i, j) with i < j, besides those with the global node.
    """

    groups: tuple[tuple[int, ...], ...]
    edges: tuple[Edge, ...]


def _fingers(first: Sequence[int], length: int) -> list[Edge]:
    """Neighbours along each finger from its first point on."""
    return [(point + i, point + i + 1) for point in first for i in range(length - 1)]


_TORSO = ((1, 2), (1, 7), (2, 8), (7, 8), (1, 8), (2, 7))
_LIMBS = ((1, 3), (3, 5), (2, 4), (4, 6), (7, 9), (9, 11), (8, 10), (10, 12))
_ROOTS = (1, 5, 9, 13, 17)

SKELETONS = {
    17: Skeleton(
        (tuple(range(5)), *((point,) for point in range(5, 17))),
        ((0, 1), (0, 2), *_TORSO, *_LIMBS),
    ),
    21: Skeleton(
        tuple((point,) for point in range(21)),
        (
            *((0, root) for root in _ROOTS),
            *pairwise(_ROOTS),
            *_fingers(_ROOTS, 4),
        ),
    ),
}
"""Persons: COCO's points, the face as one node, as published. Hands: the wrist and each finger from its root to its
tip, each point a node; wrist to roots, roots to their neighbours and along the fingers, which is ours."""
