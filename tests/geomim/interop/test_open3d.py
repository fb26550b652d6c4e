import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from geomim.depth import unproject_depth
from geomim.interop.open3d import (
    camera_from_open3d,
    camera_to_open3d,
    view_from_open3d,
    view_to_open3d,
)
from geomim.transforms import RigidTransform
from tests.geomim.cameras.lenses import SIZE, camera_of
from tests.geomim.interop.sameness import assert_same_camera, assert_same_pose
from tests.geomim.strategies import rigid_transforms, seeds

GET_IT = "pip install open3d (and libusb-1.0, libGL, libEGL) to compare with Open3D itself"


def intrinsic_of(width, height, fx, fy, cx, cy):
    matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return SimpleNamespace(width=width, height=height, intrinsic_matrix=matrix)


@pytest.fixture
def stand_in(monkeypatch):
    """The two classes as Open3D documents them."""
    module = ModuleType("open3d")
    module.camera = SimpleNamespace(
        PinholeCameraIntrinsic=intrinsic_of, PinholeCameraParameters=SimpleNamespace
    )
    monkeypatch.setitem(sys.modules, "open3d", module)


@pytest.mark.usefixtures("stand_in")
@settings(max_examples=20)
@given(seed=seeds, world_from_cam=rigid_transforms())
def test_views_come_back(seed, world_from_cam):
    camera = camera_of("pinhole", seed=seed)
    parameters = view_to_open3d(camera, world_from_cam=world_from_cam)
    back = view_from_open3d(parameters)
    assert_same_camera(back.camera, camera)
    assert_same_pose(back.world_from_cam, world_from_cam)


@pytest.mark.usefixtures("stand_in")
def test_values_by_hand():
    camera = camera_of("pinhole")
    world_from_cam = RigidTransform(torch.eye(3), torch.tensor([1.0, 0.0, 0.0]))
    parameters = view_to_open3d(camera, world_from_cam=world_from_cam)
    assert (parameters.intrinsic.height, parameters.intrinsic.width) == SIZE
    expected = (camera.principal_point - 0.5).tolist()
    assert parameters.intrinsic.intrinsic_matrix[:2, 2].tolist() == expected
    assert parameters.extrinsic[:3, 3].tolist() == [-1.0, 0.0, 0.0]


def test_open3d_sees_the_points_that_we_do():
    open3d = pytest.importorskip("open3d", reason=GET_IT, exc_type=ImportError)
    camera = camera_of("pinhole")
    world_from_cam = RigidTransform.exp(torch.tensor([0.3, -0.2, 1.0, 0.5, -0.4, 0.2]).double())
    depth = torch.linspace(1, 3, SIZE[0] * SIZE[1]).reshape(SIZE)
    parameters = view_to_open3d(camera, world_from_cam=world_from_cam)
    cloud = open3d.geometry.PointCloud.create_from_depth_image(
        open3d.geometry.Image(depth.numpy()),
        parameters.intrinsic,
        parameters.extrinsic,
        depth_scale=1.0,
    )
    ours = unproject_depth(depth.double(), camera, world_from_cam=world_from_cam).points
    theirs = torch.from_numpy(np.asarray(cloud.points))
    torch.testing.assert_close(ours.reshape(-1, 3), theirs, rtol=1e-6, atol=1e-6)


def test_open3d_holds_what_it_was_given():
    pytest.importorskip("open3d", reason=GET_IT, exc_type=ImportError)
    camera = camera_of("pinhole")
    assert_same_camera(camera_from_open3d(camera_to_open3d(camera)), camera)


def test_without_open3d_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(
        ImportError, match=r"open3d must be installed, .*; pip install open3d, which"
    ):
        camera_to_open3d(camera_of("pinhole"))


def test_batches_are_refused():
    with pytest.raises(ValueError, match=r"camera must be a single one, got a batch \(3,\)"):
        camera_to_open3d(camera_of("pinhole", (3,)))
    with pytest.raises(ValueError, match=r"world_from_cam must be a single one, got a batch \(3,"):
        view_to_open3d(camera_of("pinhole"), world_from_cam=RigidTransform.identity(3))
