"""Defects that an audit of camera conventions found elsewhere, each shown to be absent here.

The audit is kornia's, https://github.com/kornia/kornia/issues/4262, with 44 defects of behaviour.
The number at a test is that of the issue it answers. Without a test, because geomim has nothing of
the kind: tilted sensors (4276; ``tests/geomim/interop/test_opencv.py`` refuses them) and the
baselines of stereo cameras (4270).
"""

import dataclasses
import inspect
import math
from itertools import product

import cv2
import pytest
import torch
from torch.autograd.functional import jacobian

import geomim.cameras
from geomim.cameras import BrownConradyCamera, Camera, KannalaBrandtCamera, PinholeCamera
from geomim.depth import (
    depth_from_distance,
    distance_from_depth,
    normals_from_depth,
    unproject_depth,
)
from geomim.depthflow import flow_from_depth
from geomim.splatting import project_lidar, splat_depth
from geomim.transforms import RigidTransform
from geomim.warping import reproject_depth, sample_bilinear, warp_image
from tests.geomim.cameras.lenses import MODELS, SIZE, camera_of, pixels_of, points_within
from tests.geomim.strategies import BATCHES

PERSPECTIVE = [model for model in MODELS if model.startswith(("pinhole", "brown-conrady"))]
SIZES = [(1, 3), (3, 1), (1, 1), (2, 3)]
# Nothing alike: neither the focal lengths, nor the principal point, nor the sides of the image.
FLAT = PinholeCamera(
    torch.tensor([100.0, 50.0]).double(), torch.tensor([4.0, 3.0]).double(), size=(6, 8)
)
STAY = RigidTransform.identity(dtype=torch.float64)
TO_THE_RIGHT = RigidTransform(torch.eye(3), torch.tensor([1.0, 0.0, 0.0])).to(dtype=torch.float64)


def pinhole(size, dtype=torch.float64):
    focal = torch.tensor([100.0, 50.0], dtype=dtype)
    return PinholeCamera(focal, torch.tensor([0.75, 1.25], dtype=dtype), size)


def plane(size, dtype=torch.float64):
    return torch.full(size, 2.0, dtype=dtype)


def test_4263_resizing_moves_the_principal_point_as_the_pixels_move():
    half = FLAT.resize(3, 4)
    assert half.principal_point.tolist() == [2.0, 1.5]
    # The centre of a large pixel is that of the four small ones it replaces.
    blocks = FLAT.pixel_grid().reshape(3, 2, 4, 2, 2).mean(dim=(1, 3))
    assert torch.equal(half.pixel_grid(), blocks / 2)


def test_4263_a_resized_image_and_camera_see_the_same_points():
    depth = torch.linspace(1, 2, 8).double().expand(6, 8)
    coarse = depth.reshape(3, 2, 4, 2).mean(dim=(1, 3))
    points = unproject_depth(coarse, FLAT.resize(3, 4)).points
    pixels = FLAT.project(points).pixels
    middles = FLAT.pixel_grid().reshape(3, 2, 4, 2, 2).mean(dim=(1, 3))
    torch.testing.assert_close(pixels, middles)


def test_4263_4265_sizes_stay_whole_numbers():
    assert FLAT.resize(3, 4).size == (3, 4)
    assert all(type(side) is int for side in FLAT.resize(3, 4).size)


def test_4269_columns_make_x_and_rows_make_y():
    points = unproject_depth(plane((6, 8)), FLAT).points
    column, row = torch.arange(8.0).double(), torch.arange(6.0).double()[:, None]
    x = (column + 0.5 - 4) / 100 * 2
    y = (row + 0.5 - 3) / 50 * 2
    torch.testing.assert_close(points[..., 0], x.expand(6, 8))
    torch.testing.assert_close(points[..., 1], y.expand(6, 8))


def test_4269_opencv_agrees_on_every_pixel():
    disparity = torch.linspace(4, 9, 48).reshape(6, 8)
    to_points = torch.tensor(
        [[1, 0, 0, -3.5], [0, 2, 0, -5.0], [0, 0, 0, 100], [0, 0, 1, 0]]
    ).double()
    theirs = cv2.reprojectImageTo3D(disparity.numpy(), to_points.numpy())
    ours = unproject_depth(100 / disparity.double(), FLAT).points
    torch.testing.assert_close(ours.float(), torch.from_numpy(theirs))


def test_4268_matrices_hold_no_epsilon():
    assert FLAT.matrix().tolist() == [[100, 0, 4], [0, 50, 3], [0, 0, 1]]
    assert STAY.matrix().tolist() == torch.eye(4).tolist()


@pytest.mark.parametrize("size", SIZES)
def test_4278_sides_of_one_pixel_keep_their_axis(size):
    camera, depth = pinhole(size), plane(size)
    points, valid = unproject_depth(depth, camera)
    assert (points.shape, valid.shape) == ((*size, 3), size)
    assert camera.pixel_grid().shape == (*size, 2)
    assert distance_from_depth(depth, camera).distance.shape == size
    assert depth_from_distance(depth, camera).depth.shape == size
    assert normals_from_depth(depth, camera).normals.shape == (*size, 3)
    views = {"source_camera": camera, "target_camera": camera, "source_from_target": STAY}
    image = torch.rand(2, *size, dtype=torch.float64)
    warped, valid = warp_image(image, depth, depth, **views)
    assert valid.all()
    torch.testing.assert_close(warped, image)


@pytest.mark.parametrize("size", SIZES)
def test_4398_no_normal_is_better_than_one_of_length_0(size):
    normals, valid = normals_from_depth(plane(size), pinhole(size))
    assert not valid.any()
    assert not normals.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_4398_half_precision_normals_have_length_1(dtype):
    size = (6, 8)
    normals, valid = normals_from_depth(plane(size, dtype), FLAT.to(dtype=dtype))
    assert valid.sum() == 24
    torch.testing.assert_close(normals[valid].norm(dim=-1).float(), torch.ones(24))


def test_4267_every_entry_point_has_one_answer_at_depth_0():
    point = torch.tensor([[1.0, 2.0, 0.0]]).double()
    assert FLAT.project(point).pixels.tolist() == [[0.0, 0.0]]
    assert not FLAT.project(point).valid.any()
    lidar = project_lidar(point, FLAT, cam_from_lidar=STAY)
    assert (lidar.pixels.tolist(), lidar.valid.tolist()) == ([[0.0, 0.0]], [False])
    assert not splat_depth(point, FLAT).valid.any()
    # A depth of 2 m seen by a camera 2 m further on.
    forward = RigidTransform(torch.eye(3), torch.tensor([0.0, 0.0, -2.0])).to(dtype=FLAT.dtype)
    depth = plane((6, 8))
    moved = reproject_depth(
        depth, depth, source_camera=FLAT, target_camera=FLAT, source_from_target=forward
    )
    flow = flow_from_depth(depth, FLAT, target_from_source=forward)
    assert not moved.valid.any()
    assert not moved.pixels.any()
    assert not flow.valid.any()
    assert not flow.optical_flow.any()


@pytest.mark.parametrize("model", MODELS)
def test_4267_every_model_has_one_answer_for_the_camera_itself(model):
    origin = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    pixels, depth, valid = camera_of(model).project(origin)
    assert not valid
    assert (pixels.tolist(), depth.item()) == ([0.0, 0.0], 0.0)
    (gradient,) = torch.autograd.grad(pixels.sum() + depth, origin)
    assert gradient.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("model", PERSPECTIVE)
def test_4267_what_is_behind_is_not_seen(model):
    assert not camera_of(model).project(points_within(40, 20) * -1).valid.any()


@pytest.mark.parametrize("nothing", [0.0, -1.0, math.inf, math.nan])
def test_4272_no_depth_is_no_point_rather_than_a_far_one(nothing):
    depth = plane((6, 8))
    depth[2, 3] = nothing
    points, valid = unproject_depth(depth, FLAT)
    assert valid.sum() == 47
    assert points[2, 3].tolist() == [0.0, 0.0, 0.0]
    views = {"source_camera": FLAT, "target_camera": FLAT, "source_from_target": STAY}
    observed = reproject_depth(depth, plane((6, 8)), **views).observed
    assert observed[2, 3] == 0
    torch.testing.assert_close(observed.amax(), torch.tensor(2.0).double())


def test_4273_a_warp_has_one_pair_of_names_and_they_are_true():
    # The source camera stands 1 m to the right: what it sees is 50 pixels further left.
    camera = PinholeCamera(torch.tensor([100.0, 100.0]), torch.tensor([50.0, 1.0]), (2, 100))
    camera = camera.to(dtype=torch.float64)
    source_from_target = TO_THE_RIGHT.inverse()
    pixels = reproject_depth(
        plane((2, 100)),
        plane((2, 100)),
        source_camera=camera,
        target_camera=camera,
        source_from_target=source_from_target,
    ).pixels
    torch.testing.assert_close(pixels[0, 80], torch.tensor([30.5, 0.5]).double())
    flow = flow_from_depth(plane((2, 100)), camera, target_from_source=source_from_target)
    torch.testing.assert_close(flow.optical_flow[0, 80], torch.tensor([-50.0, 0.0]).double())


def test_4280_grazing_rays_keep_their_ratio_of_depth_to_distance():
    camera = PinholeCamera(torch.tensor([1e-4, 1e-4]), torch.tensor([0.0, 0.0]), (1, 1))
    distance = distance_from_depth(torch.ones(1, 1), camera).distance
    torch.testing.assert_close(distance, torch.full((1, 1), math.hypot(1, 5e3, 5e3)))
    back = depth_from_distance(distance, camera).depth
    torch.testing.assert_close(back, torch.ones(1, 1))


def test_4277_the_jacobian_of_kannala_brandt_is_that_of_its_formula():
    camera = camera_of("kannala-brandt")
    point = torch.tensor([0.7, -0.4, 1.3]).double()
    ours = jacobian(lambda p: camera.project(p).pixels, point)
    step = 1e-6
    differences = [
        (camera.project(point + d).pixels - camera.project(point - d).pixels) / (2 * step)
        for d in torch.eye(3).double() * step
    ]
    torch.testing.assert_close(ours, torch.stack(differences, dim=-1), rtol=1e-8, atol=1e-7)
    torch.testing.assert_close(ours, jacobian(lambda p: by_hand(camera, p), point))


def test_4277_on_the_axis_the_jacobian_is_the_focal_length():
    camera = camera_of("kannala-brandt")
    ahead = torch.tensor([0.0, 0.0, 2.0]).double()
    ours = jacobian(lambda p: camera.project(p).pixels, ahead)
    expected = torch.cat([torch.diag(camera.focal) / 2, torch.zeros(2, 1)], dim=-1)
    torch.testing.assert_close(ours, expected)


def test_4285_an_inverse_is_right_or_not_valid():
    pincushion = BrownConradyCamera(
        FLAT.focal, FLAT.principal_point, FLAT.size, torch.tensor([0.5, 0, 0, 0]).double()
    )
    # Three focal lengths off the axis, where fixed-point iteration runs away.
    point = torch.tensor([[3.0, 0.0, 1.0], [9.0, -9.0, 1.0]]).double()
    pixels, depth, valid = pincushion.project(point)
    back, found = pincushion.unproject(pixels, depth)
    assert valid.all()
    assert found.all()
    torch.testing.assert_close(back, point, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_4285_no_pixel_is_sent_back_elsewhere(model):
    camera = camera_of(model)
    pixels = pixels_of(200) * 3 - 60
    directions, valid = camera.ray_directions(pixels)
    again = camera.project(directions[valid])
    assert valid.any()
    torch.testing.assert_close(again.pixels, pixels[valid], rtol=1e-8, atol=1e-6)
    assert not directions[~valid].any()


@pytest.mark.parametrize("model", MODELS)
def test_4308_double_precision_is_double_precision(model):
    camera = camera_of(model)
    points = torch.cat([points_within(35, 50), torch.tensor([[1e-9, 0, 1], [0, 0, 1]])])
    back, valid = camera.unproject(*camera.project(points)[:2])
    assert valid.all()
    torch.testing.assert_close(back, points, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("model", MODELS)
def test_4308_the_principal_point_looks_straight_ahead(model):
    camera = camera_of(model, dtype=torch.float32)
    directions, valid = camera.ray_directions(camera.principal_point)
    assert valid
    assert directions.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("model", MODELS)
def test_4324_batches_keep_their_axes(model, batch):
    camera = camera_of(model, batch)
    points = points_within(35, *batch, 5)
    pixels, depth, valid = camera.project(points)
    assert (pixels.shape, depth.shape, valid.shape) == (
        (*batch, 5, 2),
        (*batch, 5),
        (*batch, 5),
    )
    assert camera.unproject(pixels, depth).points.shape == (*batch, 5, 3)
    assert camera.ray_directions(pixels).directions.shape == (*batch, 5, 3)


@pytest.mark.parametrize("model", MODELS)
def test_4281_no_cameras_and_no_points_are_no_mistake(model):
    none = camera_of(model, (0,))
    assert none.project(torch.empty(0, 5, 3).double()).pixels.shape == (0, 5, 2)
    assert none.ray_directions(torch.empty(0, 5, 2).double()).directions.shape == (0, 5, 3)
    one = camera_of(model)
    pixels, depth, _ = one.project(torch.empty(0, 3).double())
    assert one.unproject(pixels, depth).points.shape == (0, 3)


def test_4274_4284_there_is_one_kind_of_camera_and_every_model_can_do_all():
    models = [
        model
        for _, model in inspect.getmembers(geomim.cameras, inspect.isclass)
        if model.__name__.endswith("Camera") and model is not Camera
    ]
    assert {type(camera_of(name)) for name in MODELS} <= set(models)
    assert len(models) == 8  # and MixedCamera
    for name in MODELS:
        camera = camera_of(name)
        assert isinstance(camera, Camera)
        changed = camera.resize(24, 32).flip_horizontal().pad(left=2)
        changed = changed.crop(top=0, left=0, height=20, width=20)
        assert changed.project(points_within(20, 3)).valid.all()


@pytest.mark.parametrize("model", MODELS)
def test_4264_a_camera_cannot_be_written_to(model):
    camera = camera_of(model)
    with pytest.raises(dataclasses.FrozenInstanceError):
        camera.focal = camera.focal * 2


@pytest.mark.parametrize("model", MODELS)
def test_4264_what_is_computed_shares_nothing_with_what_it_came_from(model):
    camera, points = camera_of(model), points_within(35, 5)
    pixels, depth, _ = camera.project(points)
    parts = [*camera.parts().values(), points]
    results = [pixels, depth, *camera.unproject(pixels, depth), camera.pixel_grid()]
    results += [*camera.ray_directions(pixels), camera.matrix()]
    assert not storages(results) & storages(parts)
    assert not storages(camera.unproject(pixels, depth)) & storages([pixels, depth])


def test_4264_maps_share_nothing_with_what_they_came_from():
    depth, image = plane(SIZE), torch.rand(2, *SIZE, dtype=torch.float64)
    camera = camera_of("pinhole")
    views = {"source_camera": camera, "target_camera": camera, "source_from_target": STAY}
    inputs = [depth, image, STAY.rotation, STAY.translation, *camera.parts().values()]
    before = [(tensor.clone(), tensor._version) for tensor in inputs]
    results = [
        *unproject_depth(depth, camera, world_from_cam=STAY),
        *distance_from_depth(depth, camera),
        *normals_from_depth(depth, camera),
        *warp_image(image, depth, depth, **views),
        *reproject_depth(depth, depth, **views),
        *flow_from_depth(depth, camera, target_from_source=STAY),
        *sample_bilinear(image, depth > 0, camera.pixel_grid()),
        STAY.matrix(),
        STAY.apply(depth[..., None].expand(*SIZE, 3)),
    ]
    assert not storages(results) & storages(inputs)
    for tensor, (value, version) in zip(inputs, before, strict=True):
        assert torch.equal(tensor, value)
        assert tensor._version == version


def test_4266_a_guard_says_what_it_refuses():
    camera = camera_of("pinhole", (3,))
    with pytest.raises(ValueError, match=r"points must lead with the batch \(3,\), got \(4, 3\)"):
        camera.project(torch.ones(4, 3).double())
    with pytest.raises(ValueError, match=r"depth must have the camera's size \(48, 64\), got \(64"):
        unproject_depth(plane((64, 48)), camera_of("pinhole"))


@pytest.mark.parametrize("batch", BATCHES)
def test_4271_one_image_and_many_are_alike(batch):
    camera, depth = camera_of("pinhole", batch), plane((*batch, *SIZE))
    points = unproject_depth(depth, camera).points
    for place in product(*map(range, batch)):
        parts = {name: part[place] for name, part in camera.parts().items()}
        alone = PinholeCamera(**parts, size=SIZE)
        torch.testing.assert_close(points[place], unproject_depth(depth[place], alone).points)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", MODELS)
def test_4313_results_have_the_dtype_that_was_given(model, dtype):
    camera = camera_of(model, dtype=dtype)
    pixels, depth, _ = camera.project(points_within(35, 3).to(dtype))
    results = [pixels, depth, camera.unproject(pixels, depth).points, camera.pixel_grid()]
    assert {tensor.dtype for tensor in results} == {dtype}


def storages(tensors):
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def by_hand(camera, point):
    """Kannala and Brandt 2006, equation 6, as written."""
    x, y, z = point
    radius = torch.hypot(x, y)
    theta = torch.atan2(radius, z)
    k1, k2, k3, k4 = camera.coefficients
    bent = theta + k1 * theta**3 + k2 * theta**5 + k3 * theta**7 + k4 * theta**9
    return camera.focal * bent * point[:2] / radius + camera.principal_point


def test_the_formula_by_hand_is_ours():
    camera = camera_of("kannala-brandt")
    assert isinstance(camera, KannalaBrandtCamera)
    point = torch.tensor([0.7, -0.4, 1.3]).double()
    torch.testing.assert_close(camera.project(point).pixels, by_hand(camera, point))
