import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomim.grids import VoxelGrid
from geomim.kernels.selection import use_kernels
from geomim.rays import Rays, clip_rays_to_box
from geomim.rendering import render_packed_density
from geomim.traversal import samples_in_occupied, traverse_voxels
from tests.geomim.strategies import normal, seeds

GRID = VoxelGrid((-1.0, 2.0, 0.5), (0.5, 0.25, 0.4), (5, 4, 3))
ONE = VoxelGrid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1, 1, 1))
CUBE = VoxelGrid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (3, 3, 3))
shares = st.sampled_from([0.0, 0.3, 0.7, 1.0])
steps = st.floats(0.01, 3.0)
both = pytest.mark.parametrize("kernels", ["compiled", "reference"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def rays_around(grid, *shape, seed, dtype=torch.float64):
    """Rays towards points of the grid from around it and within; some along axes or on corners."""
    lower, upper = torch.tensor(grid.lower).double(), torch.tensor(grid.upper).double()
    targets = lower + (upper - lower) * torch.rand(
        *shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    origins = (lower + upper) / 2 + normal(*shape, 3, seed=seed + 1) * (upper - lower)
    cell = torch.tensor(grid.cell).double()
    origins[..., ::5, :] = lower + ((origins[..., ::5, :] - lower) / cell).round() * cell
    directions = targets - origins
    directions[..., ::3, seed % 3] = 0
    directions[..., 1::7, (seed + 1) % 3] = 0
    directions[..., ::11, :] = directions[..., ::11, :].sign()
    return Rays.along(origins.to(dtype), directions.to(dtype))


def some_cells(grid, *batch, share, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*batch, *grid.shape[::-1], generator=generator) < share


def box_of(grid, voxel):
    """The corners of cells, from their numbers."""
    z, y, x = torch.unravel_index(voxel, grid.shape[::-1])
    index = torch.stack([x, y, z], dim=-1).double()
    return grid.from_index(index), grid.from_index(index + 1)


def follows(ray):
    """Tell which results have the one before them on the same ray."""
    return ray[1:] == ray[:-1]


def walk(origin, direction, grid=CUBE, **options):
    ray = Rays.along(torch.tensor(origin).double(), torch.tensor(direction).double())
    found = traverse_voxels(ray.reshape(1), grid, **options)
    z, y, x = torch.unravel_index(found.voxel, grid.shape[::-1])
    cells = torch.stack([x, y, z], dim=-1).tolist()
    return cells, found.starts.tolist(), found.ends.tolist()


@given(seed=seeds, share=shares)
def test_a_ray_is_in_a_cell_as_long_as_in_the_cells_box(seed, share):
    """Every ray asks every cell."""
    rays, occupied = rays_around(GRID, 40, seed=seed), some_cells(GRID, share=share, seed=seed)
    lower, upper = box_of(GRID, torch.arange(60))
    near, far, _ = clip_rays_to_box(rays, lower[:, None], upper[:, None])
    expected = torch.where(occupied.flatten()[:, None], far - near, 0.0)
    found = traverse_voxels(rays, GRID, occupied)
    lengths = torch.zeros(60, 40).double()
    lengths[found.voxel, found.ray] = found.ends - found.starts
    # A ray within a face is in the boxes on both sides of it, but in one cell.
    flat = (rays.directions == 0).any(dim=-1)
    torch.testing.assert_close(lengths[:, ~flat], expected[:, ~flat], atol=1e-9, rtol=0)
    assert (lengths <= expected + 1e-9).all()


@dtypes
@given(seed=seeds)
def test_segments_follow_each_other_and_cover_what_is_in_the_grid(dtype, seed):
    rays = rays_around(GRID, 40, seed=seed, dtype=dtype)
    found = traverse_voxels(rays, GRID)
    assert (found.ends > found.starts).all()
    together = follows(found.ray)
    assert torch.equal(found.starts[1:][together], found.ends[:-1][together])
    near, far, valid = clip_rays_to_box(rays.to(dtype=torch.float64), GRID.lower, GRID.upper)
    total = torch.zeros(40).double().index_add(0, found.ray, (found.ends - found.starts).double())
    torch.testing.assert_close(
        total, (far - near) * valid, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-9
    )
    assert found.complete.all()


@dtypes
@given(seed=seeds, share=shares)
def test_the_middle_of_a_segment_is_in_its_cell(dtype, seed, share):
    rays, occupied = rays_around(GRID, 40, seed=seed), some_cells(GRID, share=share, seed=seed)
    found = traverse_voxels(rays.to(dtype=dtype), GRID, occupied)
    assert occupied.flatten()[found.voxel].all()
    rays = rays.to(dtype=dtype).to(dtype=torch.float64)
    middles = (found.starts + found.ends).double() / 2
    points = rays.origins[found.ray] + middles[:, None] * rays.directions[found.ray]
    lower, upper = box_of(GRID, found.voxel)
    slack = 1e-5 if dtype == torch.float32 else 1e-9
    assert (points >= lower - slack).all()
    assert (points <= upper + slack).all()
    assert torch.equal(found.offsets.diff(), torch.bincount(found.ray, minlength=40))


@both
@pytest.mark.parametrize(
    ("origin", "direction", "cells", "marks"),
    [
        ((-1.0, 0.5, 0.5), (1, 0, 0), [(0, 0, 0), (1, 0, 0), (2, 0, 0)], [1, 2, 3, 4]),
        ((4.0, 0.5, 0.5), (-1, 0, 0), [(2, 0, 0), (1, 0, 0), (0, 0, 0)], [1, 2, 3, 4]),
        ((1.5, 0.5, 0.5), (0, 1, 0), [(1, 0, 0), (1, 1, 0), (1, 2, 0)], [0, 0.5, 1.5, 2.5]),
        ((1.0, 1.0, 1.5), (0, 0, -1), [(1, 1, 1), (1, 1, 0)], [0, 0.5, 1.5]),  # along an edge
        ((1.0, 0.5, 0.5), (-1, 0, 0), [(0, 0, 0)], [0, 1]),  # from a face, downwards
        ((1.0, 0.5, 0.5), (1, 0, 0), [(1, 0, 0), (2, 0, 0)], [0, 1, 2]),
        ((0.0, 3.0, 3.0), (1, 0, 0), [(0, 2, 2), (1, 2, 2), (2, 2, 2)], [0, 1, 2, 3]),  # outermost
        ((0.0, 3.0, 3.0), (1, -0.0, -0.0), [(0, 2, 2), (1, 2, 2), (2, 2, 2)], [0, 1, 2, 3]),
        ((0.0, 3.1, 3.0), (1, 0, 0), [], []),
        ((5.0, 0.5, 0.5), (1, 0, 0), [], []),  # behind
        ((-1.0, 0.5, 0.5), (0, 0, 1), [], []),  # beside
        ((3.0, 0.5, 0.5), (1, 0, 0), [], []),  # on the outside, outwards
        ((-1.0, 1.0, 0.5), (1, -1, 0), [], []),  # touches an edge
        ((math.nan, 0.5, 0.5), (1, 0, 0), [], []),
        ((math.inf, 0.5, 0.5), (-1, 0, 0), [], []),
        ((0.5, 0.5, 0.5), (math.nan, 0, 1), [], []),
        ((0.5, 0.5, 0.5), (0, 0, 0), [], []),
    ],
)
def test_faces_edges_and_axes_are_walked_exactly(kernels, origin, direction, cells, marks):
    with use_kernels(kernels):
        found = walk(origin, tuple(map(float, direction)))
    assert found == ([list(cell) for cell in cells], marks[:-1], marks[1:])


@both
def test_a_ray_through_corners_is_in_the_cells_of_the_diagonal_alone(kernels):
    with use_kernels(kernels):
        cells, starts, ends = walk((-1.0, -1, -1), (1.0, 1, 1))
        back, *_ = walk((4.0, 4, 4), (-1.0, -1, -1))
    assert cells == back[::-1] == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert [*starts, ends[-1]] == pytest.approx([math.sqrt(3) * n for n in (1, 2, 3, 4)])


@both
def test_limits_cut_segments(kernels):
    along = ((-1.0, 0.5, 0.5), (1.0, 0, 0))
    with use_kernels(kernels):
        assert walk(*along, near=1.5, far=2.25)[1:] == ([1.5, 2.0], [2.0, 2.25])
        assert walk(*along, near=2.0)[0] == [[1, 0, 0], [2, 0, 0]]
        assert walk(*along, near=-7.0)[1] == [1.0, 2.0, 3.0]
        assert walk(*along, near=5.0)[0] == walk(*along, far=0.5)[0] == []
        assert walk(*along, near=2.0, far=2.0)[0] == walk(*along, near=math.nan)[0] == []
        assert walk((4.0, 0.5, 0.5), (1.0, 0, 0), near=-1.5)[0] == [[2, 0, 0]]
        each = torch.tensor([1.25]).double()
        assert walk(*along, far=each)[2] == [1.25]


@both
@pytest.mark.parametrize("most", [0, 1, 2, 3, 9])
def test_a_ray_that_is_cut_says_so(kernels, most):
    rays = Rays.along(
        torch.tensor([[-1.0, 0.5, 0.5], [2.5, 0.5, 0.5], [9, 9, 9]]), torch.tensor([1.0, 0, 0])
    )
    with use_kernels(kernels):
        whole, cut = traverse_voxels(rays, CUBE), traverse_voxels(rays, CUBE, most=most)
        samples = samples_in_occupied(
            rays, CUBE, torch.ones(3, 3, 3, dtype=torch.bool), step=1.0, most=most
        )
    assert whole.offsets.tolist() == [0, 3, 4, 4]
    assert cut.offsets.diff().tolist() == [min(3, most), min(1, most), 0]
    assert torch.equal(cut.starts[cut.ray == 0], whole.starts[:3][:most])
    assert cut.complete.tolist() == [most >= 3, most >= 1, True]
    assert torch.equal(samples.starts, cut.starts)
    assert torch.equal(samples.complete, cut.complete)


@both
@dtypes
def test_a_single_cell_is_the_whole_grid(kernels, dtype):
    rays = rays_around(ONE, 30, seed=3, dtype=dtype)
    with use_kernels(kernels):
        found = traverse_voxels(rays, ONE)
    near, far, _ = clip_rays_to_box(rays, ONE.lower, ONE.upper)
    crosses = far > near + 1e-6
    assert crosses.sum() > 10
    for name, bound in (("starts", near), ("ends", far)):
        dense = torch.zeros(30, dtype=dtype).index_put((found.ray,), getattr(found, name))
        torch.testing.assert_close(dense[crosses], bound[crosses])


@both
@dtypes
def test_a_grid_far_away_is_walked_as_exactly_as_one_at_hand(kernels, dtype):
    shift = 1e5
    grid = VoxelGrid((shift,) * 3, (0.5,) * 3, (8, 8, 8))
    home = VoxelGrid((0.0,) * 3, (0.5,) * 3, (8, 8, 8))
    origins = torch.tensor([[-2.0, 1.125, 2.25], [1.5, 1.25, 1.75]], dtype=dtype)
    directions = torch.tensor([[2.0, 1, 0.5], [1, 0, -1]], dtype=dtype)
    with use_kernels(kernels):
        far = traverse_voxels(Rays.along(origins + shift, directions), grid)
        near = traverse_voxels(Rays.along(origins, directions), home)
    assert len(near.ray) > 10
    assert torch.equal(far.voxel, near.voxel)
    torch.testing.assert_close(far.starts, near.starts)


@both
def test_rays_that_are_not_valid_and_nothing_at_all_yield_nothing(kernels):
    rays = rays_around(CUBE, 8, seed=1)
    hidden = Rays(rays.origins, rays.directions, torch.zeros(8, dtype=torch.bool))
    nowhere = torch.zeros(3, 3, 3, dtype=torch.bool)
    with use_kernels(kernels):
        assert len(traverse_voxels(hidden, CUBE).ray) == 0
        for found in (
            traverse_voxels(rays, CUBE, nowhere),
            samples_in_occupied(rays, CUBE, nowhere, step=0.1),
        ):
            assert found.offsets.tolist() == [0] * 9
            assert len(found.ray) == len(found.starts) == 0
        for batch in ((0,), (2, 0), (0, 3)):
            none = Rays(torch.zeros(*batch, 3), torch.zeros(*batch, 3), torch.zeros(batch).bool())
            cells = nowhere.expand(*batch[:1], 3, 3, 3)
            for found in (
                traverse_voxels(none, CUBE),
                traverse_voxels(none, CUBE, cells),
                samples_in_occupied(none, CUBE, cells, step=0.1),
            ):
                assert found.offsets.tolist() == [0]
                assert found.complete.shape == batch


@given(seed=seeds, share=shares, step=steps)
def test_samples_cover_what_is_occupied_in_equal_steps(seed, share, step):
    rays, occupied = rays_around(GRID, 30, seed=seed), some_cells(GRID, share=share, seed=seed)
    cells = traverse_voxels(rays, GRID, occupied)
    found = samples_in_occupied(rays, GRID, occupied, step=step)
    length = found.ends - found.starts
    assert (length <= step * (1 + 1e-6) + 1e-9).all()
    totals = [
        torch.zeros(30).double().index_add(0, part.ray, part.ends - part.starts)
        for part in (cells, found)
    ]
    torch.testing.assert_close(*totals, atol=1e-9, rtol=0)
    # Of one stretch all are equal, and there would be too few if there were one less.
    new = torch.ones_like(found.ray, dtype=torch.bool)
    new[1:] = ~follows(found.ray) | (found.starts[1:] != found.ends[:-1])
    stretch = new.cumsum(0) - 1
    whole = torch.zeros(int(new.sum())).double().index_add(0, stretch, length)
    number = torch.bincount(stretch, minlength=len(whole))
    torch.testing.assert_close(length, (whole / number)[stretch], atol=1e-9, rtol=0)
    assert ((number == 1) | (whole > step * (number - 1))).all()


def test_samples_are_what_packed_rendering_takes():
    occupied = some_cells(GRID, share=0.5, seed=2)
    rays = rays_around(GRID, 30, seed=4)
    samples = samples_in_occupied(rays, GRID, occupied, step=0.1)
    rendered = render_packed_density(
        torch.full_like(samples.starts, 2.0), samples.starts, samples.ends, offsets=samples.offsets
    )
    cells = traverse_voxels(rays, GRID, occupied)
    inside = torch.zeros(30).double().index_add(0, cells.ray, cells.ends - cells.starts)
    torch.testing.assert_close(rendered.transmittance, (-2 * inside).exp())


@both
def test_batches_of_grids_lead_those_of_rays(kernels):
    rays, occupied = rays_around(GRID, 2, 3, 7, seed=1), some_cells(GRID, 2, share=0.5, seed=1)
    with use_kernels(kernels):
        found = traverse_voxels(rays, GRID, occupied)
        shared = traverse_voxels(rays, GRID, occupied[0])
    assert found.complete.shape == (2, 3, 7)
    for i in range(2):
        alone = traverse_voxels(
            Rays(rays.origins[i], rays.directions[i], rays.valid[i]), GRID, occupied[i]
        )
        own = found.ray // 21 == i
        assert torch.equal(found.voxel[own], alone.voxel)
        assert torch.equal(found.ray[own] - 21 * i, alone.ray)
    assert torch.equal(shared.voxel[shared.ray < 21], found.voxel[found.ray < 21])


@given(seed=seeds)
def test_the_order_of_rays_does_not_matter(seed):
    rays = rays_around(GRID, 20, seed=seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    mixed = Rays(rays.origins[order], rays.directions[order], rays.valid[order])
    found, other = traverse_voxels(rays, GRID), traverse_voxels(mixed, GRID)
    for n, ray in enumerate(order.tolist()):
        own, same = slice(*found.offsets[ray : ray + 2]), slice(*other.offsets[n : n + 2])
        assert torch.equal(found.voxel[own], other.voxel[same])
        assert torch.equal(found.starts[own], other.starts[same])


def test_points_along_the_rays_keep_their_gradient():
    origins = torch.tensor([[-1.0, 0.4, 0.6]]).requires_grad_()
    rays = Rays.along(origins, torch.tensor([[1.0, 0.1, 0.2]]))
    found = traverse_voxels(rays, CUBE)
    assert not found.starts.requires_grad
    points = rays.origins[found.ray] + rays.directions[found.ray] * found.starts[:, None]
    assert torch.autograd.grad(points.sum(), origins)[0].tolist() == [[len(found.ray)] * 3]


def test_what_does_not_fit_is_refused():
    rays, cells = rays_around(CUBE, 2, 4, seed=1), torch.ones(3, 3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"occupied must be \(3, 3, 3\) cells over the grid, got"):
        traverse_voxels(rays, CUBE, cells[:2])
    with pytest.raises(ValueError, match=r"leading batch of the rays \(2, 4\), got \(3,\)"):
        traverse_voxels(rays, CUBE, cells.expand(3, 3, 3, 3))
    with pytest.raises(ValueError, match=r"far must be one for all or for each ray \(2, 4\), got"):
        traverse_voxels(rays, CUBE, far=torch.ones(4))
    with pytest.raises(ValueError, match="most must not be negative, got -1"):
        traverse_voxels(rays, CUBE, most=-1)
    for step in (0.0, -1.0, 1e-10, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"step must be at least 5\.\S* and finite, got"):
            samples_in_occupied(rays, CUBE, cells, step=step)
    with pytest.raises(TypeError, match=r"rays must be float32 or float64, got torch\.float16"):
        traverse_voxels(rays.to(dtype=torch.float16), CUBE)
