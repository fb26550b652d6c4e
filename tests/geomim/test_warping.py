import pytest
import torch

from geomim.cameras import PinholeCamera
from geomim.raycasting import cast_rays
from geomim.transforms import RigidTransform
from geomim.warping import reproject_depth, sample_bilinear, warp_image
from tests.geomim.scenes import ROOM, look
from tests.geomim.strategies import BATCHES, normal

TARGET = [0.1, -0.1, -2.0, 0.05, -0.1, 0.02]
SOURCE = [0.5, 0.1, -2.3, -0.05, -0.25, 0.0]


def warp(source, target, **options):
    return warp_image(
        source.image,
        source.depth,
        target.depth,
        source_camera=source.camera,
        target_camera=target.camera,
        source_from_target=source.world_from_cam.inverse() @ target.world_from_cam,
        **options,
    )


def seen_by(source, target):
    """Cast a ray from the source towards every point of the target: the slow definition."""
    directions, _ = target.camera.ray_directions(target.camera.pixel_grid())
    origin = target.world_from_cam.translation
    points = origin + target.world_from_cam.rotate(directions) * target.hits.distance[..., None]
    start = source.world_from_cam.translation
    hits = cast_rays(start, points - start, ROOM)
    pixels, _, in_front = source.camera.project(source.world_from_cam.inverse().apply(points))
    reached = hits.distance > 1 - 1e-6
    return reached, in_front & source.camera.contains(pixels)


def test_two_views_agree_wherever_nothing_hides():
    source, target = look(SOURCE), look(TARGET)
    image, valid = warp(source, target)
    reached, inside = seen_by(source, target)
    assert valid.float().mean() > 0.5
    error = (image - target.image).abs().amax(dim=0)[valid]
    assert error.quantile(0.98) < 0.01
    # Bilinear reading misses a rim of one pixel at most, where surfaces meet.
    assert (valid & reached & inside).sum() > 0.9 * (reached & inside).sum()


def test_hidden_points_are_invalid():
    source, target = look(SOURCE), look(TARGET)
    valid = warp(source, target).valid
    reached, inside = seen_by(source, target)
    hidden = inside & ~reached
    assert hidden.sum() > 50
    assert not (valid & hidden).any()
    assert not (valid & ~inside).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", BATCHES)
def test_warping_a_view_onto_itself_returns_it_exactly(batch, dtype):
    height, width = 31, 47
    image = normal(*batch, 3, height, width, seed=0).to(dtype)
    depth = normal(*batch, height, width, seed=1).abs().to(dtype) + 0.3
    depth[..., 7:9, 5:20] = 0
    image[..., 8, 6] = torch.nan
    camera = PinholeCamera(torch.tensor([41.3, 39.9]), torch.tensor([22.2, 17.7]), (height, width))
    camera = camera.to(dtype=dtype)
    warped, valid = warp_image(
        image,
        depth,
        depth,
        source_camera=camera,
        target_camera=camera,
        source_from_target=RigidTransform.identity(*batch, dtype=dtype),
        tolerance=1e-4,
    )
    assert torch.equal(valid, depth > 0)
    assert torch.equal(warped, torch.where(valid[..., None, :, :], image, 0.0))


def test_a_shift_by_whole_pixels_moves_the_image():
    camera = PinholeCamera(torch.tensor([8.0, 8.0]), torch.tensor([4.0, 3.0]), (6, 8))
    image, depth = torch.rand(2, 6, 8), torch.full((6, 8), 4.0)
    # 1 m to the right at 4 m depth and focal length 8: two pixels.
    right = RigidTransform(torch.eye(3), torch.tensor([1.0, 0.0, 0.0]))
    warped, valid = warp_image(
        image, depth, depth, source_camera=camera, target_camera=camera, source_from_target=right
    )
    assert torch.equal(warped[..., :-2], image[..., 2:])
    assert valid[:, :-2].all()
    assert not valid[:, -2:].any()
    assert not warped[..., -2:].any()


def test_reprojected_depth_is_expected_and_observed_alike_on_planes():
    wall = [-0.6, -0.2, 1.0, 0.2, -0.1, 0.1]
    source, target = (
        look(wall, focal=200.0),
        look([-0.5, -0.25, 0.9, 0.15, -0.05, 0.0], focal=200.0),
    )
    pixels, expected, observed, valid = reproject_depth(
        source.depth,
        target.depth,
        source_camera=source.camera,
        target_camera=target.camera,
        source_from_target=source.world_from_cam.inverse() @ target.world_from_cam,
    )
    assert (target.hits.primitive[valid] == 0).all()
    flat = valid & (target.hits.normal_world[..., 2] < -0.99)
    assert flat.sum() > 500
    difference = (expected - observed).abs()[flat]
    assert difference.quantile(0.9) < 1e-12
    assert source.camera.contains(pixels[valid]).all()


def test_bilinear_samples_interpolate_and_clamp_to_the_outermost_centres():
    image = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    pixels = torch.tensor([[[1.0, 1.0], [0.5, 1.25], [0.0, 0.0], [2.0, 2.0], [1.75, 0.1]]])
    values, valid = sample_bilinear(image, torch.ones(2, 2, dtype=torch.bool), pixels)
    assert values.tolist() == [[[1.5, 1.5, 0.0, 3.0, 1.0]]]
    assert valid.all()


def test_bilinear_samples_never_touch_what_is_invalid():
    image = torch.tensor([[[1.0, torch.nan, 3.0]]], requires_grad=True)
    known = torch.tensor([[True, False, True]])
    positions = torch.tensor(
        [[[0.5, 0.5], [0.75, 0.5], [1.5, 0.5], [2.5, 0.5], [-0.1, 0.5], [torch.nan, 0.5]]]
    )
    positions.requires_grad_()
    values, valid = sample_bilinear(image, known, positions)
    assert valid.tolist() == [[True, False, False, True, False, False]]
    assert values.tolist() == [[[1, 0, 0, 3, 0, 0]]]
    values.sum().backward()
    assert image.grad.tolist() == [[[1, 0, 1]]]
    assert not positions.grad.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1)])
def test_images_one_pixel_wide_are_sampled_too(size):
    camera = PinholeCamera(torch.ones(2), torch.tensor([size[1] / 2, size[0] / 2]), size)
    image, depth = torch.rand(1, *size), torch.ones(size)
    warped, valid = warp_image(
        image, depth, depth, source_camera=camera, target_camera=camera,
        source_from_target=RigidTransform.identity(),
    )  # fmt: skip
    assert valid.all()
    assert torch.equal(warped, image)


def test_gradients_are_exact():
    source, target = look(SOURCE, size=(9, 12), focal=9.0), look(TARGET, size=(9, 12), focal=9.0)
    motion = (source.world_from_cam.inverse() @ target.world_from_cam).log()

    def warped(image, source_depth, target_depth, motion):
        cameras = {"source_camera": source.camera, "target_camera": target.camera}
        pose = RigidTransform.exp(motion)
        moved = warp_image(image, source_depth, target_depth, **cameras, source_from_target=pose)
        reprojected = reproject_depth(
            source_depth, target_depth, **cameras, source_from_target=pose
        )
        return moved.image, *reprojected[:3]

    inputs = (source.image, source.depth, target.depth, motion)
    leaves = [value.clone().requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(warped, leaves, fast_mode=True)


def test_the_gradient_of_an_identity_warp_is_exact():
    view = look(TARGET, size=(5, 6), focal=6.0)

    def warped(image, depth):
        return warp_image(
            image,
            view.depth,
            depth,
            source_camera=view.camera,
            target_camera=view.camera,
            source_from_target=RigidTransform.identity(dtype=torch.float64),
        ).image

    image, depth = view.image.clone().requires_grad_(), view.depth.clone().requires_grad_()
    assert torch.autograd.gradcheck(warped, (image, depth))


def test_invalid_pixels_feed_no_gradient():
    source, target = look(SOURCE), look(TARGET)
    holes = target.depth.clone()
    holes[10:20, 10:30] = torch.nan
    holes.requires_grad_()
    image = source.image.clone().requires_grad_()
    twist = (source.world_from_cam.inverse() @ target.world_from_cam).log().requires_grad_()
    warped, valid = warp_image(
        image,
        source.depth,
        holes,
        source_camera=source.camera,
        target_camera=target.camera,
        source_from_target=RigidTransform.exp(twist),
    )
    gradients = torch.autograd.grad(
        warped[:, ~valid].sum(), (image, holes, twist), retain_graph=True
    )
    assert not any(gradient.any() for gradient in gradients)
    gradients = torch.autograd.grad(warped.sum(), (image, holes, twist))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[1][~valid].any()


def test_one_source_serves_many_targets():
    source, target = look(SOURCE), look(TARGET)
    motion = source.world_from_cam.inverse() @ target.world_from_cam
    many = warp_image(
        source.image,
        source.depth,
        target.depth.expand(2, -1, -1),
        source_camera=source.camera,
        target_camera=target.camera,
        source_from_target=motion,
    )
    assert torch.equal(many.image[1], warp(source, target).image)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match=r"tolerance must not be negative, got -0.1"):
        warp(look(SOURCE), look(TARGET), tolerance=-0.1)


def test_a_source_depth_of_another_size_is_refused():
    view = look(SOURCE)
    with pytest.raises(
        ValueError, match=r"source_depth must have the camera's size \(60, 80\), got"
    ):
        reproject_depth(
            torch.ones(3, 4, dtype=torch.float64),
            view.depth,
            source_camera=view.camera,
            target_camera=view.camera,
            source_from_target=RigidTransform.identity(dtype=torch.float64),
        )
