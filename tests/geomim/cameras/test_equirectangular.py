import math

import pytest
import torch

from geomim.cameras import EquirectangularCamera

PANORAMA = EquirectangularCamera.panorama((180, 360), dtype=torch.float64)


@pytest.mark.parametrize(
    ("direction", "pixel"),
    [
        ((0.0, 0.0, 1.0), (180, 90)),
        ((1.0, 0.0, 0.0), (270, 90)),
        ((-1.0, 0.0, 0.0), (90, 90)),
        ((1.0, 0.0, -1.0), (315, 90)),
        ((0.0, 1.0, 1.0), (180, 135)),
        ((0.0, -1.0, 1.0), (180, 45)),
    ],
)
def test_a_degree_is_a_pixel(direction, pixel):
    point = torch.tensor(direction).double()
    torch.testing.assert_close(PANORAMA.project(point).pixels, torch.tensor(pixel).double())
    seen = PANORAMA.ray_directions(torch.tensor(pixel).double()).directions
    torch.testing.assert_close(seen, point / point.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (7, 13), (512, 1024)])
def test_a_panorama_sees_up_to_its_outer_edge_and_no_farther(size, dtype):
    camera = EquirectangularCamera.panorama(size, dtype=dtype)
    height, width = size
    corners = torch.tensor([[0, 0], [width, 0], [0, height], [width, height]], dtype=dtype)
    assert camera.ray_directions(corners).valid.all()
    assert camera.ray_directions(camera.pixel_grid()).valid.all()
    beyond = torch.tensor([[-0.01, 0.5], [width + 0.01, 0.5], [0.5, -0.01], [0.5, height + 0.01]])
    assert not camera.ray_directions(beyond.to(dtype) * (1 + 1e-3)).valid.any()


def test_solid_angles_of_all_pixels_fill_the_sphere():
    directions = PANORAMA.ray_directions(PANORAMA.pixel_grid()).directions
    shares = (1 - directions[..., 1] ** 2).sqrt() * (math.pi / 180) ** 2
    assert shares.sum().item() == pytest.approx(4 * math.pi, rel=1e-4)
    assert directions.mean(dim=(0, 1)).abs().max() < 1e-9


def test_poles_have_no_pixel_and_pass_on_no_gradient():
    points = torch.tensor([[0.0, 1, 0], [0, -2, 0], [1, 1, 1]]).double().requires_grad_()
    pixels, _, valid = PANORAMA.project(points)
    assert valid.tolist() == [False, False, True]
    pixels.sum().backward()
    assert not points.grad[:2].any()
    assert points.grad[2].any()


def test_a_crop_of_a_panorama_sees_the_same_directions():
    cropped = PANORAMA.crop(top=20, left=300, height=50, width=60)
    expected = PANORAMA.ray_directions(PANORAMA.pixel_grid()[20:70, 300:360])
    torch.testing.assert_close(cropped.ray_directions(cropped.pixel_grid()), expected)
