import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from geomim.cameras import PinholeCamera
from geomim.interop.opencv import (
    camera_from_opencv,
    camera_to_opencv,
    fisheye_from_opencv,
    pose_from_opencv,
    pose_to_opencv,
)
from geomim.transforms import RigidTransform
from tests.geomim.cameras.lenses import SIZE, camera_of, points_within
from tests.geomim.interop.sameness import assert_same_camera, assert_same_pose
from tests.geomim.strategies import batched, batches, rigid_transforms, seeds

LENSES = ("pinhole", *(f"brown-conrady {count}" for count in (4, 5, 8, 12)))
MATRIX = torch.tensor([[500.0, 0.0, 319.5], [0.0, 510.0, 239.5], [0.0, 0.0, 1.0]]).double()


@pytest.mark.parametrize("model", LENSES)
@settings(max_examples=10)
@given(batch=batches, seed=seeds)
def test_calibrations_come_back_to_the_bit(model, batch, seed):
    camera = camera_of(model, batch, seed)
    assert_same_camera(camera_from_opencv(*camera_to_opencv(camera), size=SIZE), camera)


@settings(max_examples=10)
@given(batch=batches, seed=seeds)
def test_fisheye_calibrations_come_back_to_the_bit(batch, seed):
    camera = camera_of("kannala-brandt", batch, seed)
    assert_same_camera(fisheye_from_opencv(*camera_to_opencv(camera), size=SIZE), camera)


@given(batched(rigid_transforms, 1))
def test_poses_come_back(poses):
    assert_same_pose(pose_from_opencv(*pose_to_opencv(poses[0])), poses[0])


@pytest.mark.parametrize("model", LENSES)
@settings(max_examples=10)
@given(seed=seeds, world_from_cam=rigid_transforms())
def test_opencv_sees_world_points_where_we_do(model, seed, world_from_cam):
    camera = camera_of(model, seed=seed)
    points_cam = points_within(35, 20, seed=seed)
    matrix, coefficients = camera_to_opencv(camera)
    rotation_vector, translation = pose_to_opencv(world_from_cam)
    theirs, _ = cv2.projectPoints(
        world_from_cam.apply(points_cam).numpy(),
        rotation_vector.numpy(),
        translation.numpy(),
        matrix.numpy(),
        coefficients.numpy() if len(coefficients) else None,
    )
    ours = camera.project(points_cam).pixels
    # OpenCV's centre of the first pixel is (0, 0).
    torch.testing.assert_close(torch.from_numpy(theirs[:, 0]) + 0.5, ours, rtol=1e-9, atol=1e-7)


@settings(max_examples=10)
@given(seed=seeds, world_from_cam=rigid_transforms())
def test_opencvs_fisheye_sees_world_points_where_we_do(seed, world_from_cam):
    camera = camera_of("kannala-brandt", seed=seed)
    points_cam = points_within(80, 20, seed=seed)
    matrix, coefficients = camera_to_opencv(camera)
    rotation_vector, translation = pose_to_opencv(world_from_cam)
    theirs, _ = cv2.fisheye.projectPoints(
        world_from_cam.apply(points_cam).numpy()[:, None],
        rotation_vector.numpy(),
        translation.numpy(),
        matrix.numpy(),
        coefficients.numpy(),
    )
    ours = camera.project(points_cam).pixels
    torch.testing.assert_close(torch.from_numpy(theirs[:, 0]) + 0.5, ours, rtol=1e-9, atol=1e-6)


def test_rotation_vectors_are_rodrigues():
    quarter = RigidTransform.from_rotation_vector(
        torch.tensor([0.0, 0.0, math.pi / 2]).double(), torch.zeros(3).double()
    )
    theirs, _ = cv2.Rodrigues(quarter.inverse().rotation.numpy())
    np.testing.assert_allclose(pose_to_opencv(quarter).rotation_vector, theirs[:, 0], atol=1e-12)


def test_a_principal_point_is_half_a_pixel_further():
    camera = camera_from_opencv(MATRIX, size=(480, 640))
    assert isinstance(camera, PinholeCamera)
    assert camera.principal_point.tolist() == [320.0, 240.0]
    assert camera.focal.tolist() == [500.0, 510.0]


def test_fourteen_coefficients_are_read_if_they_do_not_tilt():
    lens = torch.tensor([0.125, *[0.0] * 13]).double()
    camera = camera_from_opencv(MATRIX, lens, size=(480, 640))
    assert camera.coefficients.tolist() == [0.125, *[0.0] * 11]
    lens[-1] = 0.25
    with pytest.raises(ValueError, match=r"coefficients must not tilt .*, got \[0.0, 0.25\]"):
        camera_from_opencv(MATRIX, lens, size=(480, 640))


def test_other_numbers_of_coefficients_are_refused():
    with pytest.raises(ValueError, match=r"coefficients must be k1 k2 p1 p2 .* 4 or 5 or 8 or 12"):
        camera_from_opencv(MATRIX, torch.zeros(6).double(), size=(480, 640))


def test_skew_is_refused():
    skewed = MATRIX.clone()
    skewed[0, 1] = 1
    with pytest.raises(ValueError, match="matrix must have no skew"):
        camera_from_opencv(skewed, size=(480, 640))
