"""Rays inside torch.compile, which the run-time shape checks would break."""

import pytest
import torch

from geomim.cameras import KannalaBrandtCamera, PinholeCamera
from geomim.pixel_choice import stride_grid
from geomim.rays import Rays, clip_rays_to_box, ray_distances_from_depths, rays_of_pixels
from geomim.transforms import RigidTransform

FOCAL, CENTRE, SIZE = torch.tensor([20.0, 21.0]), torch.tensor([16.0, 12.0]), (24, 32)
CAMERAS = {
    "pinhole": PinholeCamera(FOCAL, CENTRE, SIZE),
    "fisheye": KannalaBrandtCamera(FOCAL, CENTRE, SIZE, torch.tensor([-0.02, 0.005, 0.0, 0.0])),
}


@pytest.mark.parametrize("model", CAMERAS)
def test_rays_of_pixels_clipped_to_a_box_compile_whole_with_their_gradients(model):
    camera, pixels = CAMERAS[model], stride_grid(SIZE, stride=4).pixels.requires_grad_()
    rotation_vector = torch.tensor([0.1, 0.2, -0.3]).requires_grad_()

    def loss(pixels: torch.Tensor, rotation_vector: torch.Tensor) -> torch.Tensor:
        pose = RigidTransform.from_rotation_vector(rotation_vector, torch.tensor([0.1, 0.2, 0.3]))
        rays = rays_of_pixels(camera, pixels, world_from_cam=pose)
        near, far, _ = clip_rays_to_box(rays, (-2.0, -2.0, 1.0), (2.0, 2.0, 4.0))
        distances, _ = ray_distances_from_depths(
            rays, torch.full_like(near, 2.0), world_from_cam=pose
        )
        return rays.points_at(torch.stack([near, far, distances], dim=-1)).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    inputs = (pixels, rotation_vector)
    expected = torch.autograd.grad(loss(*inputs), inputs)
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs), inputs), expected)


def test_rays_of_parts_that_differ_in_shape_are_refused():
    message = (
        r"must be \(\*ray, 3\), \(\*ray, 3\) and \(\*ray,\), got \(2, 3\), \(1, 3\) and \(2,\)"
    )
    with pytest.raises(ValueError, match=message):
        Rays(torch.zeros(2, 3), torch.zeros(1, 3), torch.ones(2, dtype=torch.bool))
