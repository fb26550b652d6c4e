import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zarr

from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.files import locked
from geomim_data.sources.scannet import ScanNetSource
from geomim_data.store import open_store
from geomim_data.verify import verify
from tests.geomim_data.recordings import FakeSource, Heard, rgb_file

SCENES = ["scene0000_00", "scene0001_00"]


def everything(store):
    return {
        scene: [store.scene(scene).camera().rgb_bytes(frame) for frame in range(3)]
        for scene in store.scenes
    }


def expected(count=2):
    return {
        f"scene{scene:04d}_00": [rgb_file(100 * scene + frame) for frame in range(3)]
        for scene in range(count)
    }


def test_every_scene_is_converted_and_committed(tmp_path):
    report = convert(FakeSource(), tmp_path / "store")
    assert (list(report.manifest.scenes), report.failed, report.kept) == (SCENES, {}, 0)
    assert everything(open_store(tmp_path / "store")) == expected()


def test_processes_write_the_same_bytes_as_one_and_leave_no_trace(tmp_path):
    one = convert(FakeSource(count=3), tmp_path / "one")
    many = convert(FakeSource(count=3), tmp_path / "many", workers=2)
    assert many.manifest == one.manifest
    names = {path.name for path in (tmp_path / "many").iterdir()}
    assert names == {"zarr.json", "manifest.json", "scenes", ".lock", ".working"}
    scenes = {path.name for path in (tmp_path / "many/scenes").iterdir()}
    assert scenes == {*many.manifest.scenes, "zarr.json"}


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_is_heard(tmp_path, workers):
    heard = Heard()
    source = FakeSource(broken={SCENES[1]: {1: "rgb"}})
    convert(source, tmp_path / "store", workers=workers, progress=heard)
    assert heard.scenes == 2
    assert heard.frames[SCENES[0]] == (3, 3)
    assert heard.finished[SCENES[0]] is None
    assert "[frame 1]" in heard.finished[SCENES[1]]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("rgb", r"fake/scene0000_00[frame 1]: the JPEG has no end marker: it is truncated"),
        ("source", r"fake/scene0000_00: fake.sens[frame 1]: is truncated"),
        ("io", r"fake/scene0000_00: fake.sens: Permission denied"),
    ],
)
def test_a_scene_that_fails_leaves_nothing_and_stops_no_other(tmp_path, trouble, message):
    report = convert(FakeSource(broken={SCENES[0]: {1: trouble}}), tmp_path / "store")
    assert report.failed == {SCENES[0]: message}
    names = {path.name for path in (tmp_path / "store/scenes").iterdir()}
    assert names == {"zarr.json", SCENES[1]}
    store = open_store(tmp_path / "store")
    assert store.scenes == tuple(SCENES[1:])
    assert store.manifest.failed == report.failed


def test_a_worker_that_dies_loses_its_scene_alone(tmp_path):
    troubles = {"scene0000_00": "exit", "scene0001_00": "kill", "scene0002_00": "bug"}
    broken = {scene: {1: trouble} for scene, trouble in troubles.items()}
    report = convert(FakeSource(count=4, broken=broken), tmp_path, workers=2)
    assert report.failed == {
        "scene0000_00": "fake/scene0000_00: its process ended with exit code 9",
        "scene0001_00": "fake/scene0001_00: its process was killed by SIGKILL: out of memory?",
        "scene0002_00": "fake/scene0002_00: its process ended with exit code 1",
    }
    assert list(report.manifest.scenes) == ["scene0003_00"]
    assert not list((tmp_path / "scenes").glob(".*"))


def test_only_failed_scenes_are_tried_again(tmp_path):
    convert(FakeSource(broken={SCENES[0]: {1: "rgb"}}), tmp_path / "store")
    heard = Heard()
    report = convert(FakeSource(), tmp_path / "store", progress=heard)
    assert (heard.scenes, report.kept, report.failed) == (1, 1, {})
    assert list(report.manifest.scenes) == SCENES
    assert everything(open_store(tmp_path / "store")) == expected()


def test_a_finished_store_needs_overwrite(tmp_path):
    convert(FakeSource(), tmp_path / "store")
    with pytest.raises(DataError, match="store: holds a finished store; --overwrite replaces it"):
        convert(FakeSource(), tmp_path / "store")
    report = convert(FakeSource(count=1, stride=2), tmp_path / "store", overwrite=True)
    assert (report.kept, list(report.manifest.scenes)) == (0, SCENES[:1])
    assert not (tmp_path / "store/scenes" / SCENES[1]).exists()


@pytest.mark.parametrize("finished", [True, False])
def test_another_dataset_or_other_arguments_are_refused(tmp_path, finished):
    convert(FakeSource(), tmp_path / "store")
    if not finished:
        (tmp_path / "store/manifest.json").unlink()
    with pytest.raises(DataError, match="holds a store of fake, not other; give another --out"):
        convert(FakeSource(dataset="other"), tmp_path / "store")
    with pytest.raises(DataError, match="holds a store converted with stride=1, not 5; give"):
        convert(FakeSource(stride=5), tmp_path / "store")
    with pytest.raises(DataError, match="converted with depth_codec='auto', not 'blosc'"):
        convert(FakeSource(), tmp_path / "store", depth_codec="blosc")


def test_another_format_version_is_refused_and_may_be_overwritten(tmp_path):
    convert(FakeSource(), tmp_path / "store")
    path = tmp_path / "store/zarr.json"
    content = json.loads(path.read_text())
    content["attributes"]["geomim"]["format_version"] = 9
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"format_version must be 1 or 2, got 9.*--overwrite"):
        convert(FakeSource(), tmp_path / "store")
    convert(FakeSource(), tmp_path / "store", overwrite=True)
    assert everything(open_store(tmp_path / "store")) == expected()


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("name", ["thesis.tex", "zarr.json"])
def test_a_folder_that_is_no_store_is_never_touched(tmp_path, overwrite, name):
    (tmp_path / name).write_text('{"attributes": {}}')
    with pytest.raises(DataError, match=f"holds '{name}' and is no geomim store, nothing there"):
        convert(FakeSource(), tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_in_the_place_of_a_store_is_refused(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(DataError, match="store: must be a folder; give another --out"):
        convert(FakeSource(), tmp_path / "store")


def test_foreign_files_beside_a_store_survive_an_overwrite(tmp_path):
    convert(FakeSource(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    convert(FakeSource(), tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_nothing_is_deleted_behind_a_link(tmp_path):
    convert(FakeSource(), tmp_path / "store")
    (tmp_path / "store/scenes").rename(tmp_path / "elsewhere")
    (tmp_path / "store/scenes").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="scenes: is a link, nothing is written behind it"):
        convert(FakeSource(), tmp_path / "store", overwrite=True)
    assert (tmp_path / "elsewhere" / SCENES[0] / "zarr.json").exists()


def test_two_conversions_at_once_are_refused(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(DataError, match="is being written by another convert; wait until it ends"),
    ):
        convert(FakeSource(), tmp_path)


def test_orphans_of_a_killed_conversion_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("geomim_data.files._ORPHAN_SECONDS", 0.1)
    with (tmp_path / ".working").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(DataError, match="is held by workers of a convert that was killed"):
            convert(FakeSource(), tmp_path)
    convert(FakeSource(), tmp_path)


def test_a_committed_scene_that_was_damaged_is_converted_again(tmp_path, caplog):
    convert(FakeSource(broken={SCENES[1]: {0: "rgb"}}), tmp_path)
    (tmp_path / "scenes" / SCENES[0] / "camera/rgb/c/0").unlink()
    report = convert(FakeSource(), tmp_path)
    assert report.kept == 0
    assert f"fake/{SCENES[0]} is converted again: " in caplog.text
    assert everything(open_store(tmp_path)) == expected()


def test_scenes_that_the_source_does_not_have_are_refused(tmp_path):
    convert(FakeSource(), tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"holds scene 'scene0001_00', which fake does not"):
        convert(FakeSource(count=1), tmp_path)


def test_a_source_without_scenes_makes_no_folder(tmp_path):
    with pytest.raises(DataError, match="fake: holds no scene of fake to convert"):
        convert(FakeSource(count=0), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.mark.skipif("GEOMIM_REAL_DATA" not in os.environ, reason="$GEOMIM_REAL_DATA is not set")
@pytest.mark.parametrize("depth_codec", ["auto", "blosc"])
def test_a_real_scan_keeps_every_byte_and_hardly_grows(tmp_path, depth_codec):
    root = Path(os.environ["GEOMIM_REAL_DATA"]) / "sens"
    convert(ScanNetSource(root), tmp_path, depth_codec=depth_codec)
    assert verify(tmp_path, "decode") == []
    frames = json.loads((root / "scene9000_00/expected.json").read_text())["frames"]
    ours = open_store(tmp_path).scene("scene9000_00").camera()
    plain = zarr.open_group(tmp_path / "scenes/scene9000_00/camera", mode="r")
    blob, offset, nbytes = (plain[name][...] for name in ("rgb", "rgb_offset", "rgb_nbytes"))
    assert ours.pose_valid.tolist() == [frame["pose_valid"] for frame in frames]
    for index, frame in enumerate(frames):
        jpeg = blob[offset[index] : offset[index] + nbytes[index]].tobytes()
        assert sha256(jpeg) == sha256(ours.rgb_bytes(index)) == frame["jpeg_sha256"]
        for plane in (plain["depth"][index], ours.depth(index)):
            assert sha256(plane.astype("<u2").tobytes()) == frame["depth_sha256"]
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size <= 1.05 * (root / "scene9000_00/scene9000_00.sens").stat().st_size


def start(out, *, workers=1, seconds=0.01):
    command = [sys.executable, "-m", "tests.geomim_data.recordings", str(out), str(workers)]
    return subprocess.Popen(
        [*command, str(seconds)], cwd=Path(__file__).parents[2], start_new_session=True
    )


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def kill_and_resume(out, moments, *, workers):
    for moment in moments:
        process = start(out, workers=workers)
        wait_for(lambda: (out / "zarr.json").exists())
        time.sleep(moment)
        process.kill()
        process.wait()
    assert start(out, workers=workers, seconds=0).wait() == 0
    assert verify(out, "decode") == []
    assert everything(open_store(out)) == expected(4)
    shutil.rmtree(out)


def test_killed_conversions_resume(tmp_path):
    kill_and_resume(tmp_path / "store", [0.05, 0.3], workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_conversions_killed_at_twenty_random_moments_resume(tmp_path, workers):
    rng = random.Random(workers)  # noqa: S311 - moments, no secrets
    for _ in range(10):
        moments = [rng.uniform(0, 0.4), rng.uniform(0, 1.5)]
        kill_and_resume(tmp_path / "store", moments, workers=workers)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, kind):
    out = tmp_path / "store"
    process = start(out, workers=2, seconds=0.5)
    wait_for(lambda: len(list((out / "scenes").glob(".*.part"))) == 2)
    children = [
        int(pid)
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    assert len(children) >= 2
    process.send_signal(kind)
    process.wait(timeout=20)
    wait_for(lambda: not any(alive(pid) for pid in children))
    if kind == signal.SIGINT:
        assert not list((out / "scenes").glob(".*.part"))
    assert not (out / "manifest.json").exists()
