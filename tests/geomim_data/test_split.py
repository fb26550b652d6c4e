import logging

import pytest

from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.split import split_frames, split_samples
from geomim_data.store import open_store
from tests.geomim_data.recordings import FakeSource

A, B, C = (f"scene{index:04d}_00" for index in range(3))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "shards"
    convert(FakeSource(count=3, frames=5), path)
    return open_store(path)


def frames(scene, *numbers):
    return [(scene, number) for number in numbers]


def test_none_trains_on_everything(store):
    train, val = split_frames(store, val="none")
    assert train == [*frames(A, *range(5)), *frames(B, *range(5)), *frames(C, *range(5))]
    assert val == []


def test_train_judges_what_it_trains_on(store):
    train, val = split_frames(store, val="train", stride=2)
    assert train == [*frames(A, 0, 2, 4), *frames(B, 0, 2, 4), *frames(C, 0, 2, 4)]
    assert val == train


def test_last_holds_out_the_end_of_every_scene(store):
    train, val = split_frames(store, val="last:2")
    assert train == [*frames(A, 0, 1, 2), *frames(B, 0, 1, 2), *frames(C, 0, 1, 2)]
    assert val == [*frames(A, 3, 4), *frames(B, 3, 4), *frames(C, 3, 4)]


def test_scenes_holds_out_the_last_ones(store):
    train, val = split_frames(store, val="scenes:2")
    assert train == frames(A, *range(5))
    assert val == [*frames(B, *range(5)), *frames(C, *range(5))]


def test_a_list_holds_out_the_scenes_it_names(store, tmp_path, caplog):
    names = tmp_path / "val.txt"
    names.write_text(f"{B}\n\nscene0707_00\n")
    with caplog.at_level(logging.WARNING):
        train, val = split_frames(store, val=f"list:{names}")
    assert train == [*frames(A, *range(5)), *frames(C, *range(5))]
    assert val == frames(B, *range(5))
    assert caplog.messages == [f"{names}: 1 scenes are not in the store"]


def test_a_stride_thins_each_scene_before_it_is_split(store):
    train, val = split_frames(store, val="last:1", stride=2)
    assert train == [*frames(A, 0, 2), *frames(B, 0, 2), *frames(C, 0, 2)]
    assert val == [*frames(A, 4), *frames(B, 4), *frames(C, 4)]


@pytest.mark.parametrize(
    ("val", "stride", "message"),
    [
        ("last:5", 1, "val must leave frames to train on, got last:5"),
        ("scenes:3", 1, "val=scenes:3 must leave scenes to train on, got a store of 3; hold out"),
        ("lost:3", 1, "val must be none, train, last:N, scenes:N or list:FILE, got 'lost:3'"),
        ("last:0", 1, "got 'last:0'"),
        ("last:-1", 1, "got 'last:-1'"),
        ("last:", 1, "got 'last:'"),
        ("scenes:two", 1, "got 'scenes:two'"),
        ("list:", 1, "got 'list:'"),
        ("none:1", 1, "got 'none:1'"),
        ("none", 0, "stride must be at least 1, got 0"),
    ],
)
def test_splits_that_cannot_be_are_refused(store, val, stride, message):
    with pytest.raises(ValueError, match=message):
        split_frames(store, val=val, stride=stride)


def test_a_list_that_cannot_be_read_is_named(store, tmp_path):
    with pytest.raises(DataError, match=r"absent\.txt: the list of scenes cannot be read"):
        split_frames(store, val=f"list:{tmp_path / 'absent.txt'}")


def test_a_list_of_other_scenes_is_refused(store, tmp_path):
    names = tmp_path / "val.txt"
    names.write_text("scene0707_00\nscene0708_00\n")
    with pytest.raises(DataError, match="must name a scene of the store, got 2 others"):
        split_frames(store, val=f"list:{names}")


def test_samples_are_split_like_frames(tmp_path):
    convert(FakeSource(driving=True), tmp_path)
    store = open_store(tmp_path)
    train, held_out = split_samples(store, val="last:1")
    assert train == [("scene0000_00", 0), ("scene0001_00", 0)]
    assert held_out == [("scene0000_00", 1), ("scene0001_00", 1)]
