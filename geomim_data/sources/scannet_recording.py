"""One scan of ScanNet, open: frames of its ``.sens`` with the labels of the same number."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import final

import numpy as np
from jaxtyping import Float64, UInt16

from geomim_data.codecs import image_format
from geomim_data.errors import DataError
from geomim_data.recording import CameraRecording, Deflated, Frame
from geomim_data.sources.png import checked_image_size, decode_grey_png, encode_png
from geomim_data.sources.scannet_images import FrameImages, find_frame_images, open_frame_images
from geomim_data.sources.scannet_labels import NYU40_NAMES
from geomim_data.sources.sens import SensFile, SensFrame
from geomim_data.sources.text import read_lines


def sens_path(scan: Path) -> Path:
    """Return where a scan's folder keeps its ``.sens``."""
    return scan / f"{scan.name}.sens"


def find_label_images(scan: Path) -> tuple[Path, Path | None] | None:
    """Look for a scan's labels and their instances, the filtered ones first."""
    for filtered in (True, False):
        label = find_frame_images(scan, "label", filtered=filtered)
        if label is not None:
            return label, find_frame_images(scan, "instance", filtered=filtered)
    return None


@final
class ScanNetRecording:
    """An open scan; close it, or use it in a ``with`` statement."""

    def __init__(
        self, scan: Path, *, stride: int, nyu40_of_raw: UInt16[np.ndarray, "65536"] | None
    ) -> None:
        """Open the scan's files.

        Args:
            scan: Its folder.
            stride: Every how many frames one is kept.
            nyu40_of_raw: The NYU40 id of every raw id; None to leave labels alone.

        Raises:
            DataError: If the ``.sens`` is missing or broken, or a zip of labels is.
        """
        self._scan = scan
        self._nyu40_of_raw = nyu40_of_raw
        self._label: FrameImages | None = None
        self._instance: FrameImages | None = None
        with ExitStack() as stack:
            self._sens = stack.enter_context(SensFile(sens_path(scan)))
            self._kept = range(0, len(self._sens), stride)
            found = None if nyu40_of_raw is None else find_label_images(scan)
            if found is not None:
                self._label = _open_images(stack, found[0])
                self._instance = None if found[1] is None else _open_images(stack, found[1])
            self._label_size = self._find_label_size()
            self._close = stack.pop_all().close

    def __enter__(self) -> "ScanNetRecording":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    @property
    def name(self) -> str:
        """The scan's name."""
        return self._scan.name

    @property
    def cameras(self) -> tuple[CameraRecording, ...]:
        """The scan's one camera."""
        header = self._sens.header
        return (
            CameraRecording(
                name="camera",
                frames=len(self._kept),
                rgb_size=header.rgb_size,
                depth_size=header.depth_size,
                rgb_intrinsics=_in_our_pixels(header.rgb_intrinsics),
                depth_intrinsics=_in_our_pixels(header.depth_intrinsics),
                source_pixel_centre="integer",
                depth_unit_m=1 / header.depth_shift,
                label_size=self._label_size,
                has_instance=self._label_size is not None and self._instance is not None,
                label_names=None if self._label_size is None else dict(enumerate(NYU40_NAMES)),
                read=self,
            ),
        )

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that the stride keeps.

        Raises:
            DataError: If an image is broken, naming file and frame.
        """
        for index in self._kept:
            sens = self._sens.frame(index)
            yield Frame(
                rgb=self._rgb(index, sens),
                depth=self._depth(sens),
                world_from_cam=sens.world_from_cam,
                rgb_timestamp_us=sens.rgb_timestamp_us,
                depth_timestamp_us=sens.depth_timestamp_us,
                label=self._read_label(index),
                instance=self._read_plane(self._instance, index),
            )

    def scan_info(self) -> dict[str, str]:
        """Read ``<scan>.txt``, such as its ``sceneType``; its frame counts may be off by one.

        Raises:
            DataError: If the file is missing, or a line is not ``key = value``.
        """
        info: dict[str, str] = {}
        for where, line in read_lines(self._scan / f"{self.name}.txt"):
            key, equals, value = line.partition("=")
            if not equals:
                raise DataError(f"{where}: must be key = value, got {line[:80]!r}")
            info[key.strip()] = value.strip()
        return info

    def _find_label_size(self) -> tuple[int, int] | None:
        """Return the size of the first label image, which all others must have."""
        if self._label is None or not self._label.frames:
            return None
        first = min(self._label.frames)
        return checked_image_size(self._label.read(first), self._label.where(first))

    def _rgb(self, index: int, sens: SensFrame) -> bytes:
        header = self._sens.header
        where = f"{self._sens.path}[frame {index}]"
        if header.rgb_compression == "raw":
            return encode_png(np.frombuffer(sens.rgb, np.uint8).reshape(*header.rgb_size, 3))
        checked_image_size(sens.rgb, where, size=header.rgb_size)
        found = image_format(sens.rgb)
        if found != header.rgb_compression:
            raise DataError(
                f"{where}: colour must be {header.rgb_compression} as in the header, got {found}"
            )
        return sens.rgb

    def _depth(self, sens: SensFrame) -> UInt16[np.ndarray, "h w"] | Deflated:
        height, width = self._sens.header.depth_size
        if self._sens.header.depth_compression == "zlib":
            return Deflated(sens.depth, height, width)
        return np.frombuffer(sens.depth, "<u2").astype(np.uint16).reshape(height, width)

    def _read_label(self, index: int) -> UInt16[np.ndarray, "h w"] | None:
        raw = self._read_plane(self._label, index)
        return None if raw is None or self._nyu40_of_raw is None else self._nyu40_of_raw[raw]

    def _read_plane(
        self, images: FrameImages | None, index: int
    ) -> UInt16[np.ndarray, "h w"] | None:
        if images is None or self._label_size is None or index not in images.frames:
            return None
        return decode_grey_png(images.read(index), images.where(index), size=self._label_size)


def _open_images(stack: ExitStack, path: Path) -> FrameImages:
    images = open_frame_images(path)
    stack.callback(images.close)
    return images


def _in_our_pixels(matrix: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4"]:
    """Return fx, fy, cx, cy; ScanNet's pixel centres lie on integers, ours half a pixel on."""
    return np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5])
