"""Feature maps of all cameras and moments lifted to volumes, each in the rig's frame of its moment.

The rig's frame is the vehicle's at the moment's reference time. Cameras fire at times of their
own; where each was is in its own pose: ``rig_from_cam = rig_from_world @ world_from_cam``.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geomim.cameras import Camera
from geomim.grids import VoxelGrid, warp_volume
from geomim.lifting import convolve_pushed, lift_by_pulling
from geomim.transforms import RigidTransform

Lifting = Literal["pull", "push"]
VolumeNorm = Literal["group", "volume", "batch"]


class Volumes(NamedTuple):
    """Volumes of features. A moment without any camera is 0 and nowhere seen."""

    features: Float[Tensor, "batch time c z y x"]
    seen: Bool[Tensor, "batch time z y x"]
    """Where a camera looks, and a cell around it: as far as the convolution carries features."""


class LiftedVolumes(nn.Module):
    """Lift feature maps, then convolve: Conv3d 3x3x3, norm, ReLU (release, ``render_conv``).

    Args:
        channels_in: Of the feature maps.
        channels: Of the volumes.
        lifting: ``pull`` as the release's small model (UVTR), ``push`` as its large one (LSS).
        norm: The release has batch statistics over the moments of one clip. ``group`` (our
            choice) and ``volume``, a group a channel, have those of each volume alone, so that
            clips in a batch do not feel each other; ``batch`` is as the release.
        groups: Of ``group``; must divide ``channels``.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        *,
        lifting: Lifting,
        norm: VolumeNorm = "group",
        groups: int = 8,
    ):
        super().__init__()
        self.lifting: Lifting = lifting
        self.conv = nn.Conv3d(channels_in, channels, 3, padding=1, bias=False)
        self.norm = _norm(norm, channels, groups)

    def forward(
        self,
        features: Sequence[Float[Tensor, "batch time view c _h _w"]],
        depth_distribution: Sequence[Float[Tensor, "batch time view bin _h _w"]],
        depth_edges: Float[Tensor, " edge"],
        *,
        camera: Camera,
        rig_from_cam: RigidTransform,
        valid: Bool[Tensor, "batch time view"],
        grid: VoxelGrid,
    ) -> Volumes:
        """Lift maps of one or several levels; volumes of levels are summed (release).

        Args:
            features: A map of the images a level.
            depth_distribution: As large, over depth bins.
            depth_edges: Of the bins, in metres along the optical axis.
            camera: Of the images, with the batch ``(batch, time, view)``,
            rig_from_cam: and their poses in the rig's frame of the moment.
            valid: False for images that are missing: they are not lifted.
            grid: In the rig's frame.

        Raises:
            ValueError: If there is no level, or sizes and batches do not belong together.
        """
        if not features or len(features) != len(depth_distribution):
            raise ValueError(
                "features must be of at least one level, each with a depth_distribution, got "
                f"{len(features)} and {len(depth_distribution)}"
            )
        match self.lifting:
            case "pull":
                lift, convolve = lift_by_pulling, self.conv
            case "push":
                # Convolved before it is pushed, as channels are fewer then.
                lift, convolve = partial(convolve_pushed, weight=self.conv.weight), nn.Identity()
        there = _lose(rig_from_cam, ~valid)
        keep = valid[..., None, None, None]
        lifted = [
            lift(
                torch.where(keep, maps, 0.0),
                torch.where(keep, bins, 0.0),
                depth_edges,
                camera=camera,
                ego_from_cam=there,
                grid=grid,
            )
            for maps, bins in zip(features, depth_distribution, strict=True)
        ]
        volume = reduce(torch.add, [level.volume for level in lifted])
        seen = torch.stack([level.seen for level in lifted]).any(dim=0)
        around = nn.functional.max_pool3d(seen.to(volume.dtype), 3, stride=1, padding=1) > 0
        normed = self.norm(convolve(volume.flatten(0, 1))).relu().unflatten(0, volume.shape[:2])
        known = valid.any(dim=-1)[..., None, None, None, None]
        return Volumes(torch.where(known, normed, 0.0), around)


def pick(volumes: Volumes, moments: Int[Tensor, "batch some"]) -> Volumes:
    """Return some moments of each clip."""
    batch, time = volumes.seen.shape[:2]
    items = torch.arange(batch, device=moments.device)[:, None]
    index = (items * time + moments).flatten()
    # An index_select lays out anew: so channels stay beside each other.
    cells = volumes.features.movedim(2, -1).flatten(0, 1).index_select(0, index)
    seen = volumes.seen.flatten(0, 1).index_select(0, index)
    return Volumes(
        cells.unflatten(0, moments.shape).movedim(-1, 2), seen.unflatten(0, moments.shape)
    )


def align(volumes: Volumes, grid: VoxelGrid, *, target_from_source: RigidTransform) -> Volumes:
    """Move volumes by metres into other frames, each by its own motion.

    The release applies the motion in metres to indices of cells; this does not. A cell is seen if
    at least half of what it is interpolated from is.

    Args:
        volumes: Each in its own frame.
        grid: The same in all frames.
        target_from_source: With the batch ``(batch, time)``.
    """
    seen = volumes.seen.unsqueeze(-1).to(volumes.features.dtype)
    stacked = torch.cat([volumes.features.movedim(2, -1), seen], dim=-1).movedim(-1, 2)
    moved = warp_volume(stacked, grid, target_from_source=target_from_source)
    count = volumes.features.shape[2]
    return Volumes(moved.volume[:, :, :count], moved.volume[:, :, count] >= 0.5)


def _lose(pose: RigidTransform, lost: Bool[Tensor, "*batch"]) -> RigidTransform:
    """Make some poses unknown: what is not finite appears nowhere."""
    translation = torch.where(lost[..., None], torch.nan, pose.translation)
    return RigidTransform(torch.where(lost[..., None, None], torch.nan, pose.rotation), translation)


def _norm(norm: VolumeNorm, channels: int, groups: int) -> nn.Module:
    match norm:
        case "group":
            return nn.GroupNorm(groups, channels)
        case "volume":
            return nn.GroupNorm(channels, channels)
        case "batch":
            return nn.BatchNorm3d(channels)
