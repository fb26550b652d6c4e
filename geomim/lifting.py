"""Lift the feature maps of any number of cameras to one volume, by pulling or by pushing.

Features come with a distribution over depth, one probability a bin and pixel. Bins lie between
edges along the optical axis, in metres. Both ways put a cell where :class:`VoxelGrid` says it is,
so what they yield can be sampled with :func:`geomim.grids.sample_volume`.
"""

import itertools
import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.cameras import NEAREST_DEPTH, Camera
from geomim.grids import VoxelGrid
from geomim.kernels.pooling.op import frustum_cells, pool
from geomim.kernels.trilinear.op import compute_dtype, trilinear
from geomim.transforms import RigidTransform


class LiftedVolume(NamedTuple):
    """A volume of features. Where ``seen`` is False it is 0, with zero gradient."""

    volume: Float[Tensor, "*batch c z y x"]
    seen: Bool[Tensor, "*batch z y x"]


class ConvolvedVolume(NamedTuple):
    """A convolved volume of features, and which cells its points fall into."""

    volume: Float[Tensor, "*batch out z y x"]
    seen: Bool[Tensor, "*batch z y x"]


class _Views(NamedTuple):
    """Batches of views, flattened: what both ways of lifting start from."""

    features: Tensor
    """Batch by view by channel by h by w."""
    distribution: Tensor
    """Batch by view by bin by h by w."""
    camera: Camera
    """Of the feature maps rather than of the images they were made from."""
    batch: torch.Size


def lift_by_pulling(
    features: Float[Tensor, "*batch view c h w"],
    depth_distribution: Float[Tensor, "*batch view bin h w"],
    depth_edges: Float[Tensor, " edge"],
    *,
    camera: Camera,
    ego_from_cam: RigidTransform,
    grid: VoxelGrid,
    reduce: Literal["sum", "mean"] = "sum",
) -> LiftedVolume:
    """Fetch for every cell, from every camera that sees its centre, features times depth.

    Features are read bilinearly where the centre appears, the distribution trilinearly at its
    depth, and the products are summed, or averaged, over the cameras that see it: those that
    project it onto their image, at a depth within the edges (Li et al. 2022, UVTR). Differentiable
    with respect to features, distribution, edges, calibration and poses.

    Args:
        features: Maps of any resolution that cover the whole images.
        depth_distribution: As large as the features.
        depth_edges: One more than there are bins, rising.
        camera: Of the images, with the batch ``(*batch, view)``.
        ego_from_cam: Poses, with the same batch.
        grid: In the ego frame.
        reduce: What becomes of a cell that several cameras see.

    Raises:
        ValueError: If sizes or batches do not belong together.
    """
    views = _gather_views(features, depth_distribution, depth_edges, camera, ego_from_cam)
    points, seen = _appearances(views, depth_edges, ego_from_cam, grid)
    count = seen.sum(dim=1)
    total = views.features.new_zeros(*count.shape, views.features.shape[2])
    for view in range(points.shape[1]):
        maps = views.features[:, view, None].movedim(2, -1)
        bins = views.distribution[:, view, ..., None]
        u, v, _ = points[:, view].unbind(dim=-1)
        # Maps are volumes of one layer, whose centre is at 0.5.
        values, _ = trilinear(maps, torch.stack([u, v, torch.full_like(u, 0.5)], -1), border=True)
        probability, _ = trilinear(bins, points[:, view], border=True)
        total = total.addcmul_(values.squeeze(2), probability.squeeze(2))
    if reduce == "mean":
        total = total / count.clamp(min=1)[..., None].to(total.dtype)
    return _over_grid(total, count > 0, views.batch, grid)


def lift_by_pushing(
    features: Float[Tensor, "*batch view c h w"],
    depth_distribution: Float[Tensor, "*batch view bin h w"],
    depth_edges: Float[Tensor, " edge"],
    *,
    camera: Camera,
    ego_from_cam: RigidTransform,
    grid: VoxelGrid,
) -> LiftedVolume:
    """Send every pixel's features along its ray and sum, cell by cell, features times depth.

    Each depth bin of each pixel of the feature maps is one point, at the bin's middle, and falls
    into one cell (Philion and Fidler 2020, LSS); the features of all these points are never made.
    On the CPU the sums are taken in one order: the result is the same every time. Differentiable
    with respect to features and distribution; poses and calibration only decide which cell is hit
    and get no gradient.

    Arguments and errors are those of :func:`lift_by_pulling`. A cell is ``seen`` if any point falls
    into it.
    """
    views = _gather_views(features, depth_distribution, depth_edges, camera, ego_from_cam)
    cell = _frustum_cells(views, depth_edges, ego_from_cam, grid)
    pixels = views.features.flatten(0, 1).flatten(2).mT
    distribution = views.distribution.flatten(0, 1).flatten(2)
    items, voxels = views.features.shape[0], math.prod(grid.shape)
    pooled = pool(pixels, distribution, cell, cells=items * voxels)
    volume = pooled.unflatten(0, (items, voxels))
    return _over_grid(volume, _hit(cell, items, voxels), views.batch, grid)


def convolve_pushed(
    features: Float[Tensor, "*batch view c h w"],
    depth_distribution: Float[Tensor, "*batch view bin h w"],
    depth_edges: Float[Tensor, " edge"],
    weight: Float[Tensor, "out c _ _ _"],
    *,
    camera: Camera,
    ego_from_cam: RigidTransform,
    grid: VoxelGrid,
) -> ConvolvedVolume:
    """Convolve what :func:`lift_by_pushing` lifts, without ever making it.

    Both are linear. Pixels are multiplied with all places of the kernel, and each product is pushed
    into that neighbour of the pixel's cell which it is for. This takes as many sums as points, not
    cells, of as many channels as the result, not the features, has.

    Args:
        features: As in :func:`lift_by_pushing`, like all that is not named here.
        depth_distribution: As large as the features.
        depth_edges: One more than there are bins, rising.
        weight: As ``torch.nn.functional.conv3d`` takes it, over z, y, x, with odd sides. The volume
            is padded with 0, so that the result has its cells.
        camera: Of the images.
        ego_from_cam: Poses.
        grid: In the ego frame.

    Raises:
        ValueError: If sizes or batches do not belong together, or a side is even.
    """
    views = _gather_views(features, depth_distribution, depth_edges, camera, ego_from_cam)
    items, voxels = views.features.shape[0], math.prod(grid.shape)
    sides = (weight.shape[2], weight.shape[3], weight.shape[4])
    if any(side % 2 == 0 for side in sides):
        raise ValueError(f"weight must have odd sides, got {sides}")
    cell = _frustum_cells(views, depth_edges, ego_from_cam, grid)
    neighbours = _neighbours(cell, sides, grid)
    kernel = weight.to(views.features.dtype).movedim(0, -1).flatten(1)
    products = views.features.flatten(0, 1).flatten(2).mT @ kernel
    # Autocasting makes products coarser; sums are as exact as without it.
    products = products.to(kernel.dtype).unflatten(2, (len(neighbours), -1))
    pooled = pool(
        products.movedim(2, 0).flatten(0, 1),
        views.distribution.flatten(0, 1).flatten(2).repeat(len(neighbours), 1, 1),
        neighbours.flatten(0, 1),
        cells=items * voxels,
    )
    volume = pooled.unflatten(0, (items, voxels))
    lifted = _over_grid(volume, _hit(cell, items, voxels), views.batch, grid)
    return ConvolvedVolume(lifted.volume, lifted.seen)


def _gather_views(
    features: Tensor, distribution: Tensor, edges: Tensor, camera: Camera, pose: RigidTransform
) -> _Views:
    """Check that everything is of the same views, and bring the camera to the features' size."""
    batch = features.shape[:-3]
    if (*batch, *features.shape[-2:]) != (*distribution.shape[:-3], *distribution.shape[-2:]):
        raise ValueError(
            "depth_distribution must be of the same views and as large as features, "
            f"got {tuple(distribution.shape)} and {tuple(features.shape)}"
        )
    if len(edges) != distribution.shape[-3] + 1:
        raise ValueError(
            f"depth_edges must be one more than the {distribution.shape[-3]} bins, got {len(edges)}"
        )
    if camera.shape != batch or pose.shape != batch:
        raise ValueError(
            f"camera and ego_from_cam must have the batch {tuple(batch)} of the views, "
            f"got {tuple(camera.shape)} and {tuple(pose.shape)}"
        )
    flat = (math.prod(batch[:-1]), batch[-1])
    dtype = torch.promote_types(features.dtype, distribution.dtype)
    return _Views(
        features.reshape(*flat, *features.shape[-3:]).to(dtype),
        distribution.reshape(*flat, *distribution.shape[-3:]).to(dtype),
        camera.resize(features.shape[-2], features.shape[-1]),
        batch[:-1],
    )


def _appearances(
    views: _Views, edges: Tensor, ego_from_cam: RigidTransform, grid: VoxelGrid
) -> tuple[Tensor, Tensor]:
    """Return where every cell's centre appears: (u, v, bin), NaN where it does not, and whether."""
    centres = grid.centres(dtype=ego_from_cam.dtype, device=ego_from_cam.device).reshape(-1, 3)
    cam_from_ego = ego_from_cam.inverse()
    points_cam = cam_from_ego.apply(centres.expand(*cam_from_ego.shape, -1, 3))
    pixels, depth, valid = views.camera.project(points_cam)
    within = (depth >= edges[0]) & (depth < edges[-1])
    seen = valid & within & views.camera.contains(pixels)
    places = torch.cat([pixels, _bin_coordinate(depth, edges)[..., None]], dim=-1)
    # The operator gives a point that is nowhere neither a value nor a gradient.
    places = torch.where(seen[..., None], places, torch.nan)
    shape = (*views.features.shape[:2], len(centres))
    places = places.to(compute_dtype(views.features))
    return places.reshape(*shape, 3), seen.reshape(shape)


def _bin_coordinate(depth: Tensor, edges: Tensor) -> Tensor:
    """Return depth counted in bins: 0 at the first edge, the middle of the first bin is 0.5."""
    edges = edges.to(depth.dtype)
    bins = len(edges) - 1
    index = (torch.searchsorted(edges.detach(), depth.detach(), right=True) - 1).clamp(0, bins - 1)
    return index + (depth - edges[index]) / (edges[index + 1] - edges[index])


@torch.no_grad()
def _frustum_cells(
    views: _Views, edges: Tensor, ego_from_cam: RigidTransform, grid: VoxelGrid
) -> Tensor:
    """Return the cell of every point, counted through the items, or -1: view by bin by pixel."""
    pixels = views.camera.pixel_grid().to(ego_from_cam.dtype)
    shape = (*ego_from_cam.shape, *pixels.shape[:2])
    unit = pixels.new_ones(()).expand(shape)
    ahead, valid = views.camera.unproject(pixels.expand(*shape, 2), unit)
    # Points of a pixel are on one line: where it starts, and how far a metre of depth leads.
    step = torch.where(valid[..., None], ego_from_cam.rotate(ahead), torch.nan)
    middles = ((edges[1:] + edges[:-1]) / 2).to(pixels.dtype)
    return frustum_cells(
        ego_from_cam.translation.reshape(-1, 3),
        step.reshape(-1, math.prod(pixels.shape[:2]), 3),
        torch.where(middles > NEAREST_DEPTH, middles, torch.nan),
        middles.new_tensor([grid.lower, grid.cell]),
        views=max(1, views.features.shape[1]),
        shape=grid.shape,
    )


def _neighbours(cell: Tensor, sides: tuple[int, int, int], grid: VoxelGrid) -> Tensor:
    """Return, for each place of a kernel, the cell whose result a cell adds to through it, or -1.

    Places are counted through z, y, x: through the first of three a cell adds to the one above it.
    """
    x, y, z = grid.shape
    strides, where = (x * y, x, 1), (cell // (x * y) % z, cell // x % y, cell % x)
    steps = [[side // 2 - place for place in range(side)] for side in sides]
    # Along each axis and for each step: whether the neighbour is in the grid.
    within = [
        {step: (cell >= 0) & (at + step >= 0) & (at + step < count) for step in along}
        for along, at, count in zip(steps, where, (z, y, x), strict=True)
    ]
    return torch.stack(
        [
            torch.where(
                within[0][step[0]] & within[1][step[1]] & within[2][step[2]],
                cell + sum(s * stride for s, stride in zip(step, strides, strict=True)),
                -1,
            )
            for step in itertools.product(*steps)
        ]
    )


def _hit(cell: Tensor, items: int, voxels: int) -> Tensor:
    """Tell which cells any point falls into: item by voxel."""
    # Points outside the grid mark one voxel more, which is left out: no wait for a count.
    hit = torch.where(cell >= 0, cell, items * voxels).flatten()
    seen = torch.zeros(items * voxels + 1, dtype=torch.bool, device=cell.device)
    return seen.index_fill(0, hit, True)[:-1].unflatten(0, (items, voxels))


def _over_grid(values: Tensor, seen: Tensor, batch: torch.Size, grid: VoxelGrid) -> LiftedVolume:
    """Give values over cells, channels last, the shape of volumes."""
    cells = grid.shape[::-1]
    volume = values.reshape(*batch, *cells, values.shape[-1]).movedim(-1, -4)
    return LiftedVolume(volume, seen.reshape(*batch, *cells))
