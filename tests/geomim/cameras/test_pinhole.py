import math

import cv2
import kornia
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomim.cameras import Camera, PinholeCamera
from tests.geomim.strategies import BATCHES, batches, normal, seeds

SIZE = (48, 64)
INVALID_POINTS = [
    (1.0, 2.0, 0.0),
    (0.0, 0.0, 0.0),
    (1.0, 2.0, -3.0),
    (1.0, 2.0, 1e-9),
    (math.nan, 2.0, 3.0),
    (1.0, 2.0, math.nan),
    (math.inf, 2.0, 3.0),
    (1.0, 2.0, math.inf),
    (1.0, 2.0, -math.inf),
]


def camera_of(batch=(), seed=0, dtype=torch.float64):
    jitter = normal(2, *batch, 2, seed=seed).clamp(-2, 2)
    focal = torch.tensor([50.0, 55.0]) + jitter[0]
    return PinholeCamera(focal, torch.tensor([33.0, 22.0]) + jitter[1], SIZE).to(dtype=dtype)


def points_of(*shape, seed=0):
    points = normal(*shape, 3, seed=seed)
    return torch.cat([points[..., :2], points[..., 2:].abs() + 0.5], dim=-1)


def test_a_pinhole_camera_is_a_camera():
    assert isinstance(camera_of(), Camera)


@given(batch=batches, seed=seeds)
def test_unprojecting_a_projection_returns_the_points(batch, seed):
    camera, points = camera_of(batch, seed), points_of(*batch, 5, seed=seed)
    projection = camera.project(points)
    back = camera.unproject(projection.pixels, projection.depth)
    assert projection.valid.all()
    assert back.valid.all()
    torch.testing.assert_close(back.points, points)


@given(batch=batches, seed=seeds)
def test_a_ray_leads_to_the_point_it_came_from(batch, seed):
    camera, points = camera_of(batch, seed), points_of(*batch, 5, seed=seed)
    directions, valid = camera.ray_directions(camera.project(points).pixels)
    assert valid.all()
    torch.testing.assert_close(directions * points.norm(dim=-1, keepdim=True), points)


@given(seed=seeds)
def test_projection_is_opencvs_half_a_pixel_further(seed):
    camera, points = camera_of(seed=seed), points_of(6, seed=seed)
    matrix = camera.matrix().numpy().copy()
    matrix[:2, 2] -= 0.5
    theirs, _ = cv2.projectPoints(points.numpy(), np.zeros(3), np.zeros(3), matrix, None)
    torch.testing.assert_close(camera.project(points).pixels, torch.from_numpy(theirs[:, 0]) + 0.5)


@given(seed=seeds)
def test_projection_is_kornias(seed):
    camera, points = camera_of(seed=seed), points_of(6, seed=seed)
    theirs = kornia.geometry.camera.project_points(points, camera.matrix().expand(6, 3, 3))
    torch.testing.assert_close(camera.project(points).pixels, theirs)


def test_an_opencv_calibration_gains_half_a_pixel():
    matrix = torch.tensor([[500.0, 0, 319.5], [0, 510, 239.5], [0, 0, 1]])
    camera = PinholeCamera.from_matrix(matrix, size=(480, 640), source_pixel_centre="integer")
    assert camera.principal_point.tolist() == [320, 240]
    half = PinholeCamera.from_matrix(matrix, size=(480, 640))
    assert torch.equal(half.matrix(), matrix)


@given(batch=batches, seed=seeds)
def test_a_camera_comes_back_from_its_matrix(batch, seed):
    camera = camera_of(batch, seed)
    assert torch.equal(
        PinholeCamera.from_matrix(camera.matrix(), size=SIZE).matrix(), camera.matrix()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("point", INVALID_POINTS)
def test_a_point_without_projection_is_zero_with_zero_gradient(point, dtype):
    camera = camera_of(dtype=dtype)
    points = torch.tensor([point, (1.0, 2.0, 3.0)], dtype=dtype, requires_grad=True)
    focal = camera.focal.clone().requires_grad_()
    projection = PinholeCamera(focal, camera.principal_point, SIZE).project(points)
    assert projection.valid.tolist() == [False, True]
    assert projection.pixels[0].tolist() == [0, 0]
    assert projection.depth[0] == 0
    (projection.pixels.sum() + projection.depth.sum()).backward()
    assert points.grad[0].tolist() == [0, 0, 0]
    alone = camera.focal.clone().requires_grad_()
    PinholeCamera(alone, camera.principal_point, SIZE).project(points[1:]).pixels.sum().backward()
    assert torch.equal(focal.grad, alone.grad)


@pytest.mark.parametrize(
    ("pixel", "depth"),
    [
        ((3.0, 4.0), 0.0),
        ((3.0, 4.0), -1.0),
        ((3.0, 4.0), math.nan),
        ((3.0, 4.0), math.inf),
        ((math.nan, 4.0), 2.0),
        ((3.0, -math.inf), 2.0),
    ],
)
def test_a_pixel_without_point_is_zero_with_zero_gradient(pixel, depth):
    camera = camera_of()
    pixels = torch.tensor([pixel, (5.0, 6.0)], dtype=torch.float64, requires_grad=True)
    depths = torch.tensor([depth, 2.0], dtype=torch.float64, requires_grad=True)
    points, valid = camera.unproject(pixels, depths)
    assert valid.tolist() == [False, True]
    assert points[0].tolist() == [0, 0, 0]
    points.sum().backward()
    assert pixels.grad[0].tolist() == [0, 0]
    assert depths.grad[0] == 0
    assert depths.grad[1] != 0


def test_a_ray_through_a_pixel_that_is_not_finite_is_zero_with_zero_gradient():
    pixels = torch.tensor([[math.nan, 1.0], [1.0, math.inf], [1.0, 2.0]], requires_grad=True)
    directions, valid = camera_of(dtype=torch.float32).ray_directions(pixels)
    assert valid.tolist() == [False, False, True]
    directions.sum().backward()
    assert not directions[:2].any()
    assert not pixels.grad[:2].any()
    assert pixels.grad[2].all()


def test_a_calibration_that_is_not_finite_makes_everything_invalid():
    camera = PinholeCamera(torch.tensor([math.nan, 1.0]), torch.ones(2), SIZE)
    points = torch.ones(3, requires_grad=True)
    projection = camera.project(points)
    unprojection = camera.unproject(torch.ones(2), torch.ones(()))
    assert not projection.valid
    assert not unprojection.valid
    projection.pixels.sum().backward()
    assert points.grad.tolist() == [0, 0, 0]


def test_gradients_are_exact():
    camera, points = camera_of((2,)), points_of(2, 3).requires_grad_()
    focal = camera.focal.clone().requires_grad_()

    def there_and_back(focal, points):
        moved = PinholeCamera(focal, camera.principal_point, SIZE)
        pixels, depth, _ = moved.project(points)
        rays = moved.ray_directions(pixels).directions
        return pixels, depth, rays, camera.unproject(pixels, depth * depth).points

    assert torch.autograd.gradcheck(there_and_back, (focal, points))
    assert torch.autograd.gradgradcheck(there_and_back, (focal, points))


def test_the_gradient_on_the_optical_axis_is_finite():
    camera = camera_of()
    axis = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: camera.project(p).pixels, axis)
    centre = camera.principal_point.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: camera.ray_directions(p).directions, centre)


@given(
    seed=seeds,
    top=st.integers(0, 20),
    left=st.integers(0, 20),
    height=st.integers(1, 28),
    width=st.integers(1, 44),
)
def test_cropping_shifts_pixels(seed, top, left, height, width):
    camera, points = camera_of(seed=seed), points_of(4, seed=seed)
    cropped = camera.crop(top=top, left=left, height=height, width=width)
    assert cropped.size == (height, width)
    shift = torch.tensor([left, top])
    torch.testing.assert_close(
        cropped.project(points).pixels, camera.project(points).pixels - shift
    )


@given(seed=seeds, height=st.integers(1, 200), width=st.integers(1, 200))
def test_resizing_scales_pixels_and_maps_corner_to_corner(seed, height, width):
    camera, points = camera_of(seed=seed), points_of(4, seed=seed)
    resized = camera.resize(height, width)
    scale = torch.tensor([width / SIZE[1], height / SIZE[0]], dtype=torch.float64)
    torch.testing.assert_close(
        resized.project(points).pixels, camera.project(points).pixels * scale
    )
    corner = resized.unproject(torch.tensor([width, height]).double(), torch.ones(()).double())
    whole = camera.unproject(torch.tensor([SIZE[1], SIZE[0]]).double(), torch.ones(()).double())
    torch.testing.assert_close(corner, whole)


@given(seed=seeds)
def test_flipping_mirrors_pixels_and_flipping_twice_does_nothing(seed):
    camera, points = camera_of(seed=seed), points_of(4, seed=seed)
    u, v = camera.project(points).pixels.unbind(-1)
    flipped = camera.flip_horizontal()
    torch.testing.assert_close(flipped.project(points).pixels, torch.stack([SIZE[1] - u, v], -1))
    torch.testing.assert_close(flipped.flip_horizontal().matrix(), camera.matrix())


def test_padding_then_cropping_does_nothing():
    camera = camera_of((3,))
    padded = camera.pad(left=2, top=3, right=5, bottom=7)
    assert padded.size == (58, 71)
    back = padded.crop(top=3, left=2, height=SIZE[0], width=SIZE[1])
    assert back.size == SIZE
    torch.testing.assert_close(back.matrix(), camera.matrix())


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (2, 3)])
def test_the_pixel_grid_holds_the_centres(size):
    camera = PinholeCamera(torch.ones(2), torch.ones(2), size)
    grid = camera.pixel_grid()
    assert grid.shape == (*size, 2)
    assert grid[0, 0].tolist() == [0.5, 0.5]
    assert grid[-1, -1].tolist() == [size[1] - 0.5, size[0] - 0.5]
    assert camera.contains(grid).all()


def test_an_image_contains_its_outer_edge_and_nothing_beyond():
    edge = torch.tensor([[0.0, 0.0], [64.0, 48.0], [-0.01, 1.0], [1.0, 48.01], [math.nan, 1.0]])
    assert camera_of().contains(edge).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("batch", BATCHES)
def test_a_batch_of_cameras_projects_each_its_own_points(batch):
    camera, points = camera_of(batch), points_of(*batch, 2, 5)
    pixels, depth, valid = camera.project(points)
    assert depth.shape == valid.shape == (*batch, 2, 5)
    torch.testing.assert_close(pixels[..., 1, 3, :], camera.project(points[..., 1, 3, :]).pixels)
    grid = camera.pixel_grid().expand(*(1,) * len(batch), *SIZE, 2)
    assert camera.unproject(grid, torch.ones(*batch, *SIZE)).points.shape == (*batch, *SIZE, 3)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)])
def test_no_points_and_no_cameras_are_fine(shape):
    camera = camera_of(shape[:1])
    projection = camera.project(torch.zeros(*shape, 3, dtype=torch.float64))
    assert projection.pixels.shape == (*shape, 2)
    assert camera.unproject(*projection[:2]).points.shape == (*shape, 3)


def test_moving_keeps_the_camera():
    camera = camera_of((3,))
    single = camera.to(dtype=torch.float32)
    assert (single.dtype, single.device, single.shape) == (torch.float32, camera.device, (3,))
    assert torch.equal(single.matrix(), camera.matrix().float())


def test_skew_is_refused():
    matrix = torch.tensor([[5.0, 0.1, 3.0], [0, 5, 2], [0, 0, 1]])
    with pytest.raises(ValueError, match=r"matrix must have no skew, got \[\[5.0, 0.1"):
        PinholeCamera.from_matrix(matrix, size=SIZE)


@pytest.mark.parametrize("size", [(0, 4), (4, -1)])
def test_an_empty_image_is_refused(size):
    with pytest.raises(ValueError, match=r"size must be at least one pixel each way, got \("):
        PinholeCamera(torch.ones(2), torch.ones(2), size)


@pytest.mark.parametrize(
    "window", [(-1, 0, 4, 4), (0, -1, 4, 4), (40, 0, 9, 4), (0, 60, 4, 5), (0, 0, 0, 4)]
)
def test_a_crop_beyond_the_image_is_refused(window):
    names = ("top", "left", "height", "width")
    with pytest.raises(ValueError, match=r"the crop must lie inside the 48x64 image, got .*pad"):
        camera_of().crop(**dict(zip(names, window, strict=True)))


def test_negative_padding_is_refused():
    with pytest.raises(ValueError, match=r"padding must not be negative, got .*; call crop"):
        camera_of().pad(left=-1)


def test_points_of_another_batch_are_refused():
    with pytest.raises(ValueError, match=r"points must lead with the batch \(3,\), got \(5, 3\)"):
        camera_of((3,)).project(torch.zeros(5, 3))
