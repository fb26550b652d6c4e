import json
import math

import pytest
import torch
from hypothesis import given, settings

from geomim.cameras import BrownConradyCamera, PinholeCamera
from geomim.interop.nerfstudio import (
    camera_from_nerfstudio,
    camera_to_nerfstudio,
    pose_from_nerfstudio,
    pose_to_nerfstudio,
)
from geomim.transforms import RigidTransform
from tests.geomim.cameras.lenses import camera_of
from tests.geomim.interop.sameness import assert_same_camera
from tests.geomim.strategies import batched, rigid_transforms, seeds

MODELS = ("pinhole", "brown-conrady 4", "brown-conrady 5", "kannala-brandt")
FILE = {"w": 640, "h": 480, "fl_x": 500.0, "cx": 320.0, "cy": 240.0}


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=20)
@given(seed=seeds)
def test_cameras_come_back_from_json_to_the_bit(model, seed):
    camera = camera_of(model, seed=seed)
    assert_same_camera(
        camera_from_nerfstudio(json.loads(json.dumps(camera_to_nerfstudio(camera)))), camera
    )


@given(batched(rigid_transforms, 1))
def test_poses_come_back_to_the_bit(poses):
    back = pose_from_nerfstudio(pose_to_nerfstudio(poses[0]))
    assert torch.equal(back.matrix(), poses[0].matrix())


def test_a_camera_that_looks_along_our_z_looks_along_their_minus_z():
    matrix = pose_to_nerfstudio(RigidTransform(torch.eye(3), torch.tensor([1.0, 2.0, 3.0])))
    assert matrix.tolist() == [
        [1.0, 0.0, 0.0, 1.0],
        [0.0, -1.0, 0.0, 2.0],
        [0.0, 0.0, -1.0, 3.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
    # 2 m ahead is z = -2 in their camera frame.
    ahead = matrix @ torch.tensor([0.0, 0.0, -2.0, 1.0])
    assert ahead.tolist() == [1.0, 2.0, 5.0, 1.0]


def test_three_rows_are_enough():
    assert pose_from_nerfstudio(torch.eye(4)[:3]).rotation.diagonal().tolist() == [1.0, -1.0, -1.0]


def test_values_are_named_as_in_the_file():
    values = camera_to_nerfstudio(camera_of("brown-conrady 5"))
    assert " ".join(values) == "camera_model w h fl_x fl_y cx cy k1 k2 p1 p2 k3"
    assert (values["camera_model"], values["w"], values["h"]) == ("OPENCV", 64, 48)


def test_what_is_missing_has_the_usual_default():
    camera = camera_from_nerfstudio({"w": 640, "h": 480, "fl_x": 500.0})
    assert isinstance(camera, PinholeCamera)
    assert camera.focal.tolist() == [500.0, 500.0]
    assert camera.principal_point.tolist() == [320.0, 240.0]


def test_a_field_of_view_of_90_degrees_is_half_the_width():
    camera = camera_from_nerfstudio({"w": 640, "h": 480, "camera_angle_x": math.pi / 2})
    torch.testing.assert_close(camera.focal, torch.tensor([320.0, 320.0]).double())


@pytest.mark.parametrize(
    "model", ["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"]
)
def test_coefficients_count_whatever_a_perspective_model_is_called(model):
    camera = camera_from_nerfstudio({**FILE, "camera_model": model, "k1": 0.1})
    assert isinstance(camera, BrownConradyCamera)
    assert camera.coefficients.tolist() == [0.1, 0.0, 0.0, 0.0]


def test_their_k4_is_refused():
    with pytest.raises(ValueError, match=r"k4 must be 0 for a perspective lens, got 0\.2"):
        camera_from_nerfstudio({**FILE, "camera_model": "PINHOLE", "k4": 0.2})


def test_more_than_five_coefficients_are_refused():
    message = r"coefficients must be k1 k2 p1 p2 k3 and no more, got \[0\."
    with pytest.raises(ValueError, match=message):
        camera_to_nerfstudio(camera_of("brown-conrady 8"))


def test_other_models_are_refused():
    with pytest.raises(ValueError, match=r"camera_model must be PINHOLE, .*, got ORTHOPHOTO"):
        camera_from_nerfstudio({**FILE, "camera_model": "ORTHOPHOTO"})


def test_size_and_focal_length_are_needed():
    message = r"values must have w, h, and fl_x or camera_angle_x, got \['w', 'fl_x'\]"
    with pytest.raises(ValueError, match=message):
        camera_from_nerfstudio({"w": 640, "fl_x": 500.0})


def test_batches_are_refused():
    with pytest.raises(ValueError, match=r"camera must be a single one, got a batch \(3,\)"):
        camera_to_nerfstudio(camera_of("pinhole", (3,)))
