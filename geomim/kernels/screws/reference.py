"""Define, in plain torch, how points move with bodies that are on screws between their knots.

From knot k of body r on, ``world_from_body(t) = matrix[r, k] @ exp(twist[r, k] * seconds)`` with
the seconds since the knot; the matrix is 3x4, the twist in the body's axes, translation first.
"""

from math import factorial
from typing import NamedTuple

import torch
from torch import Tensor

NEVER_US = torch.iinfo(torch.int64).max


class Screws(NamedTuple):
    """The motion of bodies, as tables."""

    times_us: Tensor
    """Body by knot, at least one: increasing, padded at the end with the largest int64."""
    begin_us: Tensor
    """Of each body: it is nowhere before."""
    end_us: Tensor
    """Of each body: it is nowhere after."""
    matrix: Tensor
    """Body by knot by 3 by 4, world from body; with ``inverse``, body from world."""
    twist: Tensor
    """Body by knot by 6, per second."""


def find_boxes(points: Tensor, times_us: Tensor, screws: Screws, half_size: Tensor) -> Tensor:
    """Return the first body that holds each point at its time, -1 for none.

    Args:
        points: Point by 3, in the world.
        times_us: One a point.
        screws: With matrices that lead from the world into the bodies at their knots.
        half_size: Body by 3, in metres.
    """
    found = torch.full(points.shape[:1], -1, dtype=torch.int32, device=points.device)
    for number in reversed(range(len(half_size))):
        body = torch.full_like(found, number)
        at, exists = move_by_screws(points, times_us, body, screws, inverse=True)
        inside = exists & (at.abs() <= half_size[number]).all(dim=-1)
        found = torch.where(inside, number, found)
    return found


def move_by_screws(
    points: Tensor, times_us: Tensor, body: Tensor, screws: Screws, *, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Carry each point from its body's frame to the world at its time; with ``inverse``, back.

    Args:
        points: Point by 3.
        times_us: One a point.
        body: One a point; -1 leaves a point where it is.
        screws: With matrices that lead into the world, or with ``inverse`` from it.
        inverse: Whether the points are in the world.

    Returns:
        Moved points, and which could be moved: 0 where the body does not exist then, or the result
        is not finite.
    """
    if not screws.times_us.numel():
        valid = (body == -1) & points.isfinite().all(dim=-1)
        return torch.where(valid[:, None], points, 0.0), valid
    row = body.long().clamp(0, len(screws.times_us) - 1)
    knot = knot_at(times_us, row, screws.times_us)
    seconds = ((times_us - screws.times_us[row, knot]).double() * 1e-6).to(points.dtype)
    exists = (times_us >= screws.begin_us[row]) & (times_us <= screws.end_us[row])
    moves = exists & (body >= 0) & (body < len(screws.times_us))
    twist = torch.where(moves[:, None], screws.twist[row, knot], 0.0) * seconds[:, None]
    eye = torch.eye(3, 4, dtype=points.dtype, device=points.device)
    matrix = torch.where(moves[:, None, None], screws.matrix[row, knot], eye)
    with torch.no_grad():
        valid = _apply(points, matrix, twist, inverse=inverse).isfinite().all(dim=-1)
        valid &= moves | (body == -1)
    keep = valid[:, None]
    moved = _apply(
        torch.where(keep, points, 0.0),
        torch.where(keep[:, :, None], matrix, eye),
        torch.where(keep, twist, 0.0),
        inverse=inverse,
    )
    return torch.where(keep, moved, 0.0), valid


def knot_at(times_us: Tensor, row: Tensor, knots_us: Tensor) -> Tensor:
    """Return the last knot of each point's row at or before its time, or the first one."""
    count, knot = knots_us.shape[1], torch.zeros_like(row)
    for power in reversed(range((count - 1).bit_length())):
        ahead = knot + 2**power
        time = knots_us[row, ahead.clamp(max=count - 1)]
        reached = (ahead < count) & (time <= times_us) & (time != NEVER_US)
        knot = torch.where(reached, ahead, knot)
    return knot


def _apply(points: Tensor, matrix: Tensor, twist: Tensor, *, inverse: bool) -> Tensor:
    if inverse:
        return _follow(-twist, _transform(matrix, points))
    return _transform(matrix, _follow(twist, points))


def _transform(matrix: Tensor, points: Tensor) -> Tensor:
    x, y, z = (points[..., k, None] for k in range(3))
    return matrix[..., 0] * x + matrix[..., 1] * y + matrix[..., 2] * z + matrix[..., 3]


def _follow(twist: Tensor, points: Tensor) -> Tensor:
    """Return ``exp(twist) points``: Sola et al. 2018, equation 172, on a point.

    With u and w the parts of the twist and x = |w|², it is
    ``p + u + a w×p + b w×(w×p + u) + c w×(w×u)``.
    """
    u, w = twist[..., :3], twist[..., 3:]
    # a, b, c: sin √x / √x, (1 - cos √x) / x, (√x - sin √x) / √x³.
    a, b, c = (_sine_ratio(w.square().sum(dim=-1, keepdim=True), order=k) for k in (1, 2, 3))
    wp, wu = torch.linalg.cross(w, points), torch.linalg.cross(w, u)
    wwp, wwu = torch.linalg.cross(w, wp), torch.linalg.cross(w, wu)
    return points + u + a * wp + b * (wwp + wu) + c * wwu


def _sine_ratio(squared: Tensor, *, order: int) -> Tensor:
    """Return ``sum_n (-squared)ⁿ / (2n + order)!``, by its closed form where that keeps digits."""
    small = squared < 0.25
    near = torch.where(small, squared, 0.0)
    series = torch.zeros_like(near)
    for n in reversed(range(8)):
        series = 1 / factorial(2 * n + order) - near * series
    angle = torch.where(small, 1.0, squared).sqrt()
    match order:
        case 1:
            closed = angle.sin() / angle
        case 2:
            closed = 2 * ((angle / 2).sin() / angle).square()
        case _:
            closed = (angle - angle.sin()) / angle**3
    return torch.where(small, series, closed)
