"""What a source hands to ``convert``: recordings of cameras and lidars, frame by frame, in NumPy.

A source raises ``DataError`` for anything broken, naming the file and the frame.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, Int32, Int64, UInt8, UInt16
from pydantic import JsonValue

from geomim_data.schema import DepthKind, IntensityType, PixelCentre


@final
@dataclass(frozen=True, slots=True, eq=False)
class Deflated:
    """A depth plane as ``.sens`` holds it: a zlib stream of row-major little-endian uint16."""

    payload: bytes
    height: int
    width: int


@final
@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One moment of one camera.

    ``rgb`` is a whole JPEG or PNG file, kept as it is. ``world_from_cam`` is passed on as read,
    not finite included. Label and instance ids are 0 where nothing is known.
    """

    rgb: bytes
    depth: UInt16[np.ndarray, "h w"] | Deflated | None
    world_from_cam: Float64[np.ndarray, "4 4"]
    rgb_timestamp_us: int
    depth_timestamp_us: int
    label: UInt16[np.ndarray, "label_h label_w"] | None = None
    instance: UInt16[np.ndarray, "label_h label_w"] | None = None


@runtime_checkable
class FrameReader(Protocol):
    """Read the frames of one camera in order; each call to ``frames`` starts anew."""

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that the source's stride keeps."""
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class CameraRecording:
    """What holds for every frame of a camera; sizes are (height, width) in pixels.

    Intrinsics are fx, fy, cx, cy in our pixels, where the first pixel's centre is (0.5, 0.5);
    ``source_pixel_centre`` says what the source's calibration had. Every frame holds depth if
    ``depth_size`` is given and none does otherwise; labels may be missing from some frames.
    ``depth_unit_m`` is the length of one count of depth.

    ``key_frame`` tells the frames that belong to an annotated moment, a sample, of the scene.
    ``sample`` is the number of that moment, counted from 0 in time, or -1.
    """

    name: str
    frames: int
    rgb_size: tuple[int, int]
    rgb_intrinsics: Float64[np.ndarray, "4"] | Float64[np.ndarray, "frame 4"]
    source_pixel_centre: PixelCentre
    read: FrameReader
    depth_size: tuple[int, int] | None = None
    depth_intrinsics: Float64[np.ndarray, "4"] | Float64[np.ndarray, "frame 4"] | None = None
    depth_unit_m: float = 0.001
    depth_kind: DepthKind = "depth"
    label_size: tuple[int, int] | None = None
    has_instance: bool = False
    label_names: dict[int, str] | None = None
    key_frame: Bool[np.ndarray, " frame"] | None = None
    sample: Int32[np.ndarray, " frame"] | None = None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """One turn of one lidar: points in its own frame, in metres.

    ``time_us`` is when each point was measured, counted from the sweep's ``timestamp_us``.
    """

    points: Float32[np.ndarray, "point 3"]
    world_from_lidar: Float64[np.ndarray, "4 4"]
    timestamp_us: int
    intensity: Float32[np.ndarray, " point"] | UInt8[np.ndarray, " point"] | None = None
    ring: UInt8[np.ndarray, " point"] | None = None
    time_us: Int32[np.ndarray, " point"] | None = None


@runtime_checkable
class SweepReader(Protocol):
    """Read the sweeps of one lidar in order; each call to ``sweeps`` starts anew."""

    def sweeps(self) -> Iterator[Sweep]:
        """Yield every sweep."""
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class LidarRecording:
    """What holds for every sweep of a lidar; ``key_frame`` and ``sample`` as of cameras."""

    name: str
    sweeps: int
    read: SweepReader
    intensity: IntensityType | None = None
    has_ring: bool = False
    has_time: bool = False
    key_frame: Bool[np.ndarray, " sweep"] | None = None
    sample: Int32[np.ndarray, " sweep"] | None = None


@final
@dataclass(frozen=True, slots=True, eq=False)
class BoxTracks:
    """Boxes around things at the moments of a scene, and which are of one thing.

    Box axes are x forward, y left, z up, from the box's centre; ``size`` is its extent along each.
    ``velocity`` is in the world's frame, in m/s, NaN where unknown.
    """

    sample: Int32[np.ndarray, " box"]
    timestamp_us: Int64[np.ndarray, " box"]
    track: Int32[np.ndarray, " box"]
    category: Int16[np.ndarray, " box"]
    world_from_box: Float64[np.ndarray, "box 4 4"]
    size: Float32[np.ndarray, "box 3"]
    velocity: Float32[np.ndarray, "box 3"]
    lidar_points: Int32[np.ndarray, " box"]
    categories: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, eq=False)
class MapLines:
    """Polylines in the world's frame near a scene; outlines are closed by their first point.

    Line i is ``points[offset[i] : offset[i + 1]]``, and ``kinds[kind[i]]`` says of what.
    """

    points: Float64[np.ndarray, "point axis"]
    offset: Int64[np.ndarray, " ends"]
    kind: UInt8[np.ndarray, " line"]
    kinds: tuple[str, ...]


@runtime_checkable
class Recording(AbstractContextManager["Recording"], Protocol):
    """One scene, open; leaving the context closes its files."""

    @property
    def name(self) -> str:
        """The scene's name."""
        ...

    @property
    def cameras(self) -> tuple[CameraRecording, ...]:
        """The scene's cameras; a source of one camera calls it ``camera``."""
        ...


@runtime_checkable
class DrivingRecording(Recording, Protocol):
    """One scene, open, that has more than cameras."""

    @property
    def lidars(self) -> tuple[LidarRecording, ...]:
        """The scene's lidars."""
        ...

    def read_boxes(self) -> BoxTracks | None:
        """Read the boxes; None where none are known."""
        ...

    def read_map(self) -> MapLines | None:
        """Read the map around the scene; None where there is none."""
        ...


@runtime_checkable
class Source(Protocol):
    """A dataset on disk: a small value that is pickled to worker processes."""

    @property
    def dataset(self) -> str:
        """The dataset's name, such as ``scannet``."""
        ...

    @property
    def root(self) -> Path:
        """The folder that holds the dataset."""
        ...

    def arguments(self) -> dict[str, JsonValue]:
        """Return everything that changes the result, save ``root``: kept, compared on resume."""
        ...

    def scenes(self) -> list[str]:
        """List the scenes, in the order in which to convert them."""
        ...

    def open(self, scene: str) -> Recording:
        """Open one scene."""
        ...
