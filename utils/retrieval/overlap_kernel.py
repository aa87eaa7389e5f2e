"""The compiled loops of :mod:`utils.retrieval.overlap` and :mod:`utils.retrieval.expansion`; they need numba."""

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


@numba.njit("i8(i8[::1], i4[::1], f4[::1], i8[:, ::1], i8, i4[::1], f4[::1], i8[::1])", nogil=True, cache=True)
def add_rows(starts, columns, values, members, width, out_columns, out_values, counts):  # noqa: ANN001, ANN201
    """The sums of the rows ``members`` [n, k], each by ascending column; returns how many entries they have.

    Args:
        starts, columns, values: the rows, as :class:`~utils.retrieval.overlap.Sparse`, none negative.
        width: columns of a row.
        out_columns, out_values: take the entries that are not zero.
        counts: [n] takes the entries of each sum.
    """
    sums = np.zeros(width, np.float32)
    seen = np.empty(width, np.int32)
    written = 0
    for row in range(len(members)):
        count = 0
        for member in members[row]:
            for entry in range(starts[member], starts[member + 1]):
                if values[entry] > 0:
                    column = columns[entry]
                    if sums[column] == 0:
                        seen[count] = column
                        count += 1
                    sums[column] += values[entry]
        seen[:count].sort()
        for place in range(count):
            column = seen[place]
            out_columns[written] = column
            out_values[written] = sums[column]
            sums[column] = 0
            written += 1
        counts[row] = count
    return written
