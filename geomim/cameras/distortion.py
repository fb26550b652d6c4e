"""Distortion of a plane as cameras need it: batches lead, points follow."""

from math import prod

import torch
from torch import Tensor

from geomim.batching import over_points
from geomim.cameras.lens import Bent
from geomim.kernels.undistort import reference
from geomim.kernels.undistort.op import COEFFICIENTS, distortion_reach, undistort


def opencv_coefficients(coefficients: Tensor) -> Tensor:
    """Complete OpenCV's 4, 5, 8 or 12 coefficients by zeros."""
    return torch.nn.functional.pad(coefficients, (0, COEFFICIENTS - coefficients.shape[-1]))


def angle_coefficients(coefficients: Tensor) -> Tensor:
    """Place the four coefficients of Kannala and Brandt among the thirteen."""
    k1, k2, k3, k4 = coefficients.unbind(dim=-1)
    zero = torch.zeros_like(k1)
    return torch.stack([k1, k2, zero, zero, k3, *[zero] * 7, k4], dim=-1)


def distort_plane(plane: Tensor, coefficients: Tensor, *, farthest: float | None = None) -> Bent:
    """Distort points of a plane, and tell which the model is meant for.

    Args:
        plane: Points behind their batch.
        coefficients: The batch by 13.
        farthest: A radius beyond which nothing is.
    """
    batch = coefficients.shape[:-1]
    axes = over_points(batch, plane)
    reach = _reach(coefficients.reshape(-1, COEFFICIENTS), farthest).reshape(axes)
    spread = coefficients.reshape(*axes, COEFFICIENTS)
    with torch.no_grad():
        regular = reference.is_regular(plane, spread, reach)
    return Bent(reference.distort(plane, spread), regular)


def undistort_plane(
    distorted: Tensor, coefficients: Tensor, *, farthest: float | None = None
) -> Bent:
    """Undo ``distort_plane``; 0 with gradient 0 where that cannot be."""
    batch = distorted.shape[: coefficients.ndim - 1]
    rows = coefficients.expand(*batch, COEFFICIENTS).reshape(-1, COEFFICIENTS)
    rows = rows.to(distorted.dtype)
    points = distorted.shape[len(batch) : -1]
    flat = distorted.reshape(rows.shape[0], prod(points), 2)
    undistorted, known = undistort(flat, rows, _reach(rows, farthest))
    return Bent(undistorted.reshape(distorted.shape), known.reshape(distorted.shape[:-1]))


def _reach(rows: Tensor, farthest: float | None) -> Tensor:
    reach = distortion_reach(rows)
    return reach if farthest is None else reach.clamp(max=farthest)
