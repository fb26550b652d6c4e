import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings

from geomim.cameras import PinholeCamera
from geomim.interop.pytorch3d import (
    cameras_from_pytorch3d,
    cameras_to_pytorch3d,
    view_from_pytorch3d,
    view_to_pytorch3d,
)
from geomim.transforms import RigidTransform
from tests.geomim.cameras.lenses import camera_of, points_within
from tests.geomim.interop.sameness import assert_same_camera, assert_same_pose
from tests.geomim.strategies import rigid_transforms, seeds

SPACES = ("screen", "ndc")
BY_HAND = PinholeCamera(
    torch.tensor([[100.0, 80.0]]), torch.tensor([[120.0, 70.0]]), size=(128, 256)
)
AHEAD = RigidTransform.identity(1)


class TheirCameras:
    """``PerspectiveCameras`` as its notes define it, point by point."""

    def __init__(self, R, T, focal_length, principal_point, image_size, in_ndc, **device):  # noqa: N803
        assert set(device) <= {"device"}
        self.R, self.T = R, T
        self.focal_length, self.principal_point = focal_length, principal_point
        self._image_size, self._in_ndc = image_size, in_ndc

    def in_ndc(self):
        return self._in_ndc

    def get_image_size(self):
        return self._image_size

    def transform_points(self, world):
        """Rows times R plus T, then the projection into the cameras' own space."""
        view = torch.einsum("bni,bij->bnj", world, self.R) + self.T[:, None]
        plane = self.focal_length[:, None] * view[..., :2] / view[..., 2:]
        if self._in_ndc:
            return plane + self.principal_point[:, None]
        # Screen space has x right and y down, the view x left and y up.
        return self.principal_point[:, None] - plane

    def transform_points_screen(self, world):
        """In NDC the shorter side runs from 1 (left, top) to -1."""
        if not self._in_ndc:
            return self.transform_points(world)
        image = self._image_size.flip(-1)[:, None]
        return image / 2 - self.transform_points(world) * image.amin(dim=-1, keepdim=True) / 2


@pytest.fixture
def stand_in(monkeypatch):
    module = ModuleType("pytorch3d.renderer")
    module.PerspectiveCameras = TheirCameras
    monkeypatch.setitem(sys.modules, "pytorch3d", ModuleType("pytorch3d"))
    monkeypatch.setitem(sys.modules, "pytorch3d.renderer", module)


@settings(max_examples=20)
@given(seed=seeds, world_from_cam=rigid_transforms((3,)))
def test_screen_views_come_back_to_the_bit(seed, world_from_cam):
    camera = camera_of("pinhole", (3,), seed)
    back = view_from_pytorch3d(view_to_pytorch3d(camera, world_from_cam=world_from_cam))
    assert_same_camera(back.camera, camera)
    assert_same_pose(back.world_from_cam, world_from_cam)


@settings(max_examples=20)
@given(seed=seeds, world_from_cam=rigid_transforms((3,)))
def test_ndc_views_come_back(seed, world_from_cam):
    camera = camera_of("pinhole", (3,), seed)
    view = view_to_pytorch3d(camera, world_from_cam=world_from_cam, space="ndc")
    back = view_from_pytorch3d(view)
    torch.testing.assert_close(back.camera.matrix(), camera.matrix(), rtol=1e-14, atol=1e-14)
    assert_same_pose(back.world_from_cam, world_from_cam)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("space", SPACES)
@settings(max_examples=10)
@given(seed=seeds, world_from_cam=rigid_transforms((1,)))
def test_their_formulas_see_world_points_where_we_do(space, seed, world_from_cam):
    camera = camera_of("pinhole", (1,), seed)
    points_cam = points_within(35, 1, 20, seed=seed)
    theirs = cameras_to_pytorch3d(camera, world_from_cam=world_from_cam, space=space)
    pixels = theirs.transform_points_screen(world_from_cam.apply(points_cam))
    torch.testing.assert_close(pixels, camera.project(points_cam).pixels, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(
        cameras_from_pytorch3d(theirs).camera.matrix(), camera.matrix(), rtol=1e-14, atol=1e-14
    )


def test_screen_space_by_hand():
    view = view_to_pytorch3d(BY_HAND, world_from_cam=AHEAD)
    assert view.focal_length.tolist() == [[100.0, 80.0]]
    assert view.principal_point.tolist() == [[120.0, 70.0]]
    assert view.image_size.tolist() == [[128, 256]]
    assert not view.in_ndc


def test_ndc_by_hand():
    view = view_to_pytorch3d(BY_HAND, world_from_cam=AHEAD, space="ndc")
    # Half the shorter side is 64 pixels; the middle is (128, 64).
    assert view.focal_length.tolist() == [[100 / 64, 80 / 64]]
    assert view.principal_point.tolist() == [[8 / 64, -6 / 64]]
    assert view.in_ndc


def test_what_is_right_and_below_is_on_the_negative_side():
    view = view_to_pytorch3d(BY_HAND, world_from_cam=AHEAD)
    point = torch.tensor([[[0.2, 0.4, 2.0]]])
    seen = point @ view.R + view.T[:, None]
    torch.testing.assert_close(seen, torch.tensor([[[-0.2, -0.4, 2.0]]]))


def test_rotations_are_those_of_rows():
    # A camera turned right by 90 degrees: its z is the world's x.
    turned = RigidTransform.from_quaternion(
        torch.tensor([[1.0, 0.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, 5.0]])
    )
    view = view_to_pytorch3d(BY_HAND, world_from_cam=turned)
    seen = torch.tensor([[[3.0, 0.0, 5.0]]]) @ view.R + view.T[:, None]
    torch.testing.assert_close(seen, torch.tensor([[[0.0, 0.0, 3.0]]]))


@pytest.mark.usefixtures("stand_in")
def test_one_focal_length_serves_both_ways():
    view = view_to_pytorch3d(BY_HAND, world_from_cam=AHEAD)
    theirs = TheirCameras(**view._replace(focal_length=torch.tensor([100.0]))._asdict())
    assert cameras_from_pytorch3d(theirs).camera.focal.tolist() == [[100.0, 100.0]]


def test_pytorch3d_sees_world_points_where_we_do():
    reason = (
        "pip install --no-build-isolation git+https://github.com/facebookresearch/pytorch3d "
        "to compare with PyTorch3D itself"
    )
    pytest.importorskip("pytorch3d", reason=reason)
    camera = camera_of("pinhole", (2,)).to(dtype=torch.float32)
    world_from_cam = RigidTransform.exp(torch.tensor([[0.3, -0.2, 1, 0.5, -0.4, 0.2]] * 2))
    points_cam = points_within(35, 2, 20).float()
    for space in SPACES:
        theirs = cameras_to_pytorch3d(camera, world_from_cam=world_from_cam, space=space)
        pixels = theirs.transform_points_screen(world_from_cam.apply(points_cam))[..., :2]
        torch.testing.assert_close(pixels, camera.project(points_cam).pixels, rtol=1e-5, atol=1e-4)


def test_without_pytorch3d_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch3d", None)
    message = r"pytorch3d.renderer must be installed, .*; pip install --no-build-isolation git\+"
    with pytest.raises(ImportError, match=message):
        cameras_to_pytorch3d(BY_HAND, world_from_cam=AHEAD)


def test_a_batch_axis_must_be_shared():
    message = r"camera and world_from_cam must have one batch axis .* got \(1,\) and \(\)"
    with pytest.raises(ValueError, match=message):
        view_to_pytorch3d(BY_HAND, world_from_cam=RigidTransform.identity())


def test_images_of_several_sizes_are_no_batch():
    view = view_to_pytorch3d(camera_of("pinhole", (2,)), world_from_cam=RigidTransform.identity(2))
    with pytest.raises(ValueError, match=r"image_size must be that of one image, got \[\[48, 6"):
        view_from_pytorch3d(view._replace(image_size=torch.tensor([[48, 64], [48, 65]])))


def test_the_size_of_the_image_must_be_known():
    view = view_to_pytorch3d(BY_HAND, world_from_cam=AHEAD, space="ndc")
    theirs = TheirCameras(**view._replace(image_size=None)._asdict())
    with pytest.raises(ValueError, match="image_size must be that of one image, got none"):
        cameras_from_pytorch3d(theirs)
