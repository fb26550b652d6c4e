"""Boxes that move through time, as trackers and annotators give them."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geomim.trajectories import NEVER_US, Trajectory
from geomim.transforms import RigidTransform


@final
@dataclass(frozen=True, slots=True, eq=False)
class TrackedBoxes:
    """Rigid boxes, each with a trajectory of its centre and axes, a size and an identity.

    ``size`` is the full extent in metres along each box's own x, y and z: length, width, height
    where x points ahead. nuScenes orders it (width, length, height); put the length first. A box
    exists from its first to its last knot.

    Raises:
        ValueError: If trajectory, sizes and identities differ in number, or a size is not positive.
    """

    world_from_box: Trajectory
    size: Float[Tensor, "box 3"]
    track: Int64[Tensor, " box"]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        shapes = [tuple(self.world_from_box.shape), tuple(self.track.shape)]
        if tuple(self.size.shape) != (*shapes[0], 3) or shapes[0] != shapes[1]:
            raise ValueError(
                "world_from_box, size and track must be (box,), (box, 3) and (box,), got "
                f"{shapes[0]}, {tuple(self.size.shape)} and {shapes[1]}"
            )
        if not ((self.size > 0) & self.size.isfinite()).all():
            raise ValueError(f"size must be positive and finite, got {self.size.tolist()}")

    @classmethod
    def none(
        cls, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> "TrackedBoxes":
        """Return no boxes: a world at rest."""
        times = torch.empty(0, 1, dtype=torch.int64, device=device)
        poses = RigidTransform.identity(0, 1, dtype=dtype, device=device)
        size = torch.empty(0, 3, dtype=poses.dtype, device=device)
        return cls(Trajectory(times, poses), size, times[:, 0])

    @classmethod
    def from_annotations(
        cls,
        timestamps_us: Int64[Tensor, " annotation"],
        world_from_box: RigidTransform,
        size: Float[Tensor, "annotation 3"],
        track: Int64[Tensor, " annotation"],
    ) -> "TrackedBoxes":
        """Gather boxes annotated one by one, in any order, into tracks by their identity.

        A track has the largest of its sizes. Tracks are ordered by identity.

        Raises:
            ValueError: If a track has two boxes at one instant, or the class refuses a part.
        """
        if len(track) == 0:
            return cls.none(dtype=size.dtype, device=size.device)
        order = timestamps_us.argsort(stable=True)
        order = order[track[order].argsort(stable=True)]
        ids, counts = track[order].unique_consecutive(return_counts=True)
        row = torch.repeat_interleave(counts)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        longest = int(counts.max())
        times = timestamps_us.new_full((len(ids), longest), NEVER_US)
        times[row, place] = timestamps_us[order]
        # Padding repeats some pose: it is never read, and no gradient comes from it.
        source = order[(counts.cumsum(0) - 1)[:, None]].repeat(1, longest)
        source[row, place] = order
        largest = torch.full_like(size[:1], -torch.inf).expand(len(ids), 3)
        largest = largest.scatter_reduce(0, row[:, None].expand(-1, 3), size[order], "amax")
        return cls(Trajectory(times, world_from_box[source]), largest, ids)

    @property
    def count(self) -> int:
        """The number of boxes."""
        return len(self.track)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "TrackedBoxes":
        """Return the same boxes on a device, poses and sizes in a dtype."""
        return TrackedBoxes(
            self.world_from_box.to(device, dtype),
            self.size.to(device=device, dtype=dtype),
            self.track.to(device),
        )
