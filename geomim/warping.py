"""Look at one view through the depth of another, knowing what is hidden."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.cameras import Camera
from geomim.depth import unproject_depth, valid_depth
from geomim.transforms import RigidTransform


class Samples(NamedTuple):
    """Values read between pixels. Where ``valid`` is False they are 0, with zero gradient."""

    values: Float[Tensor, "*batch c h w"]
    valid: Bool[Tensor, "*batch h w"]


class ReprojectedDepth(NamedTuple):
    """What the source view should see, and does see, of every target pixel.

    Where ``valid`` is False all else is 0, with zero gradient.
    """

    pixels: Float[Tensor, "*batch h w 2"]
    """Where the pixel's point lies in the source image; less the pixel grid, the optical flow."""
    expected: Float[Tensor, "*batch h w"]
    """The point's depth in the source camera."""
    observed: Float[Tensor, "*batch h w"]
    """The source's own depth there, smaller than expected where something hides the point."""
    valid: Bool[Tensor, "*batch h w"]


class WarpedImage(NamedTuple):
    """The source image as the target would see it. Where ``valid`` is False it is 0."""

    image: Float[Tensor, "*batch c h w"]
    valid: Bool[Tensor, "*batch h w"]


def warp_image(
    source_image: Float[Tensor, "*#batch c source_h source_w"],
    source_depth: Float[Tensor, "*#batch source_h source_w"],
    target_depth: Float[Tensor, "*#batch h w"],
    *,
    source_camera: Camera,
    target_camera: Camera,
    source_from_target: RigidTransform,
    tolerance: float = 0.02,
) -> WarpedImage:
    """Fetch for every target pixel the colour that the source view has of its point.

    A pixel is valid if its point lands on the source image, on pixels of valid depth, and the
    source's depth there differs by at most ``tolerance`` times the expected one: otherwise the
    source sees another surface.

    Raises:
        ValueError: If a depth map is not of its camera's size or the tolerance is negative.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    pixels, expected, observed, seen = reproject_depth(
        source_depth,
        target_depth,
        source_camera=source_camera,
        target_camera=target_camera,
        source_from_target=source_from_target,
    )
    colours, sampled = sample_bilinear(source_image, valid_depth(source_depth), pixels)
    valid = seen & sampled & ((expected - observed).abs() <= tolerance * expected)
    return WarpedImage(torch.where(valid[..., None, :, :], colours, 0.0), valid)


def reproject_depth(
    source_depth: Float[Tensor, "*#batch source_h source_w"],
    target_depth: Float[Tensor, "*#batch h w"],
    *,
    source_camera: Camera,
    target_camera: Camera,
    source_from_target: RigidTransform,
) -> ReprojectedDepth:
    """Carry every target pixel into the source view and read the source's depth there.

    The depth is interpolated as its inverse, which is exact on planes.

    Raises:
        ValueError: If a depth map is not of its camera's size.
    """
    if tuple(source_depth.shape[-2:]) != source_camera.size:
        raise ValueError(
            f"source_depth must have the camera's size {source_camera.size}, "
            f"got {tuple(source_depth.shape[-2:])}"
        )
    # The source's frame is the world here.
    points_source, known = unproject_depth(
        target_depth, target_camera, world_from_cam=source_from_target
    )
    pixels, expected, landed = source_camera.project(points_source)
    filled = valid_depth(source_depth)
    inverse = 1 / torch.where(filled, source_depth, 1.0)
    samples = sample_bilinear(inverse[..., None, :, :], filled, pixels)
    valid = known & landed & samples.valid
    observed = 1 / torch.where(valid, samples.values[..., 0, :, :], 1.0)
    return ReprojectedDepth(
        torch.where(valid[..., None], pixels, 0.0),
        torch.where(valid, expected, 0.0),
        torch.where(valid, observed, 0.0),
        valid,
    )


def sample_bilinear(
    image: Float[Tensor, "*#batch c image_h image_w"],
    image_valid: Bool[Tensor, "*#batch image_h image_w"],
    pixels: Float[Tensor, "*#batch h w 2"],
) -> Samples:
    """Read an image between its pixel centres, never across pixels that are not valid.

    A sample is valid on the image, where every pixel with a share in it is. Between the outermost
    centres and the edge, it takes the outermost pixels' value. Positions within rounding of a
    centre read that pixel alone.
    """
    height, width = image.shape[-2:]
    u, v = pixels.unbind(dim=-1)
    inside = (u >= 0) & (u <= width) & (v >= 0) & (v <= height)
    columns, column_weights = _neighbours(torch.where(inside, u, 0.5), width)
    rows, row_weights = _neighbours(torch.where(inside, v, 0.5), height)
    index = (rows[..., :, None] * width + columns[..., None, :]).flatten(-2)
    weights = (row_weights[..., :, None] * column_weights[..., None, :]).flatten(-2)

    taps = _gather(image, index)
    usable = _gather(image_valid[..., None, :, :], index)
    valid = inside & (usable | (weights == 0)[..., None, :, :, :]).all(dim=-1)[..., 0, :, :]
    # A neighbour that may not be looked at cannot tell how the value would change towards it.
    weights = torch.where(usable.all(dim=-1)[..., 0, :, :, None], weights, weights.detach())
    values = (torch.where(usable, taps, 0.0) * weights[..., None, :, :, :]).sum(dim=-1)
    return Samples(torch.where(valid[..., None, :, :], values, 0.0), valid)


def _neighbours(position: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the pixels before and after a position along one axis, and their weights."""
    place = (position - 0.5).clamp(0, count - 1)
    # Projecting what was just unprojected is off by some roundings of the largest coordinate.
    rounding = 32 * torch.finfo(place.dtype).eps * count
    centre = place.detach().round()
    at_centre = (place.detach() - centre).abs() <= rounding
    place = torch.where(at_centre, centre + (place - place.detach()), place)
    before = place.detach().floor()
    share = place - before
    after = (before + 1).clamp(max=count - 1)
    return torch.stack([before, after], dim=-1).long(), torch.stack([1 - share, share], dim=-1)


def _gather(image: Tensor, index: Tensor) -> Tensor:
    """Return ``image[..., c, index]`` for flat pixel indices, as ``(*batch, c, h, w, tap)``."""
    batch = torch.broadcast_shapes(image.shape[:-3], index.shape[:-3])
    flat = image.flatten(-2).expand(*batch, -1, -1)
    where = index.flatten(-3).expand(*batch, -1)[..., None, :].expand(*flat.shape[:-1], -1)
    return flat.gather(-1, where).unflatten(-1, index.shape[-3:])
