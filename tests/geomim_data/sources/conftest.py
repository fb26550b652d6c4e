"""Small recordings in the real formats, and where real ones lie."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geomim_data.sources.sens import SensFrame, SensHeader
from geomim_data.sources.sens_writer import encode_frame, write_sens

RGB_SIZE = (12, 16)
DEPTH_SIZE = (6, 8)
RGB_MATRIX = np.diag([20.0, 21.0, 1.0, 1.0])
RGB_MATRIX[:2, 2] = [7.5, 5.5]
DEPTH_MATRIX = np.diag([10.0, 10.5, 1.0, 1.0])
DEPTH_MATRIX[:2, 2] = [3.5, 2.5]
HEADER = SensHeader(
    rgb_intrinsics=RGB_MATRIX,
    depth_intrinsics=DEPTH_MATRIX,
    rgb_compression="jpeg",
    depth_compression="zlib",
    rgb_size=RGB_SIZE,
    depth_size=DEPTH_SIZE,
)


Images = Callable[[int], tuple[np.ndarray, np.ndarray]]
WriteSens = Callable[..., Path]


@pytest.fixture
def header() -> SensHeader:
    """Return the header of a small recording: jpeg colour, zlib depth of half the size."""
    return HEADER


@pytest.fixture
def make_images() -> Images:
    """Return colour and depth that tell one frame from another."""

    def make(index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(index)
        rgb = rng.integers(0, 256, (*RGB_SIZE, 3), dtype=np.uint8)
        return rgb, rng.integers(0, 5000, DEPTH_SIZE, dtype=np.uint16)

    return make


@pytest.fixture
def make_frames(make_images: Images) -> Callable[[SensHeader, int], list[SensFrame]]:
    """Return frames whose camera moves along x by a metre each."""

    def make(header: SensHeader, frames: int) -> list[SensFrame]:
        poses = [np.eye(4) for _ in range(frames)]
        for index, pose in enumerate(poses):
            pose[0, 3] = index
        return [
            encode_frame(header, *make_images(index), pose, timestamp_us=33_333 * index)
            for index, pose in enumerate(poses)
        ]

    return make


@pytest.fixture
def write_small_sens(
    tmp_path: Path, make_frames: Callable[[SensHeader, int], list[SensFrame]]
) -> WriteSens:
    """Write a valid file of a few frames; keywords change its header."""

    def write(path: Path = tmp_path / "small.sens", *, frames: int = 3, **changes: object) -> Path:
        header = replace(HEADER, **changes)  # pyright: ignore[reportArgumentType]  # tests' own
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sens(path, header, make_frames(header, frames))
        return path

    return write


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real recordings, or skip."""
    if "GEOMIM_REAL_DATA" not in os.environ:
        pytest.skip("GEOMIM_REAL_DATA is not set: no real recordings at hand")
    return Path(os.environ["GEOMIM_REAL_DATA"])
