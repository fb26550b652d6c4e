import numpy as np
import pytest
from PIL import Image

from trainer.pictures import (
    HIDDEN,
    UNMEASURED,
    Bar,
    Row,
    cover,
    depth_range,
    depth_to_rgb,
    error_to_rgb,
    image_to_rgb,
    panel,
    save_png,
)

ALL = np.ones((1, 3), dtype=np.bool_)


def row_of(*values):
    return np.array([values], dtype=np.float32)


def test_depth_runs_from_red_to_violet_and_clips():
    near, far, beyond = depth_to_rgb(row_of(1, 4, 9), ALL, near=1.0, far=4.0)[0].tolist()
    assert near == [122, 4, 3]
    assert far == beyond == [48, 18, 59]


def test_error_runs_from_black_to_pale_yellow_and_clips():
    none, most, more = error_to_rgb(row_of(0, 2, 3), ALL, largest=2.0)[0].tolist()
    assert none == [0, 0, 4]
    assert most == more == [252, 255, 164]


def test_what_was_not_measured_is_grey_whatever_its_value():
    valid = np.array([[True, False, False]])
    painted = depth_to_rgb(row_of(1, np.nan, 0), valid, near=0.0, far=1.0)
    assert tuple(painted[0, 1]) == tuple(painted[0, 2]) == UNMEASURED


def test_hidden_pixels_are_painted_over():
    image = np.zeros((1, 3, 3), dtype=np.uint8)
    covered = cover(image, np.array([[False, True, False]]))
    assert covered[0].tolist() == [[0, 0, 0], list(HIDDEN), [0, 0, 0]]


def test_colour_is_rounded_and_clipped_to_bytes():
    image = np.array([-0.5, 0.5, 2.0], dtype=np.float32).reshape(3, 1, 1)
    assert image_to_rgb(image)[0, 0].tolist() == [0, 128, 255]


def test_the_range_leaves_out_single_outliers():
    depth = np.linspace(1, 3, 1001, dtype=np.float32).reshape(7, 143)
    depth[0, 0] = 90
    near, far = depth_range(depth, depth > 0)
    assert near == pytest.approx(1.02, abs=0.01)
    assert far == pytest.approx(2.98, abs=0.01)


def test_the_range_is_never_empty():
    flat = np.full((2, 2), 2.0, dtype=np.float32)
    near, far = depth_range(flat, flat > 0)
    assert (near, far) == (2, pytest.approx(2.01))
    assert depth_range(flat, flat > 9) == (0, 1)


def make_row(height=4, width=6, tiles=2):
    tile = np.full((height, width, 3), 90, dtype=np.uint8)
    return Row("a label", [tile] * tiles, (Bar("depth", "1 m", "2 m"), Bar("error", "0", "1 m")))


def test_a_panel_enlarges_its_tiles_by_a_whole_factor():
    drawn = panel(("one", "two"), [make_row(), make_row()], footer="said below")
    assert (drawn == 90).all(axis=2).sum() >= 4 * (43 * 4) * (43 * 6)
    assert panel(("one",), [make_row(240, 320, 1)]).shape[1] < 600


def test_a_panel_holds_headers_labels_and_scales():
    drawn = panel(("one", "two"), [make_row()])
    silent = panel(("", ""), [make_row()._replace(label="", bars=())])
    assert drawn.shape[1] > silent.shape[1]
    assert (drawn == (122, 4, 3)).all(axis=2).any()
    assert (silent[:40] == 255).all()
    assert not (drawn[:40] == 255).all()


def test_a_row_needs_a_tile_a_header():
    with pytest.raises(ValueError, match="rows must have 3 tiles each, got 2"):
        panel(("a", "b", "c"), [make_row()])


def test_tiles_must_have_one_size():
    with pytest.raises(ValueError, match=r"tiles must have one size, got \[\(4, 6\), \(8, 6\)\]"):
        panel(("a", "b"), [make_row(), make_row(height=8)])


def test_a_panel_needs_a_row():
    with pytest.raises(ValueError, match="rows must hold a row or more, got none"):
        panel(("a",), [])


def test_a_picture_survives_its_file(tmp_path):
    drawn = panel(("one", "two"), [make_row()])
    save_png(drawn, tmp_path / "drawn.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "drawn.png")), drawn)
