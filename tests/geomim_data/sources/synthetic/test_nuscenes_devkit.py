"""What nuScenes' own toolkit makes of synthetic streets."""

import warnings

import numpy as np
import pytest

from geomim_data.sources.synthetic.nuscenes import recorded_drive
from geomim_data.sources.synthetic.rig import CAMERAS

from .conftest import STREET_OPTIONS

with warnings.catch_warnings():
    # It calls what its own dependencies deprecate.
    warnings.simplefilter("ignore")
    devkit = pytest.importorskip(
        "nuscenes.nuscenes",
        reason="needs nuScenes' toolkit: pip install --no-deps nuscenes-devkit==1.2.0",
    )
    map_api = pytest.importorskip("nuscenes.map_expansion.map_api")
    arcs = pytest.importorskip("nuscenes.map_expansion.arcline_path_utils")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def loaded(streets):
    return devkit.NuScenes("v1.0-mini", str(streets), verbose=False)


@pytest.fixture(scope="module")
def street_map(streets):
    return map_api.NuScenesMap(str(streets), "boston-seaport")


def test_key_frames_have_all_sensors_and_boxes(loaded):
    [scene] = loaded.scene
    assert (scene["name"], scene["nbr_samples"]) == ("scene-9000", 2)
    sample = loaded.get("sample", scene["first_sample_token"])
    assert set(sample["data"]) == {*CAMERAS, "LIDAR_TOP"}
    path, boxes, _ = loaded.get_sample_data(sample["data"]["LIDAR_TOP"])
    assert path.endswith(".pcd.bin")
    assert len(boxes) == len(sample["anns"]) > 5


def test_boxes_hold_as_many_points_as_they_say(loaded):
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box

    sample = loaded.sample[-1]
    path, boxes, _ = loaded.get_sample_data(sample["data"]["LIDAR_TOP"])
    points = LidarPointCloud.from_file(path).points[:3]
    counted = {box.token: int(points_in_box(box, points).sum()) for box in boxes}
    stated = {
        token: loaded.get("sample_annotation", token)["num_lidar_pts"] for token in sample["anns"]
    }
    assert counted.keys() == stated.keys()
    # It counts in single precision.
    for token, count in counted.items():
        assert count == pytest.approx(stated[token], abs=1)
    assert sum(stated.values()) > 500


def test_points_appear_in_the_image_at_its_depth(loaded):
    drive, sample = recorded_drive(0, **STREET_OPTIONS), loaded.sample[-1]
    for channel in ("CAM_FRONT", "CAM_BACK_RIGHT"):
        pixels, depth, image = loaded.explorer.map_pointcloud_to_image(
            sample["data"]["LIDAR_TOP"], sample["data"][channel]
        )
        view = drive.render(channel, 6)
        assert image.size == view.depth_m.shape[::-1]
        # Its pixels have their centres on integers.
        column, row = np.rint(pixels[:2]).astype(int)
        off = np.abs(view.depth_m[row, column] / depth - 1)
        assert np.median(off) < 0.02


def test_velocities_follow_from_the_tracks(loaded):
    drive = recorded_drive(0, **STREET_OPTIONS)
    checked = 0
    for number, actor in enumerate(drive.street.actors):
        token = drive.token("annotation", number, 1)
        if actor.state == "moving" and token in loaded._token2ind["sample_annotation"]:
            speed = np.linalg.norm(loaded.box_velocity(token))
            if np.isfinite(speed):
                expected = actor.motion.speed_at(np.array([0.25]))[0]
                assert speed == pytest.approx(expected, rel=0.02, abs=0.02)
                checked += 1
    assert checked >= 2


def test_the_map_knows_the_lane_of_the_car(loaded, street_map):
    for pose in loaded.ego_pose[::10]:
        x, y, _ = pose["translation"]
        on = street_map.layers_on_point(x, y)
        assert on["drivable_area"]
        assert on["lane"]
        assert on["road_segment"]
        assert loaded.map[0]["mask"].is_on_mask(x, y).all()


def test_lanes_follow_the_street(street_map):
    plan = recorded_drive(0, **STREET_OPTIONS).street.plan
    for lane in street_map.lane:
        path = street_map.get_arcline_path(lane["token"])
        points = np.array(arcs.discretize_lane(path, 1.0))
        offsets = plan.track.locate(points[:, :2])[:, 1]
        middle = np.median(offsets)
        assert abs(middle) % plan.lane_m == pytest.approx(plan.lane_m / 2, abs=1e-3)
        np.testing.assert_allclose(offsets, middle, atol=0.05)
