import math

import cv2
import kornia
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from geomim.cameras import BrownConradyCamera, PinholeCamera
from tests.geomim.cameras.lenses import LENSES, SIZE, camera_of, pixels_of, points_within
from tests.geomim.strategies import seeds

COUNTS = (4, 5, 8, 12)
BARREL = (-0.3, 0.0, 0.0, 0.0)  # turns back at r = 1 / sqrt(0.9)
FOLD = 1 / math.sqrt(0.9)
EXACT = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-14)


def opencv_matrix(camera):
    matrix = camera.matrix().numpy().copy()
    matrix[:2, 2] -= 0.5
    return matrix


def simple(*coefficients):
    return BrownConradyCamera(
        torch.tensor([100.0, 100.0]).double(),
        torch.tensor([50.0, 40.0]).double(),
        (80, 100),
        torch.tensor(coefficients, dtype=torch.float64),
    )


@pytest.mark.parametrize("count", COUNTS)
@settings(max_examples=10)
@given(seed=seeds)
def test_projection_is_opencvs_half_a_pixel_further(count, seed):
    camera = camera_of(f"brown-conrady {count}", seed=seed)
    points = points_within(50, 20, seed=seed)
    theirs, _ = cv2.projectPoints(
        points.numpy(),
        np.zeros(3),
        np.zeros(3),
        opencv_matrix(camera),
        camera.coefficients.numpy(),
    )
    torch.testing.assert_close(camera.project(points).pixels, torch.from_numpy(theirs[:, 0]) + 0.5)


@pytest.mark.parametrize("count", COUNTS)
@settings(max_examples=10)
@given(seed=seeds)
def test_rays_are_opencvs_iterated_to_the_end(count, seed):
    camera = camera_of(f"brown-conrady {count}", seed=seed)
    pixels = camera.project(points_within(35, 30, seed=seed)).pixels
    theirs = cv2.undistortPoints(
        pixels.numpy()[:, None] - 0.5,
        opencv_matrix(camera),
        camera.coefficients.numpy(),
        criteria=EXACT,
    )
    points, valid = camera.unproject(pixels, torch.ones(30, dtype=torch.float64))
    assert valid.all()
    torch.testing.assert_close(points[:, :2], torch.from_numpy(theirs[:, 0]), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("count", COUNTS)
def test_distortion_is_kornias(count):
    camera = camera_of(f"brown-conrady {count}")
    points = points_within(50, 20)
    straight = PinholeCamera(camera.focal, camera.principal_point, SIZE).project(points).pixels
    theirs = kornia.geometry.calibration.distort_points(
        straight[None], camera.matrix()[None], camera.coefficients[None]
    )
    torch.testing.assert_close(camera.project(points).pixels, theirs[0])


def test_one_coefficient_by_hand():
    pixels = simple(0.1, 0, 0, 0).project(torch.tensor([1.0, 0.0, 2.0]).double()).pixels
    torch.testing.assert_close(pixels, torch.tensor([101.25, 40.0]).double())


@pytest.mark.parametrize(
    ("place", "shift"),
    [(2, (4.0, 13.0)), (3, (7.0, 4.0)), (8, (5, 0)), (9, (25, 0)), (10, (0, 5)), (11, (0, 25))],
)
def test_tangential_and_prism_terms_by_hand(place, shift):
    # At (1, 2): 2 x y = 4, s + 2 y**2 = 13, s + 2 x**2 = 7, s = 5, s**2 = 25.
    point = torch.tensor([1.0, 2.0, 1.0]).double()
    numbers = [0.01 if i == place else 0.0 for i in range(12)]
    pixels = simple(*numbers).project(point).pixels - simple(*[0.0] * 12).project(point).pixels
    torch.testing.assert_close(pixels, torch.tensor(shift).double())


def bisect(target, coefficients):
    """Find the radius below the fold the slow way."""
    k1, k2, *_ = coefficients
    low, high = 0.0, FOLD
    for _ in range(200):
        middle = (low + high) / 2
        distorted = middle * (1 + k1 * middle**2 + k2 * middle**4)
        low, high = (middle, high) if distorted < target else (low, middle)
    return low


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.9999])
def test_strong_distortion_is_undone_where_fixed_point_iteration_fails(share):
    camera = simple(*BARREL)
    edge = FOLD * (1 - 0.3 * FOLD**2)
    pixel = torch.tensor([50.0 + 100 * share * edge, 40.0], dtype=torch.float64)
    points, valid = camera.unproject(pixel, torch.ones((), dtype=torch.float64))
    assert valid
    assert points[0].item() == pytest.approx(bisect(share * edge, BARREL), rel=1e-8)


def test_beyond_the_fold_nothing_is_seen_and_no_pixel_sees():
    camera = simple(*BARREL)
    points = torch.tensor([[FOLD - 1e-6, 0, 1], [FOLD + 1e-6, 0, 1], [1.5, 0, 1]]).double()
    assert camera.project(points).valid.tolist() == [True, False, False]
    edge = 50 + 100 * FOLD * (1 - 0.3 * FOLD**2)
    pixels = torch.tensor([[edge - 0.1, 40.0], [edge + 0.1, 40.0], [500.0, 40.0]]).double()
    pixels.requires_grad_()
    directions, valid = camera.ray_directions(pixels)
    assert valid.tolist() == [True, False, False]
    directions.sum().backward()
    assert not directions[1:].any()
    assert not pixels.grad[1:].any()
    assert pixels.grad.isfinite().all()


def test_where_tangential_distortion_folds_the_image_nothing_is_seen():
    # With p2 alone, x' = x + 3 p2 x**2 along the row of the principal point turns at -1 / (6 p2).
    camera = simple(0.0, 0.0, 0.0, 0.2)
    points = torch.tensor([[-0.8, 0.0, 1.0], [-0.85, 0.0, 1.0], [0.85, 0.0, 1.0]]).double()
    assert camera.project(points).valid.tolist() == [True, False, True]


def test_no_pixel_of_a_wide_image_is_wrong():
    camera = simple(*LENSES["brown-conrady 5"][2]).pad(left=300, right=300, top=300, bottom=300)
    grid = camera.pixel_grid()
    directions, valid = camera.ray_directions(grid)
    again = camera.project(directions[valid])
    assert again.valid.all()
    torch.testing.assert_close(again.pixels, grid[valid], atol=1e-7, rtol=0)
    assert not directions[~valid].any()


def test_an_opencv_calibration_gains_half_a_pixel():
    matrix = torch.tensor([[500.0, 0, 319.5], [0, 510, 239.5], [0, 0, 1]])
    camera = BrownConradyCamera.from_matrix(
        matrix, torch.zeros(5), size=(480, 640), source_pixel_centre="integer"
    )
    assert camera.principal_point.tolist() == [320, 240]
    assert camera.coefficients.shape == (5,)


@pytest.mark.parametrize("count", [0, 1, 6, 14])
def test_other_numbers_of_coefficients_are_refused(count):
    message = rf"coefficients must be k1 .* s4: 4 or 5 or 8 or 12 .* got \({count},\)"
    with pytest.raises(ValueError, match=message):
        simple(*[0.0] * count)


def test_coefficients_of_another_dtype_are_refused():
    with pytest.raises(ValueError, match=r"coefficients must be .*float32.*, got .*float64"):
        BrownConradyCamera(torch.ones(2), torch.ones(2), SIZE, torch.zeros(4).double())


def test_the_camera_of_a_batch_may_take_one_set_of_pixels():
    camera = camera_of("brown-conrady 8", (3,))
    pixels = pixels_of(1, 7)
    whole = camera.ray_directions(pixels)
    each = camera.ray_directions(pixels.expand(3, 7, 2))
    torch.testing.assert_close(whole, each)
