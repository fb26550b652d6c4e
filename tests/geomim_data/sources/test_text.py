import numpy as np
import pytest

from geomim_data.errors import DataError
from geomim_data.sources.text import (
    parse_numbers,
    read_bytes,
    read_intrinsics,
    read_lines,
    read_matrix,
    resolve_inside,
)


def test_lines_are_told_with_their_numbers(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf# comment\r\nfirst \r\n\n  second")
    assert list(read_lines(path)) == [(f"{path}:2", "first"), (f"{path}:4", "second")]


def test_files_are_bounded(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(5))
    assert read_bytes(path, most=5) == bytes(5)
    with pytest.raises(DataError, match=r"a\.bin: must have at most 4 bytes"):
        read_bytes(path, most=4)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none: cannot be read: No such file"):
        read_bytes(tmp_path / "none")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_bytes(tmp_path)


def test_text_must_be_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a\.txt: must be UTF-8 text: invalid start byte"):
        list(read_lines(tmp_path / "a.txt"))


def test_numbers_may_be_lost_poses():
    np.testing.assert_array_equal(parse_numbers("a:1", "1e-3 -inf nan", 3), [1e-3, -np.inf, np.nan])


@pytest.mark.parametrize(
    ("line", "message"),
    [("1 2", "a:1: must hold 3 numbers, got 2"), ("1 2 x", "a:1: must hold numbers: .*'x'")],
)
def test_other_lines_are_refused(line, message):
    with pytest.raises(DataError, match=message):
        parse_numbers("a:1", line, 3)


def test_a_matrix_has_its_rows(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1 2\n3 4\n")
    assert read_matrix(path, rows=2, columns=2).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DataError, match="must hold 3 rows of 2 numbers, got 2"):
        read_matrix(path, rows=3, columns=2)


@pytest.mark.parametrize(
    "text",
    [
        "500 510 320 240",
        "500 0 320\n0 510 240\n0 0 1\n",
        "500 0 320 0\n0 510 240 0\n0 0 1 0\n0 0 0 1\n",
    ],
)
def test_intrinsics_are_a_line_or_a_matrix(tmp_path, text):
    (tmp_path / "K.txt").write_text(text)
    assert read_intrinsics(tmp_path / "K.txt").tolist() == [500, 510, 320, 240]


@pytest.mark.parametrize(
    "text", ["0 510 320 240", "500 -1 1 1", "500 500 nan 1", "500 1 320\n0 510 240\n0 0 1"]
)
def test_impossible_intrinsics_are_refused(tmp_path, text):
    (tmp_path / "K.txt").write_text(text)
    with pytest.raises(DataError, match=r"K\.txt: intrinsics must be finite with positive focal"):
        read_intrinsics(tmp_path / "K.txt")


@pytest.mark.parametrize("name", ["../b.png", "/etc/passwd", "a/../../b", "link/b.png"])
def test_names_that_lead_outside_are_refused(tmp_path, name):
    folder = tmp_path / "recording"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match=r"a\.txt:3: '.*' must lie inside"):
        resolve_inside(folder, name, where="a.txt:3")


def test_names_that_are_none_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt:3: .* is no file name"):
        resolve_inside(tmp_path, "a\0b", where="a.txt:3")


def test_names_inside_are_resolved(tmp_path):
    path = resolve_inside(tmp_path, "rgb/../rgb/1.png", where="a.txt:3")
    assert path == tmp_path.resolve() / "rgb" / "1.png"
