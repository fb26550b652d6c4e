"""Rotation matrices, quaternions and rotation vectors into one another.

No function has a singular gradient within its range: near zero angles every quotient is replaced by
its power series, on arguments that keep the other branch finite. Products are elementwise, so that
autocast and reduced-precision matrix units leave them alone.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

_TERMS = 8
# Below half a radian eight terms of every series here are exact to double precision.
_SMALL_SQUARED_ANGLE = 0.25


def rotate(rotation: Float[Tensor, "*#batch 3 3"], vectors: Float[Tensor, "*#batch 3"]) -> Tensor:
    """Multiply matrices and column vectors."""
    x, y, z = (vectors[..., k, None] for k in range(3))
    return rotation[..., 0] * x + rotation[..., 1] * y + rotation[..., 2] * z


def matrix_from_quaternion(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the rotation of a ``(w, x, y, z)`` of any length but zero."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(dim=-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def quaternion_from_matrix(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Return the unit ``(w, x, y, z)`` with ``w >= 0``.

    The entries of a rotation give ``4 q qᵀ``; its row with the largest diagonal is ``q`` up to a
    factor of at least 2 in size, so nothing vanishes on the way.
    """
    m = rotation
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = (
        m[..., (k + 2) % 3, (k + 1) % 3] - m[..., (k + 1) % 3, (k + 2) % 3] for k in range(3)
    )
    xy, xz, yz = (m[..., a, b] + m[..., b, a] for a, b in ((0, 1), (0, 2), (1, 2)))
    outer = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, wx, wy, wz], dim=-1),
            torch.stack([wx, 1 + xx - yy - zz, xy, xz], dim=-1),
            torch.stack([wy, xy, 1 - xx + yy - zz, yz], dim=-1),
            torch.stack([wz, xz, yz, 1 - xx - yy + zz], dim=-1),
        ],
        dim=-2,
    )
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    index = largest[..., None, None].expand(*largest.shape, 1, 4)
    row = outer.gather(-2, index).squeeze(-2)
    row = torch.where(row[..., :1] < 0, -row, row)
    return row / row.norm(dim=-1, keepdim=True)


def matrix_from_rotation_vector(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the rotation about ``vector`` by its length; Rodrigues' formula."""
    return _combine(vector, first=_sine_ratio(_squared(vector), order=1), second=2)


def left_jacobian(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the mean of the rotations by 0 to 1 times ``vector``; Sola et al. 2018, eq. 174."""
    return _combine(vector, first=_sine_ratio(_squared(vector), order=2), second=3)


def rotation_vector_from_quaternion(
    quaternion: Float[Tensor, "*batch 4"],
) -> Float[Tensor, "*batch 3"]:
    """Return axis times angle of a unit quaternion with ``w >= 0``."""
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    squared = _squared(vector)
    # sin² of half the angle below 0.01: the series of the arc tangent.
    small = squared < 0.01
    near_w = torch.where(small, w, 1.0)
    ratio = torch.where(small, squared, 0.0) / near_w.square()
    series = torch.zeros_like(ratio)
    for k in reversed(range(_TERMS)):
        series = 1 / (2 * k + 1) - ratio * series
    far = torch.where(small, 1.0, squared).sqrt()
    scale = torch.where(small, series / near_w, torch.atan2(far, w) / far)
    return 2 * scale * vector


def _squared(vector: Tensor) -> Tensor:
    return vector.square().sum(dim=-1, keepdim=True)


def _combine(vector: Tensor, *, first: Tensor, second: int) -> Tensor:
    """Return ``1 + first [vector] + c_second [vector]²`` with ``[·]`` the cross-product matrix."""
    x, y, z = vector.unbind(dim=-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    squared = _squared(vector)
    eye = torch.eye(3, dtype=vector.dtype, device=vector.device)
    # [v]² = v vᵀ - |v|²
    square = vector[..., :, None] * vector[..., None, :] - squared[..., None] * eye
    factor = _sine_ratio(squared, order=second)
    return eye + first[..., None] * cross + factor[..., None] * square


def _sine_ratio(squared: Tensor, *, order: int) -> Tensor:
    """Return ``sum_n (-squared)ⁿ / (2n + order)!``.

    With a the angle: sin a / a, (1 - cos a) / a² and (a - sin a) / a³ for orders 1, 2 and 3.
    """
    small = squared < _SMALL_SQUARED_ANGLE
    near = torch.where(small, squared, 0.0)
    series = torch.zeros_like(near)
    for n in reversed(range(_TERMS)):
        series = 1 / math.factorial(2 * n + order) - near * series
    angle = torch.where(small, 1.0, squared).sqrt()
    match order:
        case 1:
            closed = angle.sin() / angle
        case 2:
            closed = 2 * ((angle / 2).sin() / angle).square()
        case _:
            closed = (angle - angle.sin()) / angle**3
    return torch.where(small, series, closed)
