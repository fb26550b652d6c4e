"""Lift the features of six cameras to a volume, by pulling and by pushing, beside plain torch.

The sizes are those of MIM4D: images of 800 x 480 pixels seen at an eighth, 32 channels, 118 bins
of half a metre, 180 x 180 x 5 cells. Plain torch pulls by grid_sample, 2-D for features and 3-D for
depth, one camera at a time, and pushes the product of features and depth: by index_add, or sorted
by cell, through a running sum whose value at a cell's last point counts less that of the cell
before (Philion and Fidler 2020), which loses digits. Before the clock starts every contender is
compared with our definition in float64; points on a border between cells may fall on either side.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from benchmarks.measure import Contender, Workload
from geomim.cameras import PinholeCamera
from geomim.grids import VoxelGrid
from geomim.kernels.selection import use_kernels
from geomim.lifting import lift_by_pulling, lift_by_pushing
from geomim.transforms import RigidTransform

# Of the sum of all absolute values: what rounding at borders between cells may move.
TOLERANCE = 2e-3

Lift = Callable[["Rig"], Tensor]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """What six cameras see: features (view, c, h, w), and a distribution (view, bin, h, w)."""

    features: Tensor
    distribution: Tensor
    edges: Tensor
    camera: PinholeCamera
    ego_from_cam: RigidTransform
    grid: VoxelGrid

    def to(self, dtype: torch.dtype) -> "Rig":
        """Return the same rig in another precision."""
        return Rig(
            self.features.to(dtype),
            self.distribution.to(dtype),
            self.edges.to(dtype),
            self.camera.to(dtype=dtype),
            self.ego_from_cam.to(dtype=dtype),
            self.grid,
        )


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield pulling and pushing, forward and with backward."""
    rig = make_rig(tiny=tiny)
    cells = math.prod(rig.grid.shape) * rig.features.shape[1] * rig.features.itemsize
    nbytes = rig.features.nbytes + rig.distribution.nbytes + cells
    for name, lifts in (("pull", PULLS), ("push", PUSHES)):
        for passes, run, times in (("forward", forward, 1), ("fwd + bwd", backward, 2)):
            yield Workload(
                f"{name} {len(rig.features)} views, {passes}",
                tuple(Contender(who, partial(run, lift, rig)) for who, lift in lifts.items()),
                nbytes=times * nbytes,
                note=f"{tuple(rig.distribution.shape)} to {rig.grid.shape} cells",
                check=partial(check, lifts, rig, run),
            )


def make_rig(*, tiny: bool) -> Rig:
    """Look around in six directions."""
    (h, w), channels, bins, cells = (
        ((3, 5), 4, 6, (9, 8, 3)) if tiny else ((60, 100), 32, 118, (180, 180, 5))
    )
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, channels, h, w, generator=generator)
    logits = torch.randn(6, bins, h, w, generator=generator)
    yaw = torch.arange(6) * (2 * math.pi / 6)
    turn = torch.stack([torch.zeros(6), torch.zeros(6), yaw], dim=-1)
    forward = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    mount = RigidTransform(forward, torch.tensor([1.0, 0.1, 1.5]))
    return Rig(
        features,
        logits.softmax(dim=1),
        torch.linspace(1.0, 60.0, bins + 1),
        PinholeCamera(torch.full((6, 2), 560.0), torch.tensor([[400.0, 240.0]] * 6), (480, 800)),
        RigidTransform.from_rotation_vector(turn, torch.zeros(6, 3)) @ mount,
        VoxelGrid.from_bounds((-54.0, -54.0, -5.0), (54.0, 54.0, 3.0), shape=cells),
    )


def forward(lift: Lift, rig: Rig) -> tuple[Tensor, ...]:
    """Lift to a volume (c, z, y, x)."""
    return (lift(rig),)


def backward(lift: Lift, rig: Rig) -> tuple[Tensor, ...]:
    """Lift, then differentiate with respect to features and distribution."""
    leaves = [t.detach().requires_grad_() for t in (rig.features, rig.distribution)]
    volume = lift(Rig(leaves[0], leaves[1], rig.edges, rig.camera, rig.ego_from_cam, rig.grid))
    return torch.autograd.grad(volume.square().sum(), leaves)


def ours(lift: Callable[..., tuple[Tensor, Tensor]], rig: Rig) -> Tensor:
    """Lift by the library."""
    return lift(
        rig.features,
        rig.distribution,
        rig.edges,
        camera=rig.camera,
        ego_from_cam=rig.ego_from_cam,
        grid=rig.grid,
    )[0]


def pull_by_grid_sample(rig: Rig) -> Tensor:
    """Project all centres into a camera, read features and depth there; camera after camera."""
    centres = rig.grid.centres(dtype=rig.edges.dtype).reshape(-1, 3)
    cam_from_ego = rig.ego_from_cam.inverse()
    size = centres.new_tensor(rig.camera.size[::-1])
    near, far = rig.edges[0], rig.edges[-1]
    total = centres.new_zeros(rig.features.shape[1], len(centres))
    for view in range(len(rig.features)):
        points = centres @ cam_from_ego.rotation[view].mT + cam_from_ego.translation[view]
        z = points[:, 2]
        pixels = points[:, :2] / z[:, None].clamp(min=1e-6)
        pixels = pixels * rig.camera.focal[view] + rig.camera.principal_point[view]
        seen = (z >= near) & (z < far) & ((pixels >= 0) & (pixels <= size)).all(dim=-1)
        at = torch.cat([pixels / size, ((z - near) / (far - near))[:, None]], dim=-1) * 2 - 1
        values = _read(rig.features[view, None], at[None, None, :, :2])
        probability = _read(rig.distribution[view, None, None], at[None, None, None])
        total = total + torch.where(seen, values * probability, 0.0)
    return total.unflatten(-1, rig.grid.shape[::-1])


def _read(maps: Tensor, at: Tensor) -> Tensor:
    sampled = grid_sample(maps, at, padding_mode="border", align_corners=False)
    return sampled.reshape(maps.shape[1], -1)


def push_by_index_add(rig: Rig) -> Tensor:
    """Add every point's features to its cell, one cell more taking those outside."""
    shares, cell = _points(rig)
    volume = shares.new_zeros(math.prod(rig.grid.shape) + 1, shares.shape[1])
    return _volume(volume.index_add(0, cell, shares)[:-1], rig)


def push_by_cumulative_sum(rig: Rig) -> Tensor:
    """Sort points by cell, sum all of them up, subtract the sum before each cell."""
    shares, cell = _points(rig)
    cell, order = cell.sort()
    sums = shares[order].cumsum(dim=0)
    last = torch.cat([cell[1:] != cell[:-1], cell.new_ones(1, dtype=torch.bool)])
    sums, cell = sums[last], cell[last]
    sums = torch.cat([sums[:1], sums[1:] - sums[:-1]])
    volume = shares.new_zeros(math.prod(rig.grid.shape) + 1, shares.shape[1])
    return _volume(volume.index_copy(0, cell, sums)[:-1], rig)


def _points(rig: Rig) -> tuple[Tensor, Tensor]:
    """Return the features of all points, and their cells."""
    camera, middles = rig.camera.resize(*rig.features.shape[2:]), rig.edges[:-1] + rig.edges[1:]
    plane = (camera.pixel_grid() - camera.principal_point[:, None, None]) / camera.focal[
        :, None, None
    ]
    rays = torch.cat([plane, torch.ones_like(plane[..., :1])], dim=-1)
    points = rays[:, None] * (middles / 2)[:, None, None, None]
    points = torch.einsum("vij,vdhwj->vdhwi", rig.ego_from_cam.rotation, points)
    index = rig.grid.to_index(points + rig.ego_from_cam.translation[:, None, None, None])
    inside = ((index >= 0) & (index < index.new_tensor(rig.grid.shape))).all(dim=-1)
    x, y, z = index.long().unbind(dim=-1)
    cell = (z * rig.grid.shape[1] + y) * rig.grid.shape[0] + x
    cell = torch.where(inside, cell, math.prod(rig.grid.shape))
    shares = rig.distribution[..., None] * rig.features.movedim(1, -1)[:, None]
    return shares.flatten(0, 3), cell.flatten()


def _volume(rows: Tensor, rig: Rig) -> Tensor:
    return rows.mT.unflatten(-1, rig.grid.shape[::-1])


PULLS: dict[str, Lift] = {
    "torch, grid_sample": pull_by_grid_sample,
    "geomim": partial(ours, lift_by_pulling),
}
PUSHES: dict[str, Lift] = {
    "torch, index_add": push_by_index_add,
    "torch, cumulative sum": push_by_cumulative_sum,
    "geomim": partial(ours, lift_by_pushing),
}


def check(lifts: dict[str, Lift], rig: Rig, run: Callable[[Lift, Rig], tuple[Tensor, ...]]) -> None:
    """Refuse contenders that are farther from the answer than rounding takes them."""
    with use_kernels("reference"):
        exact = run(lifts["geomim"], rig.to(torch.float64))
    for who, lift in lifts.items():
        for found, right in zip(run(lift, rig), exact, strict=True):
            error = (found.double() - right).abs().sum() / right.abs().sum()
            if not error < TOLERANCE:
                raise AssertionError(f"{who} is off by {error:.1e} of all there is")
