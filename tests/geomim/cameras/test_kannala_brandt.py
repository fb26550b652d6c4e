import math

import cv2
import kornia
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from geomim.cameras import KannalaBrandtCamera
from tests.geomim.cameras.lenses import camera_of, points_within
from tests.geomim.strategies import seeds


def equidistant(*coefficients):
    return KannalaBrandtCamera(
        torch.tensor([100.0, 100.0]).double(),
        torch.tensor([50.0, 40.0]).double(),
        (80, 100),
        torch.tensor(coefficients or [0.0] * 4, dtype=torch.float64),
    )


def at_angle(degrees):
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()], dim=-1)


@settings(max_examples=10)
@given(seed=seeds)
def test_projection_is_opencvs_half_a_pixel_further(seed):
    camera, points = camera_of("kannala-brandt", seed=seed), points_within(85, 20, seed=seed)
    matrix = camera.matrix().numpy().copy()
    matrix[:2, 2] -= 0.5
    theirs, _ = cv2.fisheye.projectPoints(
        points.numpy()[:, None], np.zeros(3), np.zeros(3), matrix, camera.coefficients.numpy()
    )
    torch.testing.assert_close(camera.project(points).pixels, torch.from_numpy(theirs[:, 0]) + 0.5)


def test_distortion_is_kornias():
    camera, points = camera_of("kannala-brandt"), points_within(80, 20)
    numbers = torch.cat([camera.focal, camera.principal_point, camera.coefficients])
    theirs = kornia.geometry.camera.distortion_kannala_brandt.distort_points_kannala_brandt(
        points[:, :2] / points[:, 2:], numbers.expand(20, 8)
    )
    torch.testing.assert_close(camera.project(points).pixels, theirs)


def test_without_coefficients_the_radius_is_the_angle():
    pixels = equidistant().project(at_angle([0.0, 90.0, 135.0, 179.0])).pixels
    expected = 50 + 100 * torch.tensor([0.0, 90.0, 135.0, 179.0]).double().deg2rad()
    torch.testing.assert_close(pixels[:, 0], expected)


def test_every_angle_short_of_straight_behind_comes_back():
    camera, points = equidistant(), at_angle([1e-9, 1e-5, 0.5, 0.58, 60.0, 90.0, 150.0, 179.9])
    pixels, _, valid = camera.project(points)
    assert valid.all()
    torch.testing.assert_close(camera.ray_directions(pixels).directions, points)
    assert not camera.project(at_angle([180.0])).valid
    straight_behind = torch.tensor([50 + 100 * math.pi + 0.1, 40.0]).double()
    assert not camera.ray_directions(straight_behind).valid


def test_beyond_the_angle_at_which_the_radius_stops_rising_nothing_is_seen():
    # theta (1 - theta**2 / 6) turns at sqrt(2), which is 81.03 degrees.
    camera = equidistant(-1 / 6, 0.0, 0.0, 0.0)
    assert camera.project(at_angle([81.0, 81.1, 120.0])).valid.tolist() == [True, False, False]
    edge = 50 + 100 * math.sqrt(2) * (1 - 2 / 6)
    pixels = torch.tensor([[edge - 1e-3, 40.0], [edge + 1e-3, 40.0]]).double()
    assert camera.ray_directions(pixels).valid.tolist() == [True, False]


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-6, 4.9e-3, 5.1e-3, 1e-2, 1.1e-2])
def test_gradients_near_the_axis_are_those_of_finite_differences(scale):
    camera = equidistant(-0.02, 0.005, -0.002, 1e-4)
    point = torch.tensor([0.6 * scale, -0.8 * scale, 1.0]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: camera.project(p).pixels, point)
    pixel = (camera.principal_point + 100 * scale).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: camera.ray_directions(p).directions, pixel)


def test_an_opencv_calibration_gains_half_a_pixel():
    matrix = torch.tensor([[500.0, 0, 319.5], [0, 510, 239.5], [0, 0, 1]])
    camera = KannalaBrandtCamera.from_matrix(
        matrix, torch.zeros(4), size=(480, 640), source_pixel_centre="integer"
    )
    assert camera.principal_point.tolist() == [320, 240]
