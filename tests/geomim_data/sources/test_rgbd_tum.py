import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from geomim_data.errors import DataError
from geomim_data.sources.rgbd_tum import list_tum, pair_by_time

TIMES = st.lists(st.integers(0, 100_000), max_size=6, unique=True).map(sorted)


def associate(first: list[int], second: list[int], most: int) -> list[tuple[int, int]]:
    """The benchmark's own way: all close pairs, closest first."""
    near = sorted(
        (abs(a - b), i, j)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if abs(a - b) <= most
    )
    free_i, free_j = set(range(len(first))), set(range(len(second)))
    pairs = []
    for _, i, j in near:
        if i in free_i and j in free_j:
            free_i.remove(i)
            free_j.remove(j)
            pairs.append((i, j))
    return sorted(pairs)


@given(TIMES, TIMES)
def test_pairs_are_those_of_the_benchmark(first, second):
    # Of two that are equally near either may be taken.
    assume(len({abs(a - b) for a in first for b in second}) == len(first) * len(second))
    found = pair_by_time(np.array(first, np.int64), np.array(second, np.int64))
    assert found == associate(first, second, 20_000)


def test_equally_near_times_pair_once():
    rgb = np.array([0, 10_000, 20_000, 20_000], np.int64)
    depth = np.array([5_000, 15_000], np.int64)
    assert pair_by_time(rgb, depth) == [(0, 0), (1, 1)]


def test_the_second_nearest_is_taken_when_the_nearest_is_gone():
    rgb = np.array([0, 10_000, 100_000], np.int64)
    depth = np.array([9_000, 18_000, 130_000], np.int64)
    assert pair_by_time(rgb, depth) == [(0, 1), (1, 0)]


@pytest.fixture
def recording(tmp_path):
    folder = tmp_path / "rgbd_dataset_freiburg2_desk"
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for name in ("rgb/a.png", "rgb/b.png", "rgb/c.png", "depth/a.png", "depth/b.png"):
        (folder / name).touch()
    (folder / "rgb.txt").write_text("# time file\n1.5 rgb/b.png\n1.0 rgb/a.png\n9.0 rgb/c.png\n")
    (folder / "depth.txt").write_text("1.015 depth/a.png\n1.492 depth/b.png\n")
    (folder / "groundtruth.txt").write_text(
        "# timestamp tx ty tz qx qy qz qw\n"
        "1.005 1 2 3 0 0 0 2\n"
        "1.001 4 5 6 0 0 0.7071067811865476 0.7071067811865476\n"
        "1.6 7 8 9 0 0 0 1\n"
    )
    return folder


def test_images_and_poses_are_those_nearest_in_time(recording):
    listing = list_tum(recording)
    assert [entry.rgb.name for entry in listing.entries] == ["a.png", "b.png"]
    assert [entry.depth.name for entry in listing.entries] == ["a.png", "b.png"]
    assert [entry.rgb_timestamp_us for entry in listing.entries] == [1_000_000, 1_500_000]
    assert [entry.depth_timestamp_us for entry in listing.entries] == [1_015_000, 1_492_000]
    assert np.isnan(listing.entries[1].world_from_cam).all()
    assert listing.depth_scale == 5000


def test_a_quaternion_turns_as_the_benchmark_says(recording):
    # A quarter turn about z takes x to y.
    pose = list_tum(recording).entries[0].world_from_cam
    np.testing.assert_allclose(pose @ [1, 0, 0, 1], [4, 6, 6, 1], atol=1e-12)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)


def test_times_are_exact_to_the_microsecond(recording):
    (recording / "rgb.txt").write_text("1305031102.175304 rgb/a.png\n")
    (recording / "depth.txt").write_text("1305031102.160407 depth/a.png\n")
    (entry,) = list_tum(recording).entries
    assert entry.rgb_timestamp_us == 1305031102175304
    assert entry.depth_timestamp_us == 1305031102160407


@pytest.mark.parametrize(
    ("name", "intrinsics"),
    [
        ("rgbd_dataset_freiburg1_xyz", [517.3, 516.5, 318.6, 255.3]),
        ("rgbd_dataset_freiburg2_desk", [520.9, 521.0, 325.1, 249.7]),
        ("rgbd_dataset_freiburg3_office", [535.4, 539.2, 320.1, 247.6]),
    ],
)
def test_the_published_cameras_are_known_by_name(recording, name, intrinsics):
    listing = list_tum(recording.rename(recording.with_name(name)))
    assert listing.intrinsics.tolist() == intrinsics


@pytest.mark.parametrize("name", ["K.txt", "intrinsics.txt"])
def test_a_camera_of_ones_own_comes_first(recording, name):
    (recording / name).write_text("500 501 320 240")
    assert list_tum(recording).intrinsics.tolist() == [500, 501, 320, 240]


def test_an_unknown_camera_is_refused(recording):
    folder = recording.rename(recording.with_name("desk"))
    with pytest.raises(DataError, match=r"desk: intrinsics must be in intrinsics\.txt as 'fx fy"):
        list_tum(folder)


def test_no_ground_truth_means_no_poses(recording):
    (recording / "groundtruth.txt").unlink()
    assert all(np.isnan(entry.world_from_cam).all() for entry in list_tum(recording).entries)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rgb.txt", "1.0 ../../a.png\n", r"rgb\.txt:1: '../../a\.png' must lie inside"),
        ("rgb.txt", "\n1.0 rgb/none.png\n", r"rgb\.txt:2: .*none\.png is missing"),
        ("rgb.txt", "1.0\n", r"rgb\.txt:1: .* is missing"),
        ("depth.txt", "x depth/a.png\n", r"depth\.txt:1: must hold numbers"),
        ("depth.txt", "1e300 depth/a.png\n", r"depth\.txt:1: time must be in seconds below 9e\+12"),
        ("depth.txt", "nan depth/a.png\n", r"depth\.txt:1: time must be in seconds"),
        ("depth.txt", "5.0 depth/a.png\n", r"must name images within 0\.02 s of each other"),
        ("depth.txt", "", r"must name images within 0\.02 s of each other, got none"),
        ("groundtruth.txt", "1 2 3\n", r"groundtruth\.txt:1: must hold 8 numbers, got 3"),
        ("groundtruth.txt", "1 0 0 0 0 0 0 0\n", r"truth\.txt:1: quaternion must not be zero"),
    ],
)
def test_broken_text_is_refused(recording, name, text, message):
    (recording / name).write_text(text)
    with pytest.raises(DataError, match=message):
        list_tum(recording)
