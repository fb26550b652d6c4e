import math

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from geomim.cameras import PinholeCamera
from geomim_data.augment import (
    WHOLE,
    CentreFit,
    ColourJitter,
    JointAugment,
    Window,
    resample_nearest,
    resample_rgb,
)
from geomim_data.codecs import decode_rgb

SIZE, TARGET = (96, 128), (24, 40)
INTRINSICS = np.array([110.0, 115.0, 66.5, 45.25])
seeds = st.integers(0, 2**32)
sizes = st.tuples(st.integers(8, 500), st.integers(8, 500))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@st.composite
def windows(draw, size=SIZE, target=TARGET):
    augment = JointAugment(scale=(0.2, 1.0))
    window = augment.window(size, target, generator=generator(draw(seeds)))
    return window.snap(size, reduction=1)


def project(points, intrinsics):
    return points[..., :2] / points[..., 2:] * intrinsics[:2] + intrinsics[2:]


def unproject(depth, intrinsics):
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5
    x = (u - intrinsics[2]) / intrinsics[0] * depth
    return np.stack([x, (v - intrinsics[3]) / intrinsics[1] * depth, depth], axis=-1)


def blob(centre, size):
    """A picture of one soft white spot."""
    v, u = np.mgrid[: size[0], : size[1]] + 0.5
    spot = np.exp(-((u - centre[0]) ** 2 + (v - centre[1]) ** 2) / (2 * 4.0**2))
    return np.repeat(np.round(255 * spot).astype(np.uint8)[..., None], 3, axis=-1)


def centroid(rgb):
    weight = rgb.mean(dim=0).double()
    v, u = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
    return np.array([(weight * torch.from_numpy(x)).sum() / weight.sum() for x in (u, v)])


def window_around(centre, size, seed):
    """A random window that leaves the spot at ``centre`` well inside."""
    draw = np.random.default_rng(seed)
    before = (centre[::-1] - 15) / size * draw.random(2)
    after = 1 - (centre[::-1] + 15) / size
    height, width = 1 - after * draw.random(2) - before
    return Window(before[0], before[1], height, width, bool(seed % 2))


@given(seeds, st.floats(20, 76), st.floats(20, 108), st.sampled_from([1, 2]))
def test_a_marker_lands_where_the_new_intrinsics_project_it(seed, v, u, reduction):
    point = np.array([(u - INTRINSICS[2]) / INTRINSICS[0], (v - INTRINSICS[3]) / INTRINSICS[1], 1])
    jpeg = simplejpeg.encode_jpeg(blob((u, v), SIZE), quality=98)
    window = window_around(np.array([u, v]), np.array(SIZE), seed).snap(SIZE, reduction=reduction)
    decoded = decode_rgb(jpeg, min_height=SIZE[0] // reduction, min_width=SIZE[1] // reduction)
    assert decoded.shape[:2] == (SIZE[0] // reduction, SIZE[1] // reduction)
    crop = decoded[window.box(SIZE, reduction=reduction)]
    rgb = resample_rgb(crop, image_size=TARGET, flip=window.flip)
    camera = window.intrinsics(INTRINSICS, size=SIZE, image_size=TARGET)
    np.testing.assert_allclose(centroid(rgb), project(point, camera), atol=0.08)


def test_the_whole_window_keeps_the_intrinsics():
    kept = WHOLE.intrinsics(INTRINSICS, size=SIZE, image_size=SIZE)
    np.testing.assert_array_equal(kept, INTRINSICS)


@given(st.integers(1, 90), st.integers(1, 120), st.booleans(), st.data())
def test_intrinsics_move_as_a_camera_does(height, width, flip, data):
    top, left = data.draw(st.integers(0, 96 - height)), data.draw(st.integers(0, 128 - width))
    focal, centre = torch.from_numpy(INTRINSICS).split(2)
    camera = PinholeCamera(focal, centre, SIZE)
    camera = camera.crop(top=top, left=left, height=height, width=width).resize(
        height=TARGET[0], width=TARGET[1]
    )
    camera = camera.flip_horizontal() if flip else camera
    window = Window(top / 96, left / 128, height / 96, width / 128, flip)
    moved = window.intrinsics(INTRINSICS, size=SIZE, image_size=TARGET)
    np.testing.assert_allclose(moved, torch.cat([camera.focal, camera.principal_point]), rtol=1e-9)


def test_intrinsics_worked_by_hand():
    window = Window(top=0.25, left=0.5, height=0.5, width=0.25, flip=True)
    # 48 of 96 rows from row 24 and 32 of 128 columns from column 64, both halved.
    expected = [-110 / 2, 115 / 2, 16 - (66.5 - 64) / 2, (45.25 - 24) / 2]
    actual = window.intrinsics(INTRINSICS, size=SIZE, image_size=(24, 16))
    np.testing.assert_allclose(actual, expected)


@given(st.integers(0, 6), st.integers(0, 8), st.integers(1, 3), st.booleans())
def test_unprojected_depth_stays_on_the_surface(top, left, odd, flip):
    # Odd factors put target centres on source centres, so that nothing is rounded.
    factor = 2 * odd + 1
    height, width = 12 * factor, 16 * factor
    size = (height + 8, width + 10)
    window = Window(top / size[0], left / size[1], height / size[0], width / size[1], flip)
    normal, offset = np.array([0.2, -0.3, 1.0]), 2.0
    rays = unproject(np.ones(size), INTRINSICS)
    depth = offset / (rays @ normal)
    small = resample_nearest(depth, window, (12, 16))
    camera = window.intrinsics(INTRINSICS, size=size, image_size=(12, 16))
    np.testing.assert_allclose(unproject(small, camera) @ normal, offset, rtol=1e-9)


@given(windows())
def test_depth_is_taken_less_than_a_pixel_off(window):
    u = np.broadcast_to(np.arange(SIZE[1]) + 0.5, SIZE)
    camera = window.intrinsics(INTRINSICS, size=SIZE, image_size=TARGET)
    x = (u - INTRINSICS[2]) / INTRINSICS[0]
    targets = np.arange(TARGET[1]) + 0.5
    expected = (targets - camera[2]) / camera[0]
    taken = resample_nearest(x, window, TARGET)
    assert np.abs(taken - expected).max() * INTRINSICS[0] <= 0.5 + 1e-5


@given(windows(), st.tuples(st.integers(4, 70), st.integers(4, 70)))
def test_nearest_takes_the_pixel_that_holds_each_centre(window, size):
    plane = np.arange(size[0] * size[1], dtype=np.uint16).reshape(size)
    taken = resample_nearest(plane, window, (5, 7))
    for row in range(5):
        for column in range(7):
            shown = 6 - column if window.flip else column
            v = (window.top + (row + 0.5) / 5 * window.height) * size[0]
            u = (window.left + (shown + 0.5) / 7 * window.width) * size[1]
            expected = plane[math.floor(v + 1e-6), math.floor(u + 1e-6)]
            assert taken[row, column] == expected


@given(windows())
def test_no_depth_is_invented_at_the_rim_of_a_hole(window):
    depth = np.where(np.indices(SIZE).sum(axis=0) % 7 < 3, 0, 5000).astype(np.uint16)
    assert set(np.unique(resample_nearest(depth, window, TARGET))) <= {0, 5000}


def test_halving_takes_one_side_of_each_pair_throughout():
    plane = np.broadcast_to(np.arange(480), (480, 480))
    np.testing.assert_array_equal(resample_nearest(plane, WHOLE, (3, 240))[0], np.arange(1, 480, 2))


def test_colour_is_resized_with_antialiasing():
    rgb = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    source = torch.from_numpy(rgb).permute(2, 0, 1)[None].double() / 255
    expected = interpolate(source, (30, 40), mode="bilinear", antialias=True)[0].float()
    resized = resample_rgb(rgb, image_size=(30, 40), flip=False)
    torch.testing.assert_close(resized, expected, atol=1.5 / 255, rtol=0)
    assert resized.is_contiguous()


def test_a_flip_mirrors_colour():
    rgb = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    plain = resample_rgb(rgb, image_size=(6, 5), flip=False)
    torch.testing.assert_close(resample_rgb(rgb, image_size=(6, 5), flip=True), plain.flip(-1))


@given(sizes, st.tuples(st.integers(1, 64), st.integers(1, 64)), seeds)
def test_windows_lie_inside_the_image(size, target, seed):
    window = JointAugment().window(size, target, generator=generator(seed))
    for start, extent in ((window.top, window.height), (window.left, window.width)):
        assert extent > 0
        assert start >= 0
        assert start + extent <= 1 + 1e-12


@given(seeds)
def test_windows_keep_to_scale_and_ratio(seed):
    augment = JointAugment(scale=(0.1, 0.3), ratio=(0.8, 1.25))
    window = augment.window(SIZE, TARGET, generator=generator(seed))
    assert 0.1 <= window.height * window.width <= 0.3
    ratio = (window.width * SIZE[1] / TARGET[1]) / (window.height * SIZE[0] / TARGET[0])
    assert 0.8 - 1e-9 <= ratio <= 1.25 + 1e-9


def test_windows_reach_all_parts_and_both_sides():
    drawn = [JointAugment().window(SIZE, TARGET, generator=generator(s)) for s in range(300)]
    assert 100 < sum(window.flip for window in drawn) < 200
    assert min(window.height * window.width for window in drawn) < 0.25
    assert max(window.height * window.width for window in drawn) > 0.9
    assert min(window.top for window in drawn) < 0.02
    assert max(window.top + window.height for window in drawn) > 0.98


def test_a_window_that_cannot_fit_is_the_centred_one():
    augment = JointAugment(scale=(1.0, 1.0), ratio=(2.0, 2.0), flip=1.0)
    window = augment.window((100, 100), (10, 10), generator=generator())
    assert (window.top, window.left, window.height, window.width) == (0, 0, 1, 1)
    assert window.flip


@given(seeds)
def test_a_generator_repeats_its_window(seed):
    first, second = (JointAugment().window(SIZE, TARGET, generator=generator(seed)) for _ in "ab")
    assert repr(first) == repr(second)


@given(sizes, sizes)
def test_the_centred_window_has_the_targets_shape(size, target):
    window = CentreFit().window(size, target, generator=generator())
    assert max(window.height, window.width) == 1
    assert window.top == (1 - window.height) / 2
    assert window.width * size[1] / (window.height * size[0]) == pytest.approx(
        target[1] / target[0]
    )


@given(sizes, seeds, st.sampled_from([1, 2, 4, 8]))
def test_a_snapped_window_has_whole_pixels_inside_the_decoded_image(size, seed, reduction):
    window = JointAugment(scale=(0.01, 1.0)).window(size, TARGET, generator=generator(seed))
    snapped = window.snap(size, reduction=reduction)
    rows, columns = snapped.box(size, reduction=reduction)
    for pixels, start, extent, side in (
        (rows, snapped.top, snapped.height, size[0] / reduction),
        (columns, snapped.left, snapped.width, size[1] / reduction),
    ):
        assert 0 <= pixels.start < pixels.stop <= math.floor(side)
        assert pixels.start == pytest.approx(start * side)
        assert pixels.stop == pytest.approx((start + extent) * side)


@given(sizes, seeds)
def test_a_reduced_image_still_fills_the_target(size, seed):
    window = JointAugment().window(size, (7, 9), generator=generator(seed))
    reduction = window.reduction(size, (7, 9))
    if reduction > 1:
        assert window.height * size[0] / reduction >= 7
        assert window.width * size[1] / reduction >= 9
    assert reduction in (1, 2, 4, 8)


def test_a_scannet_frame_is_decoded_at_half_its_size():
    assert WHOLE.reduction((968, 1296), (240, 320)) == 4
    assert Window(0.0, 0.0, 0.7, 0.7).reduction((968, 1296), (240, 320)) == 2


def test_colours_stay_without_jitter():
    rgb = torch.rand(3, 4, 5, generator=generator())
    for augment in (JointAugment(), CentreFit(), JointAugment(jitter=ColourJitter())):
        torch.testing.assert_close(augment.recolour(rgb, generator=generator()), rgb)


@given(seeds)
def test_jitter_repeats_and_keeps_to_the_range(seed):
    rgb = torch.rand(3, 8, 9, generator=generator(1))
    jitter = ColourJitter(brightness=0.9, contrast=0.9, saturation=0.9)
    before = rgb.clone()
    changed = jitter(rgb, generator=generator(seed))
    torch.testing.assert_close(changed, jitter(rgb, generator=generator(seed)))
    torch.testing.assert_close(rgb, before)
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_brightness_scales_the_mean():
    rgb = torch.full((3, 4, 5), 0.25)
    means = [ColourJitter(brightness=0.5)(rgb, generator=generator(s)).mean() for s in range(200)]
    assert 0.125 <= min(means) < 0.15
    assert 0.35 < max(means) <= 0.375


def test_saturation_leaves_grey_alone():
    grey = torch.rand(1, 4, 5, generator=generator()).expand(3, 4, 5)
    torch.testing.assert_close(ColourJitter(saturation=1.0)(grey, generator=generator()), grey)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JointAugment(scale=(0.0, 1.0)), "scale must be two shares"),
        (lambda: JointAugment(scale=(0.5, 0.2)), "scale must be two shares"),
        (lambda: JointAugment(ratio=(0.0, 1.0)), "ratio must be two positive numbers in order"),
        (lambda: JointAugment(flip=1.5), "flip must be a chance of 0 to 1, got 1.5"),
        (lambda: ColourJitter(contrast=-0.1), "contrast must be 0 to 1, got -0.1"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
