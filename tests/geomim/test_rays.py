import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from geomim.cameras import EquirectangularCamera, MixedCamera
from geomim.rays import (
    Rays,
    clip_rays_to_box,
    ray_depths_from_distances,
    ray_distances_from_depths,
    rays_of_pixels,
)
from geomim.transforms import RigidTransform
from tests.geomim.cameras.lenses import MODELS, WIDE, camera_of, pixels_of, points_within
from tests.geomim.strategies import BATCHES, batches, normal, rigid_transforms, seeds

every_model = pytest.mark.parametrize("model", MODELS)
some = settings(max_examples=6)
UNIT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def ray(origin, direction, dtype=torch.float64):
    return Rays.along(torch.tensor(origin, dtype=dtype), torch.tensor(direction, dtype=dtype))


def span_of(origin, direction, box=UNIT, **limits):
    near, far, valid = clip_rays_to_box(ray(origin, direction), *box, **limits)
    return (near.item(), far.item()) if valid else None


@every_model
@some
@given(batch=batches, seed=seeds, data=st.data())
def test_rays_of_pixels_pass_through_the_points_the_pixels_show(model, batch, seed, data):
    camera = camera_of(model, batch, seed)
    world_from_cam = data.draw(rigid_transforms(batch))
    points = points_within(88 if model in WIDE else 50, *batch, 20, seed=seed)
    rays = rays_of_pixels(camera, camera.project(points).pixels, world_from_cam=world_from_cam)
    assert rays.valid.all()
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(*batch, 20).double())
    torch.testing.assert_close(
        rays.points_at(points.norm(dim=-1)), world_from_cam.apply(points), rtol=1e-6, atol=1e-6
    )


@every_model
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("moved", [False, True])
def test_points_at_the_distance_of_a_depth_are_those_unprojected(model, batch, moved):
    camera = camera_of(model, batch)
    world_from_cam = RigidTransform.exp(normal(*batch, 6, seed=1)) if moved else None
    rays = rays_of_pixels(camera, pixels_of(*batch, 200), world_from_cam=world_from_cam)
    depths = normal(*batch, 200, seed=2) * 3
    depths[..., 0] = torch.nan
    distances, valid = ray_distances_from_depths(rays, depths, world_from_cam=world_from_cam)
    points, known = camera.unproject(pixels_of(*batch, 200), depths)
    assert torch.equal(valid, known)
    assert 20 < valid.sum() < valid.numel()
    expected = points if world_from_cam is None else world_from_cam.apply(points)
    torch.testing.assert_close(rays.points_at(distances)[valid], expected[valid])
    assert not distances[~valid].any()
    back = ray_depths_from_distances(rays, distances, world_from_cam=world_from_cam)
    assert torch.equal(back.valid, valid)
    torch.testing.assert_close(back.depths, torch.where(valid, depths, 0.0))


def test_a_panorama_looks_behind_and_to_the_side():
    camera = EquirectangularCamera.panorama((4, 8), dtype=torch.float64)
    rays = rays_of_pixels(camera, torch.tensor([[4.0, 2.0], [6.0, 2.0], [8.0, 2.0]]).double())
    expected = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, -1]]).double()
    torch.testing.assert_close(rays.directions, expected)
    assert rays.valid.all()
    depths, valid = ray_depths_from_distances(rays, torch.full((3,), 2.0).double())
    torch.testing.assert_close(depths, torch.tensor([2.0, 0, -2]).double())
    assert valid.all()
    distances, valid = ray_distances_from_depths(rays, torch.tensor([3.0, 3, -3]).double())
    torch.testing.assert_close(distances, torch.tensor([3.0, 0, 3]).double())
    assert valid.tolist() == [True, False, True]


def test_cameras_of_several_models_see_in_one_world():
    cameras = [camera_of(model) for model in ("pinhole", "kannala-brandt", "equirectangular")]
    world_from_cam = RigidTransform.exp(normal(3, 6, seed=1))
    pixels = pixels_of(3, 30)
    together = rays_of_pixels(MixedCamera.stack(cameras), pixels, world_from_cam=world_from_cam)
    for i, camera in enumerate(cameras):
        alone = rays_of_pixels(camera, pixels[i], world_from_cam=world_from_cam[i])
        torch.testing.assert_close(together.directions[i], alone.directions)
        assert torch.equal(together.valid[i], alone.valid)
    torch.testing.assert_close(
        together.origins,
        world_from_cam.translation[:, None].expand(3, 30, 3) * together.valid[..., None],
    )


@every_model
def test_gradients_of_rays_are_finite_and_zero_where_there_is_none(model):
    camera = camera_of(model)
    pixels = torch.tensor([[20.0, 10], [math.nan, 3], [1e30, 2], [33, 22]]).double()
    pixels[-1] = camera.principal_point
    pixels.requires_grad_()
    pose = RigidTransform.exp(normal(6, seed=1).requires_grad_())
    rays = rays_of_pixels(camera, pixels, world_from_cam=pose)
    assert rays.valid.tolist() == [True, False, rays.valid[2].item(), True]
    distances, _ = ray_distances_from_depths(rays, torch.ones(4).double(), world_from_cam=pose)
    (gradient,) = torch.autograd.grad(rays.points_at(distances).sum(), pixels)
    assert gradient.isfinite().all()
    assert not gradient[~rays.valid].any()
    assert gradient[[0, 3]].any(dim=-1).all()


def test_gradients_of_rays_are_right():
    camera = camera_of("kannala-brandt")
    inputs = (pixels_of(5).requires_grad_(), (normal(6, seed=1)).requires_grad_())

    def points(pixels, twist):
        pose = RigidTransform.exp(twist)
        rays = rays_of_pixels(camera, pixels, world_from_cam=pose)
        depths, _ = ray_depths_from_distances(rays, torch.ones(5).double(), world_from_cam=pose)
        return rays.points_at(depths), depths

    assert gradcheck(points, inputs)


def test_a_pose_that_is_not_finite_has_no_rays():
    twist = normal(2, 6, seed=1).requires_grad_()
    pose = RigidTransform.exp(twist)
    broken = RigidTransform(
        torch.where(torch.tensor([True, False])[:, None, None], torch.inf, pose.rotation),
        pose.translation,
    )
    pixels = pixels_of(2, 7).requires_grad_()
    rays = rays_of_pixels(camera_of("pinhole", (2,)), pixels, world_from_cam=broken)
    assert rays.valid.tolist() == [[False] * 7, [True] * 7]
    assert not rays.origins[0].any()
    gradients = torch.autograd.grad(
        rays.directions.square().sum() + rays.origins.sum(), [pixels, twist]
    )
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[0][0].any()


@given(batch=batches, seed=seeds, data=st.data())
def test_transforming_rays_transforms_their_points(batch, seed, data):
    b_from_a = data.draw(rigid_transforms(batch))
    rays = Rays.along(normal(*batch, 5, 3, seed=seed), normal(*batch, 5, 3, seed=seed + 1))
    distances = normal(*batch, 5, 4, seed=seed + 2)
    moved = rays.transform(b_from_a)
    torch.testing.assert_close(
        moved.points_at(distances), b_from_a.apply(rays.points_at(distances)), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        moved.transform(b_from_a.inverse()).origins, rays.origins, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1e-30, 1.0, 1e30])
def test_directions_of_any_length_become_unit_ones(dtype, length):
    directions = (normal(5, 3, seed=1) * length).to(dtype).requires_grad_()
    rays = Rays.along(torch.zeros(1, 3, dtype=dtype), directions)
    assert rays.shape == (5,)
    assert rays.valid.all()
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(5, dtype=dtype))
    torch.testing.assert_close(
        rays.directions.double(),
        torch.nn.functional.normalize(normal(5, 3, seed=1), dim=-1),
        rtol=1e-6,
        atol=1e-6,
    )
    assert torch.autograd.grad(rays.directions.sum(), directions)[0].isfinite().all()


@pytest.mark.parametrize("bad", [(0.0, 0, 0), (math.nan, 0, 1), (0, math.inf, 1)])
def test_without_a_finite_direction_there_is_no_ray(bad):
    directions = torch.tensor([bad, (0.0, 0, 2)]).requires_grad_()
    origins = torch.tensor([[1.0, 2, 3]] * 2).requires_grad_()
    rays = Rays.along(origins, directions)
    assert rays.valid.tolist() == [False, True]
    assert not rays.directions[0].any()
    assert not rays.origins[0].any()
    total = (rays.points_at(torch.tensor([math.nan, 1.0])) + rays.directions).sum()
    gradients = torch.autograd.grad(total, (origins, directions))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not any(gradient[0].any() for gradient in gradients)


@given(batch=batches, seed=seeds)
def test_the_span_of_a_box_is_where_points_are_inside(batch, seed):
    lower = normal(*batch, 1, 3, seed=seed)
    upper = lower + normal(*batch, 1, 3, seed=seed + 1).abs() + 0.1
    rays = Rays.along(
        normal(*batch, 50, 3, seed=seed + 2) * 2, normal(*batch, 50, 3, seed=seed + 3)
    )
    near, far, valid = clip_rays_to_box(rays, lower, upper)
    distances = (
        torch.rand(*batch, 50, 200, generator=torch.Generator().manual_seed(seed)).double() * 12
    )
    points = rays.points_at(distances)
    inside = ((points >= lower[..., None, :]) & (points <= upper[..., None, :])).all(dim=-1)
    within = valid[..., None] & (distances >= near[..., None]) & (distances <= far[..., None])
    # Within rounding of a face either answer is right.
    clear = (distances - near[..., None]).abs().minimum((distances - far[..., None]).abs()) > 1e-9
    assert torch.equal(inside & clear, within & clear)
    assert not near[~valid].any()
    assert not far[~valid].any()
    assert (near <= far).all()


@pytest.mark.parametrize(
    ("origin", "direction", "span"),
    [
        ((-1.0, 0.5, 0.5), (1.0, 0, 0), (1.0, 2.0)),
        ((2.0, 0.5, 0.5), (-1.0, 0, 0), (1.0, 2.0)),
        ((2.0, 0.5, 0.5), (1.0, 0, 0), None),  # behind
        ((0.25, 0.5, 0.5), (1.0, 0, 0), (0.0, 0.75)),  # inside
        ((0.25, 0.5, 0.5), (-1.0, 0, 0), (0.0, 0.25)),
        ((-1.0, 1.5, 0.5), (1.0, 0, 0), None),  # parallel, beside
        ((-1.0, 1.0, 0.5), (1.0, 0, 0), (1.0, 2.0)),  # in a face
        ((-1.0, 0.0, 1.0), (1.0, 0, 0), (1.0, 2.0)),  # along an edge
        ((-1.0, 0.0, 1.0), (1.0, -0.0, -0.0), (1.0, 2.0)),
        ((0.0, 0.5, 0.5), (1.0, 0, 0), (0.0, 1.0)),  # on a face, inwards
        ((0.0, 0.5, 0.5), (-1.0, 0, 0), (0.0, 0.0)),  # outwards
        ((1.0, 0.5, 0.5), (-1.0, 0, 0), (0.0, 1.0)),
        ((-1.0, 0.0, 0.5), (1.0, 1.0, 0), (math.sqrt(2), math.sqrt(2))),  # an edge only
        ((-1.0, 0.0, 0.5), (1.0, 1.001, 0), None),
        ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (math.sqrt(3), 2 * math.sqrt(3))),  # corners
        ((0.5, 0.5, 0.5), (0.0, 0.0, 0.0), None),
        ((math.nan, 0.5, 0.5), (1.0, 0, 0), None),
        ((-math.inf, 0.5, 0.5), (1.0, 0, 0), None),
        ((0.5, 0.5, 0.5), (1.0, math.nan, 0), None),
    ],
)
def test_faces_edges_and_corners_belong_to_a_box(origin, direction, span):
    found = span_of(origin, direction)
    assert found == (None if span is None else pytest.approx(span, abs=1e-12))


def test_limits_cut_and_boxes_inside_out_or_without_end_are_missed():
    along = ((-1.0, 0.5, 0.5), (1.0, 0.0, 0.0))
    assert span_of(*along, near=1.25) == (1.25, 2.0)
    assert span_of(*along, far=1.25) == (1.0, 1.25)
    assert span_of(*along, near=3.0) is None
    assert span_of(*along, far=0.5) is None
    assert span_of(*along, near=-5.0) == (1.0, 2.0)
    assert span_of((2.0, 0.5, 0.5), (1.0, 0, 0), near=-5.0) == (-2.0, -1.0)
    assert span_of(*along, box=UNIT[::-1]) is None
    assert span_of(*along, box=((0.0, 0.0, 0.0), (math.inf, 1.0, 1.0))) is None
    assert span_of(*along, box=((0.0, 0.0, 0.0), (math.inf, 1.0, 1.0)), far=9.0) == (1.0, 9.0)
    assert span_of(*along, box=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))) == (1.5, 1.5)


def test_boxes_and_rays_broadcast():
    rays = Rays.along(normal(7, 3, seed=1), normal(7, 3, seed=2))
    lower = normal(4, 1, 3, seed=3)
    near, far, valid = clip_rays_to_box(rays, lower, lower + 1)
    assert near.shape == far.shape == valid.shape == (4, 7)
    for i in range(4):
        alone = clip_rays_to_box(rays, lower[i, 0], lower[i, 0] + 1)
        assert torch.equal(near[i], alone.near)
    empty = clip_rays_to_box(Rays.along(torch.zeros(0, 3), torch.zeros(0, 3)), *UNIT)
    assert empty.near.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_box_far_away_is_clipped_as_well_as_one_at_hand(dtype):
    near, far, valid = clip_rays_to_box(
        ray((1e5, 1e5, 1e5 - 4), (0.0, 0.0, 1.0), dtype), (1e5 - 1,) * 3, (1e5 + 1,) * 3
    )
    assert (near.item(), far.item(), valid.item()) == (3.0, 5.0, True)


def test_gradients_of_spans_are_right_and_zero_where_missed():
    rays = Rays.along(
        torch.tensor([[-1.0, 0.4, 0.3], [0.2, 0.3, 0.4], [-1, 5, 5], [-1, 0.5, 0.5]]).double(),
        torch.tensor([[1.0, 0.1, 0.05], [0.3, 1, 0.2], [1, 0, 0], [1, 0, 0]]).double(),
    )
    box = [torch.tensor(corner).double().requires_grad_() for corner in UNIT]
    parts = [rays.origins.requires_grad_(), rays.directions.requires_grad_(), *box]

    def spans(origins, directions, lower, upper):
        return clip_rays_to_box(Rays(origins, directions, rays.valid), lower, upper)[:2]

    assert gradcheck(spans, parts)
    near, far = spans(*parts)
    gradients = torch.autograd.grad((near + far).sum(), parts)
    assert not gradients[0][2].any()
    assert not gradients[1][2].any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rays_and_boxes_that_are_not_finite_are_missed_without_gradient(bad):
    origins = torch.tensor([[bad, 0.5, 0.5], [0.5, 0.5, 0.5]]).requires_grad_()
    directions = torch.tensor([[1.0, 0, 0], [1.0, bad, 0]]).requires_grad_()
    lower = torch.tensor([0.0, bad, 0.0]).requires_grad_()
    rays = Rays(origins, directions, torch.tensor([True, True]))
    near, far, valid = clip_rays_to_box(rays, lower, (1.0, 1.0, 1.0))
    assert not valid.any()
    gradients = torch.autograd.grad((near + far).sum(), (origins, directions, lower))
    assert not any(gradient.any() for gradient in gradients)


def test_views_of_rays_are_as_good_as_copies():
    origins, directions = normal(3, 6, seed=1).mT, normal(6, 3, seed=2)
    rays = Rays.along(origins, directions)
    expanded = Rays(rays.origins[:1].expand(6, 3), rays.directions, rays.valid)
    copied = Rays(rays.origins[:1].repeat(6, 1), rays.directions.clone(), rays.valid)
    for one, other in zip(
        clip_rays_to_box(expanded, *UNIT), clip_rays_to_box(copied, *UNIT), strict=True
    ):
        assert torch.equal(one, other)
    assert torch.equal(rays.reshape(2, 3).origins.flatten(0, 1), rays.origins)
    assert rays.to(dtype=torch.float32).dtype == torch.float32


def test_what_does_not_belong_together_is_refused():
    rays = ray((0.0, 0, 0), (0.0, 0, 1)).reshape(1)
    with pytest.raises(ValueError, match=r"origins, directions and valid must share device, the"):
        Rays(torch.zeros(3), torch.zeros(3).double(), torch.tensor(True))
    with pytest.raises(ValueError, match=r"distances must lead with the rays \(1,\), got \(2, 3\)"):
        rays.points_at(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"depths must be one for each ray \(1,\), got \(2,\)"):
        ray_distances_from_depths(rays, torch.zeros(2))
    with pytest.raises(ValueError, match=r"distances must be one for each ray \(1,\), got \(2,\)"):
        ray_depths_from_distances(rays, torch.zeros(2))
    with pytest.raises(ValueError, match=r"points must lead with the batch \(2,\), got \(3, 2\)"):
        rays_of_pixels(camera_of("pinhole", (2,)), torch.zeros(3, 2).double())
    with pytest.raises(ValueError, match=r"points must lead with the batch \(2,\), got \(3, 3\)"):
        rays_of_pixels(
            camera_of("pinhole"),
            torch.zeros(3, 2).double(),
            world_from_cam=RigidTransform.identity(2, dtype=torch.float64),
        )
