"""Lidar sweeps, boxes and maps, from a recording through a store and back."""

import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.info import info
from geomim_data.shards import CHUNK_ROWS
from geomim_data.store import open_store
from geomim_data.verify import verify
from geomim_data.writer import SceneWriter
from tests.geomim_data.recordings import (
    SWEEP_POINTS,
    FakeSource,
    FakeSweeps,
    boxes,
    lidar,
    lines,
    sweep,
)

SCENE = "scene0001_00"
TOP = f"scenes/{SCENE}/lidar/top"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "store"
    report = convert(FakeSource(driving=True), out)
    assert not report.failed
    return out


@pytest.fixture
def store_path(finished, tmp_path):
    """A copy to break."""
    return shutil.copytree(finished, tmp_path / "store")


def top(path, scene=SCENE):
    return open_store(path).scene(scene).lidar("top")


def test_sweeps_come_back_as_they_were(finished):
    reader = top(finished)
    assert reader.sweeps == 3
    for index in range(3):
        expected = sweep(100, index)
        for name in ("points", "intensity", "ring", "time_us"):
            got = getattr(reader, name)(index)
            assert got.dtype == getattr(expected, name).dtype
            assert np.array_equal(got, getattr(expected, name))
        assert np.array_equal(reader.world_from_lidar[index], expected.world_from_lidar)
    assert reader.timestamp_us.tolist() == [100_000, 101_000, 102_000]
    assert reader.key_frame.tolist() == [True, False, True]
    assert reader.sample.tolist() == [0, 1, 1]
    assert reader.pose_valid.all()
    scene = open_store(finished).scene(SCENE)
    assert (scene.lidars, scene.samples) == (("top",), 2)
    assert scene.camera().key_frame.tolist() == [True, False, True]
    assert scene.camera().sample.tolist() == [0, 0, 1]


def test_boxes_and_lines_come_back_as_they_were(finished):
    scene = open_store(finished).scene(SCENE)
    for got, expected in ((scene.boxes(), boxes(100)), (scene.map(), lines(100))):
        for name in expected.__slots__:
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


def test_plain_zarr_python_reads_points_and_boxes(finished):
    scene = zarr.open_group(finished / "scenes" / SCENE, mode="r")
    group = scene["lidar/top"]
    start, stop = group["offset"][2:4]
    assert np.array_equal(group["points"][start:stop], sweep(100, 2).points)
    assert np.array_equal(group["ring"][start:stop], sweep(100, 2).ring)
    names = [codec.to_dict()["name"] for codec in group["points"].compressors]
    assert names == ["blosc", "crc32c"]
    assert scene["boxes/category"].attrs["categories"] == list(boxes(0).categories)
    assert scene["map/kind"].attrs["kinds"] == list(lines(0).kinds)


def test_a_sweep_is_read_by_the_chunks_that_hold_it(finished, monkeypatch):
    reads = []
    real = os.pread
    reader = top(finished)
    reader.points(0)
    monkeypatch.setattr(os, "pread", lambda *args: reads.append(args) or real(*args))
    reader.points(0)
    assert len(reads) == -(-SWEEP_POINTS[0] // CHUNK_ROWS)


def test_points_may_span_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("geomim_data.lidar_writer.SHARD_BYTES", CHUNK_ROWS * 12)
    convert(FakeSource(count=1, driving=True), tmp_path)
    assert len(list((tmp_path / "scenes/scene0000_00/lidar/top/points/c").iterdir())) == 3
    assert np.array_equal(top(tmp_path, "scene0000_00").points(2), sweep(0, 2).points)
    assert verify(tmp_path, "decode") == []


def read_top(reader):
    return float(reader.points(2)[0, 0])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the point of the test
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_read_after_their_parent_has_read(finished, method):
    reader = top(finished)
    expected = read_top(reader)
    assert read_top(pickle.loads(pickle.dumps(reader))) == expected  # noqa: S301 - our own bytes
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert pool.submit(read_top, reader).result(timeout=60) == expected


def test_a_sweep_that_is_not_there_is_an_index_error(finished):
    with pytest.raises(IndexError, match=r"sweep must be 0 to 2 of .*/lidar/top, got 3"):
        top(finished).points(3)


def test_a_scene_without_them_says_so(tmp_path):
    convert(FakeSource(), tmp_path)
    scene = open_store(tmp_path).scene(SCENE)
    assert (scene.lidars, scene.samples, scene.boxes(), scene.map()) == ((), 0, None, None)
    with pytest.raises(ValueError, match="must have key frames for this, it has none"):
        scene.camera().key_frame  # noqa: B018 - reading is the test


def write(folder, recording):
    with SceneWriter(folder, "a", place="fake/a", depth_codec="auto") as writer:
        writer.write_lidar(recording, lambda: None)
        return writer.commit()


def test_what_a_lidar_lacks_has_no_array(tmp_path):
    bare = {"intensity": None, "ring": None, "time_us": None}
    read = changed(**bare)
    recording = lidar(
        read, intensity=None, has_ring=False, has_time=False, key_frame=None, sample=None
    )
    assert write(tmp_path, recording).sweeps == 3
    names = {path.parent.name for path in (tmp_path / "a/lidar/top").glob("*/zarr.json")}
    assert names == {"points", "offset", "timestamp_us", "world_from_lidar", "pose_valid"}


def changed(**changes):
    """Sweeps of which every one has these fields instead."""
    frames = FakeSweeps(0)
    return SimpleNamespace(sweeps=lambda: (replace(each, **changes) for each in frames.sweeps()))


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (lidar(FakeSweeps(0), sweeps=4), "fake/a/lidar/top: there must be 4 sweeps, got 3"),
        (lidar(FakeSweeps(0), has_ring=False), r"\[sweep 0\]: ring must be absent, as the lidar"),
        (lidar(changed(ring=None)), r"\[sweep 0\]: ring must be there, as the lidar announces"),
        (
            lidar(FakeSweeps(0), intensity="uint8"),
            r"\[sweep 0\]: intensity must be uint8 \(3000,\), got float32 \(3000,\)",
        ),
        (
            lidar(changed(points=np.full((3000, 3), np.nan, np.float32))),
            r"\[sweep 0\]: points must be finite; leave those without a return out",
        ),
        (lidar(changed(timestamp_us=2**63)), r"\[sweep 0\]: timestamp_us must fit int64"),
        (
            lidar(FakeSweeps(0), key_frame=None, sample=np.zeros(2, np.int32)),
            "sample must have 3 values, got 2",
        ),
        (
            lidar(FakeSweeps(0), sample=np.full(3, -2, np.int32)),
            "sample must be -1 or the number of a sample, got -2",
        ),
        (lidar(FakeSweeps(0), name="../x"), "a lidar name must be one path component"),
    ],
)
def test_a_broken_lidar_is_named_and_leaves_nothing(tmp_path, recording, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path, recording)
    assert list(tmp_path.iterdir()) == []


def test_a_lidar_without_any_point_is_refused(tmp_path):
    none = replace(sweep(0, 1), intensity=None, ring=None, time_us=None)
    read = SimpleNamespace(sweeps=lambda: iter([none]))
    recording = lidar(read, sweeps=1, intensity=None, has_ring=False, has_time=False)
    with pytest.raises(DataError, match="there must be some points, got none in any sweep"):
        write(tmp_path, replace(recording, key_frame=None, sample=None))


def no_boxes():
    made = boxes(0)
    arrays = {name: getattr(made, name)[:0] for name in made.__slots__ if name != "categories"}
    return replace(made, **arrays)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (replace(boxes(0), size=np.zeros((3, 3), np.float32)), "fake/a/boxes: box 0 must have a"),
        (no_boxes(), "boxes must have as many values of each kind, and some"),
        (replace(boxes(0), categories=("one",)), "category must be 0 to 0, got 0, 1"),
        (replace(boxes(0), sample=np.full(3, -1, np.int32)), "sample must be 0 to 2147483647"),
        (replace(lines(0), offset=np.array([0, 1, 6])), "fake/a/map: a map must have lines of two"),
        (replace(lines(0), kinds=("one",)), "kind must be below 1, got 1"),
        (replace(lines(0), points=np.full((6, 2), np.inf)), "a map's points must be finite"),
    ],
)
def test_broken_boxes_and_lines_are_refused(tmp_path, made, message):
    with (
        SceneWriter(tmp_path, "a", place="fake/a", depth_codec="auto") as writer,
        pytest.raises(DataError, match=message),
    ):
        (writer.write_boxes if made.__class__.__name__ == "BoxTracks" else writer.write_map)(made)


@pytest.mark.parametrize("level", ["manifest", "checksum", "decode"])
def test_a_sound_store_has_no_findings(finished, level):
    assert verify(finished, level) == []


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def rules(path, level):
    return sorted({finding.rule for finding in verify(path, level)})


@pytest.mark.parametrize("name", ["points/c/0/0", "ring/c/0"])
def test_a_flipped_byte_of_a_sweep_is_found(store_path, name):
    flip(store_path / TOP / name, 40)
    assert rules(store_path, "manifest") == []
    assert rules(store_path, "checksum") == ["SUM002", "SUM005"]
    where = {finding.where for finding in verify(store_path, "checksum")}
    assert f"{SCENE}/lidar/top[sweep 0]" in where
    with pytest.raises(DataError, match=r"/lidar/top\[sweep 0\]: .*crc32c.*; run geomim-data ver"):
        getattr(top(store_path), name.split("/")[0])(0)


def test_rows_that_unpack_to_another_size_are_found_by_decoding_alone(tmp_path, monkeypatch):
    from geomim_data.codecs import encode_rows

    short = encode_rows(np.zeros(3, np.uint8))
    monkeypatch.setattr("geomim_data.lidar_writer.encode_rows", lambda _: short)
    convert(FakeSource(count=1, driving=True), tmp_path)
    assert rules(tmp_path, "checksum") == []
    assert rules(tmp_path, "decode") == ["DEC004"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (f"{TOP}/offset/c/0", "FMT004"),
        (f"{TOP}/world_from_lidar/c/0/0/0", "FMT004"),
        (f"scenes/{SCENE}/boxes/velocity/c/0/0", "FMT004"),
        (f"scenes/{SCENE}/map/points/c/0/0", "FMT004"),
        (f"scenes/{SCENE}/camera/key_frame/c/0", "FMT004"),
    ],
)
def test_a_small_array_with_a_flipped_byte_is_found(store_path, name, rule):
    flip(store_path / name, 3)
    assert rules(store_path, "manifest") == [rule]


def test_missing_points_are_found_and_not_zeros(store_path):
    (store_path / TOP / "points/c/0/0").unlink()
    assert rules(store_path, "manifest") == ["STR002"]
    with pytest.raises(DataError, match=r"\[sweep 2\]: .*cannot be read"):
        top(store_path).points(2)


@pytest.mark.parametrize(
    ("array", "index", "value", "message"),
    [
        ("lidar/top/offset", 1, 2**40, "offset must rise from 0 to 12000"),
        ("lidar/top/offset", 3, 11_999, "offset must rise from 0 to 12000"),
        ("map/offset", 1, 7, "offset: must rise from 0 to 6"),
        ("map/kind", 1, 9, "kind: must be below 2"),
        ("boxes/category", 1, 9, "category: must be below 2"),
    ],
)
def test_hostile_numbers_are_refused(store_path, array, index, value, message):
    folder = store_path / "scenes" / SCENE
    zarr.open_array(folder / array, mode="r+")[index] = value
    scene = open_store(store_path).scene(SCENE)
    read = {"lidar": lambda: scene.lidar("top").points(0), "map": scene.map, "boxes": scene.boxes}
    with pytest.raises(DataError, match=message):
        read[array.split("/")[0]]()


def test_poses_that_are_not_counted_and_names_that_differ_are_found(store_path):
    folder = store_path / "scenes" / SCENE
    zarr.open_array(folder / "lidar/top/pose_valid", mode="r+")[0] = False
    for array, name in (("boxes/category", "categories"), ("map/kind", "kinds")):
        path = folder / array / "zarr.json"
        content = json.loads(path.read_text())
        content["attributes"][name] = ["other"]
        path.write_text(json.dumps(content))
    found = [finding for finding in verify(store_path) if finding.rule in ("REC003", "REF002")]
    assert [finding.message for finding in found] == [
        "has 2 valid poses, not 3",
        "categories are ['other']",
        "kinds are ['other']",
    ]


def test_sweeps_and_boxes_are_counted(finished):
    described = info(finished)
    assert (described.sweeps, described.boxes) == (6, 6)
    assert [each.attributes.points for each in described.lidars] == [sum(SWEEP_POINTS)] * 2
    assert [each.samples for each in described.world] == [2, 2]

    manifest = json.loads((finished / "manifest.json").read_text())
    manifest["scenes"][SCENE]["sweeps"] = 5
    broken = finished.parent / "broken"
    shutil.copytree(finished, broken)
    (broken / "manifest.json").write_text(json.dumps(manifest))
    [finding] = verify(broken)
    assert (finding.rule, finding.message) == ("REC002", "has 3 sweeps, the manifest counts 5")


def make_version_1(path):
    """Rewrite what a store says of itself as version 1 said it."""

    def rewrite(file, change):
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def root(content):
        content["attributes"]["geomim"]["format_version"] = 1

    def scene(content):
        ours = content["attributes"]["geomim"]
        ours["format_version"] = 1
        for name in ("lidars", "boxes", "map", "samples"):
            del ours[name]
        for camera in ours["cameras"].values():
            del camera["has_key_frame"], camera["has_sample"]

    rewrite(path / "zarr.json", root)
    files = sorted((path / "scenes").glob("*/zarr.json"))
    digests = {file.parent.name: rewrite(file, scene) for file in files}

    def manifest(content):
        content["format_version"] = 1
        for name, entry in content["scenes"].items():
            del entry["sweeps"], entry["boxes"]
            entry["sha256"] = digests[name]

    rewrite(path / "manifest.json", manifest)


def test_stores_of_version_1_are_read_and_verified(tmp_path):
    convert(FakeSource(labels=True), tmp_path)
    make_version_1(tmp_path)
    store = open_store(tmp_path)
    assert store.attributes.format_version == 1
    assert (store.scene(SCENE).samples, store.scene(SCENE).lidars) == (0, ())
    assert store.scene(SCENE).camera().depth(0).any()
    assert verify(tmp_path, "decode") == []
    assert info(tmp_path).format_version == 1
    with pytest.raises(DataError, match="holds a finished store; --overwrite replaces it"):
        convert(FakeSource(labels=True), tmp_path)


def test_an_unfinished_store_of_version_1_is_not_continued(tmp_path):
    convert(FakeSource(), tmp_path)
    make_version_1(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DataError, match="unfinished store of format version 1, this writes 2; giv"):
        convert(FakeSource(), tmp_path)
    convert(FakeSource(), tmp_path, overwrite=True)
    assert open_store(tmp_path).attributes.format_version == 2
