"""Many lidar sweeps in one frame at one instant, moving objects included."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from geomim.kernels.accumulate.op import UNKNOWN
from geomim.kernels.accumulate.op import accumulate as accumulate_flat
from geomim.kernels.accumulate.reference import sweep_of_points
from geomim.kernels.screws.op import find_boxes, move_by_screws
from geomim.tracks import TrackedBoxes
from geomim.trajectories import Trajectory, between
from geomim.transforms import RigidTransform


class AccumulatedPoints(NamedTuple):
    """Points in one frame. Where ``valid`` is False they are 0, with zero gradient."""

    points: Float[Tensor, "point 3"]
    seconds: Float[Tensor, " point"]
    """From the target's instant to the point's own: negative for what was measured before."""
    sweep: Int32[Tensor, " point"]
    track: Int64[Tensor, " point"]
    """Identity of the box that carried the point, -1 if none did."""
    valid: Bool[Tensor, " point"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Sweeps:
    """Lidar sweeps of any lengths, one after the other, each in its sensor's frame.

    Sweep i is ``points_sensor[offsets[i] : offsets[i + 1]]``, taken at ``times_us[i]``. Where the
    points of a sweep were measured one by one from a moving sensor, ``point_times_us`` says when,
    and ``world_from_sensor`` is a trajectory. With one pose a sweep they are taken as corrected for
    the sensor's own motion, as nuScenes's are. Poses may be more precise than points: they are
    composed in their own dtype.

    Raises:
        ValueError: If the parts differ in number.
    """

    points_sensor: Float[Tensor, "point 3"]
    offsets: Int64[Tensor, " bound"]
    times_us: Int64[Tensor, " sweep"]
    world_from_sensor: RigidTransform | Trajectory
    point_times_us: Int64[Tensor, " point"] | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        sweeps = tuple(self.times_us.shape)
        if len(self.offsets) != len(self.times_us) + 1:
            raise ValueError(
                f"offsets must be one more than the {len(self.times_us)} times_us, got "
                f"{len(self.offsets)}"
            )
        shape = tuple(self.world_from_sensor.shape)
        expected = () if isinstance(self.world_from_sensor, Trajectory) else sweeps
        if shape != expected:
            raise ValueError(
                f"world_from_sensor must be one pose for each of {sweeps} sweeps or one "
                f"trajectory, got {shape}"
            )
        times = self.point_times_us
        if times is not None and len(times) != len(self.points_sensor):
            raise ValueError(
                f"point_times_us must be one for each of {len(self.points_sensor)} points, got "
                f"{len(times)}"
            )

    @classmethod
    def from_list(
        cls,
        sweeps: Sequence[Float[Tensor, "_ 3"]],
        times_us: Int64[Tensor, " sweep"],
        world_from_sensor: RigidTransform | Trajectory,
        *,
        point_times_us: Sequence[Int64[Tensor, "_"]] | None = None,
    ) -> "Sweeps":
        """Join sweeps.

        Raises:
            ValueError: If there is none, or the parts differ in number.
        """
        if not sweeps:
            raise ValueError("sweeps must hold at least one, got none")
        ends = torch.tensor([0, *[len(sweep) for sweep in sweeps]]).cumsum(0)
        points = torch.cat(list(sweeps))
        times = None if point_times_us is None else torch.cat(list(point_times_us))
        return cls(points, ends.to(points.device), times_us, world_from_sensor, times)


def accumulate_sweeps(
    sweeps: Sweeps,
    *,
    target_time_us: int,
    world_from_target: RigidTransform | None = None,
    boxes: TrackedBoxes | None = None,
    tolerance_us: int = 0,
) -> AccumulatedPoints:
    """Carry every point to where it is, at one instant, in one frame.

    A point inside a box at the point's own time stays at its place in the box; the first box wins
    where several overlap. All other points belong to the world at rest. A point is not valid if it
    is not finite, or if the pose of its sensor then, or of its box at the target's instant, is not
    known. Differentiable by points and poses; which box holds a point has no derivative.

    Args:
        sweeps: What was measured.
        target_time_us: The instant.
        world_from_target: Pose of the frame of the result; the world itself by default.
        boxes: Objects that move.
        tolerance_us: By how much trajectories may be extrapolated, see ``Trajectory.at``.

    Raises:
        ValueError: If the tolerance is negative.
        TypeError: If the points are neither float32 nor float64.
    """
    if tolerance_us < 0:
        raise ValueError(f"tolerance_us must not be negative, got {tolerance_us}")
    if world_from_target is None:
        pose = sweeps.world_from_sensor
        world_from_target = RigidTransform.identity(dtype=pose.dtype, device=pose.device)
    moving = boxes if boxes is not None and boxes.count else None
    target = _Target(target_time_us, world_from_target, moving, tolerance_us)
    if sweeps.point_times_us is None:
        return _by_sweep(sweeps, target)
    return _by_point(sweeps, sweeps.point_times_us, target)


class _Target(NamedTuple):
    time_us: int
    world_from_target: RigidTransform
    boxes: TrackedBoxes | None
    """None where there are none: a look at nothing takes as long as one at something."""
    tolerance_us: int


def _by_sweep(sweeps: Sweeps, target: _Target) -> AccumulatedPoints:
    world_from_sensor, known = sweeps.world_from_sensor, None
    if isinstance(world_from_sensor, Trajectory):
        world_from_sensor, known = world_from_sensor.at(
            sweeps.times_us, tolerance_us=target.tolerance_us
        )
    dtype = sweeps.points_sensor.dtype
    matrix = _matrix(between(target.world_from_target, world_from_sensor), known, dtype)
    if target.boxes is None:
        into = out = matrix.new_empty(len(matrix), 0, 3, 4)
        half_size = matrix.new_empty(0, 3)
    else:
        into, out = _through_boxes(world_from_sensor, sweeps.times_us, target, target.boxes, dtype)
        half_size = (target.boxes.size / 2).to(dtype)
    late = ((sweeps.times_us - target.time_us).double() * 1e-6).to(dtype)
    moved, seconds, sweep, box = accumulate_flat(
        sweeps.points_sensor, sweeps.offsets, None, matrix, into, half_size, out, late
    )
    return AccumulatedPoints(moved, seconds, sweep, _track(box, target.boxes), box != UNKNOWN)


def _through_boxes(
    world_from_sensor: RigidTransform,
    times_us: Tensor,
    target: _Target,
    boxes: TrackedBoxes,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return, sweep by box, the way into the box then, and from there into the target now."""
    then, there = boxes.world_from_box.at(
        times_us.expand(boxes.count, -1), tolerance_us=target.tolerance_us
    )
    now, known = boxes.world_from_box.at(target.time_us, tolerance_us=target.tolerance_us)
    box_from_sensor = between(then, world_from_sensor[None])
    target_by_box = between(target.world_from_target, now)[:, None] @ box_from_sensor
    into = _matrix(box_from_sensor, there, dtype)
    out = _matrix(target_by_box, there & known[:, None], dtype)
    return into.transpose(0, 1), out.transpose(0, 1)


def _by_point(sweeps: Sweeps, times_us: Tensor, target: _Target) -> AccumulatedPoints:
    boxes, dtype = target.boxes, sweeps.points_sensor.dtype
    at_rest, sweep, known = _at_rest(sweeps, times_us, target)
    seconds = ((times_us - target.time_us).double() * 1e-6).to(dtype)
    if boxes is None:
        return AccumulatedPoints(at_rest, seconds, sweep, _track(sweep, None), known)
    into, out = (
        boxes.world_from_box.screws(
            dtype,
            world_from_frame=target.world_from_target,
            tolerance_us=target.tolerance_us,
            inverse=inverse,
        )
        for inverse in (True, False)
    )
    box = find_boxes(at_rest.detach(), times_us, into, (boxes.size / 2).to(dtype))
    box = torch.where(known, box, UNKNOWN)
    at_box, _ = move_by_screws(at_rest, times_us, box, into, inverse=True)
    now_us = torch.full_like(times_us, target.time_us)
    moved, valid = move_by_screws(at_box, now_us, box, out, inverse=False)
    return AccumulatedPoints(moved, seconds, sweep, _track(box, boxes), valid)


def _at_rest(sweeps: Sweeps, times_us: Tensor, target: _Target) -> tuple[Tensor, Tensor, Tensor]:
    """Return each point in the target frame as if nothing moved, its sweep, and if it is known."""
    pose, points = sweeps.world_from_sensor, sweeps.points_sensor
    if isinstance(pose, RigidTransform):
        points, _, sweep, _, known = _by_sweep(sweeps, target._replace(boxes=None))
        return points, sweep, known
    sweep = sweep_of_points(sweeps.offsets, len(points))
    screws = pose.screws(
        points.dtype,
        world_from_frame=target.world_from_target,
        tolerance_us=target.tolerance_us,
    )
    # The trajectory is body 0; a point of no sweep is of no body.
    body = torch.where(sweep >= 0, 0, UNKNOWN)
    moved, known = move_by_screws(points, times_us, body, screws, inverse=False)
    return moved, sweep, known


def _track(box: Tensor, boxes: TrackedBoxes | None) -> Tensor:
    """Return the identity of each point's box, -1 for none."""
    if boxes is None:
        return torch.full_like(box, -1, dtype=torch.int64)
    identity = torch.cat([boxes.track, boxes.track.new_full((2,), -1)])
    return identity[box]


def _matrix(
    transform: RigidTransform, known: Tensor | None, dtype: torch.dtype
) -> Float[Tensor, "*batch 3 4"]:
    """Return the upper rows of matrices, NaN where they are not known."""
    matrix = torch.cat([transform.rotation, transform.translation[..., None]], dim=-1).to(dtype)
    return matrix if known is None else torch.where(known[..., None, None], matrix, torch.nan)
