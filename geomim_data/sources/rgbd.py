"""RGB-D recordings in the layouts of TUM RGB-D, 7-Scenes and plain folders."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, final

import numpy as np
from jaxtyping import Float64, UInt16
from pydantic import JsonValue

from geomim_data.errors import DataError
from geomim_data.recording import CameraRecording, Frame
from geomim_data.schema import check_name
from geomim_data.sources.png import checked_image_size, decode_grey_png
from geomim_data.sources.rgbd_7scenes import is_7scenes, list_7scenes
from geomim_data.sources.rgbd_folder import is_folder, list_folder
from geomim_data.sources.rgbd_listing import RgbdEntry, RgbdListing
from geomim_data.sources.rgbd_tum import is_tum, list_tum
from geomim_data.sources.text import read_bytes

Layout = Literal["tum", "7scenes", "folder"]
DepthCoding = Literal["linear", "sun3d"]

LAYOUTS: Final[tuple[Layout, ...]] = ("tum", "7scenes", "folder")
SUN3D_SCALE: Final = 10_000.0


@final
@dataclass(frozen=True, slots=True)
class RgbdSource:
    """RGB-D recordings at ``root``: one, or one a folder below it.

    ``depth_scale`` is the number of depth units in a metre, by default 5000 for TUM, 10000 for
    ``sun3d`` and 1000 otherwise. ``depth_coding`` ``sun3d`` undoes SUN3D's rotation by three bits.
    """

    root: Path
    layout: Literal["auto"] | Layout = "auto"
    stride: int = 1
    depth_scale: float | None = None
    depth_coding: DepthCoding = "linear"

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride must be 1 or more, got {self.stride}")
        if self.depth_scale is not None and not 0 < self.depth_scale < np.inf:
            raise ValueError(f"depth_scale must be positive and finite, got {self.depth_scale}")

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return "rgbd"

    def arguments(self) -> dict[str, JsonValue]:
        """Return everything that changes the result, save ``root``."""
        return {
            "layout": self.layout,
            "stride": self.stride,
            "depth_scale": self.depth_scale,
            "depth_coding": self.depth_coding,
        }

    def scenes(self) -> list[str]:
        """List the recordings by name.

        Raises:
            DataError: If there are none, or one could be of two layouts.
        """
        return sorted(self._folders())

    def open(self, scene: str) -> "RgbdRecording":
        """Open one recording.

        Raises:
            DataError: If it is not there or its files are broken.
        """
        folders = self._folders()
        if scene not in folders:
            raise DataError(f"{self.root}: holds no recording {scene!r}")
        folder, layout = folders[scene]
        return RgbdRecording(scene, _list_recording(folder, layout), self)

    def _folders(self) -> dict[str, tuple[Path, Layout]]:
        if not self.root.is_dir():
            raise DataError(
                f"{self.root}: no such folder; pass --root with the folder of the recordings"
            )
        layout = self._layout(self.root)
        if layout is not None:
            return {check_name(self.root.resolve().name, what="scene"): (self.root, layout)}
        below = {path.name: path for path in self.root.iterdir() if path.is_dir()}
        # 7-Scenes keeps its sequences in a folder a scene.
        for scene, folder in list(below.items()):
            below |= {f"{scene}_{path.name}": path for path in folder.glob("seq-*")}
        found: dict[str, tuple[Path, Layout]] = {}
        for name, path in below.items():
            layout = self._layout(path)
            if layout is not None:
                found[check_name(name, what="scene")] = path, layout
        if not found:
            raise DataError(
                f"{self.root}: holds no recording of layout {self.layout}; expected rgb.txt and "
                "depth.txt (tum), frame-*.color.png (7scenes), or images/ and K.txt (folder)"
            )
        return found

    def _layout(self, folder: Path) -> Layout | None:
        wanted: tuple[Layout, ...] = LAYOUTS if self.layout == "auto" else (self.layout,)
        found: list[Layout] = [layout for layout in wanted if _has_layout(folder, layout)]
        if len(found) > 1:
            raise DataError(
                f"{folder}: could be {' or '.join(found)}; choose with --layout {found[0]}"
            )
        return found[0] if found else None


@final
class RgbdRecording:
    """A recording of single files, each open only while it is read."""

    def __init__(self, name: str, listing: RgbdListing, source: RgbdSource) -> None:
        """Read the sizes off the first images.

        Raises:
            DataError: If one of them is missing or broken.
        """
        self.name = name
        self._entries = listing.entries[:: source.stride]
        self._no_depth = listing.no_depth
        self._coding: DepthCoding = source.depth_coding
        first = self._entries[0]
        labels = [entry.label for entry in self._entries if entry.label is not None]
        self._rgb_size = _size_of(first.rgb)
        self._depth_size = None if first.depth is None else _size_of(first.depth)
        self._label_size = _size_of(labels[0]) if labels else None
        self.cameras = (self._camera(listing, source),)

    def __enter__(self) -> "RgbdRecording":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hold nothing, so release nothing."""

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that the stride keeps.

        Raises:
            DataError: If an image is missing, broken or of another size than the first.
        """
        for entry in self._entries:
            rgb = read_bytes(entry.rgb)
            checked_image_size(rgb, str(entry.rgb), size=self._rgb_size)
            yield Frame(
                rgb=rgb,
                depth=self._depth(entry),
                world_from_cam=entry.world_from_cam,
                rgb_timestamp_us=entry.rgb_timestamp_us,
                depth_timestamp_us=entry.depth_timestamp_us,
                label=_read_plane(entry.label, self._label_size, narrow=True),
            )

    def _camera(self, listing: RgbdListing, source: RgbdSource) -> CameraRecording:
        # Sources put pixel centres on integers, we half a pixel on.
        intrinsics = listing.intrinsics + np.array([0, 0, 0.5, 0.5])
        default_scale = SUN3D_SCALE if source.depth_coding == "sun3d" else listing.depth_scale
        return CameraRecording(
            name="camera",
            frames=len(self._entries),
            rgb_size=self._rgb_size,
            depth_size=self._depth_size,
            rgb_intrinsics=intrinsics,
            depth_intrinsics=_scaled(intrinsics, self._rgb_size, self._depth_size),
            source_pixel_centre="integer",
            depth_unit_m=1 / (source.depth_scale or default_scale),
            label_size=self._label_size,
            read=self,
        )

    def _depth(self, entry: RgbdEntry) -> UInt16[np.ndarray, "h w"] | None:
        plane = _read_plane(entry.depth, self._depth_size, narrow=False)
        if plane is None:
            return None
        match self._coding:
            case "linear":
                return np.where(plane == self._no_depth, np.uint16(0), plane)
            case "sun3d":
                return (plane >> 3) | (plane << 13)


def _has_layout(folder: Path, layout: Layout) -> bool:
    match layout:
        case "tum":
            return is_tum(folder)
        case "7scenes":
            return is_7scenes(folder)
        case "folder":
            return is_folder(folder)


def _list_recording(folder: Path, layout: Layout) -> RgbdListing:
    match layout:
        case "tum":
            return list_tum(folder)
        case "7scenes":
            return list_7scenes(folder)
        case "folder":
            return list_folder(folder)


def _size_of(path: Path) -> tuple[int, int]:
    return checked_image_size(read_bytes(path), str(path))


def _read_plane(
    path: Path | None, size: tuple[int, int] | None, *, narrow: bool
) -> UInt16[np.ndarray, "h w"] | None:
    if path is None or size is None:
        return None
    return decode_grey_png(read_bytes(path), str(path), size=size, narrow=narrow)


def _scaled(
    intrinsics: Float64[np.ndarray, "4"], size: tuple[int, int], to: tuple[int, int] | None
) -> Float64[np.ndarray, "4"] | None:
    """Return the intrinsics of the same view at another size, in our pixels."""
    if to is None:
        return None
    down, across = to[0] / size[0], to[1] / size[1]
    return intrinsics * np.array([across, down, across, down])
