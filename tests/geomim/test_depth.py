import math

import kornia
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomim.cameras import BrownConradyCamera, EquirectangularCamera, PinholeCamera
from geomim.depth import (
    depth_from_distance,
    distance_from_depth,
    normals_from_depth,
    unproject_depth,
    unproject_distance,
    valid_depth,
)
from geomim.kernels.selection import use_kernels
from geomim.transforms import RigidTransform
from tests.geomim.scenes import look
from tests.geomim.strategies import BATCHES, batches, normal, seeds

SIZE = (6, 9)


def camera_of(batch=(), size=SIZE):
    focal, centre = torch.tensor([7.0, 8.0]), torch.tensor([4.2, 3.1])
    return PinholeCamera(focal.expand(*batch, 2), centre.expand(*batch, 2), size).to(
        dtype=torch.float64
    )


def depth_of(batch=(), size=SIZE, seed=0):
    return normal(*batch, *size, seed=seed).abs() + 0.5


def with_holes(depth):
    depth = depth.clone()
    holes = torch.tensor([0.0, -1.0, math.nan, math.inf, -math.inf], dtype=depth.dtype)
    depth[..., 2, 1:6] = holes
    return depth


@given(batch=batches, seed=seeds)
def test_projecting_the_points_returns_pixels_and_depth(batch, seed):
    camera, depth = camera_of(batch), depth_of(batch, seed=seed)
    points, valid = unproject_depth(depth, camera)
    assert valid.all()
    projection = camera.project(points)
    torch.testing.assert_close(projection.depth, depth)
    grid = camera.pixel_grid().expand_as(projection.pixels)
    torch.testing.assert_close(projection.pixels, grid)


@given(seed=seeds)
def test_points_are_kornias_once_its_half_pixel_is_counted(seed):
    camera, depth = camera_of(), depth_of(seed=seed)
    matrix = camera.matrix().clone()
    matrix[:2, 2] -= 0.5  # kornia's pixel centres are integers
    theirs = kornia.geometry.depth.depth_to_3d_v2(depth[None], matrix[None])[0]
    torch.testing.assert_close(unproject_depth(depth, camera).points, theirs)


@pytest.mark.parametrize("batch", BATCHES)
def test_points_in_the_world_are_those_of_the_camera_moved(batch):
    world_from_cam = RigidTransform.exp(normal(*batch, 6, seed=1))
    depth, camera = with_holes(depth_of(batch)), camera_of(batch)
    points_cam, valid = unproject_depth(depth, camera)
    points_world = unproject_depth(depth, camera, world_from_cam=world_from_cam).points
    torch.testing.assert_close(points_world[valid], world_from_cam.apply(points_cam)[valid])
    assert not points_world[~valid].any()


def test_one_camera_serves_many_depth_maps_and_many_cameras_one():
    assert unproject_depth(depth_of((3,)), camera_of()).points.shape == (3, *SIZE, 3)
    assert unproject_depth(depth_of(), camera_of((3,))).points.shape == (3, *SIZE, 3)
    clips = unproject_depth(depth_of((3, 2)), camera_of((3,)))
    assert clips.points.shape == (3, 2, *SIZE, 3)
    torch.testing.assert_close(
        clips.points[1, 1], unproject_depth(depth_of((3, 2))[1, 1], camera_of()).points
    )


@given(batch=batches, seed=seeds)
def test_distance_is_the_length_of_the_point_and_comes_back(batch, seed):
    camera, depth = camera_of(batch), depth_of(batch, seed=seed)
    distance, valid = distance_from_depth(depth, camera)
    assert valid.all()
    torch.testing.assert_close(distance, unproject_depth(depth, camera).points.norm(dim=-1))
    torch.testing.assert_close(depth_from_distance(distance, camera).depth, depth)


@pytest.mark.parametrize("measure", [distance_from_depth, depth_from_distance])
def test_lengths_that_are_none_are_zero_with_zero_gradient(measure):
    depth = with_holes(depth_of()).requires_grad_()
    lengths, valid = measure(depth, camera_of())
    expected = torch.ones(SIZE, dtype=torch.bool)
    expected[2, 1:6] = False
    assert torch.equal(valid, expected)
    assert not lengths[~valid].any()
    lengths.sum().backward()
    assert not depth.grad[~valid].any()
    assert depth.grad[valid].all()


def test_points_of_no_depth_are_zero_with_zero_gradient_even_in_the_world():
    depth = with_holes(depth_of()).requires_grad_()
    twist = normal(6, seed=2).requires_grad_()
    points, valid = unproject_depth(depth, camera_of(), world_from_cam=RigidTransform.exp(twist))
    assert not points[~valid].any()
    (nothing,) = torch.autograd.grad(points[~valid].sum(), twist, retain_graph=True)
    assert not nothing.any()
    points.sum().backward()
    assert not depth.grad[~valid].any()
    assert depth.grad.isfinite().all()


def test_valid_depth_is_finite_and_between_near_and_far():
    depth = torch.tensor([[0.0, -1.0, math.nan, math.inf, 0.1, 2.0, 2.5]])
    assert valid_depth(depth).tolist() == [[False, False, False, False, True, True, True]]
    assert valid_depth(depth, near=0.1, far=2.0).tolist() == [[False] * 5 + [True, False]]


def plane_depth(camera, normal_cam, offset):
    """Depth of the plane ``normal · x = offset``, analytically."""
    directions, _ = camera.ray_directions(camera.pixel_grid())
    return offset / (directions @ normal_cam) * directions[..., 2]


@given(seed=seeds, offset=st.floats(0.1, 100.0), flipped=st.booleans())
def test_normals_of_a_slanted_plane_are_exact_away_from_the_border(seed, offset, flipped):
    camera = camera_of().flip_horizontal() if flipped else camera_of()
    slant = normal(2, seed=seed).clamp(-1, 1) / 2
    towards = torch.nn.functional.normalize(torch.cat([slant, torch.ones(1)]), dim=0)
    normals, valid = normals_from_depth(plane_depth(camera, towards, offset), camera)
    assert valid[1:-1, 1:-1].all()
    assert valid.sum() == (SIZE[0] - 2) * (SIZE[1] - 2)
    torch.testing.assert_close(normals[valid], -towards.expand_as(normals[valid]))


def test_single_precision_keeps_normals_to_a_hundredth_of_a_degree():
    camera = PinholeCamera(torch.tensor([577.0, 577.0]), torch.tensor([320.0, 240.0]), (480, 640))
    towards = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 1.0]), dim=0)
    normals, valid = normals_from_depth(plane_depth(camera, towards, 2.5), camera)
    angle = torch.linalg.cross(normals[valid], towards.expand_as(normals[valid])).norm(dim=-1)
    assert angle.median() < math.radians(0.01)


def test_normals_are_unknown_at_holes_their_rim_and_the_border():
    depth = torch.ones(7, 8, dtype=torch.float64)
    depth[3, 4] = 0
    normals, valid = normals_from_depth(depth, camera_of(size=(7, 8)))
    expected = torch.zeros(7, 8, dtype=torch.bool)
    expected[1:-1, 1:-1] = True
    expected[[3, 2, 4, 3, 3], [4, 4, 4, 3, 5]] = False
    assert torch.equal(valid, expected)
    assert not normals[~valid].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 1), (2, 9), (6, 2)])
def test_images_without_inner_pixels_have_no_normals(size):
    normals, valid = normals_from_depth(depth_of(size=size), camera_of(size=size))
    assert normals.shape == (*size, 3)
    assert not valid.any()


def test_normals_of_a_room_are_those_of_its_surfaces():
    view = look([0.0, 0.0, -1.0, 0.1, 0.2, 0.05])
    normals, valid = normals_from_depth(view.depth, view.camera)
    normals_world = view.world_from_cam.rotate(normals)
    primitive = view.hits.primitive
    # Flat surfaces only, and only where all neighbours see the same face of the same thing.
    same = torch.ones_like(valid)
    for step, axis in [(1, 0), (-1, 0), (1, 1), (-1, 1)]:
        same &= primitive == primitive.roll(step, axis)
        same &= (view.hits.normal_world == view.hits.normal_world.roll(step, axis)).all(-1)
    flat = valid & same & (primitive == 0)
    assert flat.sum() > 1000
    torch.testing.assert_close(normals_world[flat], view.hits.normal_world[flat])


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_normals_do_not_depend_on_scale(scale):
    depth = depth_of().float()
    camera = camera_of().to(dtype=torch.float32)
    scaled = normals_from_depth(scale * depth, camera)
    torch.testing.assert_close(scaled, normals_from_depth(depth, camera), rtol=0, atol=1e-4)


def test_gradients_are_exact_and_absent_where_invalid():
    camera, depth = camera_of(), with_holes(depth_of()).requires_grad_()

    def measure(depth):
        distance = distance_from_depth(depth, camera).distance
        normals = normals_from_depth(depth, camera).normals
        return distance, unproject_depth(depth, camera).points, normals

    for result in measure(depth):
        (gradient,) = torch.autograd.grad(result.sum(), depth)
        assert gradient.isfinite().all()
        assert not gradient[2, 1:6].any()
    assert torch.autograd.gradcheck(measure, depth_of().requires_grad_())


@pytest.mark.parametrize("function", [unproject_depth, distance_from_depth, normals_from_depth])
def test_a_depth_map_of_another_size_is_refused(function):
    with pytest.raises(
        ValueError, match=r"depth must have the camera's size \(6, 9\), got \(9, 6\)"
    ):
        function(torch.ones(9, 6), camera_of())


@pytest.mark.parametrize("function", [unproject_distance, depth_from_distance])
def test_a_distance_map_of_another_size_is_refused(function):
    with pytest.raises(
        ValueError, match=r"distance must have the camera's size \(6, 9\), got \(9, 6\)"
    ):
        function(torch.ones(9, 6), camera_of())


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("camera_type", [PinholeCamera, EquirectangularCamera])
def test_a_point_at_a_distance_is_so_far_away_in_the_pixels_direction(batch, camera_type):
    camera = camera_of()
    if camera_type is EquirectangularCamera:
        camera = EquirectangularCamera.panorama(SIZE, dtype=torch.float64)
    distance = with_holes(depth_of(batch))
    world_from_cam = RigidTransform.exp(normal(*batch, 6, seed=1))
    points, valid = unproject_distance(distance, camera)
    assert torch.equal(valid, valid_depth(distance))
    directions = camera.ray_directions(camera.pixel_grid()).directions
    expected = torch.where(valid, distance, 0.0)[..., None] * directions
    torch.testing.assert_close(points, expected)
    moved = unproject_distance(distance, camera, world_from_cam=world_from_cam).points
    torch.testing.assert_close(moved[valid], world_from_cam.apply(points)[valid])
    assert not moved[~valid].any()


def test_a_pose_a_row_serves_a_rolling_shutter():
    depth, camera = with_holes(depth_of()), camera_of()
    poses = RigidTransform.exp(normal(SIZE[0], 6, seed=1))
    points, valid = unproject_depth(depth, camera, world_from_cam=poses)
    row = unproject_depth(depth, camera, world_from_cam=poses[4])
    torch.testing.assert_close(points[4], row.points[4])
    assert not points[~valid].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_results_have_the_dtype_that_torch_promotes_to(dtype):
    depth, camera = depth_of().to(dtype), camera_of()
    assert unproject_depth(depth, camera).points.dtype == torch.float64
    half = camera.to(dtype=torch.float16)
    assert unproject_depth(depth, half).points.dtype == dtype
    assert normals_from_depth(depth, half).normals.dtype == dtype


def test_half_precision_normals_are_finite_and_close():
    camera = camera_of()
    plane = plane_depth(camera, torch.tensor([0.1, 0.2, -1.0], dtype=torch.float64), -2.0)
    exact, _ = normals_from_depth(plane, camera)
    coarse, valid = normals_from_depth(plane.half(), camera.to(dtype=torch.float16))
    assert valid[1:-1, 1:-1].all()
    torch.testing.assert_close(coarse.double(), exact, rtol=0, atol=0.02)


@pytest.mark.parametrize("function", [unproject_depth, normals_from_depth])
def test_autocast_leaves_geometry_in_full_precision(function):
    depth, camera = depth_of().float(), camera_of().to(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = function(depth, camera)[0]
    assert torch.equal(inside, function(depth, camera)[0])


@pytest.mark.parametrize("function", [unproject_depth, unproject_distance, normals_from_depth])
def test_kernels_and_reference_agree_in_every_batch_shape(function):
    for batch in BATCHES:
        depth, camera = with_holes(depth_of(batch, seed=3)), camera_of(batch)
        with use_kernels("reference"):
            expected = function(depth, camera)
        torch.testing.assert_close(function(depth, camera), expected)


@pytest.mark.parametrize("shape", [(0, 6, 9), (2, 0, 6, 9)])
@pytest.mark.parametrize("function", [unproject_depth, normals_from_depth])
def test_batches_of_nothing_give_nothing(function, shape):
    values, valid = function(torch.zeros(shape), camera_of())
    assert values.shape == (*shape, 3)
    assert valid.shape == shape


def test_poses_of_another_batch_are_refused():
    with pytest.raises(ValueError, match=r"points must lead with the batch \(2,\), got \(3, 6, 9"):
        unproject_depth(
            depth_of((3,)),
            camera_of(),
            world_from_cam=RigidTransform.identity(2).to(dtype=torch.float64),
        )


def test_normals_of_other_cameras_are_those_of_their_points():
    depth = with_holes(depth_of())
    camera = camera_of()
    straight = BrownConradyCamera(
        camera.focal, camera.principal_point, SIZE, torch.zeros(4, dtype=torch.float64)
    )
    torch.testing.assert_close(
        normals_from_depth(depth, straight), normals_from_depth(depth, camera)
    )
