import math

import numpy as np
import pytest
import torch

from geomim.cameras import (
    BrownConradyCamera,
    DoubleSphereCamera,
    ExtendedUnifiedCamera,
    MeiCamera,
    PinholeCamera,
)
from tests.geomim.cameras.lenses import SIZE, camera_of, points_within

FOCAL = torch.tensor([100.0, 100.0]).double()
MIDDLE = torch.tensor([50.0, 40.0]).double()
# Where (z + xi)**2 = w**2 (1 + 2 xi z + xi**2) on the unit sphere, w = 1 / 4.
DOUBLE_SPHERE_END, DOUBLE_SPHERE_END_BEHIND = (
    math.degrees(math.acos(-xi * 15 / 16 - math.sqrt(1 - xi**2 * 15 / 16) / 4))
    for xi in (0.6, -0.3)
)


def with_coefficients(kind, *coefficients):
    return kind(FOCAL, MIDDLE, (80, 100), torch.tensor(coefficients, dtype=torch.float64))


@pytest.mark.parametrize(
    ("kind", "coefficients", "point", "plane"),
    [
        (ExtendedUnifiedCamera, (0.5, 1.0), (1.0, 0.0, 0.0), 2.0),
        (ExtendedUnifiedCamera, (0.5, 4.0), (1.0, 0.0, 0.0), 1.0),
        (ExtendedUnifiedCamera, (0.5, 1.0), (3.0, 0.0, 4.0), 3 / 4.5),
        (DoubleSphereCamera, (0.75, 0.5), (1.0, 0.0, 0.0), 1.0),
        (DoubleSphereCamera, (0.0, 0.5), (3.0, 0.0, 4.0), 3 / 4.5),
        (DoubleSphereCamera, (0.5, 0.0), (3.0, 0.0, 4.0), 3 / 6.5),
        (MeiCamera, (1.0, 0.0, 0.0, 0.0, 0.0), (4.0, 0.0, 3.0), 0.5),
        (MeiCamera, (1.0, 0.1, 0.0, 0.0, 0.0), (4.0, 0.0, 3.0), 0.5125),
    ],
)
def test_numbers_by_hand(kind, coefficients, point, plane):
    pixels = with_coefficients(kind, *coefficients).project(torch.tensor(point).double()).pixels
    torch.testing.assert_close(pixels, torch.tensor([50 + 100 * plane, 40.0]).double())


@pytest.mark.parametrize(
    ("kind", "coefficients"),
    [
        (ExtendedUnifiedCamera, (0.0, 1.0)),
        (DoubleSphereCamera, (0.0, 0.0)),
        (MeiCamera, (0.0,) * 5),
    ],
)
def test_without_sphere_they_are_pinhole_cameras(kind, coefficients):
    points = points_within(140, 50)
    expected = PinholeCamera(FOCAL, MIDDLE, (80, 100)).project(points)
    torch.testing.assert_close(with_coefficients(kind, *coefficients).project(points), expected)


def test_without_sphere_mei_is_brown_conrady():
    points, lens = points_within(50, 20), (-0.1, 0.02, 1e-3, -2e-3)
    ours = with_coefficients(MeiCamera, 0.0, *lens)
    torch.testing.assert_close(
        ours.project(points), with_coefficients(BrownConradyCamera, *lens).project(points)
    )


def test_eucm_of_a_round_ellipsoid_is_mei():
    points, alpha = points_within(110, 50), 0.55
    xi = alpha / (1 - alpha)
    coefficients = torch.tensor([xi, 0, 0, 0, 0], dtype=torch.float64)
    sphere = MeiCamera(FOCAL * (1 + xi), MIDDLE, (80, 100), coefficients)
    torch.testing.assert_close(
        with_coefficients(ExtendedUnifiedCamera, alpha, 1.0).project(points), sphere.project(points)
    )


def opencv_omnidir(point, camera):
    """Do what ``cv2.omnidir.projectPoints`` of opencv-contrib does, without skew."""
    xi, k1, k2, p1, p2 = camera.coefficients.numpy()
    x, y, z = point / np.linalg.norm(point)
    x, y = x / (z + xi), y / (z + xi)
    r2 = x * x + y * y
    u = x * (1 + k1 * r2 + k2 * r2 * r2) + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * (1 + k1 * r2 + k2 * r2 * r2) + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return camera.focal.numpy() * (u, v) + camera.principal_point.numpy()


@pytest.mark.parametrize("model", ["mei", "mei beyond one"])
def test_mei_is_opencvs_omnidir(model):
    camera, points = camera_of(model), points_within(95, 20)
    expected = np.stack([opencv_omnidir(point, camera) for point in points.numpy()])
    torch.testing.assert_close(camera.project(points).pixels, torch.from_numpy(expected))


def outermost(camera, low=0.0, high=180.0):
    """Bisect for the last angle from the axis, in degrees, that the camera projects."""
    for _ in range(60):
        middle = math.radians((low + high) / 2)
        point = torch.tensor([math.sin(middle), 0.0, math.cos(middle)]).double()
        low, high = (
            ((low + high) / 2, high) if camera.project(point).valid else (low, (low + high) / 2)
        )
    return low


@pytest.mark.parametrize(
    ("kind", "coefficients", "angle"),
    [
        (ExtendedUnifiedCamera, (0.8, 1.0), math.degrees(math.acos(-0.25))),
        (DoubleSphereCamera, (0.0, 0.8), math.degrees(math.acos(-0.25))),
        (DoubleSphereCamera, (0.6, 0.8), DOUBLE_SPHERE_END),
        (DoubleSphereCamera, (-0.3, 0.8), DOUBLE_SPHERE_END_BEHIND),
        (MeiCamera, (2.0, 0.0, 0.0, 0.0, 0.0), 120.0),
    ],
)
def test_each_model_ends_at_its_own_angle(kind, coefficients, angle):
    assert outermost(with_coefficients(kind, *coefficients)) == pytest.approx(angle, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "coefficients", "radius"),
    [
        (ExtendedUnifiedCamera, (0.8, 1.5), 1 / math.sqrt(1.5 * 0.6)),
        (DoubleSphereCamera, (-0.1, 0.8), 1 / math.sqrt(0.6)),
        (MeiCamera, (2.0, 0.0, 0.0, 0.0, 0.0), 1 / math.sqrt(3.0)),
    ],
)
def test_no_pixel_beyond_the_models_disc_sees(kind, coefficients, radius):
    camera = with_coefficients(kind, *coefficients)
    pixels = MIDDLE + 100 * radius * torch.tensor([[1 - 1e-6, 0], [1.0 + 1e-6, 0], [3, 3]]).double()
    pixels.requires_grad_()
    coefficients = camera.coefficients.clone().requires_grad_()
    directions, valid = kind(FOCAL, MIDDLE, (80, 100), coefficients).ray_directions(pixels)
    assert valid.tolist() == [True, False, False]
    directions.sum().backward()
    assert not pixels.grad[1:].any()
    assert pixels.grad.isfinite().all()
    assert coefficients.grad.isfinite().all()


@pytest.mark.parametrize("model", ["eucm", "double sphere", "double sphere below half"])
def test_all_that_is_projected_is_found_again(model):
    camera, points = camera_of(model), points_within(180, 2000)
    pixels, _, valid = camera.project(points)
    assert 0.5 < valid.double().mean() < 1
    directions, seen = camera.ray_directions(pixels[valid])
    assert seen.all()
    lengths = points[valid].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(directions * lengths, points[valid], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (ExtendedUnifiedCamera, "alpha beta: 2"),
        (DoubleSphereCamera, "xi alpha: 2"),
        (MeiCamera, "xi k1 k2 p1 p2: 5"),
    ],
)
def test_coefficients_of_another_batch_are_refused(kind, names):
    count = int(names[-1])
    with pytest.raises(ValueError, match=rf"coefficients must be {names} .* got \({count},\)"):
        kind(FOCAL, MIDDLE, SIZE, torch.zeros(count))
