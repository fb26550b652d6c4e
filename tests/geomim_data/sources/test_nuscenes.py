"""nuScenes' layout, from small made-up data sets, real ones, and by the devkit as a judge."""

import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from geomim_data.cli import main
from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.sources.nuscenes import NuScenesSource
from geomim_data.store import open_store
from geomim_data.verify import verify
from tests.geomim_data.sources.nuscenes_roots import (
    CAMERAS,
    MATRIX,
    SIZE,
    VERSION,
    Root,
    box_position,
    ego_pose,
    jpeg,
    points,
    token,
)

NOWHERE = "x"  # a token that no row has
REAL = ("nuscenes_scene0061", "dgp_scene01_nuscenes")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    made = Root(tmp_path_factory.mktemp("nuscenes"), scenes=("scene-0001", "scene-0002"))
    made.write()
    made.write_map()
    return made


@pytest.fixture(scope="module")
def store(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / "store"
    report = convert(source(root.folder), out)
    assert not report.failed
    return open_store(out)


def source(folder, **options):
    return NuScenesSource(folder, **{"version": VERSION} | options)


def files_of(root, channel, scene=0):
    low = 1_532_402_920_000_000 + 10_000_000 * scene
    return [
        row
        for row in root.tables["sample_data"]
        if f"/{channel}/" in row["filename"] and low <= row["timestamp"] < low + 10_000_000
    ]


def rigid(translation, quaternion):
    w, x, y, z = quaternion
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(4)
    matrix[:3, :3] += 2 * w * skew + 2 * skew @ skew
    matrix[:3, 3] = translation
    return matrix


def mounting(root, channel):
    rows = {row["token"]: row for row in root.tables["calibrated_sensor"]}
    row = rows[token("mounted", channel)]
    return rigid(row["translation"], row["rotation"])


def test_a_converted_store_is_sound(store):
    assert verify(store.path, "decode") == []
    assert store.scenes == ("scene-0001", "scene-0002")
    assert store.scene("scene-0001").cameras == CAMERAS
    assert store.scene("scene-0001").lidars == ("LIDAR_TOP",)
    assert store.scene("scene-0001").samples == 3


@pytest.mark.parametrize("channel", CAMERAS)
def test_cameras_keep_files_times_and_their_own_poses(root, store, channel):
    camera = store.scene("scene-0002").camera(channel)
    rows = sorted(files_of(root, channel, 1), key=lambda row: row["timestamp"])
    assert camera.frames == len(rows) > 10
    ego_from_cam = mounting(root, channel)
    for index, row in enumerate(rows):
        assert camera.rgb_bytes(index) == jpeg(row["timestamp"])
        world_from_cam = rigid(*ego_pose(row["timestamp"])) @ ego_from_cam
        np.testing.assert_allclose(camera.world_from_cam[index], world_from_cam, atol=1e-9)
    assert camera.rgb_timestamp_us.tolist() == [row["timestamp"] for row in rows]
    assert camera.key_frame.tolist() == [row["is_key_frame"] for row in rows]
    assert camera.sample.tolist() == [int(row["sample_token"].split("-")[2][0]) for row in rows]
    (fx, _, cx), (_, fy, cy), _ = MATRIX
    assert camera.rgb_intrinsics[0].tolist() == [fx, fy, cx + 0.5, cy + 0.5]
    assert (camera.rgb_size, camera.attributes.source_pixel_centre) == (SIZE, "integer")


def test_sweeps_keep_points_times_and_their_own_poses(root, store):
    lidar = store.scene("scene-0001").lidar("LIDAR_TOP")
    rows = files_of(root, "LIDAR_TOP")
    assert lidar.sweeps == len(rows) > 20
    for index, row in enumerate(rows):
        numbers = points(row["timestamp"])
        assert np.array_equal(lidar.points(index), numbers[:, :3])
        assert np.array_equal(lidar.intensity(index), numbers[:, 3])
        assert np.array_equal(lidar.ring(index), numbers[:, 4])
        pose = rigid(*ego_pose(row["timestamp"])) @ mounting(root, "LIDAR_TOP")
        np.testing.assert_allclose(lidar.world_from_lidar[index], pose, atol=1e-9)
    assert lidar.timestamp_us.tolist() == [row["timestamp"] for row in rows]
    assert lidar.key_frame.sum() == 3
    assert not lidar.attributes.has_time  # nuScenes keeps no time of a point


def test_boxes_keep_size_by_axis_tracks_and_velocity(root, store):
    scene = store.scene("scene-0001")
    boxes = scene.boxes()
    assert boxes.track.tolist() == [0, 1, 0, 1, 0, 1]
    assert boxes.sample.tolist() == [0, 0, 1, 1, 2, 2]
    assert [boxes.categories[kind] for kind in boxes.category[:2]] == [
        "vehicle.car",
        "human.pedestrian.adult",
    ]
    np.testing.assert_allclose(boxes.size, [[4.5, 2.0, 1.6]] * 6)
    np.testing.assert_allclose(boxes.velocity[boxes.track == 0], [[3, 0, 0]] * 3, atol=1e-5)
    np.testing.assert_allclose(boxes.velocity[boxes.track == 1], 0, atol=1e-5)
    for row, pose in enumerate(boxes.world_from_box):
        position = box_position(int(boxes.track[row]), int(boxes.timestamp_us[row]))
        np.testing.assert_allclose(pose, rigid(position, [0.8, 0, 0, 0.6]), atol=1e-9)
    assert boxes.lidar_points.tolist() == [0, 1, 10, 11, 20, 21]


def test_the_map_is_cut_to_what_lies_near(store):
    lines = store.scene("scene-0001").map()
    kinds = [lines.kinds[kind] for kind in lines.kind]
    assert kinds == ["road_divider"] + ["drivable_area"] * 4 + ["ped_crossing"] * 2
    divider = lines.points[lines.offset[0] : lines.offset[1]]
    assert divider.tolist() == [[1000, 500], [1300, 500]]  # the rest lies 300 m away
    hole = lines.points[lines.offset[6] : lines.offset[7]]
    assert hole.tolist() == [[1000, 500], [1020, 501], [1000, 505], [1000, 500]]


def test_options_take_less(root, tmp_path):
    convert(
        source(
            root.folder,
            scenes=("scene-0002",),
            cameras=("CAM_BACK",),
            sweeps=False,
            lidar=False,
            with_map=False,
        ),
        tmp_path / "store",
    )
    store = open_store(tmp_path / "store")
    assert store.scenes == ("scene-0002",)
    scene = store.scene("scene-0002")
    assert (scene.cameras, scene.lidars, scene.map()) == (("CAM_BACK",), (), None)
    assert (scene.camera("CAM_BACK").frames, scene.samples) == (3, 3)
    assert store.attributes.converter.arguments["sweeps"] is False


def test_processes_share_what_was_read_once(root, store, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    reader = source(root.folder)
    reader.scenes()
    [folder] = tmp_path.iterdir()
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own bytes
    with copy.open("scene-0001") as recording:
        assert [camera.name for camera in recording.cameras] == list(CAMERAS)
    del copy
    assert folder.is_dir()
    report = convert(reader, tmp_path / "store", workers=2)
    assert report.manifest == store.manifest
    del reader
    assert not folder.exists()


def test_the_command_converts(root, tmp_path, capsys):
    split = tmp_path / "split.txt"
    split.write_text("scene-0002\n")
    command = ["convert", "nuscenes", "--root", str(root.folder), "--version", VERSION]
    options = ["--split", str(split), "--cameras", "CAM_FRONT", "--workers", "1"]
    assert main([*command, *options, "--out", str(tmp_path / "s")]) == 0
    out = capsys.readouterr().out
    assert "1 scene, 13 frames, 21 sweeps, 6 boxes, 13 valid poses" in out
    assert main(["info", str(tmp_path / "s")]) == 0
    assert "scene-0002/LIDAR_TOP" in capsys.readouterr().out
    assert main([*command[:-1], "v1.0-trainval", "--out", str(tmp_path / "t")]) == 1
    assert "there is no such version, found v1.0-mini; pass --version" in capsys.readouterr().err


def fresh(folder, **options):
    return Root(folder, **options)


def change(table, row, **values):
    def apply(root):
        root.tables[table][row] |= values

    return apply


def drop(table, row):
    return lambda root: root.tables[table].pop(row)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("sample", 1, next=token("sample", 0, 0)), "scene-0001: next must lead through its"),
        (change("sample", 0, next=""), "sample.json: scene-0001: next must lead through its 3 sam"),
        (change("sample", 2, timestamp=5), "must lead through its 3 samples, each later"),
        (change("sample", 0, next="x"), "'x' is in no row of sample.json; the tables do not"),
        (
            change("scene", 0, log_token=NOWHERE),
            r"scene.json\[row 0\]: 'x' is in no row of log.json",
        ),
        (change("scene", 0, name="../x"), "a scene name must be one path component"),
        (
            change("sample_data", 5, sample_token=NOWHERE),
            r"sample_data.json\[row 5\]: 'x' is in no row",
        ),
        (
            change("sample_data", 5, ego_pose_token=NOWHERE),
            "1 ego poses that sample_data.json names",
        ),
        (drop("calibrated_sensor", 0), "is in no row of calibrated_sensor.json"),
        (
            change("calibrated_sensor", 0, camera_intrinsic=[]),
            r"calibrated_sensor.json\[row 0\]: a camera must have a camera_intrinsic, got none",
        ),
        (
            change("calibrated_sensor", 0, camera_intrinsic=[[1, 1, 0], [0, 1, 0], [0, 0, 1]]),
            r"camera_intrinsic must be \[\[fx, 0, cx\], \[0, fy, cy\], \[0, 0, 1\]\]",
        ),
        (
            change("calibrated_sensor", 0, rotation=[2, 0, 0, 0]),
            r"\[row 0\]: rotation must be a unit quaternion w, x, y, z, got \(2.0, 0.0, 0.0, 0.0\)",
        ),
        (
            change("ego_pose", 3, rotation=[0, 0, 0, 0]),
            r"ego_pose.json\[row 3\]: rotation must be a unit quaternion",
        ),
        (
            change("ego_pose", 3, translation=[1e300, 0, 0]),
            r"ego_pose.json\[row 3\]: translation.0",
        ),
        (
            change("sample_annotation", 0, instance_token=NOWHERE),
            "'x' is in no row of instance.json",
        ),
        (change("sample_annotation", 0, next="x"), "'x' is in no row of sample_annotation.json"),
        (
            change("sample_annotation", 1, prev=token("box", 0, 0, 2)),
            "prev and next of 'box-0-0-1.*must be boxes of the same instance, earlier and later",
        ),
        (
            change("sample_annotation", 0, size=[0, 1, 1]),
            r"sample_annotation.json\[row 0\]: size.0",
        ),
        (change("sensor", 0, channel="../x"), "a sensor name must be one path component"),
        (change("sensor", 0, modality="sonar"), r"sensor.json\[row 0\]: modality"),
        (change("sample_data", 0, timestamp=2**63), r"sample_data.json\[row 0\]: timestamp"),
    ],
)
def test_tables_that_do_not_fit_are_one_line(tmp_path, damage, message):
    made = fresh(tmp_path / "root")
    damage(made)
    made.write()
    with pytest.raises(DataError, match=message) as caught:
        source(made.folder).scenes()
    assert "\n" not in str(caught.value)
    assert str(made.folder) in str(caught.value) or "name must be" in str(caught.value)


@pytest.mark.parametrize(
    ("break_file", "message"),
    [
        (lambda path: path.unlink(), r"\[frame 2\]: is missing; get the part of the data set that"),
        (lambda path: os.truncate(path, 400), r"\[frame 2\]: .*"),
    ],
)
@pytest.mark.parametrize("channel", ["CAM_FRONT", "LIDAR_TOP"])
def test_a_broken_file_ends_its_scene_alone(tmp_path, channel, break_file, message):
    made = fresh(tmp_path / "root", scenes=("a", "b"))
    made.write()
    path = made.file(channel, 2)
    break_file(path)
    if path.exists() and channel == "LIDAR_TOP":
        os.truncate(path, 399)
        message = r"\[frame 2\]: must have 20 bytes a point, got 399: it is truncated; get the file"
    report = convert(source(made.folder), tmp_path / "store")
    assert list(report.manifest.scenes) == ["b"]
    [(name, line)] = report.failed.items()
    assert name == "a"
    assert path.name in line
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(line)


def test_points_that_are_no_points_are_refused(tmp_path):
    made = fresh(tmp_path / "root")
    made.write()
    numbers = np.zeros((3, 5), "<f4")
    for column, value in ((0, np.nan), (4, 0.5), (4, 256)):
        broken = numbers.copy()
        broken[1, column] = value
        made.file("LIDAR_TOP", 0).write_bytes(broken.tobytes())
        with source(made.folder).open("scene-0001") as recording:
            [lidar] = recording.lidars
            with pytest.raises(DataError, match=r"\[frame 0\]: must hold finite x, y, z, intens"):
                next(lidar.read.sweeps())


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "samples/../../x", "a\0b"])
def test_a_file_name_that_leaves_the_root_is_refused(tmp_path, name):
    made = fresh(tmp_path / "root")
    made.write()
    made.tables["sample_data"][0]["filename"] = name
    folder = made.folder / VERSION
    (folder / "sample_data.json").write_text(json.dumps(made.tables["sample_data"]))
    report = convert(source(made.folder), tmp_path / "store")
    assert (
        "must lie inside" in report.failed["scene-0001"] or "is no" in report.failed["scene-0001"]
    )


def test_images_of_two_sizes_are_refused(tmp_path):
    made = fresh(tmp_path / "root")
    made.tables["sample_data"][0]["height"] = 5
    made.write()
    report = convert(source(made.folder), tmp_path / "store")
    assert (
        "CAM_FRONT: sample_data.json must give one size, got [[5, 32], [18, 32]]"
        in (report.failed["scene-0001"])
    )


def test_missing_tables_and_scenes_and_cameras_are_one_line(tmp_path):
    made = fresh(tmp_path / "root")
    made.write()
    with pytest.raises(DataError, match="1 of 1 chosen scenes are not there, such as 'scene-0009'"):
        source(made.folder, scenes=("scene-0009",)).scenes()
    with pytest.raises(DataError, match="holds no camera 'CAM_TOP'; see --cameras"):
        source(made.folder, cameras=("CAM_TOP",)).scenes()
    with pytest.raises(ValueError, match="scenes must not be given beside split"):
        source(made.folder, scenes=("a",), split=tmp_path)
    (tmp_path / "empty").write_text("")
    with pytest.raises(DataError, match="empty: must name at least one scene, got none"):
        source(made.folder, split=tmp_path / "empty")
    (made.folder / VERSION / "ego_pose.json").unlink()
    with pytest.raises(DataError, match=r"ego_pose.json is missing; get the metadata again"):
        source(made.folder).scenes()


def test_what_failed_to_be_read_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    made = fresh(tmp_path / "root")
    made.tables["scene"][0]["log_token"] = NOWHERE
    made.write()
    with pytest.raises(DataError):
        source(made.folder).scenes()
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "1.0"}, "must be of version 1.3 or later, got '1.0'; get the newest map"),
        ({"version": "new"}, "must be of version 1.3 or later, got 'new'"),
        ({"line": []}, "token 'l0' is nowhere in the map; get the map expansion again, or pass"),
        ({"node": [{"token": "n0", "x": "east", "y": 0}]}, "node.0.x: Input should be a valid num"),
    ],
)
def test_a_broken_map_is_one_line(tmp_path, changes, message):
    made = fresh(tmp_path / "root")
    made.write()
    made.write_map(**changes)
    with (
        source(made.folder).open("scene-0001") as recording,
        pytest.raises(DataError, match=message),
    ):
        recording.read_map()


def devkit():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from nuscenes.nuscenes import NuScenes
    except ImportError:
        pytest.skip("nuscenes-devkit is not there: see requirements/nuscenes-oracle.txt")
    return NuScenes


@pytest.mark.filterwarnings("ignore")
def test_the_devkit_agrees(root, store):
    official = devkit()(VERSION, dataroot=str(root.folder), verbose=False)
    scene = store.scene("scene-0002")
    boxes, seen = scene.boxes(), 0
    [entry] = [row for row in official.scene if row["name"] == "scene-0002"]
    sample_token, number = entry["first_sample_token"], 0
    while sample_token:
        sample = official.get("sample", sample_token)
        for channel in (*CAMERAS, "LIDAR_TOP"):
            data = official.get("sample_data", sample["data"][channel])
            pose = official.get("ego_pose", data["ego_pose_token"])
            mounted = official.get("calibrated_sensor", data["calibrated_sensor_token"])
            expected = rigid(pose["translation"], pose["rotation"]) @ rigid(
                mounted["translation"], mounted["rotation"]
            )
            is_camera = channel in CAMERAS
            sensor = scene.camera(channel) if is_camera else scene.lidar(channel)
            [frame] = np.flatnonzero(sensor.key_frame & (sensor.sample == number))
            poses = sensor.world_from_cam if is_camera else sensor.world_from_lidar
            np.testing.assert_allclose(poses[frame], expected, atol=1e-9)
        for annotation in sample["anns"]:
            box = official.get_box(annotation)
            [row] = np.flatnonzero(
                (boxes.sample == number)
                & np.isclose(boxes.world_from_box[:, :3, 3], box.center).all(axis=1)
            )
            corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * (
                boxes.size[row] / 2
            )
            pose = boxes.world_from_box[row]
            ours = corners @ pose[:3, :3].T + pose[:3, 3]
            theirs = box.corners().T
            order = [np.lexsort(np.round(each, 4).T) for each in (ours, theirs)]
            np.testing.assert_allclose(ours[order[0]], theirs[order[1]], atol=1e-4)
            velocity = official.box_velocity(annotation)
            np.testing.assert_allclose(boxes.velocity[row], velocity, atol=1e-4)
            assert boxes.categories[boxes.category[row]] == box.name
            seen += 1
        sample_token, number = sample["next"], number + 1
    assert (number, seen) == (scene.samples, len(boxes.track))


@pytest.fixture(scope="module", params=REAL)
def real(request, tmp_path_factory):
    if "GEOMIM_REAL_DATA" not in os.environ:
        pytest.skip("GEOMIM_REAL_DATA is not set: no real recordings at hand")
    folder = Path(os.environ["GEOMIM_REAL_DATA"]) / request.param
    out = tmp_path_factory.mktemp("real") / "store"
    assert not convert(source(folder), out).failed
    return folder, open_store(out)


def test_real_data_convert_to_a_sound_store(real):
    assert verify(real[1].path, "decode") == []


def test_points_of_real_data_fall_where_they_should(real):
    folder, store = real
    [name] = store.scenes
    scene = store.scene(name)
    lidar = scene.lidar("LIDAR_TOP")
    for expected in json.loads((folder / "expected_projection.json").read_text()):
        camera, sample = scene.camera(expected["channel"]), expected["sample"]
        [sweep] = np.flatnonzero(lidar.sample == sample)
        [frame] = np.flatnonzero(camera.sample == sample)
        assert camera.rgb_bytes(int(frame)) == (folder / expected["image"]).read_bytes()
        cam_from_lidar = np.linalg.inv(camera.world_from_cam[frame]) @ lidar.world_from_lidar[sweep]
        np.testing.assert_allclose(cam_from_lidar, expected["lidar_to_camera"], atol=1e-6)
        points_lidar = lidar.points(int(sweep)).astype(np.float64)
        x, y, z = (points_lidar @ cam_from_lidar[:3, :3].T + cam_from_lidar[:3, 3]).T
        fx, fy, cx, cy = camera.rgb_intrinsics[frame]
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = fx * x / z + cx, fy * y / z + cy
        height, width = camera.rgb_size
        inside = (z > 1) & (u >= 0.5) & (u <= width - 0.5) & (v >= 0.5) & (v <= height - 0.5)
        assert inside.sum() == expected["n_points_z_gt_1m_inside"]
