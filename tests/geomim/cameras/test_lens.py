"""What holds for every model."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomim.cameras import BrownConradyCamera, Camera, KannalaBrandtCamera
from geomim.kernels.selection import use_kernels
from tests.geomim.cameras.lenses import (
    MODELS,
    SIZE,
    WIDE,
    camera_of,
    parts_of,
    pixels_of,
    points_within,
)
from tests.geomim.strategies import BATCHES, batches, seeds

every_model = pytest.mark.parametrize("model", MODELS)
some = settings(max_examples=6)
NOWHERE = [
    (math.nan, 2.0, 3.0),
    (1.0, 2.0, math.nan),
    (math.inf, 2.0, 3.0),
    (1.0, 2.0, math.inf),
    (1.0, 2.0, -math.inf),
    (0.0, 0.0, 0.0),
    (1e-8, 0.0, 0.0),
]
BEHIND = [(1.0, 2.0, 0.0), (1.0, 2.0, -3.0), (0.0, 0.0, -1.0), (1.0, 2.0, 1e-9)]


@every_model
def test_every_model_is_a_camera(model):
    assert isinstance(camera_of(model), Camera)


@every_model
@some
@given(batch=batches, seed=seeds)
def test_rays_lead_to_the_points_whose_pixels_they_leave(model, batch, seed):
    camera = camera_of(model, batch, seed)
    points = points_within(88 if model in WIDE else 50, *batch, 20, seed=seed)
    pixels, depth, valid = camera.project(points)
    assert valid.all()
    directions, seen = camera.ray_directions(pixels)
    assert seen.all()
    torch.testing.assert_close(directions * points.norm(dim=-1, keepdim=True), points)
    back = camera.unproject(pixels, depth)
    assert back.valid.all()
    torch.testing.assert_close(back.points, points)


@every_model
@some
@given(batch=batches, seed=seeds)
def test_what_a_pixel_sees_appears_at_that_pixel(model, batch, seed):
    camera, pixels = camera_of(model, batch, seed), pixels_of(*batch, 40, seed=seed)
    directions, seen = camera.ray_directions(pixels)
    again = camera.project(3 * directions)
    assert seen.double().mean() > 0.5
    assert again.valid[seen].all()
    torch.testing.assert_close(again.pixels[seen], pixels[seen], atol=1e-8, rtol=0)
    torch.testing.assert_close(directions[seen].norm(dim=-1), torch.ones_like(pixels[seen][:, 0]))


@every_model
def test_single_precision_stays_close_to_double(model):
    points = points_within(60, 50)
    exact, single = camera_of(model), camera_of(model, dtype=torch.float32)
    pixels, depth, valid = single.project(points.float())
    directions = single.ray_directions(pixels)
    assert pixels.dtype == depth.dtype == directions.directions.dtype == torch.float32
    assert torch.equal(valid, exact.project(points).valid)
    expected = exact.project(points).pixels
    torch.testing.assert_close(pixels.double(), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(
        directions.directions.double(),
        exact.ray_directions(pixels.double()).directions,
        atol=2e-5,
        rtol=0,
    )


@every_model
@pytest.mark.parametrize("batch", BATCHES)
def test_a_batch_projects_each_its_own_points(model, batch):
    camera, points = camera_of(model, batch), points_within(40, *batch, 2, 5)
    pixels, depth, valid = camera.project(points)
    assert depth.shape == valid.shape == (*batch, 2, 5)
    torch.testing.assert_close(pixels[..., 1, 3, :], camera.project(points[..., 1, 3, :]).pixels)
    grid = camera.pixel_grid().expand(*(1,) * len(batch), *SIZE, 2)
    points, valid = camera.unproject(grid, torch.ones(*batch, *SIZE, dtype=torch.float64))
    assert points.shape == (*valid.shape, 3) == (*batch, *SIZE, 3)


@every_model
def test_gradients_are_those_of_finite_differences(model):
    parts, build = parts_of(camera_of(model, (2,)))
    points = points_within(40, 2, 2).requires_grad_()
    pixels = camera_of(model, (2,)).project(points).pixels.detach().requires_grad_()

    def project(points, *parts):
        return build(*parts).project(points)[:2]

    def unproject(pixels, *parts):
        camera = build(*parts)
        depth = torch.full_like(pixels[..., 0], 1.5)
        return camera.ray_directions(pixels).directions, camera.unproject(pixels, depth).points

    assert torch.autograd.gradcheck(project, (points, *parts))
    assert torch.autograd.gradcheck(unproject, (pixels, *parts))


@every_model
def test_gradients_on_the_optical_axis_are_those_of_finite_differences(model):
    camera = camera_of(model)
    axis = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: camera.project(p).pixels, axis)
    assert torch.equal(camera.project(axis).pixels, camera.principal_point)
    centre = camera.principal_point.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: camera.ray_directions(p).directions, centre)
    parts, build = parts_of(camera)
    assert torch.autograd.gradcheck(lambda *p: build(*p).project(axis.detach()).pixels, parts)


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_without_projection_are_zero_with_zero_gradient(model, dtype):
    camera = camera_of(model, dtype=dtype)
    nowhere = NOWHERE + ([] if model in WIDE or "eucm" in model else BEHIND)
    if model in ("double sphere below half", "mei"):
        nowhere = [*NOWHERE, (0.0, 0.0, -1.0)]
    points = torch.tensor([*nowhere, (0.2, 0.1, 1.0)], dtype=dtype, requires_grad=True)
    parts, build = parts_of(camera)
    pixels, depth, valid = build(*parts).project(points)
    assert valid.tolist() == [False] * len(nowhere) + [True]
    assert not pixels[:-1].any()
    assert not depth[:-1].any()
    (pixels.sum() + depth.sum()).backward()
    assert not points.grad[:-1].any()
    alone, again = parts_of(camera)
    again(*alone).project(points[-1:].detach()).pixels.sum().backward()
    for part, one in zip(parts, alone, strict=True):
        torch.testing.assert_close(part.grad, one.grad)


@every_model
@pytest.mark.parametrize(
    ("pixel", "depth"),
    [
        ((33.0, 24.0), 0.0),
        ((33.0, 24.0), -1.0),
        ((33.0, 24.0), math.nan),
        ((33.0, 24.0), math.inf),
        ((math.nan, 24.0), 2.0),
        ((33.0, -math.inf), 2.0),
    ],
)
def test_pixels_without_point_are_zero_with_zero_gradient(model, pixel, depth):
    camera = camera_of(model)
    pixels = torch.tensor([pixel, (35.0, 26.0)], dtype=torch.float64, requires_grad=True)
    depths = torch.tensor([depth, 2.0], dtype=torch.float64, requires_grad=True)
    parts, build = parts_of(camera)
    points, valid = build(*parts).unproject(pixels, depths)
    assert valid.tolist() == [False, True]
    assert not points[0].any()
    points.sum().backward()
    assert not pixels.grad[0].any()
    assert depths.grad[0] == 0
    assert depths.grad[1] != 0
    assert all(part.grad.isfinite().all() for part in parts)


@every_model
@some
@given(seed=seeds, top=st.integers(0, 20), left=st.integers(0, 20))
def test_cropping_shifts_pixels(model, seed, top, left):
    camera, points = camera_of(model, seed=seed), points_within(40, 4, seed=seed)
    cropped = camera.crop(top=top, left=left, height=48 - top, width=1)
    assert cropped.size == (48 - top, 1)
    expected = camera.project(points).pixels - torch.tensor([left, top])
    torch.testing.assert_close(cropped.project(points).pixels, expected)


@every_model
@some
@given(seed=seeds, height=st.integers(1, 200), width=st.integers(1, 200))
def test_resizing_scales_pixels_and_keeps_rays(model, seed, height, width):
    camera, points = camera_of(model, seed=seed), points_within(40, 4, seed=seed)
    resized = camera.resize(height, width)
    scale = torch.tensor([width / SIZE[1], height / SIZE[0]], dtype=torch.float64)
    pixels = camera.project(points).pixels
    torch.testing.assert_close(resized.project(points).pixels, pixels * scale)
    torch.testing.assert_close(
        resized.ray_directions(pixels * scale), camera.ray_directions(pixels)
    )


@every_model
@some
@given(seed=seeds)
def test_flipping_mirrors_pixels_and_flipping_twice_does_nothing(model, seed):
    camera, points = camera_of(model, seed=seed), points_within(40, 4, seed=seed)
    u, v = camera.project(points).pixels.unbind(-1)
    flipped = camera.flip_horizontal()
    mirrored = torch.stack([SIZE[1] - u, v], -1)
    torch.testing.assert_close(flipped.project(points).pixels, mirrored)
    torch.testing.assert_close(
        flipped.unproject(mirrored, points[..., 2]).points, points, atol=1e-8, rtol=1e-7
    )
    torch.testing.assert_close(flipped.flip_horizontal().matrix(), camera.matrix())


@every_model
def test_padding_then_cropping_does_nothing(model):
    camera = camera_of(model, (3,))
    padded = camera.pad(left=2, top=3, right=5, bottom=7)
    assert padded.size == (58, 71)
    back = padded.crop(top=3, left=2, height=SIZE[0], width=SIZE[1])
    for name, part in camera.parts().items():
        torch.testing.assert_close(back.parts()[name], part)


@every_model
@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)])
def test_no_points_and_no_cameras_are_fine(model, shape):
    camera = camera_of(model, shape[:1])
    projection = camera.project(torch.zeros(*shape, 3, dtype=torch.float64))
    assert projection.pixels.shape == (*shape, 2)
    assert camera.unproject(*projection[:2]).points.shape == (*shape, 3)
    assert camera.ray_directions(projection.pixels).directions.shape == (*shape, 3)


@every_model
def test_strided_and_expanded_inputs_give_the_same(model):
    camera = camera_of(model, (3,))
    points = points_within(40, 6).expand(3, 6, 3)
    strided = points.mT.contiguous().mT
    torch.testing.assert_close(camera.project(strided), camera.project(points.contiguous()))
    pixels, depth = pixels_of(1, 6).expand(3, 6, 2), strided[..., 2]
    copies = pixels.contiguous(), depth.contiguous()
    torch.testing.assert_close(camera.unproject(pixels, depth), camera.unproject(*copies))
    torch.testing.assert_close(camera.ray_directions(pixels), camera.ray_directions(copies[0]))


@every_model
def test_autocast_changes_nothing(model):
    camera, points = camera_of(model, dtype=torch.float32), points_within(40, 6).float()
    expected = camera.project(points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = camera.project(points)
        rays = camera.ray_directions(found.pixels)
    assert torch.equal(found.pixels, expected.pixels)
    assert torch.equal(rays.directions, camera.ray_directions(expected.pixels).directions)


@pytest.mark.parametrize("model", WIDE)
def test_beyond_90_degrees_depth_is_negative_and_comes_back(model):
    camera = camera_of(model)
    angle = torch.tensor([95.0, 100.0], dtype=torch.float64).deg2rad()
    points = 2 * torch.stack([angle.sin(), torch.zeros(2).double(), angle.cos()], dim=-1)
    pixels, depth, valid = camera.project(points)
    assert valid.all()
    torch.testing.assert_close(depth, points[:, 2])
    torch.testing.assert_close(camera.unproject(pixels, depth).points, points)
    assert not camera.unproject(pixels, -depth).valid.any()
    torch.testing.assert_close(2 * camera.ray_directions(pixels).directions, points)


@pytest.mark.parametrize("model", WIDE)
def test_a_ray_along_the_cameras_plane_has_no_depth(model):
    camera = camera_of(model)
    pixels, depth, valid = camera.project(torch.tensor([1.5, 0.0, 0.0], dtype=torch.float64))
    assert valid
    assert depth == 0
    assert not camera.unproject(pixels, depth + 1.0).valid
    direction = camera.ray_directions(pixels).directions
    torch.testing.assert_close(direction, torch.tensor([1.0, 0, 0]).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("model", ["brown-conrady 12", "kannala-brandt", "mei"])
def test_the_reference_kernels_give_the_same_rays(model):
    camera, pixels = camera_of(model, (3,)), pixels_of(3, 30)
    with use_kernels("reference"):
        expected = camera.ray_directions(pixels)
    torch.testing.assert_close(camera.ray_directions(pixels), expected)


def test_a_calibration_that_is_not_finite_makes_everything_invalid():
    nothing = torch.full((4,), math.nan)
    for kind in (BrownConradyCamera, KannalaBrandtCamera):
        camera = kind(torch.ones(2), torch.ones(2), SIZE, nothing)
        points = torch.ones(3, requires_grad=True)
        projection = camera.project(points)
        assert not projection.valid
        assert not camera.ray_directions(torch.ones(2)).valid
        projection.pixels.sum().backward()
        assert not points.grad.any()


def test_mixed_precision_takes_the_wider():
    camera = camera_of("brown-conrady 5", dtype=torch.float32)
    assert camera.ray_directions(torch.ones(2).double()).directions.dtype == torch.float64
