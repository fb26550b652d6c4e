"""How points move with boxes: between two instants, and in continuous time."""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from geomim.kernels.accumulate.op import UNKNOWN, accumulate
from geomim.kernels.screws.op import Screws, find_boxes, move_by_screws
from geomim.kernels.screws.reference import knot_at
from geomim.tracks import TrackedBoxes
from geomim.trajectories import Instants, Trajectory
from geomim.transforms import RigidTransform

Frame = RigidTransform | Trajectory | None
"""The pose of a frame: at the instant asked for, through time, or None for the world itself."""


class BoxFlow(NamedTuple):
    """Displacements of points. Where ``valid`` is False they are 0, with zero gradient."""

    flow: Float[Tensor, "point 3"]
    box: Int32[Tensor, " point"]
    """The first box that holds the point, -1 for none, -2 where ``valid`` is False."""
    valid: Bool[Tensor, " point"]


class MovedPoints(NamedTuple):
    """Points at another instant. Where ``valid`` is False they are 0, with zero gradient."""

    points: Float[Tensor, "point 3"]
    box: Int32[Tensor, " point"]
    """The box that carried the point, to be handed on with it; -1 for none, -2 if not valid."""
    valid: Bool[Tensor, " point"]


class Velocities(NamedTuple):
    """Velocities of points. Where ``valid`` is False they are 0, with zero gradient."""

    velocity: Float[Tensor, "point 3"]
    """Metres a second."""
    box: Int32[Tensor, " point"]
    valid: Bool[Tensor, " point"]


def flow_from_boxes(
    points_world: Float[Tensor, "point 3"],
    *,
    world_from_box_source: RigidTransform,
    world_from_box_target: RigidTransform,
    size: Float[Tensor, "box 3"],
) -> BoxFlow:
    """Return how points move with boxes that are known at two instants; all else rests.

    Args:
        points_world: At the source's instant.
        world_from_box_source: Where each box is then.
        world_from_box_target: Where it is at the target's instant.
        size: Full extent along each box's x, y and z.

    Raises:
        ValueError: If poses and sizes differ in number.
        TypeError: If the points are neither float32 nor float64.
    """
    counts = [world_from_box_source.shape, world_from_box_target.shape, size.shape[:1]]
    if len(set(counts)) > 1:
        raise ValueError(f"poses and size must hold as many boxes, got {[*map(tuple, counts)]}")
    dtype, device = points_world.dtype, points_world.device
    box_from_world = world_from_box_source.inverse()
    moved, _, _, box = accumulate(
        points_world,
        len(points_world) * torch.arange(2, device=device),
        None,
        torch.eye(3, 4, dtype=dtype, device=device)[None],
        _rows(box_from_world)[None].to(dtype),
        (size / 2).to(dtype),
        _rows(world_from_box_target @ box_from_world)[None].to(dtype),
        torch.zeros(1, dtype=dtype, device=device),
    )
    valid = box >= -1
    return BoxFlow(torch.where(valid[:, None], moved - points_world, 0.0), box, valid)


@final
@dataclass(frozen=True, slots=True, eq=False)
class RigidSceneFlow:
    """A world at rest with boxes that move through it, at any instant.

    A point belongs to the first box that holds it at the instant at which it is given, or to the
    world. It moves with its box, on screws between the box's knots, up to ``tolerance_us`` before
    the first and after the last one. Methods return the box of every point and take it back: only
    with it is a point's identity certain, since boxes drive over ground that was free before. With
    it, going back undoes going there, and two steps are one.

    Points may be given and asked for in any frame, such as a sensor's that moves. Everything is
    computed in the more precise dtype of points and boxes and returned in that of the points. Far
    from the world's origin, use float64 poses or boxes ``seen_from`` nearby.
    """

    boxes: TrackedBoxes
    tolerance_us: int = 0

    def move(
        self,
        points: Float[Tensor, "point 3"],
        *,
        from_us: Instants,
        to_us: Instants,
        box: Int[Tensor, " point"] | None = None,
        world_from_source: Frame = None,
        world_from_target: Frame = None,
    ) -> MovedPoints:
        """Carry points from one instant to another, for each of them if times are per point.

        A point is not valid if its box, or the pose of a frame, is not known at one of the
        instants. Differentiable by points and poses; which box holds a point has no derivative.

        Args:
            points: Where they are at ``from_us``, in the source frame.
            from_us: One instant, or one a point.
            to_us: One instant, or one a point.
            box: What an earlier call said of these points; by default it is looked up.
            world_from_source: The frame of ``points``.
            world_from_target: The frame of the result.

        Raises:
            ValueError: If there are not as many times or boxes as points.
            TypeError: If the points are neither float32 nor float64.
        """
        begin, end = (_per_point(times, points) for times in (from_us, to_us))
        world, known = _enter(self._precise(points), begin, world_from_source, self.tolerance_us)
        into, out = self._screws(world.dtype, inverse=True), self._screws(world.dtype)
        box = self._owner(world, begin, box, known)
        at_box, left = move_by_screws(world, begin, box, into, inverse=True)
        moved, arrived = move_by_screws(at_box, end, box, out, inverse=False)
        moved, landed = _leave(moved, end, world_from_target, self.tolerance_us)
        valid = known & left & arrived & landed
        moved = torch.where(valid[:, None], moved, 0.0).to(points.dtype)
        return MovedPoints(moved, torch.where(valid, box, UNKNOWN), valid)

    def velocity(
        self,
        points: Float[Tensor, "point 3"],
        times_us: Instants,
        *,
        box: Int[Tensor, " point"] | None = None,
        world_from_source: Frame = None,
    ) -> Velocities:
        """Return how fast points move over ground at their instants, along the source's axes.

        At a knot of a box, its velocity is that from there on. Arguments as of ``move``.
        """
        times = _per_point(times_us, points)
        world, known = _enter(self._precise(points), times, world_from_source, self.tolerance_us)
        into, out = self._screws(world.dtype, inverse=True), self._screws(world.dtype)
        box = self._owner(world, times, box, known)
        at_box, there = move_by_screws(world, times, box, into, inverse=True)
        velocity = torch.zeros_like(world)
        if self.boxes.count:
            row = box.long().clamp(min=0)
            twist = out.twist[row, knot_at(times, row, out.times_us)]
            along = twist[:, :3] + torch.linalg.cross(twist[:, 3:], at_box)
            carried = there & (box >= 0)
            along = torch.where(carried[:, None], along, 0.0)
            velocity, _ = move_by_screws(along, times, box, _turns(out), inverse=False)
        velocity = _along_axes(velocity, times, world_from_source, self.tolerance_us)
        valid = known & there
        velocity = torch.where(valid[:, None], velocity, 0.0).to(points.dtype)
        return Velocities(velocity, torch.where(valid, box, UNKNOWN), valid)

    def _precise(self, points: Tensor) -> Tensor:
        """Return points in the dtype of all arithmetic."""
        if points.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"points must be float32 or float64, got {points.dtype}")
        return points.to(torch.promote_types(points.dtype, self.boxes.world_from_box.dtype))

    def _screws(self, dtype: torch.dtype, *, inverse: bool = False) -> Screws:
        return self.boxes.world_from_box.screws(
            dtype, tolerance_us=self.tolerance_us, inverse=inverse
        )

    def _owner(
        self, points_world: Tensor, times_us: Tensor, box: Tensor | None, known: Tensor
    ) -> Int32[Tensor, " point"]:
        """Return the box of every point: as told, or else looked up."""
        if box is None:
            half_size = (self.boxes.size / 2).to(points_world.dtype)
            into = self._screws(points_world.dtype, inverse=True)
            box = find_boxes(points_world.detach(), times_us, into, half_size)
        return torch.where(known, box, UNKNOWN).to(torch.int32)


def _per_point(times_us: Instants, points: Tensor) -> Int64[Tensor, " point"]:
    if isinstance(times_us, int):
        return torch.full((len(points),), times_us, device=points.device)
    if times_us.ndim and times_us.shape != points.shape[:1]:
        raise ValueError(
            f"times_us must be one or as many as the {len(points)} points, got "
            f"{tuple(times_us.shape)}"
        )
    return times_us.expand(len(points))


def _enter(
    points: Tensor, times_us: Tensor, world_from_frame: Frame, tolerance_us: int
) -> tuple[Tensor, Tensor]:
    """Carry points from a frame to the world; tell where the frame's pose is known."""
    # A point that is nowhere must not reach the gradient of the frame.
    finite = points.isfinite().all(dim=-1)
    points = torch.where(finite[:, None], points, 0.0)
    match world_from_frame:
        case None:
            return points, finite
        case RigidTransform():
            moved = world_from_frame.to(dtype=points.dtype).apply(points)
            return moved, finite & moved.isfinite().all(dim=-1)
        case Trajectory():
            screws = world_from_frame.screws(points.dtype, tolerance_us=tolerance_us)
            moved, known = move_by_screws(
                points, times_us, _only_body(points), screws, inverse=False
            )
            return moved, finite & known


def _leave(
    points: Tensor, times_us: Tensor, world_from_frame: Frame, tolerance_us: int
) -> tuple[Tensor, Tensor]:
    """Carry points from the world to a frame; tell where the frame's pose is known."""
    match world_from_frame:
        case None:
            return _enter(points, times_us, None, tolerance_us)
        case RigidTransform():
            return _enter(points, times_us, world_from_frame.inverse(), tolerance_us)
        case Trajectory():
            screws = world_from_frame.screws(points.dtype, tolerance_us=tolerance_us, inverse=True)
            return move_by_screws(points, times_us, _only_body(points), screws, inverse=True)


def _along_axes(
    vectors: Tensor, times_us: Tensor, world_from_frame: Frame, tolerance_us: int
) -> Tensor:
    """Turn vectors from the world's axes to those of a frame."""
    match world_from_frame:
        case None:
            return vectors
        case RigidTransform():
            return world_from_frame.to(dtype=vectors.dtype).inverse().rotate(vectors)
        case Trajectory():
            screws = world_from_frame.screws(vectors.dtype, tolerance_us=tolerance_us, inverse=True)
            turned, _ = move_by_screws(
                vectors, times_us, _only_body(vectors), _turns(screws), inverse=True
            )
            return turned


def _only_body(points: Tensor) -> Tensor:
    return torch.zeros(len(points), dtype=torch.int32, device=points.device)


def _turns(screws: Screws) -> Screws:
    """Return the same motion without its translation, for vectors."""
    rotation = torch.nn.functional.pad(screws.matrix[..., :3], (0, 1))
    twist = torch.nn.functional.pad(screws.twist[..., 3:], (3, 0))
    return screws._replace(matrix=rotation, twist=twist)


def _rows(transform: RigidTransform) -> Tensor:
    return torch.cat([transform.rotation, transform.translation[..., None]], dim=-1)
