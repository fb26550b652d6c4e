from typing import get_args

import pytest
import torch
from hypothesis import given, settings

from geomim.cameras import BrownConradyCamera, KannalaBrandtCamera, PinholeCamera
from geomim.interop.colmap import (
    ColmapModel,
    camera_from_colmap,
    camera_to_colmap,
    pose_from_colmap,
    pose_to_colmap,
)
from tests.geomim.cameras.lenses import SIZE, camera_of, points_within
from tests.geomim.interop.sameness import assert_same_camera, assert_same_pose
from tests.geomim.strategies import batched, batches, normal, rigid_transforms, seeds

MODELS = get_args(ColmapModel)
# Parameters in COLMAP's order, no two of them alike.
PARAMS = {
    "SIMPLE_PINHOLE": (50, 33, 22),
    "PINHOLE": (50, 55, 33, 22),
    "SIMPLE_RADIAL": (50, 33, 22, -0.1),
    "RADIAL": (50, 33, 22, -0.1, 0.02),
    "OPENCV": (50, 55, 33, 22, -0.1, 0.02, 0.003, -0.004),
    "FULL_OPENCV": (50, 55, 33, 22, 0.4, 0.1, 0.003, -0.004, 0.02, 0.5, 0.15, 0.01),
    "SIMPLE_RADIAL_FISHEYE": (30, 33, 22, -0.02),
    "RADIAL_FISHEYE": (30, 33, 22, -0.02, 0.005),
    "OPENCV_FISHEYE": (30, 32, 33, 22, -0.02, 0.005, -0.002, 1e-4),
}
KINDS = {
    "SIMPLE_PINHOLE": PinholeCamera,
    "PINHOLE": PinholeCamera,
    "SIMPLE_RADIAL_FISHEYE": KannalaBrandtCamera,
    "RADIAL_FISHEYE": KannalaBrandtCamera,
    "OPENCV_FISHEYE": KannalaBrandtCamera,
}


def params_of(model):
    return torch.tensor(PARAMS[model], dtype=torch.float64)


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=10)
@given(batch=batches, seed=seeds)
def test_parameters_come_back_to_the_bit(model, batch, seed):
    names = len(PARAMS[model])
    params = params_of(model) * (1 + normal(*batch, names, seed=seed) * 0.1)
    camera = camera_from_colmap(model, params, size=SIZE)
    assert type(camera) is KINDS.get(model, BrownConradyCamera)
    back = camera_to_colmap(camera, model=model)
    assert back[:3] == (model, SIZE[1], SIZE[0])
    assert torch.equal(back.params, params)


@pytest.mark.parametrize(
    ("lens", "model"),
    [
        ("pinhole", "PINHOLE"),
        ("brown-conrady 4", "OPENCV"),
        ("brown-conrady 8", "FULL_OPENCV"),
        ("kannala-brandt", "OPENCV_FISHEYE"),
    ],
)
@given(batch=batches, seed=seeds)
def test_cameras_come_back_to_the_bit(lens, model, batch, seed):
    camera = camera_of(lens, batch, seed)
    theirs = camera_to_colmap(camera)
    assert theirs.model == model
    size = (theirs.height, theirs.width)
    assert_same_camera(camera_from_colmap(model, theirs.params, size=size), camera)


def test_five_coefficients_are_eight_of_which_three_are_zero():
    theirs = camera_to_colmap(camera_of("brown-conrady 5"))
    assert theirs.model == "FULL_OPENCV"
    assert theirs.params[-3:].tolist() == [0.0, 0.0, 0.0]


@given(batched(rigid_transforms, 1))
def test_poses_come_back(poses):
    assert_same_pose(pose_from_colmap(*pose_to_colmap(poses[0])), poses[0])


def test_an_image_that_stands_on_the_worlds_z_has_minus_that_as_tz():
    world_from_cam = pose_from_colmap(
        torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 3.0])
    )
    assert world_from_cam.translation.tolist() == [0.0, 0.0, -3.0]


def test_pixels_are_not_shifted():
    camera = camera_from_colmap("SIMPLE_PINHOLE", params_of("SIMPLE_PINHOLE"), size=SIZE)
    assert camera.principal_point.tolist() == [33.0, 22.0]
    assert camera.focal.tolist() == [50.0, 50.0]


@pytest.mark.parametrize("model", MODELS)
def test_colmap_sees_points_where_we_do(model):
    reason = "pip install pycolmap to compare with COLMAP itself"
    pycolmap = pytest.importorskip("pycolmap", reason=reason)
    points = points_within(35, 20)
    camera = camera_from_colmap(model, params_of(model), size=SIZE)
    values = camera_to_colmap(camera, model=model)
    theirs = pycolmap.Camera(**values._replace(params=values.params.tolist())._asdict())
    pixels = torch.as_tensor(theirs.img_from_cam(points.numpy()))
    torch.testing.assert_close(camera.project(points).pixels, pixels, rtol=1e-9, atol=1e-9)


@given(world_from_cam=rigid_transforms(), seed=seeds)
def test_colmap_moves_points_as_we_do(world_from_cam, seed):
    reason = "pip install pycolmap to compare with COLMAP itself"
    pycolmap = pytest.importorskip("pycolmap", reason=reason)
    (w, x, y, z), translation = pose_to_colmap(world_from_cam)
    cam_from_world = pycolmap.Rigid3d(pycolmap.Rotation3d([x, y, z, w]), translation.numpy())
    point = normal(3, seed=seed)
    theirs = torch.as_tensor(cam_from_world * world_from_cam.apply(point).numpy())
    torch.testing.assert_close(theirs, point, rtol=1e-9, atol=1e-9)


def test_another_number_of_parameters_is_refused():
    with pytest.raises(ValueError, match="params must be fx fy cx cy for PINHOLE, got 3 of them"):
        camera_from_colmap("PINHOLE", torch.zeros(3), size=SIZE)


def test_one_focal_length_must_say_all():
    with pytest.raises(ValueError, match="focal must be the same both ways for SIMPLE_PINHOLE"):
        camera_to_colmap(camera_of("pinhole"), model="SIMPLE_PINHOLE")


def test_a_lens_is_not_dropped():
    message = r"coefficients must be 0 where PINHOLE has none, got \{'k1': -0\."
    with pytest.raises(ValueError, match=message):
        camera_to_colmap(camera_of("brown-conrady 4"), model="PINHOLE")


def test_thin_prisms_are_not_dropped():
    with pytest.raises(ValueError, match=r"coefficients must be 0 where FULL_OPENCV .*'s1'"):
        camera_to_colmap(camera_of("brown-conrady 12"))


def test_a_fisheye_is_no_perspective_lens():
    with pytest.raises(ValueError, match="model must be of the camera's kind, got OPENCV for"):
        camera_to_colmap(camera_of("kannala-brandt"), model="OPENCV")
