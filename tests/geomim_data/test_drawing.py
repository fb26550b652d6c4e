import numpy as np
import torch
from PIL import Image

from geomim.cameras import PinholeCamera
from geomim_data.drawing import (
    box_edges,
    draw_lines,
    draw_points,
    from_above,
    from_camera,
    turbo,
    warmth,
)

INTRINSICS = np.array([50.0, 50.0, 50.0, 50.0])
RED, BLUE = np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8)


def blank():
    return Image.new("RGB", (100, 100))


def painted(picture):
    """Return which pixels are not black."""
    return np.asarray(picture).any(axis=2)


def test_turbo_runs_from_blue_over_green_to_red():
    low, middle, high = turbo(np.array([0.1, 0.5, 0.9])).astype(int)
    assert low[2] == low.max()
    assert middle[1] == middle.max()
    assert high[0] == high.max()


def test_warm_may_be_the_smaller_end():
    np.testing.assert_array_equal(
        warmth(np.array([3.0, 1.0]), cold=3.0, warm=1.0),
        warmth(np.array([1.0, 3.0]), cold=1.0, warm=3.0),
    )


def test_a_camera_sees_points_where_the_cameras_of_geomim_do():
    points = np.random.default_rng(0).normal(size=(20, 3)) * 4 + [0, 0, 6]
    seen = from_camera(np.eye(4), np.array([50.0, 60.0, 40.0, 30.0]))(points)
    camera = PinholeCamera(torch.tensor([50.0, 60.0]), torch.tensor([40.0, 30.0]), (100, 100))
    truth = camera.project(torch.from_numpy(points).float())
    near = points[:, 2] > 0.5
    np.testing.assert_array_equal(seen.visible, near)
    np.testing.assert_allclose(seen.pixels[near], truth.pixels[near].double(), rtol=1e-4)


def test_from_above_ahead_is_up_and_left_is_left():
    look = from_above(np.eye(4), size=(100, 200), reach_m=10.0)
    pixels = look(np.array([[0.0, 0, 0], [5, 0, 0], [0, 5, 0]])).pixels
    assert pixels.tolist() == [[100, 50], [100, 25], [75, 50]]


def test_near_points_cover_far_ones():
    picture = blank()
    points = np.array([[0.0, 0, 2], [0, 0, 9]])
    look = from_camera(np.eye(4), INTRINSICS)
    draw_points(picture, look, points, np.stack([RED, BLUE]), radius=2.0)
    assert picture.getpixel((50, 50)) == (255, 0, 0)


def test_a_line_that_comes_from_behind_the_camera_is_cut_off():
    picture = blank()
    look = from_camera(np.eye(4), INTRINSICS)
    line = np.array([[0.0, 1, -50], [0, 1, 50]])
    draw_lines(picture, look, [line], (255, 255, 255), width=1)
    rows, columns = np.nonzero(painted(picture))
    assert set(columns) == {50}
    assert (rows.min(), rows.max()) == (51, 99)
    far = blank()
    draw_lines(far, look, [line], (255, 255, 255), width=1, reach_m=10.0)
    assert np.nonzero(painted(far))[0].min() == 55


def test_a_box_has_twelve_edges_and_a_cross_in_front():
    edges = np.stack(box_edges(np.eye(4), np.array([4.0, 2.0, 1.0])))
    lengths = np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1)
    assert sorted(lengths[:12]) == [1.0] * 4 + [2.0] * 4 + [4.0] * 4
    np.testing.assert_allclose(lengths[12:], 5**0.5)
    assert (edges[12:, :, 0] == 2).all()
