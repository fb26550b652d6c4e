"""A small made-up source, importable by the worker processes of the tests."""

import io
import os
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import final

import numpy as np
from PIL import Image

from geomim_data.camera_reader import CameraReader
from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.recording import (
    BoxTracks,
    CameraRecording,
    Deflated,
    Frame,
    LidarRecording,
    MapLines,
    Sweep,
)

RGB_SIZE = (24, 32)
DEPTH_SIZE = (12, 16)


def rgb_file(seed: int, *, size: tuple[int, int] = RGB_SIZE, kind: str = "JPEG") -> bytes:
    v, u = np.mgrid[: size[0], : size[1]]
    image = np.stack([u * 3 + seed, v * 5, u + v], axis=-1) % 256
    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def depth_plane(seed: int, *, size: tuple[int, int] = DEPTH_SIZE) -> np.ndarray:
    v, u = np.mgrid[: size[0], : size[1]]
    return (1000 + 10 * seed + 3 * u + v).astype(np.uint16)


def pose(seed: int) -> np.ndarray:
    world_from_cam = np.eye(4)
    world_from_cam[:3, 3] = [seed, 0.5, -1]
    return world_from_cam


@final
@dataclass(frozen=True, slots=True, eq=False)
class FakeFrames:
    """Frames made from their number; ``broken`` maps a frame to what ails it."""

    seed: int
    count: int
    deflated: bool
    broken: dict[int, str]
    seconds: float
    labels: bool

    def frames(self) -> Iterator[Frame]:
        for index in range(self.count):
            time.sleep(self.seconds)
            yield self.frame(index)

    def frame(self, index: int) -> Frame:
        seed, trouble = self.seed + index, self.broken.get(index)
        if trouble == "source":
            raise DataError(f"fake.sens[frame {index}]: is truncated")
        if trouble == "bug":
            raise RuntimeError("a bug in the source")
        if trouble == "exit":
            os._exit(9)
        if trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "io":
            raise PermissionError(13, "Permission denied", "fake.sens")
        rgb, depth = rgb_file(seed), depth_plane(seed)
        payload = zlib.compress(depth.tobytes())
        return Frame(
            rgb=rgb[:-5] if trouble == "rgb" else rgb,
            depth=Deflated(payload, *DEPTH_SIZE) if self.deflated else depth,
            world_from_cam=pose(seed) if trouble != "pose" else np.full((4, 4), -np.inf),
            rgb_timestamp_us=1000 * seed,
            depth_timestamp_us=1000 * seed + 1,
            label=depth % 7 if self.labels and index % 2 == 0 else None,
            instance=depth % 5 if self.labels and index % 2 == 0 else None,
        )


SWEEP_POINTS = (3000, 0, 9000)  # chunks hold 4096


def sweep(seed: int, index: int) -> Sweep:
    """A sweep whose numbers all tell which one it is."""
    count = SWEEP_POINTS[index]
    rng = np.random.default_rng((seed, index))
    return Sweep(
        points=rng.normal(size=(count, 3)).astype(np.float32),
        world_from_lidar=pose(seed + index),
        timestamp_us=1000 * (seed + index),
        intensity=rng.integers(0, 256, count).astype(np.float32),
        ring=rng.integers(0, 32, count, dtype=np.uint8),
        time_us=np.arange(count, dtype=np.int32),
    )


@final
@dataclass(frozen=True, slots=True, eq=False)
class FakeSweeps:
    seed: int
    seconds: float = 0.0

    def sweeps(self) -> Iterator[Sweep]:
        for index in range(len(SWEEP_POINTS)):
            time.sleep(self.seconds)
            yield sweep(self.seed, index)


def lidar(sweeps: FakeSweeps, /, **changes: object) -> LidarRecording:
    values: dict[str, object] = {
        "name": "top",
        "sweeps": len(SWEEP_POINTS),
        "read": sweeps,
        "intensity": "float32",
        "has_ring": True,
        "has_time": True,
        "key_frame": np.array([True, False, True]),
        "sample": np.array([0, 1, 1], dtype=np.int32),
    }
    return LidarRecording(**values | changes)  # pyright: ignore[reportArgumentType] - test data


def boxes(seed: int) -> BoxTracks:
    """Two boxes of one track and one of another."""
    return BoxTracks(
        sample=np.array([0, 1, 1], dtype=np.int32),
        timestamp_us=np.array([0, 2000, 2000]) + 1000 * seed,
        track=np.array([0, 0, 1], dtype=np.int32),
        category=np.array([1, 1, 0], dtype=np.int16),
        world_from_box=np.stack([pose(seed + index) for index in range(3)]),
        size=np.array([[4, 2, 1.5], [4, 2, 1.5], [0.5, 0.6, 1.8]], dtype=np.float32),
        velocity=np.array([[1, 0, 0], [1, 0, 0], [np.nan] * 3], dtype=np.float32),
        lidar_points=np.array([10, 20, 0], dtype=np.int32),
        categories=("human.pedestrian.adult", "vehicle.car"),
    )


def lines(seed: int) -> MapLines:
    """A line and an outline."""
    return MapLines(
        points=np.array([[0, 0], [1, 0], [0, 0], [2, 0], [2, 2], [0, 0]], dtype=np.float64) + seed,
        offset=np.array([0, 2, 6]),
        kind=np.array([1, 0], dtype=np.uint8),
        kinds=("ped_crossing", "lane_divider"),
    )


@final
@dataclass(frozen=True, slots=True, eq=False)
class FakeRecording:
    name: str
    cameras: tuple[CameraRecording, ...]
    lidars: tuple[LidarRecording, ...] = ()
    boxes: BoxTracks | None = None
    lines: MapLines | None = None

    def read_boxes(self) -> BoxTracks | None:
        return self.boxes

    def read_map(self) -> MapLines | None:
        return self.lines

    def __enter__(self) -> "FakeRecording":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


def camera(frames: FakeFrames, /, **changes: object) -> CameraRecording:
    values: dict[str, object] = {
        "name": "camera",
        "frames": frames.count,
        "rgb_size": RGB_SIZE,
        "rgb_intrinsics": np.array([30.0, 31.0, 16.5, 12.5]),
        "source_pixel_centre": "integer",
        "read": frames,
        "depth_size": DEPTH_SIZE,
        "depth_intrinsics": np.array([15.0, 15.5, 8.25, 6.25]),
    }
    if frames.labels:
        values |= {"label_size": DEPTH_SIZE, "has_instance": True, "label_names": {1: "wall"}}
    return CameraRecording(**values | changes)  # pyright: ignore[reportArgumentType] - test data


@final
@dataclass(frozen=True, slots=True, eq=False)
class FakeSource:
    """``count`` scenes of ``frames`` frames; ``broken`` maps a scene to its broken frames.

    With ``driving`` each has a lidar, boxes and a map too.
    """

    count: int = 2
    frames: int = 3
    deflated: bool = True
    labels: bool = False
    driving: bool = False
    seconds: float = 0.0
    broken: dict[str, dict[int, str]] = field(default_factory=dict[str, dict[int, str]])
    dataset: str = "fake"
    stride: int = 1
    root: Path = Path("fake")

    def arguments(self) -> dict[str, object]:
        return {"stride": self.stride}

    def scenes(self) -> list[str]:
        return [f"scene{index:04d}_00" for index in range(self.count)]

    def reader(self, scene: str) -> FakeFrames:
        broken = self.broken.get(scene, {})
        seed = 100 * self.scenes().index(scene)
        return FakeFrames(seed, self.frames, self.deflated, broken, self.seconds, self.labels)

    def open(self, scene: str) -> FakeRecording:
        frames = self.reader(scene)
        if not self.driving:
            return FakeRecording(scene, (camera(frames),))
        moments = np.arange(self.frames, dtype=np.int32) // 2
        front = camera(frames, key_frame=np.arange(self.frames) % 2 == 0, sample=moments)
        sweeps = lidar(FakeSweeps(frames.seed, self.seconds))
        return FakeRecording(scene, (front,), (sweeps,), boxes(frames.seed), lines(frames.seed))


def first_values(reader: CameraReader) -> tuple[bytes, int, float]:
    """Read something of every kind, in a child process."""
    return reader.rgb_bytes(1), int(reader.depth(2)[0, 0]), float(reader.world_from_cam[1, 0, 3])


@final
@dataclass(slots=True, eq=False)
class Heard:
    """Remember what progress was told."""

    scenes: int = 0
    frames: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    finished: dict[str, str | None] = field(default_factory=dict[str, str | None])

    def start(self, scenes: int) -> None:
        self.scenes = scenes

    def advance(self, scene: str, done: int, total: int) -> None:
        self.frames[scene] = (done, total)

    def finish(self, scene: str, error: str | None) -> None:
        self.finished[scene] = error


if __name__ == "__main__":
    from tests.geomim_data.recordings import FakeSource as ImportedSource  # picklable by name

    # Tests that run in the background of a shell inherit its deafness to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out, workers, seconds = sys.argv[1:]
    source = ImportedSource(count=4, seconds=float(seconds), driving=True)
    convert(source, out, workers=int(workers))
