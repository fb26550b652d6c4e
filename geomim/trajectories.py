"""Rigid motions through time: poses at instants, and the screws that join them."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Literal, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from geomim.kernels.screws.reference import NEVER_US as NEVER_US
from geomim.kernels.screws.reference import Screws
from geomim.rotations import rotate
from geomim.transforms import RigidTransform

Instants = int | Int64[Tensor, "*times"]


class TimedPose(NamedTuple):
    """Poses at instants. Where ``valid`` is False they are the identity, with zero gradient."""

    world_from_body: RigidTransform
    valid: Bool[Tensor, "*times"]


class TimedTwist(NamedTuple):
    """Velocities at instants. Where ``valid`` is False they are 0, with zero gradient."""

    twist: Float[Tensor, "*times 6"]
    """Metres and radians a second, of the body's origin and in the body's axes."""
    valid: Bool[Tensor, "*times"]


class Knots(NamedTuple):
    """The last knot before each instant, and how long ago it was."""

    place: Int64[Tensor, "*times"]
    """Into the flattened batch of knots."""
    seconds: Float[Tensor, "*times"]
    """Since the knot; negative only before the first one."""
    valid: Bool[Tensor, "*times"]


def between(world_from_a: RigidTransform, world_from_b: RigidTransform) -> RigidTransform:
    """Return ``a_from_b``, without losing digits where both are far from the world's origin."""
    back = world_from_a.rotation.transpose(-1, -2)
    rotation = (back[..., None] * world_from_b.rotation[..., None, :, :]).sum(dim=-2)
    return RigidTransform(
        rotation, rotate(back, world_from_b.translation - world_from_a.translation)
    )


@final
@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """Where a body is at any instant: at its knots exactly, between them on a screw.

    Between two knots the body keeps one velocity in its own axes, so the answer is the same
    whichever frame moves with the body (see ``RigidTransform.interpolate``). Neighbouring knots
    must be less than half a turn apart.

    Batches lead. Rows with fewer knots than others are padded at the end with ``NEVER_US``,
    whose poses are not read.

    Raises:
        ValueError: If there are not as many poses as timestamps, at least one a row, or the
            timestamps do not increase strictly.
    """

    timestamps_us: Int64[Tensor, "*batch knot"]
    world_from_body: RigidTransform

    def __post_init__(self) -> None:
        """Refuse times that are out of order or no times of these poses."""
        shape = tuple(self.timestamps_us.shape)
        if self.world_from_body.shape != shape or not shape or shape[-1] == 0:
            raise ValueError(
                "world_from_body must hold a pose for each of at least one timestamp, got "
                f"{tuple(self.world_from_body.shape)} for {shape}"
            )
        before, after = self.timestamps_us[..., :-1], self.timestamps_us[..., 1:]
        wrong = (after <= before) & (after != NEVER_US)
        if wrong.any():
            raise ValueError(
                f"timestamps_us must increase strictly, got {after[wrong][0]} after "
                f"{before[wrong][0]}; call Trajectory.from_unsorted"
            )

    @classmethod
    def from_unsorted(
        cls,
        timestamps_us: Int64[Tensor, " knot"],
        world_from_body: RigidTransform,
        *,
        duplicates: Literal["refuse", "first", "last"] = "refuse",
    ) -> "Trajectory":
        """Sort poses by time.

        Args:
            timestamps_us: In any order.
            world_from_body: One a timestamp.
            duplicates: Which of several poses at one instant to keep, in the order given; by
                default there must be none.

        Raises:
            ValueError: As the class does.
        """
        order = timestamps_us.argsort(stable=True)
        times = timestamps_us[order]
        if duplicates != "refuse" and len(times):
            differs = times[1:] != times[:-1]
            edge = differs.new_ones(1)
            order = order[torch.cat([edge, differs] if duplicates == "first" else [differs, edge])]
        return cls(timestamps_us[order], world_from_body[order])

    @classmethod
    def stack(cls, trajectories: Sequence["Trajectory"]) -> "Trajectory":
        """Make trajectories of one batch shape the rows of one, padded to the longest.

        Raises:
            ValueError: If there is none.
        """
        if not trajectories:
            raise ValueError("trajectories must hold at least one, got none")
        longest = max(t.timestamps_us.shape[-1] for t in trajectories)
        rows = [t._padded(longest) for t in trajectories]
        poses = [row.world_from_body for row in rows]
        return cls(
            torch.stack([row.timestamps_us for row in rows]),
            RigidTransform(
                torch.stack([pose.rotation for pose in poses]),
                torch.stack([pose.translation for pose in poses]),
            ),
        )

    @property
    def shape(self) -> torch.Size:
        """The batch shape."""
        return self.timestamps_us.shape[:-1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the poses."""
        return self.world_from_body.dtype

    @property
    def device(self) -> torch.device:
        """The device of poses and timestamps."""
        return self.timestamps_us.device

    def __matmul__(self, body_from_part: RigidTransform) -> "Trajectory":
        """Return the trajectory of a part fixed to the body: ``world_from_ego @ ego_from_cam``.

        Batches broadcast: one vehicle with six cameras gives six trajectories.
        """
        moved = self.world_from_body @ body_from_part[..., None]
        return Trajectory(self.timestamps_us.expand(moved.shape), moved)

    def seen_from(self, world_from_frame: RigidTransform) -> "Trajectory":
        """Return the same motion in a frame at rest in the world; batches broadcast."""
        moved = between(world_from_frame[..., None], self.world_from_body)
        return Trajectory(self.timestamps_us.expand(moved.shape), moved)

    def at(self, times_us: Instants, *, tolerance_us: int = 0) -> TimedPose:
        """Return the poses at instants, whose leading axes are the trajectory's batch.

        Up to ``tolerance_us`` before the first and after the last knot the body is taken to keep
        the velocity of the nearest pair of knots, or to rest if there is but one knot. Beyond, the
        result is not valid. Instants are subtracted as integers: not a microsecond is lost.

        Raises:
            ValueError: If the tolerance is negative or the times do not lead with the batch.
        """
        knots = self.locate(times_us, tolerance_us=tolerance_us)
        start = self._flat()[knots.place]
        moved = start @ RigidTransform.exp(self._twists_at(knots.place) * knots.seconds[..., None])
        keep = knots.valid[..., None]
        eye = torch.eye(3, dtype=self.dtype, device=self.device)
        return TimedPose(
            RigidTransform(
                torch.where(keep[..., None], moved.rotation, eye),
                torch.where(keep, moved.translation, 0.0),
            ),
            knots.valid,
        )

    def twist_at(self, times_us: Instants, *, tolerance_us: int = 0) -> TimedTwist:
        """Return the velocities at instants; at a knot, that from there on.

        Raises:
            ValueError: As ``at`` does.
        """
        knots = self.locate(times_us, tolerance_us=tolerance_us)
        twist = self._twists_at(knots.place)
        return TimedTwist(torch.where(knots.valid[..., None], twist, 0.0), knots.valid)

    def knot_twists(self) -> Float[Tensor, "*batch knot 6"]:
        """Return the velocity from each knot on; the last one keeps its predecessor's."""
        index = torch.arange(self.timestamps_us.numel(), device=self.device)
        return self._twists_at(index).reshape(*self.timestamps_us.shape, 6)

    def locate(self, times_us: Instants, *, tolerance_us: int = 0) -> Knots:
        """Find the last knot before each instant, or the first one where there is none.

        Raises:
            ValueError: As ``at`` does.
        """
        if tolerance_us < 0:
            raise ValueError(f"tolerance_us must not be negative, got {tolerance_us}")
        if isinstance(times_us, Tensor):
            times = times_us.to(self.device)
        else:
            times = torch.full(self.shape, times_us, device=self.device)
        shape = _over_times(self.shape, times)
        rows = self.timestamps_us.reshape(-1, self.timestamps_us.shape[-1])
        asked = (
            times.expand(shape).reshape(len(rows), shape[len(self.shape) :].numel()).contiguous()
        )
        known = (rows != NEVER_US).sum(dim=-1, keepdim=True)
        last = (known - 1).clamp(min=0)
        # The padding counts as later than every instant, the last one there is included.
        at_or_before = torch.searchsorted(rows.contiguous(), asked, right=True)
        knot = torch.minimum((at_or_before - 1).clamp(min=0), last)
        begin, end = rows[:, :1], rows.gather(-1, last)
        valid = (known > 0) & (asked >= begin - tolerance_us) & (asked <= end + tolerance_us)
        passed_us = torch.where(valid, asked - rows.gather(-1, knot), 0)
        first = torch.arange(len(rows), device=self.device)[:, None] * rows.shape[-1]
        return Knots(
            (first + knot).reshape(shape),
            (passed_us.double() * 1e-6).to(self.dtype).reshape(shape),
            valid.reshape(shape),
        )

    def screws(
        self,
        dtype: torch.dtype,
        *,
        world_from_frame: RigidTransform | None = None,
        tolerance_us: int = 0,
        inverse: bool = False,
    ) -> Screws:
        """Return the flattened batch as a kernel's tables.

        Args:
            dtype: Of matrices and twists; they are composed in that of the poses.
            world_from_frame: Where the matrices lead from the bodies; the world by default.
            tolerance_us: By how much the first and last knot may be passed.
            inverse: Have the matrices lead into the bodies.
        """
        times = self.timestamps_us.reshape(-1, self.timestamps_us.shape[-1])
        known = (times != NEVER_US).sum(dim=-1, keepdim=True)
        end = times.gather(-1, (known - 1).clamp(min=0))
        pose = self._flat()
        if world_from_frame is not None:
            pose = between(world_from_frame[None], pose)
        matrix = (pose.inverse() if inverse else pose).matrix()[:, :3].to(dtype)
        return Screws(
            times,
            torch.where(known > 0, times[:, :1] - tolerance_us, 1)[:, 0],
            torch.where(known > 0, end + tolerance_us, 0)[:, 0],
            matrix.reshape(*times.shape, 3, 4),
            self.knot_twists().to(dtype).reshape(*times.shape, 6),
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Trajectory":
        """Return the same motion on a device, its poses in a dtype."""
        return Trajectory(self.timestamps_us.to(device), self.world_from_body.to(device, dtype))

    def __getitem__(self, index: "int | slice | EllipsisType | Tensor") -> "Trajectory":
        """Index the first batch axis."""
        if not self.shape:
            raise ValueError("a trajectory without a batch must not be indexed, got shape ()")
        return Trajectory(self.timestamps_us[index], self.world_from_body[index])

    def _padded(self, count: int) -> "Trajectory":
        missing = count - self.timestamps_us.shape[-1]
        pose = self.world_from_body
        never = self.timestamps_us.new_full((*self.shape, missing), NEVER_US)
        return Trajectory(
            torch.cat([self.timestamps_us, never], dim=-1),
            RigidTransform(
                torch.nn.functional.pad(pose.rotation, (0, 0, 0, 0, 0, missing)),
                torch.nn.functional.pad(pose.translation, (0, 0, 0, missing)),
            ),
        )

    def _flat(self) -> RigidTransform:
        pose = self.world_from_body
        return RigidTransform(pose.rotation.reshape(-1, 3, 3), pose.translation.reshape(-1, 3))

    def _twists_at(self, index: Tensor) -> Tensor:
        """Return the velocities from knots of the flattened batch on."""
        count = self.timestamps_us.shape[-1]
        times = self.timestamps_us.reshape(-1)
        known = (self.timestamps_us != NEVER_US).sum(dim=-1).reshape(-1)
        row = index // count
        # The knot after, or the last two: with a single one, twice that.
        after = torch.minimum(index - row * count + 1, known[row] - 1).clamp(min=0)
        before = (after - 1).clamp(min=0)
        after, before = after + row * count, before + row * count
        elapsed_us = times[after] - times[before]
        seconds = (elapsed_us.clamp(min=1).double() * 1e-6).to(self.dtype)
        poses = self._flat()
        return between(poses[before], poses[after]).log() / seconds[..., None]


def _over_times(batch: torch.Size, times_us: Tensor) -> torch.Size:
    """Return the shape of one result for each instant, of which the batch leads."""
    axes = (*batch, *(1,) * (times_us.ndim - len(batch)))
    if any(b != t and 1 not in (b, t) for b, t in zip(batch, times_us.shape, strict=False)) or (
        times_us.ndim < len(batch)
    ):
        raise ValueError(
            f"times_us must lead with the batch {tuple(batch)}, got {tuple(times_us.shape)}"
        )
    return torch.broadcast_shapes(axes, times_us.shape)
