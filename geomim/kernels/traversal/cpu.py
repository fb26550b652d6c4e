"""Walk rays through the cells of a grid, as numba loops; ``reference.py`` says what is computed.

Amanatides and Woo 1987, but for two things. Where a ray crosses a plane is computed from the
plane's number, not added up, so that errors do not grow along the ray. Planes crossed at one
distance are crossed in one step, so that no cell is entered for a length of 0.
"""

import math

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline

# A stretch may be longer by this share of a step before it takes one sample more.
_SLACK = 1e-6


@kernel_inline
def _slab(o, inverse, size):
    """Return where a line enters and leaves all cells along an axis."""
    if not math.isfinite(inverse):
        inside = 0.0 <= o <= size
        return (-np.inf, np.inf) if inside else (np.inf, -np.inf)
    first, last = (0.0 - o) * inverse, (size - o) * inverse
    return (first, last) if first < last else (last, first)


@kernel_inline
def _cell_at(o, d, inverse, size, start):
    """Return the cell along an axis behind all planes that are crossed up to ``start``."""
    here = o if not math.isfinite(inverse) else o + start * d
    i = int(min(max(math.floor(here), 0.0), size - 1.0))
    if not math.isfinite(inverse):
        return i
    # Rounding may have put the point on the other side of a plane.
    if d > 0.0:
        while i < size - 1 and (i + 1.0 - o) * inverse <= start:
            i += 1
        while i > 0 and (i - o) * inverse > start:
            i -= 1
        return i
    while i > 0 and (i - o) * inverse <= start:
        i -= 1
    while i < size - 1 and (i + 1.0 - o) * inverse > start:
        i += 1
    return i


@kernel_inline
def _next_plane(i, o, d, inverse):
    """Return the plane of an axis that a ray crosses next, where, and the step to the one after."""
    if not math.isfinite(inverse):
        return 0.0, np.inf, 0.0
    if d > 0.0:
        return i + 1.0, (i + 1.0 - o) * inverse, 1.0
    return i + 0.0, (i - o) * inverse, -1.0


@kernel_inline
def _line(ray, origins, directions, grid):
    """Return a ray in index coordinates: its origin, its direction and one over that."""
    ox = (np.float64(origins[ray, 0]) - grid[0, 0]) / grid[1, 0]
    oy = (np.float64(origins[ray, 1]) - grid[0, 1]) / grid[1, 1]
    oz = (np.float64(origins[ray, 2]) - grid[0, 2]) / grid[1, 2]
    dx = np.float64(directions[ray, 0]) / grid[1, 0]
    dy = np.float64(directions[ray, 1]) / grid[1, 1]
    dz = np.float64(directions[ray, 2]) / grid[1, 2]
    return (ox, oy, oz), (dx, dy, dz), (1.0 / dx, 1.0 / dy, 1.0 / dz)


@kernel_inline
def _span(line, near, far, shape):
    """Return where a ray enters and leaves the grid; one that misses it gets nowhere."""
    o, d, inverse = line
    x0, x1 = _slab(o[0], inverse[0], shape[0])
    y0, y1 = _slab(o[1], inverse[1], shape[1])
    z0, z1 = _slab(o[2], inverse[2], shape[2])
    start, stop = max(max(near, x0), max(y0, z0)), min(min(far, x1), min(y1, z1))
    known = math.isfinite(o[0] + o[1] + o[2]) and math.isfinite(d[0] + d[1] + d[2])
    moves = math.isfinite(inverse[0]) or math.isfinite(inverse[1]) or math.isfinite(inverse[2])
    # NaN in a limit compares false.
    if known and moves and start > -np.inf and stop < np.inf and start < stop:
        return start, stop
    return 0.0, 0.0


@kernel_inline
def _begin(line, start, shape):
    """Return the first cell, the planes to cross next, where, and the steps to those after."""
    o, d, inverse = line
    i = _cell_at(o[0], d[0], inverse[0], shape[0], start)
    j = _cell_at(o[1], d[1], inverse[1], shape[1], start)
    k = _cell_at(o[2], d[2], inverse[2], shape[2], start)
    px, tx, sx = _next_plane(i, o[0], d[0], inverse[0])
    py, ty, sy = _next_plane(j, o[1], d[1], inverse[1])
    pz, tz, sz = _next_plane(k, o[2], d[2], inverse[2])
    voxel = (k * shape[1] + j) * shape[0] + i
    return voxel, (px, py, pz), (tx, ty, tz), (sx, sy, sz)


@kernel_inline
def _advance(end, voxel, planes, crossings, steps, line, shape):
    """Cross all planes that are crossed at ``end``."""
    o, _, inverse = line
    px, py, pz = planes
    tx, ty, tz = crossings
    if tx <= end:
        px += steps[0]
        tx = (px - o[0]) * inverse[0]
        voxel += int(steps[0])
    if ty <= end:
        py += steps[1]
        ty = (py - o[1]) * inverse[1]
        voxel += int(steps[1]) * shape[0]
    if tz <= end:
        pz += steps[2]
        tz = (pz - o[2]) * inverse[2]
        voxel += int(steps[2]) * shape[0] * shape[1]
    return voxel, (px, py, pz), (tx, ty, tz)


@kernel_inline
def _segments(ray, line, near, far, shape, occupied, first, place, room, fill, out):
    """Walk through the cells of a ray until ``room`` are found; return how many were.

    ``occupied`` may be empty; ``first`` is the place in it of the ray's first cell.
    """
    rays, voxels, starts, ends = out
    real = starts.dtype.type
    start, stop = _span(line, near, far, shape)
    voxel, planes, crossings, steps = _begin(line, start, shape)
    count = 0
    while start < stop and count < room:
        end = min(min(crossings[0], crossings[1]), min(crossings[2], stop))
        busy = occupied.shape[0] == 0 or occupied[first + voxel]
        if busy and real(end) > real(start):
            if fill:
                rays[place + count], voxels[place + count] = ray, voxel
                starts[place + count], ends[place + count] = real(start), real(end)
            count += 1
        voxel, planes, crossings = _advance(end, voxel, planes, crossings, steps, line, shape)
        start = end
    return count


@kernel_inline
def _samples(ray, line, near, far, shape, occupied, first, step, place, room, fill, out):
    """Walk through the stretches of occupied cells of a ray, as ``_segments`` does."""
    start, stop = _span(line, near, far, shape)
    voxel, planes, crossings, steps = _begin(line, start, shape)
    count, entry, inside = 0, start, False
    while start < stop and count < room:
        end = min(min(crossings[0], crossings[1]), min(crossings[2], stop))
        busy = occupied.shape[0] == 0 or occupied[first + voxel]
        if busy and not inside:
            entry = start
        inside = inside or busy
        if inside and (not busy or end == stop):
            leave = end if busy else start
            count += _divide(ray, entry, leave, step, place + count, room - count, fill, out)
            inside = False
        voxel, planes, crossings = _advance(end, voxel, planes, crossings, steps, line, shape)
        start = end
    return count


@kernel_inline
def _divide(ray, entry, leave, step, place, room, fill, out):
    """Divide a stretch into equal samples; return how many."""
    rays, _, starts, ends = out
    real = starts.dtype.type
    if not real(leave) > real(entry):
        return 0
    length = leave - entry
    count = max(math.ceil(length / step - _SLACK), 1)
    if fill:
        for n in range(min(count, room)):
            rays[place + n] = ray
            starts[place + n] = real(entry + length * (n / count))
            ends[place + n] = real(entry + length * ((n + 1) / count))
    return count


@kernel
def count_traversal(origins, directions, near, far, occupied, grid, step, items, counts):
    """Fill ``counts`` with the number of segments of every ray, or of samples if there is a step.

    ``grid`` holds lower corner, cell size and number of cells, each along x, y, z.
    """
    shape = (int(grid[2, 0]), int(grid[2, 1]), int(grid[2, 2]))
    cells = shape[0] * shape[1] * shape[2] if occupied.shape[0] > 0 else 0
    none = np.empty(0, np.int64)
    out = (none, none, origins[:0, 0], origins[:0, 0])
    most, total = np.iinfo(np.int64).max, counts.shape[0]
    for ray in prange(total):
        line = _line(ray, origins, directions, grid)
        first = ray * items // total * cells
        if step > 0.0:
            counts[ray] = _samples(
                ray, line, near[ray], far[ray], shape, occupied, first, step, 0, most, False, out
            )
        else:
            counts[ray] = _segments(
                ray, line, near[ray], far[ray], shape, occupied, first, 0, most, False, out
            )


@kernel
def fill_traversal(
    origins, directions, near, far, occupied, grid, step, items, offsets, rays, voxels, starts, ends
):
    """Fill ``rays``, ``starts``, ``ends`` and, if there is no step, ``voxels`` from offset on."""
    shape = (int(grid[2, 0]), int(grid[2, 1]), int(grid[2, 2]))
    cells = shape[0] * shape[1] * shape[2] if occupied.shape[0] > 0 else 0
    out, total = (rays, voxels, starts, ends), origins.shape[0]
    for ray in prange(total):
        line = _line(ray, origins, directions, grid)
        first, place = ray * items // total * cells, offsets[ray]
        room = offsets[ray + 1] - place
        if step > 0.0:
            _samples(
                ray, line, near[ray], far[ray], shape, occupied, first, step, place, room, True, out
            )
        else:
            _segments(
                ray, line, near[ray], far[ray], shape, occupied, first, place, room, True, out
            )
