"""Laws that hold from the tables to the pictures: what nuScenes' own toolkit reads is exact."""

import hashlib
import itertools
import json

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform
from geomim_data.errors import DataError
from geomim_data.sources.synthetic import nuscenes
from geomim_data.sources.synthetic.nuscenes import (
    image_size,
    recorded_drive,
    synthesize_nuscenes,
)
from geomim_data.sources.synthetic.rig import CAMERAS

from .conftest import STREET_OPTIONS as OPTIONS

SENSORS = (*CAMERAS, "LIDAR_TOP")


@pytest.fixture(scope="module")
def root(streets):
    return streets


@pytest.fixture(scope="module")
def drive():
    return recorded_drive(0, **OPTIONS)


@pytest.fixture(scope="module")
def tables(root):
    return {
        path.stem: json.loads(path.read_text()) for path in sorted((root / "v1.0-mini").iterdir())
    }


@pytest.fixture(scope="module")
def by_token(tables):
    return {name: {row["token"]: row for row in rows} for name, rows in tables.items()}


def digests(root, under=""):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((root / under).rglob("*"))
        if path.is_file()
    }


def channel_of(row, by_token):
    calibrated = by_token["calibrated_sensor"][row["calibrated_sensor_token"]]
    return by_token["sensor"][calibrated["sensor_token"]]["channel"]


def frames_of(channel, tables, by_token):
    rows = [row for row in tables["sample_data"] if channel_of(row, by_token) == channel]
    return sorted(rows, key=lambda row: row["timestamp"])


def pose_of(row):
    quaternion, translation = (
        torch.tensor(row[key], dtype=torch.float64) for key in ("rotation", "translation")
    )
    return RigidTransform.from_quaternion(quaternion, translation)


def world_from_sensor(row, by_token):
    """Chain the car's pose at the sensor's own time and the sensor's place on the car."""
    ego = by_token["ego_pose"][row["ego_pose_token"]]
    assert ego["timestamp"] == row["timestamp"]
    return pose_of(ego) @ pose_of(by_token["calibrated_sensor"][row["calibrated_sensor_token"]])


def read_sweep(root, row):
    return np.fromfile(root / row["filename"], "<f4").reshape(-1, 5)


def test_files_lie_as_in_the_release(root, tables):
    assert len(tables) == 13
    named = {row["filename"] for row in tables["sample_data"]}
    files = set(digests(root))
    assert named <= files
    assert tables["map"][0]["filename"] in files
    assert "maps/expansion/boston-seaport.json" in files
    assert len(files) == len(named) + 13 + 2
    log = tables["log"][0]["logfile"]
    for row in tables["sample_data"]:
        folder, channel, name = row["filename"].split("/")
        assert folder == ("samples" if row["is_key_frame"] else "sweeps")
        assert name.startswith(f"{log}__{channel}__{row['timestamp']}.")


def test_sensors_fire_at_their_rates(tables, by_token):
    assert [len(frames_of(channel, tables, by_token)) for channel in SENSORS] == [7] * 6 + [11]
    for channel in SENSORS:
        rows = frames_of(channel, tables, by_token)
        keys = [row["timestamp"] for row in rows if row["is_key_frame"]]
        assert np.diff(keys).tolist() == [500_000]
        steps = np.diff([row["timestamp"] for row in rows])
        assert set(steps.tolist()) == ({50_000} if channel == "LIDAR_TOP" else {50_000, 100_000})
    assert [row["timestamp"] for row in tables["sample"]] == keys


def test_every_sensor_fires_at_its_own_time(tables, by_token):
    first = [frames_of(channel, tables, by_token)[0]["timestamp"] for channel in SENSORS]
    assert len(set(first)) == len(first)
    assert max(first) - min(first) < 50_000
    # Clockwise, seen from above, from the left until the turn ends.
    order = np.argsort(first)
    assert [SENSORS[place] for place in order] == [
        *("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT"),
        *("CAM_BACK", "CAM_BACK_LEFT", "LIDAR_TOP"),
    ]


def test_tokens_resolve(tables, by_token):
    assert all(len(by_token[name]) == len(rows) for name, rows in tables.items())
    singular = {
        "prev": None,
        "next": None,
        "first_sample_token": "sample",
        "last_sample_token": "sample",
        "first_annotation_token": "sample_annotation",
        "last_annotation_token": "sample_annotation",
    }
    for name, rows in tables.items():
        for row in rows:
            for key, value in row.items():
                if key in singular or key.endswith(("_token", "_tokens")):
                    table = singular.get(key, key.removesuffix("s").removesuffix("_token")) or name
                    for target in value if isinstance(value, list) else [value]:
                        ends = key in ("prev", "next") and target == ""
                        assert ends or target in by_token[table], (name, key)


@pytest.mark.parametrize("name", ["sample", "sample_data", "sample_annotation"])
def test_lists_go_forth_and_back(tables, by_token, name):
    rows = by_token[name]
    for row in tables[name]:
        if row["next"]:
            assert rows[row["next"]]["prev"] == row["token"]
        if row["prev"]:
            assert rows[row["prev"]]["next"] == row["token"]
    firsts = [row for row in tables[name] if not row["prev"]]
    expected = {"sample": 1, "sample_data": 7, "sample_annotation": len(tables["instance"])}
    assert len(firsts) == expected[name]


def test_a_frame_between_key_frames_belongs_to_the_next(tables, by_token):
    for channel in SENSORS:
        rows = frames_of(channel, tables, by_token)
        for row, later in itertools.pairwise(rows):
            if not row["is_key_frame"]:
                assert row["sample_token"] == later["sample_token"]


def test_images_have_the_size_of_their_rows(root, tables):
    rows = [row for row in tables["sample_data"] if row["fileformat"] == "jpg"]
    assert {(row["height"], row["width"]) for row in rows} == {image_size(0.05)}
    for row in rows[::7]:
        data = (root / row["filename"]).read_bytes()
        assert simplejpeg.decode_jpeg(data).shape[:2] == image_size(0.05)


@pytest.mark.parametrize("channel", ["CAM_FRONT", "CAM_FRONT_LEFT", "CAM_BACK"])
def test_lidar_points_have_the_exact_depth_of_the_image(root, drive, tables, by_token, channel):
    frames = frames_of(channel, tables, by_token)
    sweeps = frames_of("LIDAR_TOP", tables, by_token)
    row, sweep_row = frames[-1], sweeps[-1]
    calibrated = by_token["calibrated_sensor"][row["calibrated_sensor_token"]]
    camera = PinholeCamera.from_matrix(
        torch.tensor(calibrated["camera_intrinsic"], dtype=torch.float64),
        size=(row["height"], row["width"]),
        source_pixel_centre="integer",
    )
    points = torch.from_numpy(read_sweep(root, sweep_row)[:, :3].astype(np.float64))
    cam_from_lidar = world_from_sensor(row, by_token).inverse() @ world_from_sensor(
        sweep_row, by_token
    )
    pixels, depth, valid = camera.project(cam_from_lidar.apply(points))
    seen = valid & camera.contains(pixels)
    view = drive.render(channel, len(frames) - 1)
    column, line = pixels[seen].floor().long().clamp(min=0).unbind(-1)
    column, line = (
        column.clamp(max=view.depth_m.shape[1] - 1),
        line.clamp(max=view.depth_m.shape[0] - 1),
    )
    low, high = neighbourhood(view.depth_m)
    ratio = depth[seen].numpy()
    inside = (ratio > 0.98 * low[line, column]) & (ratio < 1.02 * high[line, column])
    assert seen.sum() > 200
    assert inside.mean() > 0.93


def neighbourhood(depth):
    """Return the least and the greatest depth among each pixel and those about it."""
    filled = np.where(depth == 0, np.inf, depth)
    padded = np.pad(filled, 1, mode="edge")
    height, width = depth.shape
    around = np.stack([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)])
    return around.min(axis=0), around.max(axis=0)


def test_points_of_a_sweep_lie_on_surfaces_at_their_own_times(drive):
    """Undo the motion compensation: a ray from where the lidar was, when it was there."""
    sweep = drive.sweep(4)
    end_s = 4 * 0.05
    lidar = drive.rig.ego_from_lidar
    end = drive.street.ego.world_from_ego(np.array([end_s]))[0] @ lidar
    then = drive.street.ego.world_from_ego(sweep.time_s) @ lidar
    points_world = end.apply(torch.from_numpy(sweep.points_lidar))
    own = then.inverse().apply(points_world[:, None])[:, 0].numpy()
    azimuth = np.arctan2(own[:, 1], own[:, 0])
    elevation = np.degrees(np.arctan2(own[:, 2], np.hypot(own[:, 0], own[:, 1])))
    expected = np.linspace(-30.67, 10.67, 32)[sweep.ring]
    np.testing.assert_allclose(elevation, expected, atol=1e-9)
    turned = (np.pi - azimuth) % (2 * np.pi) / (2 * np.pi)
    np.testing.assert_allclose(turned, 1 + (sweep.time_s - end_s) / 0.05, atol=1e-9)


def test_boxes_hold_the_points_that_hit_their_things(root, drive, tables, by_token):
    rows = [row for row in frames_of("LIDAR_TOP", tables, by_token) if row["is_key_frame"]]
    sweep, row = drive.sweep(10), rows[-1]
    points = read_sweep(root, row)[:, :3].astype(np.float64)
    points_world = world_from_sensor(row, by_token).apply(torch.from_numpy(points))
    boxes = {
        annotation["token"]: annotation
        for annotation in tables["sample_annotation"]
        if annotation["sample_token"] == row["sample_token"]
    }
    checked = 0
    for number, actor in enumerate(drive.street.actors):
        box = boxes.get(drive.token("annotation", number, 1))
        hit = sweep.instance == drive.street.instance(number)
        if box is None or not hit.any():
            continue
        moved = at_the_end(drive.street, number, points_world[hit], sweep.time_s[hit])
        local = pose_of(box).inverse().apply(moved).abs().numpy()
        width, length, height = box["size"]
        # A box begins a centimetre above the ground.
        assert (local <= np.array([length, width, height]) / 2 + (0, 0, 0.0101)).all()
        if actor.state == "parked":
            assert box["num_lidar_pts"] >= 0.9 * hit.sum()
        checked += 1
    assert checked >= 5


def at_the_end(street, actor, points_world, time_s):
    """Move points on an actor along with it, from their own times to the sweep's."""
    then = street.world_from_thing(actor, time_s)
    end = street.world_from_thing(actor, np.array([0.5]))[0]
    return end.apply(then.inverse().apply(points_world[:, None])[:, 0])


def test_what_is_parked_stays_and_what_moves_has_the_speed_of_its_track(drive, tables, by_token):
    speeds = {}
    for instance in tables["instance"]:
        first = by_token["sample_annotation"][instance["first_annotation_token"]]
        if not first["next"]:
            continue
        second = by_token["sample_annotation"][first["next"]]
        [attribute] = first["attribute_tokens"]
        name = by_token["attribute"][attribute]["name"]
        step = np.subtract(second["translation"], first["translation"])
        speeds.setdefault(name, []).append(np.linalg.norm(step) / 0.5)
    assert max(speeds["vehicle.parked"]) == 0
    assert min(speeds["vehicle.moving"]) > 0.2
    assert max(speeds["vehicle.moving"]) < 20


def test_a_drive_can_be_rendered_again(root, drive, tables, by_token):
    rows = frames_of("CAM_BACK", tables, by_token)
    data = (root / rows[2]["filename"]).read_bytes()
    again = simplejpeg.encode_jpeg(drive.render("CAM_BACK", 2).rgb, 90, colorsubsampling="420")
    assert again == data
    points = read_sweep(root, frames_of("LIDAR_TOP", tables, by_token)[3])
    np.testing.assert_array_equal(points[:, :3], drive.sweep(3).points_lidar.astype(np.float32))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(root, tmp_path):
    synthesize_nuscenes(tmp_path / "out", scenes=1, **OPTIONS)
    assert digests(tmp_path / "out") == digests(root)


@pytest.mark.slow
def test_neither_workers_nor_other_scenes_change_a_scene(root, tmp_path):
    synthesize_nuscenes(tmp_path / "out", scenes=2, workers=2, **OPTIONS)
    both, alone = digests(tmp_path / "out"), digests(root)
    frames = {name for name in alone if name.startswith(("samples", "sweeps"))}
    assert {name: both[name] for name in frames} == {name: alone[name] for name in frames}
    assert len(both) == 2 * len(frames) + 15
    # A car that stands may see the same twice; two streets never look alike.
    assert not set(alone.values()) & {both[name] for name in both if "-0001__" in name}


def test_key_frames_alone_are_those_of_the_whole_drive(root, tmp_path):
    synthesize_nuscenes(tmp_path / "keys", scenes=1, between=False, **OPTIONS)
    assert digests(tmp_path / "keys", "samples") == digests(root, "samples")
    assert not digests(tmp_path / "keys", "sweeps")
    tables = tmp_path / "keys" / "v1.0-mini"
    for name in ("sample", "sample_annotation", "scene"):
        assert (tables / f"{name}.json").read_bytes() == (
            root / "v1.0-mini" / f"{name}.json"
        ).read_bytes()
    rows = json.loads((tables / "sample_data.json").read_text())
    assert len(rows) == 2 * len(SENSORS)
    assert all(row["is_key_frame"] for row in rows)


def test_other_seeds_and_scenes_are_other_streets():
    drives = [recorded_drive(0, **OPTIONS), recorded_drive(1, **OPTIONS)]
    drives.append(recorded_drive(0, **(OPTIONS | {"seed": 2})))
    assert len({len(drive.street.scene.label) for drive in drives}) == 3
    assert len({drive.token("scene") for drive in drives}) == 3


def test_the_mask_shows_where_the_car_drives(root, tables):
    mask = np.asarray(Image.open(root / tables["map"][0]["filename"]))
    content = json.loads((root / "maps/expansion/boston-seaport.json").read_text())
    width, height = content["canvas_edge"]
    assert mask.shape == (10 * height, 10 * width)
    assert set(np.unique(mask).tolist()) == {0, 255}
    places = np.array([row["translation"][:2] for row in tables["ego_pose"]])
    assert (mask[(10 * (height - places[:, 1])).astype(int), (10 * places[:, 0]).astype(int)]).all()


def test_the_car_drives_within_a_lane_of_the_map(root, drive, tables):
    content = json.loads((root / "maps/expansion/boston-seaport.json").read_text())
    assert content["version"] == "1.3"
    nodes = {node["token"]: (node["x"], node["y"]) for node in content["node"]}
    [divider] = content["road_divider"]
    line = next(row for row in content["line"] if row["token"] == divider["line_token"])
    middle = np.array([nodes[name] for name in line["node_tokens"]])
    plan = drive.street.plan
    np.testing.assert_allclose(plan.track.locate(middle)[:, 1], 0, atol=1e-9)
    places = np.array([row["translation"][:2] for row in tables["ego_pose"]])
    offsets = plan.track.locate(places)[:, 1]
    assert (-plan.lanes * plan.lane_m < offsets).all()
    assert (offsets < 0).all()
    assert len(content["lane"]) == 2 * plan.lanes


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="must be a new or empty folder; remove it or name another"):
        synthesize_nuscenes(tmp_path, scenes=1, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(nuscenes.SceneWriter, "write", broken)
    with pytest.raises(OSError, match="disk full"):
        synthesize_nuscenes(tmp_path / "out", scenes=1, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenes": 0}, "scenes must be 1 to 256, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seconds": 0.2}, r"seconds must be 0\.5 to 60, got 0\.2"),
        ({"image_scale": 2.0}, r"image_scale must be 0\.05 to 1, got 2\.0"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        synthesize_nuscenes(tmp_path / "out", **{"scenes": 1, **OPTIONS, **options})
    assert list(tmp_path.iterdir()) == []


def test_scenes_take_squares_of_the_map_that_do_not_depend_on_how_many_there_are():
    tiles = [nuscenes._tile(number) for number in range(16)]
    assert len(set(tiles)) == 16
    assert all(max(tile) == int(np.sqrt(number)) for number, tile in enumerate(tiles))
