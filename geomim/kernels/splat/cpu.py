"""Project and splat points, as numba loops; ``reference.py`` says what is computed."""

import math

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline

_RUN = 4096
_U = np.uint64


@kernel_inline
def _project_run(run, m, lens, limits, room):
    """Project a run of points into one camera; ``run`` says where they and their results lie."""
    points, first, base, begin, end = run
    pixels, depths, valids = room
    fx, fy, cx, cy = lens
    near, low, right, bottom = limits
    real = depths.dtype.type
    a0, a1, a2, a3 = m[0, 0], m[0, 1], m[0, 2], m[0, 3]
    b0, b1, b2, b3 = m[1, 0], m[1, 1], m[1, 2], m[1, 3]
    c0, c1, c2, c3 = m[2, 0], m[2, 1], m[2, 2], m[2, 3]
    for n in range(_U(begin), _U(end)):
        p, o = _U(first) + _U(3) * n, _U(base) + n
        x, y, z = points[p], points[p + _U(1)], points[p + _U(2)]
        at_z = c0 * x + c1 * y + c2 * z + c3
        u = fx * ((a0 * x + a1 * y + a2 * z + a3) / at_z) + cx
        v = fy * ((b0 * x + b1 * y + b2 * z + b3) / at_z) + cy
        # NaN compares false; an infinite depth would put every point at the centre.
        ahead = (at_z > near) & (at_z < real(np.inf))
        valid = ahead & (u >= low) & (u <= right) & (v >= low) & (v <= bottom)
        pixels[_U(2) * o] = u if valid else real(0)
        pixels[_U(2) * o + _U(1)] = v if valid else real(0)
        depths[o] = at_z if valid else real(0)
        valids[o] = valid


@kernel
def project_pinhole(
    points, cam_from_points, focal, principal_point, height, width, near, margin, pixels_out,
    depth_out, valid_out,
):  # fmt: skip
    """Fill ``pixels_out``, ``depth_out`` and ``valid_out``."""
    cameras, count = depth_out.shape
    real, flat = depth_out.dtype.type, points.reshape(-1)
    room = (pixels_out.reshape(-1), depth_out.reshape(-1), valid_out.reshape(-1))
    step = 3 * count if points.shape[0] > 1 else 0
    right, bottom = real(width) + real(margin), real(height) + real(margin)
    limits = (real(near), real(-margin), right, bottom)
    runs = (count + _RUN - 1) // _RUN
    for job in prange(cameras * runs):
        # A run of points stays in the cache while one camera after the other looks at it.
        camera, begin = job % cameras, job // cameras * _RUN
        scale, centre = focal[camera], principal_point[camera]
        lens = (scale[0], scale[1], centre[0], centre[1])
        run = (flat, step * camera, camera * count, begin, min(count, begin + _RUN))
        _project_run(run, cam_from_points[camera], lens, limits, room)


@kernel
def project_pinhole_backward(
    grad_pixels,
    grad_depth,
    valid,
    points,
    cam_from_points,
    focal,
    by_points,
    by_matrix,
    by_focal,
    by_centre,
):
    """Add to all of ``by_…``; but for ``by_points`` they lead with an axis of jobs.

    The caller adds up the jobs in order: the sum does not depend on the number of threads.
    """
    cameras, count = valid.shape
    jobs, shared = by_matrix.shape[0], points.shape[0] == 1
    for job in prange(jobs):
        for camera in range(cameras):
            m, item = cam_from_points[camera], 0 if shared else camera
            fx, fy = focal[camera, 0], focal[camera, 1]
            for n in range(job * count // jobs, (job + 1) * count // jobs):
                if not valid[camera, n]:
                    continue
                p = points[item, n]
                x = m[0, 0] * p[0] + m[0, 1] * p[1] + m[0, 2] * p[2] + m[0, 3]
                y = m[1, 0] * p[0] + m[1, 1] * p[1] + m[1, 2] * p[2] + m[1, 3]
                z = m[2, 0] * p[0] + m[2, 1] * p[1] + m[2, 2] * p[2] + m[2, 3]
                gu, gv = grad_pixels[camera, n, 0], grad_pixels[camera, n, 1]
                by_focal[job, camera, 0] += gu * (x / z)
                by_focal[job, camera, 1] += gv * (y / z)
                by_centre[job, camera, 0] += gu
                by_centre[job, camera, 1] += gv
                gx, gy = gu * fx / z, gv * fy / z
                gz = grad_depth[camera, n] - (gx * x + gy * y) / z
                g = (gx, gy, gz)
                for k in range(3):
                    by_points[item, n, k] += m[0, k] * gx + m[1, k] * gy + m[2, k] * gz
                for i in range(3):
                    for k in range(3):
                        by_matrix[job, camera, i, k] += g[i] * p[k]
                    by_matrix[job, camera, i, 3] += g[i]


@kernel_inline
def _keep_nearest(row, column, point, depth, index):
    """Let a point have a pixel, unless one as near or nearer has it."""
    winner = index[row, column]
    if winner < 0 or depth[point] < depth[winner]:
        index[row, column] = point


@kernel_inline
def _cover_disc(at, reach, squared, point, depth, index):
    """Splat a point to all pixels with centres in reach, but for the one that it lies in."""
    u, v, row, column = at
    height, width = index.shape
    real = depth.dtype.type
    for i in range(max(row - reach, 0), min(row + reach + 1, height)):
        for j in range(max(column - reach, 0), min(column + reach + 1, width)):
            du, dv = real(j + 0.5) - u, real(i + 0.5) - v
            if du * du + dv * dv <= squared and (i != row or j != column):
                _keep_nearest(i, j, point, depth, index)


@kernel_inline
def _splat_image(pixels, depth, valid, radius, index):
    """Fill ``index``; in order, so that of points equally near the first one stays."""
    height, width = index.shape
    reach, squared = math.ceil(radius), depth.dtype.type(radius) * depth.dtype.type(radius)
    index[:] = -1
    for n in range(depth.shape[0]):
        if not valid[n]:
            continue
        u, v = pixels[n, 0], pixels[n, 1]
        column = width - 1 if u == width else math.floor(u)
        row = height - 1 if v == height else math.floor(v)
        if 0 <= row < height and 0 <= column < width:
            _keep_nearest(row, column, n, depth, index)
        if reach > 0:
            _cover_disc((u, v, row, column), reach, squared, n, depth, index)


@kernel
def splat(pixels, depth, valid, radius, depth_out, index_out):
    """Fill ``depth_out`` and ``index_out``.

    Points fall all over an image, each on memory of its own: it is met once, for the index alone.
    """
    for image in prange(depth.shape[0]):
        index, near, found = index_out[image], depth[image], depth_out[image]
        _splat_image(pixels[image], near, valid[image], radius, index)
        for row in range(index.shape[0]):
            for column in range(index.shape[1]):
                n = index[row, column]
                found[row, column] = near[n] if n >= 0 else near.dtype.type(0)
