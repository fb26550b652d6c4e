"""Define, in plain torch, how points are moved by the pose of their sweep or of their box.

Every function takes 3x4 matrices ``[rotation | translation]``. A matrix that is not known is NaN:
a point without a finite image is 0 and says so by its box or sweep.
"""

import torch
from torch import Tensor

UNKNOWN = -2
"""The box of a point that cannot be moved."""


def accumulate(
    points: Tensor,
    offsets: Tensor,
    box: Tensor | None,
    target_from_sensor: Tensor,
    box_from_sensor: Tensor,
    half_size: Tensor,
    target_by_box: Tensor,
    seconds: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Move ragged sweeps of points into one frame, those in a box by the box.

    Args:
        points: Point by 3.
        offsets: Where each sweep begins, and the end of the last one.
        box: The box of every point, -1 for none; None to look for the first box that holds it.
        target_from_sensor: Sweep by 3 by 4.
        box_from_sensor: Sweep by box by 3 by 4, NaN where the box is not there; only looked at
            where ``box`` is None, and never differentiated.
        half_size: Box by 3.
        target_by_box: Sweep by box by 3 by 4: into the target frame for points of the box.
        seconds: One a sweep, handed on to its points.

    Returns:
        Moved points; the seconds and the sweep of every point; its box, -1 for none, -2 if
        it has no finite image. A point of no sweep, or whose ``box`` is out of range, has none.
    """
    sweep = sweep_of_points(offsets, len(points))
    if box is None:
        box = _first_box(points, sweep, box_from_sensor, half_size)
    index, known = _matrix_index(sweep, box, target_from_sensor, half_size)
    matrices = torch.cat([target_from_sensor, target_by_box.flatten(0, 1)])
    matrix = torch.where(known[:, None, None], matrices[index], torch.nan)
    # A matrix that leads nowhere, or a point that is nowhere, must not reach the other's gradient.
    with torch.no_grad():
        moved = _turn(matrix[:, :, :3], points) + matrix[:, :, 3]
        known = moved.isfinite().all(dim=-1)
    matrix = torch.where(known[:, None, None], matrix, 0.0)
    moved = _turn(matrix[:, :, :3], torch.where(known[:, None], points, 0.0)) + matrix[:, :, 3]
    late = torch.cat([seconds, seconds.new_zeros(1)])[sweep]
    return moved, late, sweep, torch.where(known, box, UNKNOWN).to(torch.int32)


def accumulate_backward(
    grad: Tensor,
    points: Tensor,
    sweep: Tensor,
    box: Tensor,
    target_from_sensor: Tensor,
    target_by_box: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``accumulate`` by points and by both tables of matrices."""
    sweeps, boxes = target_by_box.shape[:2]
    index, _ = _matrix_index(sweep, box, target_from_sensor, target_by_box[0, :, :, 0])
    known = (box != UNKNOWN)[:, None]
    grad = torch.where(known, grad, 0.0)
    matrices = torch.cat([target_from_sensor, target_by_box.flatten(0, 1)])
    matrix = torch.where(known[:, :, None], matrices[index], 0.0)
    by_points = _turn(matrix[:, :, :3].transpose(-1, -2), grad)
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], dim=-1)
    outer = grad[:, :, None] * torch.where(known, homogeneous, 0.0)[:, None]
    by_matrix = torch.zeros_like(matrices).index_add(0, index, outer)
    return (
        by_points,
        by_matrix[:sweeps],
        by_matrix[sweeps:].reshape(sweeps, boxes, 3, 4),
    )


def sweep_of_points(offsets: Tensor, count: int) -> Tensor:
    """Return the sweep of every point, -1 before the first and from the end of the last on."""
    place = torch.arange(count, device=offsets.device)
    sweep = torch.searchsorted(offsets.contiguous(), place, right=True) - 1
    return torch.where(sweep < len(offsets) - 1, sweep, -1).to(torch.int32)


def _turn(rotation: Tensor, vectors: Tensor) -> Tensor:
    x, y, z = (vectors[..., k, None] for k in range(3))
    return rotation[..., 0] * x + rotation[..., 1] * y + rotation[..., 2] * z


def _first_box(points: Tensor, sweep: Tensor, box_from_sensor: Tensor, half_size: Tensor) -> Tensor:
    box = torch.full_like(sweep, -1)
    for number in reversed(range(len(half_size))):
        matrix = box_from_sensor[:, number][sweep]
        at = _turn(matrix[:, :, :3], points) + matrix[:, :, 3]
        inside = (at.abs() <= half_size[number]).all(dim=-1) & (sweep >= 0)
        box = torch.where(inside, number, box)
    return box


def _matrix_index(
    sweep: Tensor, box: Tensor, target_from_sensor: Tensor, boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each point's matrix among those of sweeps, then of boxes; and whether it has one."""
    sweeps, count = len(target_from_sensor), len(boxes)
    boxed = (box >= 0) & (box < count)
    index = torch.where(boxed, sweeps + sweep.long() * count + box, sweep.long())
    known = (sweep >= 0) & (box >= -1) & (box < count)
    return torch.where(known, index, 0), known
