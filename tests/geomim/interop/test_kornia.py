import kornia
import pytest
import torch
from hypothesis import given, settings
from kornia.geometry.camera import PinholeCamera as TheirPinhole

from geomim.interop.kornia import (
    fisheye_from_kornia,
    fisheye_to_kornia,
    view_from_kornia,
    view_to_kornia,
)
from geomim.transforms import RigidTransform
from tests.geomim.cameras.lenses import SIZE, camera_of, points_within
from tests.geomim.interop.sameness import assert_same_camera, assert_same_pose
from tests.geomim.strategies import batches, rigid_transforms, seeds


@given(seed=seeds, world_from_cam=rigid_transforms((3,)))
def test_views_come_back(seed, world_from_cam):
    camera = camera_of("pinhole", (3,), seed)
    values = view_to_kornia(camera, world_from_cam=world_from_cam)
    for theirs in (values, TheirPinhole(*values)):
        back = view_from_kornia(theirs)
        assert_same_camera(back.camera, camera)
        assert_same_pose(back.world_from_cam, world_from_cam)


@given(seed=seeds, world_from_cam=rigid_transforms((3,)))
def test_kornia_sees_world_points_where_we_do(seed, world_from_cam):
    camera = camera_of("pinhole", (3,), seed)
    points_cam = points_within(35, 3, 5, seed=seed)
    theirs = TheirPinhole(*view_to_kornia(camera, world_from_cam=world_from_cam))
    pixels = theirs.project(world_from_cam.apply(points_cam))
    ours = camera.project(points_cam).pixels
    torch.testing.assert_close(pixels + 0.5, ours, rtol=1e-9, atol=1e-9)


def test_values_by_hand():
    camera = camera_of("pinhole", (1,))
    world_from_cam = RigidTransform(torch.eye(3)[None], torch.tensor([[1.0, 0.0, 0.0]]))
    intrinsics, extrinsics, height, width = view_to_kornia(camera, world_from_cam=world_from_cam)
    assert torch.equal(intrinsics[0, :2, 2], camera.principal_point[0] - 0.5)
    assert extrinsics[0, :3, 3].tolist() == [-1.0, 0.0, 0.0]
    assert intrinsics[0, 3].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert (height.item(), width.item()) == SIZE


@settings(max_examples=10)
@given(batch=batches, seed=seeds)
def test_fisheye_parameters_come_back_to_the_bit(batch, seed):
    camera = camera_of("kannala-brandt", batch, seed)
    assert_same_camera(fisheye_from_kornia(fisheye_to_kornia(camera), size=SIZE), camera)


@settings(max_examples=10)
@given(seed=seeds)
def test_kornias_fisheye_sees_points_where_we_do(seed):
    camera = camera_of("kannala-brandt", seed=seed)
    points = points_within(70, 20, seed=seed)
    theirs = kornia.geometry.camera.distort_points_kannala_brandt(
        points[:, :2] / points[:, 2:], fisheye_to_kornia(camera).expand(20, 8)
    )
    ours = camera.project(points).pixels
    torch.testing.assert_close(theirs + 0.5, ours, rtol=1e-9, atol=1e-9)


def test_a_batch_axis_must_be_shared():
    message = r"camera and world_from_cam must have one batch axis .* got \(\) and \(\)"
    with pytest.raises(ValueError, match=message):
        view_to_kornia(camera_of("pinhole"), world_from_cam=RigidTransform.identity())


def test_images_of_several_sizes_are_no_batch():
    values = view_to_kornia(
        camera_of("pinhole", (2,)),
        world_from_cam=RigidTransform.identity(2).to(dtype=torch.float64),
    )
    other = values._replace(height=torch.tensor([48, 47]))
    message = r"height and width must be those of one image, got \[\[47, 64\], \[48, 64\]\]"
    with pytest.raises(ValueError, match=message):
        view_from_kornia(other)
