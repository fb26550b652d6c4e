import inspect
import math

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from geomim.grids import (
    VoxelGrid,
    sample_gradient_along,
    sample_volume,
    sample_volume_with_gradient,
    warp_volume,
)
from geomim.kernels.selection import use_kernels
from geomim.transforms import RigidTransform
from tests.geomim.strategies import normal, seeds

GRID = VoxelGrid((-3.0, 1.0, -1.0), (0.5, 0.25, 0.4), (6, 5, 4))
ROAD = VoxelGrid.from_bounds((-40.0, -40.0, -5.0), (40.0, 40.0, 3.0), shape=(100, 100, 5))


def _hills(points: Tensor) -> Tensor:
    """A smooth field: second derivatives at most 1/16 along x, 1/16 along y, 0 along z."""
    x, y, z = points.unbind(dim=-1)
    return torch.sin(x / 4) + torch.cos(y / 4) + 0.1 * z


def test_the_first_cell_starts_at_the_lower_corner():
    assert GRID.upper == pytest.approx((0.0, 2.25, 0.6))
    assert GRID.centres().shape == (4, 5, 6, 3)
    torch.testing.assert_close(GRID.centres()[0, 0, 0], torch.tensor([-2.75, 1.125, -0.8]))
    torch.testing.assert_close(GRID.centres()[3, 4, 5], torch.tensor([-0.25, 2.125, 0.4]))
    centre = GRID.to_index(torch.tensor([-2.75, 1.125, -0.8]))
    torch.testing.assert_close(centre, torch.tensor([0.5, 0.5, 0.5]))


@given(seed=seeds)
def test_index_coordinates_go_back_to_the_points(seed):
    points = normal(7, 3, seed=seed)
    torch.testing.assert_close(GRID.from_index(GRID.to_index(points)), points)


def test_a_cell_has_its_lower_faces_but_not_its_upper():
    corners = torch.tensor([GRID.lower, GRID.upper], dtype=torch.float64)
    assert GRID.contains(corners).tolist() == [True, False]
    assert GRID.contains(GRID.centres()).all()
    assert not GRID.contains(torch.tensor([torch.nan, 1.5, 0.0]))


@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
def test_a_centre_has_the_value_of_its_cell(batch):
    volume = normal(*batch, 2, 4, 5, 6, seed=0)
    centres = GRID.centres(dtype=torch.float64).reshape(-1, 3).expand(*batch, -1, 3)
    values, valid = sample_volume(volume, centres, GRID)
    assert valid.all()
    torch.testing.assert_close(values, volume.flatten(-3).mT)


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_the_gradient_is_that_of_autograd_per_metre(padding):
    volume = normal(1, 4, 5, 6, seed=0)
    shares = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = GRID.from_index(shares * 4 - 0.3).requires_grad_()
    values, gradient, valid = sample_volume_with_gradient(volume, points, GRID, padding=padding)
    plain = sample_volume(volume, points, GRID, padding=padding)
    (expected,) = torch.autograd.grad(plain.values.sum(), points)
    torch.testing.assert_close(gradient[:, 0], expected)
    torch.testing.assert_close(values, plain.values)
    assert torch.equal(valid, plain.valid)


def test_a_linear_field_has_its_slope_in_metres():
    field = GRID.centres(dtype=torch.float64) @ torch.tensor([2.0, -3.0, 5.0], dtype=torch.float64)
    points = GRID.centres(dtype=torch.float64).reshape(-1, 3).mean(dim=0, keepdim=True)
    _, gradient, _ = sample_volume_with_gradient(field[None], points, GRID)
    assert gradient.flatten().tolist() == pytest.approx([2.0, -3.0, 5.0])


def test_sampling_can_be_differentiated_twice():
    volume = normal(1, 2, 2, 2, seed=0).requires_grad_()
    grid = VoxelGrid((0.0, 0.0, 0.0), (0.5, 1.0, 2.0), (2, 2, 2))
    points = grid.from_index(0.6 + 0.8 * torch.rand(3, 3).double()).requires_grad_()

    def values(volume: Tensor, points: Tensor) -> Tensor:
        return sample_volume(volume, points, grid).values

    assert gradcheck(values, (volume, points))
    assert gradgradcheck(values, (volume, points))


def _scattered(*batch: int, channels: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """A volume, points in and around it of which one is nowhere, and weights of the channels."""
    volume = normal(*batch, channels, 4, 5, 6, seed=0)
    points = GRID.from_index(normal(*batch, 20, 3, seed=1) * 2 + 2.5)
    points[..., 3, 1] = torch.nan
    return volume, points, normal(*batch, 20, channels, seed=2)


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
def test_a_gradient_along_weights_is_the_weighed_sum_of_gradients(kernels, padding, batch):
    volume, points, along = _scattered(*batch)
    with use_kernels(kernels):
        found = sample_gradient_along(volume, points, along, GRID, padding=padding)
        _, gradient, valid = sample_volume_with_gradient(volume, points, GRID, padding=padding)
    torch.testing.assert_close(found, (along[..., None] * gradient).sum(dim=-2))
    assert 0 < valid.sum() < valid.numel()
    assert (found[~valid] == 0).all()


def test_a_gradient_along_weights_can_be_differentiated_twice():
    volume, points, along = _scattered(1)
    inputs = volume, points[:, 4:9].clone(), along[:, 4:9].clone()
    inputs = tuple(x.requires_grad_() for x in inputs)

    def sample(volume: Tensor, points: Tensor, along: Tensor) -> Tensor:
        return sample_gradient_along(volume, points, along, GRID)

    assert gradcheck(sample, inputs)
    assert gradgradcheck(sample, inputs)


def test_a_gradient_along_weights_is_in_the_volumes_precision():
    volume, points, along = _scattered()
    exact = sample_gradient_along(volume, points, along, GRID)
    half = sample_gradient_along(volume.half(), points.float(), along.half(), GRID)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), exact, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize(("padding", "value"), [("zeros", 0.75), ("border", 1.0)])
def test_outside_the_outermost_centres_zeros_fade_and_borders_stay(padding, value):
    volume = torch.ones(1, 4, 5, 6)
    edge = GRID.from_index(torch.tensor([[0.25, 2.0, 2.0]]))
    assert sample_volume(volume, edge, GRID, padding=padding).values.item() == pytest.approx(value)


def test_channels_last_memory_and_its_copy_agree_and_half_precision_stays():
    volume = normal(2, 8, 4, 5, 6, seed=0).half()
    points = GRID.centres().reshape(-1, 3)[::7].expand(2, -1, -1) + 0.05
    values, _ = sample_volume(volume, points, GRID)
    again, _ = sample_volume(volume.to(memory_format=torch.channels_last_3d), points, GRID)
    assert values.dtype == torch.float16
    assert torch.equal(values, again)


@pytest.mark.parametrize("yaw_deg", [0.0, 2.0, -90.0])
def test_a_warp_in_metres_moves_a_smooth_volume_within_interpolation_error(yaw_deg):
    motion = RigidTransform.from_rotation_vector(
        torch.tensor([0.0, 0.0, math.radians(yaw_deg)], dtype=torch.float64),
        torch.tensor([1.5, 0.0, 0.0], dtype=torch.float64),
    )
    centres = ROAD.centres(dtype=torch.float64)
    volume = _hills(centres)[None]
    warped, valid = warp_volume(volume, ROAD, target_from_source=motion)
    sources = motion.inverse().apply(centres)
    inner = (
        (sources - sources.new_tensor([0, 0, -1])).abs() < sources.new_tensor([39, 39, 3])
    ).all(-1)
    assert valid[inner].all()
    assert inner.float().mean() > 0.4
    # Two axes of cells of 0.8 m: 0.8^2 / 8 * (1/16 + 1/16) = 0.01. A warp in cells errs by 0.3.
    assert (warped[0] - _hills(sources))[inner].abs().max() < 0.0101


def test_a_warp_by_whole_cells_is_a_shift():
    volume = normal(2, 3, 4, 5, 6, seed=0)
    motion = RigidTransform(
        torch.eye(3, dtype=torch.float64).expand(2, 3, 3),
        torch.tensor([[1.0, 0.0, 0.0], [0.0, -0.25, 0.0]], dtype=torch.float64),
    )
    warped, valid = warp_volume(volume, GRID, target_from_source=motion)
    torch.testing.assert_close(warped[0, ..., 2:], volume[0, ..., :-2])
    torch.testing.assert_close(warped[1, ..., :-1, :], volume[1, ..., 1:, :])
    assert not valid[0, ..., :2].any()
    assert warped[0, ..., :2].count_nonzero() == 0


def test_a_warp_passes_gradients_to_the_volume_and_to_the_motion():
    grid = VoxelGrid((-1.0, -1.0, -1.0), (0.7, 0.9, 1.1), (3, 3, 2))
    inputs = normal(2, 1, 2, 3, 3, seed=0), normal(2, 6, seed=1) * 0.2
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)

    def warp(volume: Tensor, twist: Tensor) -> Tensor:
        return warp_volume(volume, grid, target_from_source=RigidTransform.exp(twist)).volume

    assert gradcheck(warp, inputs)


@pytest.mark.parametrize("sample", [sample_volume, sample_volume_with_gradient])
@pytest.mark.parametrize(("batch", "point"), [((0,), 7), ((2, 0), 7), ((2,), 0), ((), 0)])
def test_no_volumes_and_no_points_are_fine(sample, batch, point):
    volume, points = torch.zeros(*batch, 3, 4, 5, 6), torch.zeros(*batch, point, 3)
    result = sample(volume, points, GRID)
    assert result.values.shape == (*batch, point, 3)
    assert result.valid.shape == (*batch, point)


def test_no_volumes_can_be_warped():
    motion = RigidTransform.identity(0)
    warped, valid = warp_volume(torch.zeros(0, 3, 4, 5, 6), GRID, target_from_source=motion)
    assert warped.shape == (0, 3, 4, 5, 6)
    assert valid.shape == (0, 4, 5, 6)


def test_weights_of_other_channels_are_refused():
    volume, points, along = _scattered()
    with pytest.raises(ValueError, match=r"along must be 2 channels of each point, got \(20, 1\)"):
        inspect.unwrap(sample_gradient_along)(volume, points, along[:, :1], GRID)


def test_what_does_not_fit_is_refused():
    volume, points = torch.zeros(1, 4, 5, 6), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="shape must be at least one cell each way, got"):
        VoxelGrid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1, 0, 1))
    with pytest.raises(ValueError, match="cell must be positive metres, got"):
        VoxelGrid.from_bounds((0.0, 0.0, 0.0), (1.0, -1.0, 1.0), shape=(1, 1, 1))
    with pytest.raises(ValueError, match=r"volume must be \(4, 5, 6\) cells over the grid, got"):
        sample_volume(torch.zeros(1, 6, 5, 4), points, GRID)
    unchecked = inspect.unwrap(sample_volume)
    with pytest.raises(ValueError, match=r"points must have the volume's batch \(2,\), got"):
        unchecked(volume.expand(2, -1, -1, -1, -1), points.expand(3, -1, -1), GRID)
    with pytest.raises(ValueError, match=r"target_from_source must have the batch \(\) or none"):
        warp_volume(volume, GRID, target_from_source=RigidTransform.identity(2))
