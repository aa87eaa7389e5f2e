"""The compiled loop of :mod:`utils.retrieval.overlap`. Importing it needs numba."""

import numba
import numpy as np


@numba.njit("void(i8[::1], i4[::1], f4[::1], i8[::1], i4[::1], f4[::1], i8, f4[:, ::1])", nogil=True, cache=True)
def add_shared(starts, columns, values, list_starts, items, weights, first, shared):  # noqa: ANN001, ANN201
    """Add min(value, weight) to ``shared`` [n, G] for the rows from ``first`` on, entry by entry in their order.

    Args:
        starts, columns, values: rows of the queries' encodings, as :class:`~utils.retrieval.overlap.Sparse`.
        list_starts, items, weights: for each column, the gallery items that have it and their weights.
    """
    for row in range(len(shared)):
        mine = shared[row]
        for entry in range(starts[first + row], starts[first + row + 1]):
            column, value = columns[entry], values[entry]
            for place in range(list_starts[column], list_starts[column + 1]):
                mine[np.uint32(items[place])] += min(value, weights[place])
