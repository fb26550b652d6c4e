"""The operators inside torch.compile, which the run-time shape checks would break."""

import pytest
import torch

from geomim.cameras import PinholeCamera
from geomim.grids import VoxelGrid, sample_volume, sample_volume_with_gradient
from geomim.lifting import lift_by_pulling, lift_by_pushing
from geomim.transforms import RigidTransform

GRID = VoxelGrid((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (5, 4, 3))


@pytest.mark.parametrize("sample", [sample_volume, sample_volume_with_gradient])
def test_sampling_compiles_whole_with_its_gradients(sample):
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(2, 3, 3, 4, 5, generator=generator).requires_grad_()
    points = (torch.rand(2, 7, 3, generator=generator) * 2).requires_grad_()

    def loss(volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        *fields, valid = sample(volume, points, GRID)
        return sum((field.square().sum() for field in fields), valid.sum())

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(loss(volume, points), (volume, points))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(volume, points), (volume, points)), expected
    )


def test_sampling_works_under_autocast():
    volume, points = torch.randn(2, 3, 4, 5), torch.rand(7, 3)
    weight = torch.randn(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = torch.einsum("oc,czyx->ozyx", weight, volume)
        values, _ = sample_volume(mixed, points, GRID)
    assert values.dtype == torch.bfloat16
    torch.testing.assert_close(
        values, sample_volume(mixed.float(), points, GRID).values.bfloat16(), rtol=2**-7, atol=1e-2
    )


@pytest.mark.parametrize("lift", [lift_by_pulling, lift_by_pushing])
def test_lifting_compiles_whole_with_its_gradients(lift):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 4, 4, generator=generator).requires_grad_()
    depths = torch.rand(2, 8, 4, 4, generator=generator).requires_grad_()
    camera = PinholeCamera(torch.full((2, 2), 3.0), torch.full((2, 2), 2.0), (4, 4))

    def loss(features: torch.Tensor, depths: torch.Tensor) -> torch.Tensor:
        poses = RigidTransform.identity(2)
        edges = torch.linspace(0.2, 1.8, 9)
        volume, seen = lift(features, depths, edges, camera=camera, ego_from_cam=poses, grid=GRID)
        return volume.square().sum() + seen.sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(loss(features, depths), (features, depths))
    found = torch.autograd.grad(compiled(features, depths), (features, depths))
    assert all(slope.any() for slope in expected)
    torch.testing.assert_close(found, expected)


def test_lifting_refuses_depths_of_another_size():
    """Reached only where shapes are not checked at run time."""
    camera = PinholeCamera(torch.ones(1, 2), torch.ones(1, 2), (4, 4))
    with pytest.raises(ValueError, match="depth_distribution must be of the same views"):
        lift_by_pulling(
            torch.zeros(1, 3, 4, 4),
            torch.zeros(1, 8, 4, 5),
            torch.linspace(1, 9, 9),
            camera=camera,
            ego_from_cam=RigidTransform.identity(1),
            grid=GRID,
        )
