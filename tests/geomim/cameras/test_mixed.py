import pytest
import torch

from geomim.cameras import Camera, MixedCamera, PinholeCamera
from tests.geomim.cameras.lenses import MODELS, SIZE, camera_of, pixels_of, points_within
from tests.geomim.strategies import BATCHES

# Three of one model apart from each other, so that order matters.
ORDER = ("kannala-brandt", *MODELS, "kannala-brandt", "brown-conrady 4")
CAMERAS = [camera_of(model, seed=seed) for seed, model in enumerate(ORDER)]
MIXED = MixedCamera.stack(CAMERAS)
COUNT = len(CAMERAS)


def test_a_mixed_camera_is_a_camera():
    assert isinstance(MIXED, Camera)
    assert (MIXED.size, MIXED.shape, MIXED.dtype) == (SIZE, (COUNT,), torch.float64)


def test_cameras_of_one_model_are_computed_together():
    assert len(MIXED.groups) == len({type(c) for c in CAMERAS}) + 3
    assert sum(group.shape.numel() for group in MIXED.groups) == COUNT


def test_each_camera_answers_as_it_does_alone():
    points, pixels = points_within(120, COUNT, 3, 5), pixels_of(COUNT, 3, 5)
    depth = points[..., 2].abs() + 0.1
    answers = (MIXED.project(points), MIXED.unproject(pixels, depth), MIXED.ray_directions(pixels))
    for i, camera in enumerate(CAMERAS):
        alone = (
            camera.project(points[i]),
            camera.unproject(pixels[i], depth[i]),
            camera.ray_directions(pixels[i]),
        )
        for together, single in zip(answers, alone, strict=True):
            for field, expected in zip(together, single, strict=True):
                torch.testing.assert_close(field[i], expected)


@pytest.mark.parametrize("batch", BATCHES)
def test_any_batch_shape_will_do(batch):
    count = torch.Size(batch).numel()
    mixed = MixedCamera.stack(CAMERAS[:count]).reshape(*batch)
    points = points_within(40, *batch, 7)
    pixels = mixed.project(points).pixels
    assert pixels.shape == (*batch, 7, 2)
    flat = MixedCamera.stack(CAMERAS[:count]).project(points.reshape(count, 7, 3)).pixels
    assert torch.equal(pixels.reshape(count, 7, 2), flat)


def test_axes_of_one_broadcast_on_either_side():
    mixed = MixedCamera.stack(CAMERAS[:3]).reshape(3, 1)
    points = points_within(40, 3, 2, 4)
    pixels = mixed.project(points).pixels
    torch.testing.assert_close(pixels[2, 1], CAMERAS[2].project(points[2, 1]).pixels)
    one = points_within(40, 1, 1, 4)
    shared = mixed.project(one).pixels
    torch.testing.assert_close(shared[1, 0], CAMERAS[1].project(one[0, 0]).pixels)
    grid = mixed.pixel_grid()[None, None]
    points, _ = mixed.unproject(grid, torch.ones(3, 1, *SIZE, dtype=torch.float64))
    assert points.shape == (3, 1, *SIZE, 3)


def test_changes_of_the_image_reach_every_camera():
    points = points_within(40, COUNT, 4)
    pixels = MIXED.project(points).pixels
    cropped = MIXED.crop(top=3, left=5, height=20, width=30)
    shift = torch.tensor([5.0, 3.0])
    assert cropped.size == (20, 30)
    torch.testing.assert_close(cropped.project(points).pixels, pixels - shift)
    torch.testing.assert_close(MIXED.pad(left=5, top=3).project(points).pixels, pixels + shift)
    torch.testing.assert_close(
        MIXED.resize(96, 64).project(points).pixels[..., 1], 2 * pixels[..., 1]
    )
    mirrored = MIXED.flip_horizontal().project(points).pixels
    torch.testing.assert_close(mirrored[..., 0], SIZE[1] - pixels[..., 0])
    assert MIXED.to(dtype=torch.float32).dtype == torch.float32
    assert MIXED.contains(MIXED.pixel_grid()).all()


def test_gradients_reach_each_cameras_own_parts():
    points = points_within(40, 2, 3).requires_grad_()
    focals = [camera.focal.clone().requires_grad_() for camera in CAMERAS[1:2] * 2]
    mixed = MixedCamera.stack([PinholeCamera(f, CAMERAS[1].principal_point, SIZE) for f in focals])
    pixels = mixed.project(points).pixels
    pixels[0].sum().backward()
    assert focals[0].grad.all()
    assert not focals[1].grad.any()
    assert not points.grad[1].any()


def test_batches_cannot_be_stacked():
    with pytest.raises(ValueError, match=r"cameras must be single ones, got batches \[\(3,\)\]"):
        MixedCamera.stack([camera_of("pinhole", (3,))])


def test_images_of_several_sizes_are_refused():
    small = camera_of("pinhole").resize(10, 10)
    with pytest.raises(ValueError, match="cameras must be some, alike in size, dtype and device"):
        MixedCamera.stack([camera_of("pinhole"), camera_of("mei").resize(10, 12), small])
    with pytest.raises(ValueError, match=r"cameras must be some, .* got \[\]"):
        MixedCamera.stack([])


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"rows must be 2 of 1 cameras, got \(0, 1\)"):
        MixedCamera((camera_of("pinhole", (1,)),), (0, 1), torch.Size([2]))


def test_points_of_another_batch_are_refused():
    with pytest.raises(ValueError, match=r"points must lead with the batch \(\d+,\), got \(5, 3\)"):
        MIXED.project(torch.zeros(5, 3))
