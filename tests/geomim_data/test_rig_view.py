import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import pytest
from PIL import Image

from geomim_data.convert import convert
from geomim_data.recording import (
    BoxTracks,
    CameraRecording,
    Frame,
    LidarRecording,
    MapLines,
    Sweep,
)
from geomim_data.rig_view import view_rig
from geomim_data.store import open_store
from tests.geomim_data.recordings import FakeRecording, FakeSource

SIZE = (360, 640)
YAWS_DEG = {"FRONT": 0, "RIGHT": -55, "LEFT": 55, "BACK": 180, "BACK_LEFT": 110}
GREYS = {name: 40 + 20 * index for index, name in enumerate(YAWS_DEG)}
BOX, DIVIDER = (255, 165, 40), (255, 225, 90)
PERIOD_US = 100_000


@final
@dataclass(frozen=True, slots=True, eq=False)
class GreyFrames:
    """Three frames of one grey from the origin, x forward and z up, a tenth of a second apart."""

    grey: int
    yaw: float

    def frames(self) -> Iterator[Frame]:
        buffer = io.BytesIO()
        Image.new("RGB", SIZE[::-1], (self.grey,) * 3).save(buffer, "PNG")
        pose = np.eye(4)
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        pose[:3, :3] = np.array([[sin, 0, cos], [-cos, 0, sin], [0, -1, 0]])
        for index in range(3):
            moment_us = PERIOD_US * index
            yield Frame(buffer.getvalue(), None, pose, moment_us, moment_us)


@final
@dataclass(frozen=True, slots=True, eq=False)
class FlatSweeps:
    """The ground around the car and one point ahead, at the first and the last frame's time."""

    def sweeps(self) -> Iterator[Sweep]:
        x, y = np.mgrid[-15:15:0.5, -15:15:0.5].reshape(2, -1)
        ground = np.stack([x, y, np.full_like(x, -1.5)], axis=1)
        for moment in (0, 2):
            points = np.concatenate([ground, [[10.0, 0.0, 1.0]]]).astype(np.float32)
            yield Sweep(points, np.eye(4), timestamp_us=PERIOD_US * moment)


@final
class RigSource(FakeSource):
    def open(self, scene: str) -> FakeRecording:
        cameras = tuple(
            CameraRecording(
                name=name,
                frames=3,
                rgb_size=SIZE,
                rgb_intrinsics=np.array([400.0, 400.0, 320.0, 180.0]),
                source_pixel_centre="half",
                read=GreyFrames(GREYS[name], np.deg2rad(yaw)),
            )
            for name, yaw in YAWS_DEG.items()
        )
        boxes = BoxTracks(
            sample=np.zeros(1, dtype=np.int32),
            timestamp_us=np.zeros(1, dtype=np.int64),
            track=np.zeros(1, dtype=np.int32),
            category=np.zeros(1, dtype=np.int16),
            world_from_box=np.array([[1.0, 0, 0, 20], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])[
                None
            ],
            size=np.array([[4, 2, 1.5]], dtype=np.float32),
            velocity=np.array([[0, 20, 0]], dtype=np.float32),
            lidar_points=np.ones(1, dtype=np.int32),
            categories=("vehicle.car",),
        )
        lines = MapLines(
            points=np.array([[3.0, 3.0], [40.0, 3.0]]),
            offset=np.array([0, 2]),
            kind=np.zeros(1, dtype=np.uint8),
            kinds=("lane_divider",),
        )
        top = LidarRecording(name="TOP", sweeps=2, read=FlatSweeps())
        return FakeRecording(scene, cameras, (top,), boxes, lines)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    out = tmp_path_factory.mktemp("rig") / "store"
    convert(RigSource(count=1), out, workers=1)
    return open_store(out).scene("scene0000_00")


def pixels_of(picture, colour):
    """Return the (u, v) of pixels of a colour, above the legend."""
    rows, columns = np.nonzero((np.asarray(picture)[: SIZE[0] + 24] == colour).all(axis=2))
    return columns, rows - 24


def test_cameras_stand_as_they_do_around_the_car(scene):
    picture = np.asarray(view_rig(scene))
    grey = {value: name for name, value in GREYS.items()}
    # High up in every tile there is nothing but the camera's own grey.
    found = [
        [grey.get(int(picture[24 + 386 * row + 20, 646 * column + 320, 0])) for column in range(3)]
        for row in range(2)
    ]
    assert found == [["LEFT", "FRONT", "RIGHT"], ["BACK_LEFT", "BACK", None]]
    assert picture.shape[1] == 3 * 640 + 3 * 6 + (2 * 360 + 24 + 6)


def test_lidar_is_drawn_where_the_camera_sees_it(scene):
    picture = view_rig(scene, sensors=["FRONT"])
    u, v = 320, 180 - 400 * 1.0 / 10.0
    red, green, blue = picture.getpixel((u, round(v) + 24))
    assert not red == green == blue
    assert picture.getpixel((u + 20, round(v) + 24)) == (GREYS["FRONT"],) * 3


def test_a_flat_map_lies_on_the_ground(scene):
    columns, rows = pixels_of(view_rig(scene, sensors=["FRONT"]), DIVIDER)
    # It runs 3 m to the left and 1.5 m below the camera, whatever the distance.
    np.testing.assert_allclose(320 - columns, 2 * (rows - 180), atol=3)
    assert len(rows) > 50


def test_boxes_move_on_with_their_velocity(scene):
    middles = [
        float(np.mean(pixels_of(view_rig(scene, sensors=["FRONT"], frame=frame), BOX)[0]))
        for frame in (0, 1)
    ]
    # 2 m to the left, 18 m away where most of its lines are.
    assert middles[0] == pytest.approx(320, abs=1)
    assert middles[0] - middles[1] == pytest.approx(400 * 2 / 18.5, abs=3)


def test_a_lidar_is_drawn_from_above(scene):
    picture = view_rig(scene, sensors=["TOP"])
    columns, rows = pixels_of(picture, BOX)
    # 40 m are 360 pixels; the box is 20 m ahead, 4 m long and 2 m wide.
    assert (columns.min(), columns.max()) == pytest.approx((351, 369), abs=3)
    assert (rows.min(), rows.max()) == pytest.approx((162, 198), abs=3)


def test_each_sensor_shows_its_frame_nearest_in_time(scene):
    picture = view_rig(scene, sensors=["TOP", "FRONT"], frame=1)
    assert picture.height < view_rig(scene).height
    with pytest.raises(ValueError, match="frame must be 0 to 1, got 2"):
        view_rig(scene, sensors=["TOP", "FRONT"], frame=2)


def test_an_unknown_sensor_is_refused(scene):
    rule = "sensor must be one of FRONT, RIGHT, LEFT, BACK, BACK_LEFT, TOP, got CAM"
    with pytest.raises(ValueError, match=rule):
        view_rig(scene, sensors=["FRONT", "CAM"])
