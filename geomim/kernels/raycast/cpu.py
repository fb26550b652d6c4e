"""Nearest hit of rays with boxes, ellipsoids and capped cylinders, as a numba loop.

In a primitive's own unit coordinates a box is three slabs, a sphere a ball in three axes, a
cylinder a ball in two axes and a slab along the third. Each is convex, so a ray meets it in one
interval; an affine map leaves the ray's parameter as it is. All arithmetic is double precision.
"""

import math

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline

_BOX, _SPHERE = 0, 1
_ROUND = 3  # the surface of a ball; 0, 1 and 2 are the faces of a slab


@kernel_inline
def _slab(origin, direction):
    """Interval of the parameter for which ``|origin + s * direction| <= 1``."""
    if direction == 0.0:
        if abs(origin) <= 1.0:
            return -math.inf, math.inf
        return math.inf, -math.inf
    low = (-1.0 - origin) / direction
    high = (1.0 - origin) / direction
    return min(low, high), max(low, high)


@kernel_inline
def _ball(ox, oy, oz, dx, dy, dz):
    """Interval in which a line is inside the unit ball; Haines et al. 2019, chapter 7."""
    a = dx * dx + dy * dy + dz * dz
    if a == 0.0:
        if ox * ox + oy * oy + oz * oz <= 1.0:
            return -math.inf, math.inf
        return math.inf, -math.inf
    b = ox * dx + oy * dy + oz * dz
    nearest = -b / a
    fx, fy, fz = ox + nearest * dx, oy + nearest * dy, oz + nearest * dz
    inside = 1.0 - (fx * fx + fy * fy + fz * fz)
    if not inside >= 0.0:
        return math.inf, -math.inf
    half = math.sqrt(inside / a)
    return nearest - half, nearest + half


@kernel_inline
def _interval(kind, ox, oy, oz, dx, dy, dz):
    """Return entry and exit and the surfaces they cross."""
    if kind == _SPHERE:
        entry, leave = _ball(ox, oy, oz, dx, dy, dz)
        return entry, leave, _ROUND, _ROUND
    entry, leave = _slab(oz, dz)
    entered, left = 2, 2
    if kind == _BOX:
        x_entry, x_leave = _slab(ox, dx)
        y_entry, y_leave = _slab(oy, dy)
        if y_entry > entry:
            entry, entered = y_entry, 1
        if y_leave < leave:
            leave, left = y_leave, 1
        side = 0
    else:
        x_entry, x_leave = _ball(ox, oy, 0.0, dx, dy, 0.0)
        side = _ROUND
    if x_entry > entry:
        entry, entered = x_entry, side
    if x_leave < leave:
        leave, left = x_leave, side
    return entry, leave, entered, left


@kernel_inline
def _to_unit(m, x, y, z, w):
    """Apply a 3x4 affine map to a point (w = 1) or to a vector (w = 0)."""
    return (
        m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3] * w,
        m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3] * w,
        m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3] * w,
    )


@kernel_inline
def _unit_normal(kind, surface, x, y, z):
    if surface == 0:
        return 1.0, 0.0, 0.0
    if surface == 1:
        return 0.0, 1.0, 0.0
    if surface == 2:
        return 0.0, 0.0, 1.0
    return x, y, (z if kind == _SPHERE else 0.0)


@kernel_inline
def _facing_normal(m, nx, ny, nz, dx, dy, dz):
    """Carry a normal out of unit coordinates by the transposed map, facing the ray."""
    x = m[0, 0] * nx + m[1, 0] * ny + m[2, 0] * nz
    y = m[0, 1] * nx + m[1, 1] * ny + m[2, 1] * nz
    z = m[0, 2] * nx + m[1, 2] * ny + m[2, 2] * nz
    scale = 1.0 / math.sqrt(x * x + y * y + z * z)
    if x * dx + y * dy + z * dz > 0.0:
        scale = -scale
    return x * scale, y * scale, z * scale


@kernel_inline
def _enclose(unit_from_world):
    """Return centre and squared radius of a ball around each primitive."""
    balls = np.empty((unit_from_world.shape[0], 4))
    for p in range(balls.shape[0]):
        m = unit_from_world[p]
        balls[p, :] = 0.0
        for k in range(3):
            # The rows are orthogonal, one over the half size in length.
            squared = 1.0 / (m[k, 0] * m[k, 0] + m[k, 1] * m[k, 1] + m[k, 2] * m[k, 2])
            for axis in range(3):
                balls[p, axis] -= m[k, axis] * squared * m[k, 3]
            balls[p, 3] += squared
    return balls


@kernel_inline
def _passes_by(ball, ox, oy, oz, dx, dy, dz):
    """Tell, for certain only if True, that a ray stays outside a ball."""
    x, y, z = ball[0] - ox, ball[1] - oy, ball[2] - oz
    away = x * x + y * y + z * z
    ahead = x * dx + y * dy + z * dz
    length = dx * dx + dy * dy + dz * dz
    # The margin covers rounding: touching rays must reach the exact test.
    reach = ball[3] + 1e-9 * (ball[3] + away)
    return away > reach and (ahead < 0.0 or away * length - ahead * ahead > reach * length)


@kernel
def cast_rays(origins, directions, kind, unit_from_world, distance, primitive, normal):
    """Fill ``distance``, ``primitive`` and ``normal``; a miss is 0, -1 and 0."""
    balls = _enclose(unit_from_world)
    for ray in prange(origins.shape[0]):
        ox, oy, oz = (
            np.float64(origins[ray, 0]),
            np.float64(origins[ray, 1]),
            np.float64(origins[ray, 2]),
        )
        dx, dy, dz = (
            np.float64(directions[ray, 0]),
            np.float64(directions[ray, 1]),
            np.float64(directions[ray, 2]),
        )
        best, hit, crossed = math.inf, -1, 0
        finite = math.isfinite(ox + oy + oz + dx + dy + dz)
        for p in range(kind.shape[0] if finite else 0):
            if _passes_by(balls[p], ox, oy, oz, dx, dy, dz):
                continue
            m = unit_from_world[p]
            ux, uy, uz = _to_unit(m, ox, oy, oz, 1.0)
            vx, vy, vz = _to_unit(m, dx, dy, dz, 0.0)
            entry, leave, entered, left = _interval(kind[p], ux, uy, uz, vx, vy, vz)
            if entry <= leave:
                s, surface = (entry, entered) if entry > 0.0 else (leave, left)
                if 0.0 < s < best:
                    best, hit, crossed = s, p, surface
        distance[ray] = 0.0
        primitive[ray] = hit
        normal[ray, 0] = normal[ray, 1] = normal[ray, 2] = 0.0
        if hit >= 0:
            m = unit_from_world[hit]
            ux, uy, uz = _to_unit(m, ox + best * dx, oy + best * dy, oz + best * dz, 1.0)
            nx, ny, nz = _unit_normal(kind[hit], crossed, ux, uy, uz)
            nx, ny, nz = _facing_normal(m, nx, ny, nz, dx, dy, dz)
            distance[ray] = best
            normal[ray, 0], normal[ray, 1], normal[ray, 2] = nx, ny, nz
