"""The loops that :mod:`utils.retrieval.compiled` loads; importing them needs numba."""

import numba
import numpy as np


@numba.njit("void(i8[::1], i4[::1], f4[::1], i8[::1], i4[::1], f4[::1], i8, f4[:, ::1])", nogil=True, cache=True)
def add_shared(starts, columns, values, list_starts, items, weights, first, shared):  # noqa: ANN001, ANN201
    """Add min(value, weight) to ``shared`` [n, G] for the rows from ``first`` on, entry by entry in their order.

    Args:
        starts, columns, values: rows of the queries' encodings, as :class:`~utils.reranking.overlap.Sparse`.
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
        starts, columns, values: the rows, as :class:`~utils.reranking.overlap.Sparse`, none negative.
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


@numba.njit("void(i8[:, ::1], i8, b1[:, ::1])", nogil=True, cache=True)
def find_mutual(index, first, out):  # noqa: ANN001, ANN201
    """Whether an item is among the nearest k of its own neighbour ``index[i, a]``, a < k; ``out`` [n, k] takes it for
    the items from ``first`` on.
    """
    width = out.shape[1]
    for row in range(len(out)):
        for place in range(width):
            friend = index[first + row, place]
            found = False
            for other in range(width):
                found |= index[friend, other] == first + row
            out[row, place] = found


@numba.njit("i8(i8[:, ::1], f4[:, ::1], i8, b1[:, ::1], b1[:, ::1], i4[::1], f4[::1], i8[::1])", nogil=True, cache=True)
def expand(index, distance, first, mutual, mutual_half, out_columns, out_distances, counts):  # noqa: ANN001, ANN201
    """The expanded sets of the items from ``first`` on, each by ascending number; returns how many entries they have.

    Args:
        index, distance: [N, K] the nearest.
        mutual, mutual_half: [N, k + 1] and [N, h + 1] whether the neighbours are mutual.
        out_columns, out_distances: take the members and their distances, infinite beyond the nearest k + 1.
        counts: [n] takes the members of each set.
    """
    state = np.zeros(len(index), np.uint8)
    known = np.full(len(index), np.inf, np.float32)
    listed = np.empty(len(index), np.int32)
    written = 0
    for row in range(len(counts)):
        own = 0
        for place in range(mutual.shape[1]):
            column = index[first + row, place]
            known[column] = distance[first + row, place]
            if mutual[first + row, place]:
                state[column] = 1
                listed[own] = column
                own += 1
        count = own
        for place in range(own):
            friend = listed[place]
            size = shared = 0
            for other in range(mutual_half.shape[1]):
                if mutual_half[friend, other]:
                    size += 1
                    shared += state[index[friend, other]] == 1
            if 3 * shared > 2 * size:
                for other in range(mutual_half.shape[1]):
                    column = index[friend, other]
                    if mutual_half[friend, other] and state[column] == 0:
                        state[column] = 2
                        listed[count] = column
                        count += 1
        listed[:count].sort()
        for place in range(count):
            column = listed[place]
            out_columns[written] = column
            out_distances[written] = known[column]
            state[column] = 0
            written += 1
        for place in range(mutual.shape[1]):
            known[index[first + row, place]] = np.inf
        counts[row] = count
    return written


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


@numba.njit("void(f4[:, ::1], i8, f4[:, :], i8[:, :])", nogil=True, cache=True)
def keep_smallest(found, first, value, index):  # noqa: ANN001, ANN201
    """Bring the smallest numbers of each row of ``found`` [r, c] into ``value`` and ``index`` [r, k], ascending.

    Columns come in 16 passes, so that in a row that falls from left to right not every number is the smallest so far.

    Args:
        first: number of the first column.
    """
    last = value.shape[1] - 1
    for row in range(len(found)):
        limit = value[row, last]
        for start in range(16):
            for column in range(start, found.shape[1], 16):
                number = found[row, column]
                if number < limit:
                    place = last
                    while place > 0 and value[row, place - 1] > number:
                        value[row, place] = value[row, place - 1]
                        index[row, place] = index[row, place - 1]
                        place -= 1
                    value[row, place] = number
                    index[row, place] = first + column
                    limit = value[row, last]


@numba.njit(
    "void(f4[:, ::1], f8[::1], f4[:, ::1], f8[::1], i8[::1], i8[::1], f8[::1])",
    nogil=True,
    cache=True,
    fastmath={"reassoc", "contract"},
)
def pair_distances(one, scale, other, other_scale, left, right, out):  # noqa: ANN001, ANN201
    """Squared distances [P] of the rows ``left`` of ``one`` and ``right`` of ``other``, each times its scale."""
    for pair in range(len(left)):
        a, b, total = left[pair], right[pair], 0.0
        first, second = scale[a], other_scale[b]
        for place in range(one.shape[1]):
            difference = np.float64(one[a, place]) * first - np.float64(other[b, place]) * second
            total += difference * difference
        out[pair] = total
