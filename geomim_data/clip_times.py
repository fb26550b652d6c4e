"""Which frame of each sensor belongs to which moment of a clip."""

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from jaxtyping import Int64

from geomim_data.camera_reader import CameraReader
from geomim_data.errors import DataError
from geomim_data.lidar_reader import LidarReader
from geomim_data.store import Scene

_MICRO = 1_000_000


@final
@dataclass(frozen=True, slots=True, eq=False)
class ClipTimes:
    """Which moments make up a clip, counted from each sensor's own key frame.

    In ``seconds`` an offset takes the sensor's frame nearest to it, at most ``tolerance_s`` off;
    in ``frames`` the frame that many behind (negative) or ahead, however far that is. Frames count
    through key frames, past and future alike.

    Raises:
        ValueError: If there are no offsets, two could take the same frame, or frames are no whole
            numbers.
    """

    offsets: tuple[int | float, ...]
    unit: Literal["seconds", "frames"] = "seconds"
    tolerance_s: float = 0.04

    def __post_init__(self):
        if not self.offsets or len(set(self.offsets)) != len(self.offsets):
            raise ValueError(f"offsets must be different moments, got {self.offsets}")
        if self.unit == "frames" and any(offset % 1 for offset in self.offsets):
            raise ValueError(f"offsets in frames must be whole numbers, got {self.offsets}")
        apart = np.diff(sorted(self.offsets))
        if self.unit == "seconds" and len(apart) and 2 * self.tolerance_s >= apart.min():
            raise ValueError(
                f"tolerance_s must be under half of the offsets' least distance, {apart.min():g}, "
                f"so that none takes another's frame, got {self.tolerance_s}"
            )

    def choose(self, timestamp_us: Int64[np.ndarray, " frame"], own: int) -> list[int]:
        """Return the frame of each offset from frame ``own``, or -1 where there is none."""
        match self.unit:
            case "seconds":
                return self.near(timestamp_us, int(timestamp_us[own]))
            case "frames":
                frames = [own + int(offset) for offset in self.offsets]
                return [frame if 0 <= frame < len(timestamp_us) else -1 for frame in frames]

    def near(self, timestamp_us: Int64[np.ndarray, " frame"], moment_us: int) -> list[int]:
        """Return the frame of each offset from a moment, or -1 where none is near enough.

        In ``frames`` nothing is known of a sensor that has no key frame to count from.
        """
        if self.unit == "frames" or not len(timestamp_us):
            return [-1] * len(self.offsets)
        chosen: list[int] = []
        for offset in self.offsets:
            apart = np.abs(timestamp_us - (moment_us + round(offset * _MICRO)))
            frame = int(apart.argmin())
            chosen.append(frame if apart[frame] <= self.tolerance_s * _MICRO else -1)
        return chosen


def frames_around(
    sensor: CameraReader | LidarReader, times: ClipTimes, sample: int, moment_us: int
) -> list[int]:
    """Return the sensor's frame of each moment around a sample, or -1."""
    timestamp_us = _timestamps(sensor)
    own = _key_frame(sensor, sample)
    if own is None:
        return times.near(timestamp_us, moment_us)
    return times.choose(timestamp_us, own)


def moment_of(scene: Scene, sample: int) -> int:
    """Return the time of a sample: that of a lidar's key frame, else of the cameras' median.

    Raises:
        DataError: If no sensor has a key frame of it.
    """
    for sensors in (map(scene.lidar, scene.lidars), map(scene.camera, scene.cameras)):
        moments = [
            int(_timestamps(sensor)[own])
            for sensor in sensors
            if (own := _key_frame(sensor, sample)) is not None
        ]
        if moments:
            return sorted(moments)[len(moments) // 2]
    raise DataError(f"{scene.place}[sample {sample}]: no sensor has a key frame of it")


def _timestamps(sensor: CameraReader | LidarReader) -> Int64[np.ndarray, " frame"]:
    return sensor.timestamp_us if isinstance(sensor, LidarReader) else sensor.rgb_timestamp_us


def _key_frame(sensor: CameraReader | LidarReader, sample: int) -> int | None:
    """Return the sensor's own key frame of a sample."""
    if not (sensor.attributes.has_key_frame and sensor.attributes.has_sample):
        return None
    found = np.flatnonzero(sensor.key_frame & (sensor.sample == sample))
    return int(found[0]) if len(found) else None
