import json
import mmap
import multiprocessing
import os
import pickle
import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.files import open_inside
from geomim_data.shard_files import MAX_OPEN
from geomim_data.store import open_store
from tests.geomim_data.recordings import FakeSource, depth_plane, first_values, pose, rgb_file

SCENE = "scene0001_00"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "store"
    convert(FakeSource(labels=True), out)
    return out


@pytest.fixture
def store_path(finished, tmp_path):
    """A copy to break."""
    return shutil.copytree(finished, tmp_path / "store")


def camera_of(path, scene=SCENE):
    return open_store(path).scene(scene).camera()


def read_all(camera):
    planes = [camera.depth, camera.label, camera.instance]
    for frame in range(camera.frames):
        camera.rgb_bytes(frame)
        for plane in planes:
            plane(frame)


def test_a_store_gives_back_what_the_source_held(finished):
    store = open_store(str(finished))
    assert store.scenes == ("scene0000_00", SCENE)
    assert store.attributes.dataset == "fake"
    camera = store.scene(SCENE).camera()
    assert (camera.frames, camera.rgb_size, camera.depth_size) == (3, (24, 32), (12, 16))
    for frame in range(3):
        assert camera.rgb_bytes(frame) == rgb_file(100 + frame)
        assert np.array_equal(camera.depth(frame), depth_plane(100 + frame))
        assert np.array_equal(camera.world_from_cam[frame], pose(100 + frame))
        labels = depth_plane(100 + frame) if frame % 2 == 0 else np.zeros((12, 16), int)
        assert np.array_equal(camera.label(frame), labels % 7)
        assert np.array_equal(camera.instance(frame), labels % 5)
    assert camera.label_valid.tolist() == [True, False, True]
    assert camera.pose_valid.all()
    assert camera.rgb_intrinsics.tolist() == [[30.0, 31.0, 16.5, 12.5]] * 3
    assert camera.depth_intrinsics.tolist() == [[15.0, 15.5, 8.25, 6.25]] * 3
    assert camera.rgb_timestamp_us.tolist() == [100_000, 101_000, 102_000]
    assert camera.depth_timestamp_us.tolist() == [100_001, 101_001, 102_001]
    assert (camera.depth_unit_m, camera.depth_kind) == (0.001, "depth")


def test_large_tables_are_mapped_instead_of_copied(finished, monkeypatch):
    expected = camera_of(finished).world_from_cam
    monkeypatch.setattr("geomim_data.arrays._MAP_BYTES", 16)
    camera = camera_of(finished)
    assert not camera.world_from_cam.flags.writeable
    assert isinstance(memoryview(camera.world_from_cam.base.base).obj, mmap.mmap)
    assert np.array_equal(camera.world_from_cam, expected)
    read_all(camera)


def test_planes_may_be_written_to(finished):
    for plane in (camera_of(finished).depth(0), camera_of(finished).label(0)):
        plane[:] = 0


def test_a_frame_that_is_not_there_is_an_index_error(finished):
    camera = camera_of(finished)
    for frame in (-1, 3):
        with pytest.raises(IndexError, match=rf"frame must be 0 to 2 of .*{SCENE}, got {frame}"):
            camera.rgb_bytes(frame)
        with pytest.raises(IndexError, match="frame must be 0 to 2"):
            camera.depth(frame)


def test_asking_for_labels_that_a_store_lacks_says_so(tmp_path):
    convert(FakeSource(), tmp_path / "store")
    camera = camera_of(tmp_path / "store")
    assert not camera.has_label
    with pytest.raises(ValueError, match="must have labels for this, it has none"):
        camera.label(0)
    with pytest.raises(ValueError, match="must have instances for this, it has none"):
        camera.instance(0)


@pytest.mark.parametrize("warm", [False, True])
def test_readers_survive_pickling(finished, warm):
    store = open_store(finished)
    scene = store.scene(SCENE)
    camera = scene.camera()
    if warm:
        read_all(camera)
    for copy in (
        pickle.loads(pickle.dumps(store)).scene(SCENE).camera(),  # noqa: S301 - our own bytes
        pickle.loads(pickle.dumps(scene)).camera(),  # noqa: S301 - our own bytes
        pickle.loads(pickle.dumps(camera)),  # noqa: S301 - our own bytes
    ):
        assert copy.rgb_bytes(1) == camera.rgb_bytes(1)
        assert np.array_equal(copy.depth(1), camera.depth(1))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the point of the test
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_read_after_their_parent_has_read(finished, method):
    camera = camera_of(finished)
    read_all(camera)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        got = pool.submit(first_values, camera).result(timeout=60)
    assert got == (rgb_file(101), 2020, 101.0)
    read_all(camera)


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_more_than_some_shards_are_open(finished, monkeypatch):
    monkeypatch.setattr("geomim_data.shard_files.MAX_OPEN", 2)
    before = open_files()
    store = open_store(finished)
    for _ in range(3):
        for scene in store.scenes:
            read_all(store.scene(scene).camera())
    assert open_files() <= before + 2
    del store
    assert MAX_OPEN >= 64


RGB, DEPTH = "camera/rgb/c/0", "camera/depth/c/0/0/0"


@pytest.mark.parametrize(
    ("name", "what"), [(RGB, "rgb_bytes"), (DEPTH, "depth"), ("camera/label/c/0/0/0", "label")]
)
def test_a_flipped_byte_of_any_frame_is_found(store_path, name, what):
    path = store_path / "scenes" / SCENE / name
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    message = rf"store/{SCENE}\[frame 0\]: .*crc32c.*; run geomim-data verify .*store$"
    with pytest.raises(DataError, match=message):
        getattr(camera_of(store_path), what)(0)
    getattr(camera_of(store_path), what)(1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"cannot be read \(No such file or directory\)"),
        (lambda path: os.truncate(path, 10), "the shard is shorter than its index"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "index does not match"),
    ],
)
@pytest.mark.parametrize(("name", "what"), [(RGB, "rgb_bytes"), (DEPTH, "depth")])
def test_a_missing_or_truncated_shard_is_an_error_not_zeros(
    store_path, name, what, damage, message
):
    damage(store_path / "scenes" / SCENE / name)
    with pytest.raises(DataError, match=rf"store/{SCENE}\[frame 2\]: .*{message}.*; run geomim"):
        getattr(camera_of(store_path), what)(2)


def test_a_shard_truncated_while_it_is_open_is_an_error(store_path):
    camera = camera_of(store_path)
    camera.rgb_bytes(0)
    os.truncate(store_path / "scenes" / SCENE / RGB, 100)
    with pytest.raises(DataError, match=r"\[frame 0\]: the shard ends \d+ bytes early"):
        camera.rgb_bytes(0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("camera/world_from_cam/c/0/0/0", "crc32c does not match"),
        ("camera/pose_valid/c/0", "crc32c does not match"),
    ],
)
def test_a_flipped_byte_of_a_small_array_is_found(store_path, name, message):
    path = store_path / "scenes" / SCENE / name
    path.write_bytes(b"\x55" + path.read_bytes()[1:])
    camera = camera_of(store_path)
    with pytest.raises(DataError, match=rf"store/{SCENE}: .*{message}"):
        getattr(camera, name.split("/")[1])


def edit_array(path, **changes):
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codecs": [{"name": "pickle"}]}, "codecs.0: Input tag 'pickle'"),
        ({"codecs": [{"name": "bytes"}]}, "codecs must be those of a geomim store, got bytes"),
        ({"shape": [3, 12, 17]}, "chunks must divide shards|must be gzip planes of"),
        ({"shape": [2**60, 12, 16]}, "shape.0: Input should be less than"),
        ({"data_type": "float64"}, "must be gzip planes of"),
        ({"zarr_format": 2}, "zarr_format: Input should be 3"),
    ],
)
def test_metadata_of_another_layout_is_refused(store_path, changes, message):
    edit_array(store_path / "scenes" / SCENE / "camera/depth/zarr.json", **changes)
    with pytest.raises(DataError, match=rf"store/{SCENE}\[frame 0\]: .*({message})"):
        camera_of(store_path).depth(0)


def test_a_small_array_of_another_shape_is_refused(store_path):
    folder = store_path / "scenes" / SCENE / "camera"
    edit_array(folder / "pose_valid/zarr.json", shape=[4])
    with pytest.raises(DataError, match=r"must be a small bool array of \(3,\), got a small bool"):
        camera_of(store_path).pose_valid  # noqa: B018 - reading is the test
    edit_array(
        folder / "rgb_timestamp_us/zarr.json",
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": [2]}},
    )
    with pytest.raises(DataError, match=r"must be one chunk of \(3,\), got chunks of \(2,\)"):
        camera_of(store_path).rgb_timestamp_us  # noqa: B018 - reading is the test


def test_a_table_that_points_out_of_its_shard_is_refused(store_path):
    offsets = zarr.open_array(store_path / "scenes" / SCENE / "camera/rgb_offset", mode="r+")
    offsets[1] = 2**62
    with pytest.raises(DataError, match="rgb_offset and rgb_nbytes must stay inside one shard"):
        camera_of(store_path).rgb_bytes(0)


def test_a_link_that_leads_outside_is_refused(store_path, tmp_path):
    path = store_path / "scenes" / SCENE / RGB
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"\[frame 0\]: .*rgb/c/0: leads outside of .*store"):
        camera_of(store_path).rgb_bytes(0)


def test_a_link_that_stays_inside_is_read(store_path):
    path = store_path / "scenes" / SCENE / RGB
    path.rename(store_path / "moved")
    path.symlink_to(store_path / "moved")
    assert camera_of(store_path).rgb_bytes(0) == rgb_file(100)


def test_a_pipe_in_a_store_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: must be a regular file"):
        open_inside(tmp_path / "pipe", tmp_path)


def test_what_is_no_store_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"there is no store here; make one with geomim-data conv"):
        open_store(tmp_path / "absent")


def test_an_unfinished_store_is_not_read(store_path):
    (store_path / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"not finished \(manifest.json is missing\); run the same"):
        open_store(store_path)


def test_a_manifest_of_another_dataset_is_refused(store_path):
    path = store_path / "manifest.json"
    path.write_text(path.read_text().replace('"fake"', '"other"'))
    with pytest.raises(DataError, match=r"must be of dataset 'fake', got 'other'"):
        open_store(store_path)


def test_another_format_version_is_refused_with_a_remedy(store_path):
    path = store_path / "zarr.json"
    path.write_text(re.sub(r'"format_version": *2', '"format_version": 7', path.read_text()))
    with pytest.raises(DataError, match="format_version must be 1 or 2, got 7; convert the"):
        open_store(store_path)


def test_a_scene_that_is_not_the_manifests_is_refused(store_path):
    path = store_path / "scenes" / SCENE / "zarr.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(DataError, match=rf"store/{SCENE}: zarr.json must have the sha256 that"):
        open_store(store_path).scene(SCENE)


# Those that read a frame of a hand-held camera: by our reader, and by zarr alone.
@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_documentation_run(finished, tmp_path, monkeypatch, number):
    page = (Path(__file__).parents[2] / "docs/stores.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    example = [text for text in examples if "depth_m =" in text][number]
    (tmp_path / "shards").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    names: dict[str, np.ndarray] = {}
    exec(example, names)  # noqa: S102 - our own page
    assert np.allclose(names["depth_m"], depth_plane(2) / 1000)
    assert np.shape(names["image"]) == (24, 32, 3)


def test_unknown_names_are_key_errors(finished):
    with pytest.raises(KeyError, match="nowhere"):
        open_store(finished).scene("nowhere")
    with pytest.raises(KeyError, match="left"):
        open_store(finished).scene(SCENE).camera("left")
