"""How the points of depth maps move with the camera, from view to view."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.cameras import Camera
from geomim.depth import unproject_depth, valid_depth
from geomim.transforms import RigidTransform
from geomim.warping import sample_bilinear


class DepthFlow(NamedTuple):
    """Where the points of every pixel go. Where ``valid`` is False all is 0, with zero gradient."""

    points: Float[Tensor, "*batch h w 3"]
    """Of the source's pixels, in the source camera's frame."""
    scene_flow: Float[Tensor, "*batch h w 3"]
    """Coordinates in the target camera's frame less those in the source's, in metres."""
    optical_flow: Float[Tensor, "*batch h w 2"]
    """Pixel in the target less pixel in the source; it may lead off the target's image."""
    valid: Bool[Tensor, "*batch h w"]
    """The depth is valid, and the point in front of the target camera."""


def flow_from_depth(
    depth: Float[Tensor, "*batch h w"],
    camera: Camera,
    *,
    target_from_source: RigidTransform,
    target_camera: Camera | None = None,
) -> DepthFlow:
    """Return how a world at rest moves in the eyes of a camera that moves.

    Args:
        depth: Of the source view.
        camera: Of the source view.
        target_from_source: From the source camera's frame to the target's.
        target_camera: Of the target view; by default the same.

    Raises:
        ValueError: If the depth map is not of the camera's size.
    """
    points, known = unproject_depth(depth, camera)
    moved = target_from_source.apply(points)
    pixels, _, ahead = (target_camera or camera).project(moved)
    valid = known & ahead
    keep = valid[..., None]
    return DepthFlow(
        torch.where(keep, points, 0.0),
        torch.where(keep, moved - points, 0.0),
        torch.where(keep, pixels - camera.pixel_grid(), 0.0),
        valid,
    )


def chain_flow(flows: Sequence[DepthFlow], *, tolerance: float = 0.02) -> DepthFlow:
    """Follow every pixel of the first view through all views, to the last.

    Each flow leads from one view to the next one's; it is read between pixels where the former
    ended. A pixel is followed only while it stays visible: on the image, on valid pixels, and at
    most ``tolerance`` times its depth away from what is seen there, else something hides it.
    The error is that of interpolating flow between pixels, which is exact where it is linear.

    Raises:
        ValueError: If there is no flow, or the tolerance is negative.
    """
    if not flows:
        raise ValueError("flows must hold at least one, got none")
    if tolerance < 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    first, *others = flows
    points, scene, optical, valid = first
    grid = _pixel_grid(optical)
    for flow in others:
        depth = flow.points[..., 2]
        filled = flow.valid & valid_depth(depth)
        inverse_depth = 1 / torch.where(filled, depth, 1.0)
        seen = torch.cat([inverse_depth[..., None], flow.scene_flow, flow.optical_flow], dim=-1)
        values, sampled = sample_bilinear(seen.movedim(-1, -3), filled, grid + optical)
        values = values.movedim(-3, -1)
        expected = points[..., 2] + scene[..., 2]
        observed = 1 / torch.where(sampled, values[..., 0], 1.0)
        valid = valid & sampled & ((expected - observed).abs() <= tolerance * expected.abs())
        scene = torch.where(valid[..., None], scene + values[..., 1:4], 0.0)
        optical = torch.where(valid[..., None], optical + values[..., 4:], 0.0)
    return DepthFlow(torch.where(valid[..., None], points, 0.0), scene, optical, valid)


def _pixel_grid(image: Float[Tensor, "*batch h w 2"]) -> Float[Tensor, "h w 2"]:
    height, width = (
        torch.arange(side, dtype=image.dtype, device=image.device) + 0.5
        for side in image.shape[-3:-1]
    )
    v, u = torch.meshgrid(height, width, indexing="ij")
    return torch.stack([u, v], dim=-1)
