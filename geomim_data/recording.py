"""What a source hands to ``convert``: recordings of cameras, frame by frame, in NumPy.

A source raises ``DataError`` for anything broken, naming the file and the frame.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final, runtime_checkable

import numpy as np
from jaxtyping import Float64, UInt16
from pydantic import JsonValue

from geomim_data.schema import DepthKind, PixelCentre


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
