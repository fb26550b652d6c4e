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
from geomim_data.recording import CameraRecording, Deflated, Frame

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


@final
@dataclass(frozen=True, slots=True, eq=False)
class FakeRecording:
    name: str
    cameras: tuple[CameraRecording, ...]

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
    """``scenes`` times ``frames`` frames; ``broken`` maps a scene to its broken frames."""

    count: int = 2
    frames: int = 3
    deflated: bool = True
    labels: bool = False
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
        return FakeRecording(scene, (camera(self.reader(scene)),))


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
    convert(ImportedSource(count=4, seconds=float(seconds)), out, workers=int(workers))
