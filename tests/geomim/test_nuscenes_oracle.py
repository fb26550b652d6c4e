"""nuScenes' own devkit, which is right about nuScenes, asked the same questions."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from geomim.accumulation import Sweeps, accumulate_sweeps
from geomim.sceneflow import RigidSceneFlow, flow_from_boxes
from geomim.tracks import TrackedBoxes
from geomim.transforms import RigidTransform
from tests.geomim.nuscenes_tables import Tables, pose_of
from tests.geomim.strategies import normal

HOW = "needs nuscenes-devkit, which requirements/nuscenes-oracle.txt says how to get"
pyquaternion = pytest.importorskip("pyquaternion", reason=HOW)
nuscenes = pytest.importorskip("nuscenes", reason=HOW)
data_classes = pytest.importorskip("nuscenes.utils.data_classes", reason=HOW)
geometry_utils = pytest.importorskip("nuscenes.utils.geometry_utils", reason=HOW)

START_US = 1532402927647951
SWEEPS, POINTS = 10, 300


class Records:
    """A drive that keeps its tables in memory, and its sweeps below a folder, newest first."""

    def __init__(self, root):
        self.dataroot = str(root)
        poses = RigidTransform.exp(normal(SWEEPS, 6, seed=1) * 0.2)
        self.tables = {"calibrated_sensor": {"lidar": _record(poses[0])}, "ego_pose": {}}
        self.tables["sample_data"] = {}
        drive = RigidTransform.exp(normal(SWEEPS, 6, seed=2) * torch.tensor([40.0] * 3 + [1.0] * 3))
        for k in range(SWEEPS):
            points = normal(POINTS, 5, seed=10 + k).float() * 20
            points.numpy().tofile(root / f"{k}.bin")
            self.tables["ego_pose"][str(k)] = _record(drive[k])
            self.tables["sample_data"][str(k)] = {
                "timestamp": START_US - k * 50_123,
                "ego_pose_token": str(k),
                "calibrated_sensor_token": "lidar",
                "filename": f"{k}.bin",
                "prev": str(k + 1) if k + 1 < SWEEPS else "",
            }

    def get(self, table, token):
        return self.tables[table][token]

    def world_from_sensor(self, token):
        ego = pose_of(self.get("ego_pose", self.get("sample_data", token)["ego_pose_token"]))
        return ego @ pose_of(self.get("calibrated_sensor", "lidar"))


def _record(pose):
    return {"rotation": pose.quaternion().tolist(), "translation": pose.translation.tolist()}


def test_sweeps_are_accumulated_as_by_the_devkit(tmp_path):
    records = Records(tmp_path)
    cloud, lag = data_classes.LidarPointCloud.from_file_multisweep(
        records, {"data": {"LIDAR_TOP": "0"}}, "LIDAR_TOP", "LIDAR_TOP", SWEEPS, min_distance=2.0
    )
    tokens = [str(k) for k in range(SWEEPS)]
    clouds = [np.fromfile(tmp_path / f"{k}.bin", np.float32).reshape(-1, 5) for k in tokens]
    far = [torch.from_numpy(c[(np.abs(c[:, :2]) >= 2.0).any(axis=1)]) for c in clouds]
    poses = [records.world_from_sensor(token) for token in tokens]
    sweeps = Sweeps.from_list(
        [points[:, :3] for points in far],
        torch.tensor([records.get("sample_data", token)["timestamp"] for token in tokens]),
        RigidTransform(
            torch.stack([pose.rotation for pose in poses]),
            torch.stack([pose.translation for pose in poses]),
        ),
    )
    found = accumulate_sweeps(sweeps, target_time_us=START_US, world_from_target=poses[0])
    torch.testing.assert_close(
        found.points, torch.from_numpy(cloud.points[:3].T), atol=2e-5, rtol=1e-6
    )
    # The devkit counts backwards, from seconds in float64: a quarter of a microsecond off.
    torch.testing.assert_close(
        -found.seconds.double(), torch.from_numpy(lag[0]), atol=3e-7, rtol=1e-6
    )


def make_boxes(count=4):
    """The devkit's boxes, whose sizes are width, length, height, and ours, at two key frames."""
    poses = RigidTransform.exp(normal(2, count, 6, seed=3) * torch.tensor([2.0] * 3 + [0.5] * 3))
    size = normal(count, 3, seed=4).abs() * 3 + 1
    rows = [
        [
            data_classes.Box(
                pose.translation.tolist(),
                [width, length, height],
                pyquaternion.Quaternion(pose.quaternion().tolist()),
            )
            for pose, (length, width, height) in zip(
                (poses[frame, n] for n in range(count)), size.tolist(), strict=True
            )
        ]
        for frame in range(2)
    ]
    return rows, poses, size


def test_boxes_hold_the_points_that_they_hold_in_the_devkit():
    (boxes, _), poses, size = make_boxes()
    points = normal(4000, 3, seed=5) * 4
    found = flow_from_boxes(
        points, world_from_box_source=poses[0], world_from_box_target=poses[0], size=size
    )
    expected = torch.full((4000,), -1)
    for number, box in reversed(list(enumerate(boxes))):
        held = geometry_utils.points_in_box(box, points.T.numpy())
        expected[torch.from_numpy(held)] = number
    assert torch.equal(found.box.long(), expected)
    assert set(expected.tolist()) == {-1, 0, 1, 2, 3}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_boxes_between_key_frames_turn_as_in_the_devkit(share):
    """The devkit's centres go straight, ours on a screw: they agree as far as boxes do not turn."""
    (before, after), poses, size = make_boxes()
    times = torch.tensor([START_US, START_US + 500_000])
    annotations = RigidTransform(poses.rotation.reshape(-1, 3, 3), poses.translation.reshape(-1, 3))
    tracks = TrackedBoxes.from_annotations(
        times.repeat_interleave(4), annotations, size.repeat(2, 1), torch.arange(4).repeat(2)
    )
    asked = START_US + round(share * 500_000)
    ours = tracks.world_from_box.at(asked).world_from_body
    for number, (first, last) in enumerate(zip(before, after, strict=True)):
        turned = pyquaternion.Quaternion.slerp(first.orientation, last.orientation, amount=share)
        rotation = torch.from_numpy(turned.rotation_matrix)
        torch.testing.assert_close(ours.rotation[number], rotation, atol=1e-7, rtol=0)
        straight = torch.from_numpy((1 - share) * first.center + share * last.center)
        apart = (ours.translation[number] - straight).norm()
        turn = (poses[0, number].inverse() @ poses[1, number]).rotation_vector().norm()
        way = torch.from_numpy(last.center - first.center).norm()
        # So far is the middle of an arc from that of its chord.
        assert apart <= way / 2 * (turn / 4).tan() + 1e-9
    flow = RigidSceneFlow(tracks)
    centres = poses[0].translation
    moved = flow.move(
        centres, from_us=START_US, to_us=asked, box=torch.arange(4, dtype=torch.int32)
    )
    torch.testing.assert_close(moved.points, ours.translation, atol=1e-9, rtol=1e-9)


def test_recorded_lidar_is_carried_as_by_the_devkit():
    root = os.environ.get("GEOMIM_REAL_DATA")
    if root is None:
        pytest.skip("GEOMIM_REAL_DATA is not set: no recorded sweeps to accumulate")
    tables = Tables(Path(root) / "dgp_scene01_nuscenes")
    samples = json.loads((tables.root / "v1.0-mini" / "sample.json").read_text())
    lidars = sorted(
        (r for r in tables.sample_data.values() if tables.channel(r) == "LIDAR_TOP"),
        key=lambda record: -record["timestamp"],
    )
    assert len(lidars) == len(samples) == 3

    class Nuscenes:
        dataroot = str(tables.root)

        def get(self, table, token):
            return getattr(tables, table)[token]

    cloud, lag = data_classes.LidarPointCloud.from_file_multisweep(
        Nuscenes(), {"data": {"L": lidars[0]["token"]}}, "L", "L", 3, min_distance=0.0
    )
    poses = [tables.world_from_sensor(lidar) for lidar in lidars]
    sweeps = Sweeps.from_list(
        [tables.points(lidar)[:, :3] for lidar in lidars],
        torch.tensor([lidar["timestamp"] for lidar in lidars]),
        RigidTransform(
            torch.stack([pose.rotation for pose in poses]),
            torch.stack([pose.translation for pose in poses]),
        ),
    )
    found = accumulate_sweeps(
        sweeps, target_time_us=lidars[0]["timestamp"], world_from_target=poses[0]
    )
    expected = torch.from_numpy(cloud.points[:3].T)
    torch.testing.assert_close(found.points, expected, atol=5e-5, rtol=1e-6)
    torch.testing.assert_close(
        -found.seconds.double(), torch.from_numpy(lag[0]), atol=3e-7, rtol=1e-6
    )
