"""The compiled loop of :mod:`utils.retrieval.bins`. Importing it needs numba."""

import numba
import numpy as np


@numba.njit("i8(f4[:, ::1], f4[:, ::1], f4[::1], f4[::1], i4[:, ::1], i8[:, ::1], i4[::1])", nogil=True, cache=True)
def count_bins(keys, bounds, low, scale, below, counts, places):  # noqa: ANN001, ANN201
    """Count the keys [r, c] between their row's boundaries and list those in odd bins; returns how many these are.

    Args:
        bounds: [r, b] ascending.
        low, scale: [r] the cell of a key is (key - low) scale + 1, within the cells.
        below: [r, cells + 1] how many boundaries lie in the cells before each one; the last number is b.
        counts: [r, b + 1] to be added to.
        places: [r c] takes their positions in all keys.
    """
    listed = 0
    end = np.float32(below.shape[1] - 3)
    lanes = np.zeros((4, counts.shape[1]), np.int32)
    for row in range(len(keys)):
        start, factor = low[row], scale[row]
        for column in range(keys.shape[1]):
            key = keys[row, column]
            cell = np.uint32(min(max((key - start) * factor, np.float32(-1)), end) + np.float32(1))
            left, right = below[row, cell], below[row, cell + np.uint32(1)]
            while left < right:
                middle = (left + right) >> 1
                if bounds[row, middle] < key:
                    left = middle + 1
                else:
                    right = middle
            lanes[column & 3, left] += 1
            if left & 1:
                places[listed] = row * keys.shape[1] + column
                listed += 1
        for lane in range(4):
            for slot in range(counts.shape[1]):
                counts[row, slot] += lanes[lane, slot]
                lanes[lane, slot] = 0
    return listed
