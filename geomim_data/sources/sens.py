"""Read ScanNet ``.sens`` recordings, version 4, seeking past every image that is not asked for.

Source: ``SensReader/c++/src/sensorData.h`` of ScanNet. Little-endian, no padding. No length in the
file is believed before it is compared with the bytes that are left.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import BinaryIO, Final, Literal, final

import numpy as np
from jaxtyping import Float64

from geomim_data.errors import DataError

RgbCompression = Literal["raw", "png", "jpeg"]
DepthCompression = Literal["raw", "zlib"]

VERSION: Final = 4
MAX_NAME_BYTES: Final = 4096
MAX_SIDE: Final = 1 << 14
MAX_PIXELS: Final = 1 << 26
# Two days at 100 Hz; the first eight bytes of a pose, read as a count, are always far above.
MAX_IMU_SAMPLES: Final = 1 << 24
IMU_NBYTES: Final = 128

# Version and name length; after the name, intrinsics and extrinsics of colour, then of depth;
# two compressions, two sizes as (width, height), depth shift, frame count.
PREAMBLE: Final = struct.Struct("<IQ")
MATRICES: Final = struct.Struct("<64f")
LAYOUT: Final = struct.Struct("<2i4IfQ")
# Camera-to-world, two timestamps, two lengths. ScanNet's clocks hold junk in places: read as signed
# numbers, any eight bytes fit what we store.
FRAME: Final = struct.Struct("<16f2q2Q")
IMU_COUNT: Final = struct.Struct("<Q")

RGB_COMPRESSIONS: Final[Mapping[int, RgbCompression]] = MappingProxyType(
    {0: "raw", 1: "png", 2: "jpeg"}
)
DEPTH_COMPRESSIONS: Final[Mapping[int, DepthCompression]] = MappingProxyType({0: "raw", 1: "zlib"})
OCCI: Final = 2


@final
@dataclass(frozen=True, slots=True, eq=False)
class SensHeader:
    """What the head of a ``.sens`` file says about all of its frames.

    Sizes are (height, width). Intrinsics stand as stored: pixel centres on integers.
    ``depth_shift`` is the number of depth units in a metre.
    """

    rgb_intrinsics: Float64[np.ndarray, "4 4"]
    depth_intrinsics: Float64[np.ndarray, "4 4"]
    rgb_compression: RgbCompression
    depth_compression: DepthCompression
    rgb_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_shift: float = 1000.0
    sensor: str = "StructureSensor"


@final
@dataclass(frozen=True, slots=True, eq=False)
class SensFrame:
    """One frame as stored: the pose and both images in the compression the header names."""

    world_from_cam: Float64[np.ndarray, "4 4"]
    rgb_timestamp_us: int
    depth_timestamp_us: int
    rgb: bytes
    depth: bytes


@final
@dataclass(frozen=True, slots=True)
class _Span:
    """Where one frame lies in the file, in bytes."""

    start: int
    rgb_nbytes: int
    depth_nbytes: int

    @property
    def end(self) -> int:
        """The first byte after the frame."""
        return self.start + FRAME.size + self.rgb_nbytes + self.depth_nbytes


@final
class SensFile:
    """An open ``.sens`` file: its header, and any frame by number.

    Opening reads the header and the 96 bytes that lead each frame, no images. Close it, or use it
    in a ``with`` statement.
    """

    def __init__(self, path: Path) -> None:
        """Index the file.

        Raises:
            DataError: If the file is missing, is not version 4, holds no frames, or does not hold
                just the frames that its header promises. A missing or cut-off IMU record after
                the last frame is accepted.
        """
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb", buffering=0)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self.header, frames, start = self._read_header()
            self._spans = self._read_spans(frames, start)
            self._check_tail(self._spans[-1].end)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "SensFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._spans)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def frame(self, index: int) -> SensFrame:
        """Read one frame, seeking past all others.

        Raises:
            DataError: If a length cannot belong to an image of the size in the header.
        """
        span = self._spans[index]
        self._check_lengths(index, span)
        data = os.pread(self._file.fileno(), span.end - span.start, span.start)
        if len(data) != span.end - span.start:
            raise DataError(
                f"{self.path}[frame {index}]: the file has shrunk while it was read; fetch it again"
            )
        *pose, rgb_timestamp_us, depth_timestamp_us, _, _ = FRAME.unpack_from(data)
        middle = FRAME.size + span.rgb_nbytes
        return SensFrame(
            world_from_cam=np.array(pose, dtype=np.float64).reshape(4, 4),
            rgb_timestamp_us=rgb_timestamp_us,
            depth_timestamp_us=depth_timestamp_us,
            rgb=data[FRAME.size : middle],
            depth=data[middle:],
        )

    def _read(self, start: int, nbytes: int) -> bytes:
        data = os.pread(self._file.fileno(), nbytes, start)
        if len(data) != nbytes:
            raise DataError(
                f"{self.path}: the file ends inside its header: bytes {start} to {start + nbytes} "
                f"are needed, the file has {self._size}; fetch it again"
            )
        return data

    def _read_header(self) -> tuple[SensHeader, int, int]:
        """Return the header, the number of frames it promises, and where the first one starts."""
        version, name_nbytes = PREAMBLE.unpack(self._read(0, PREAMBLE.size))
        if version != VERSION:
            raise DataError(
                f"{self.path}: .sens version must be {VERSION}, got {version}; "
                "convert older recordings with ScanNet's own tools"
            )
        if name_nbytes > MAX_NAME_BYTES:
            raise DataError(
                f"{self.path}: sensor name must have at most {MAX_NAME_BYTES} bytes, "
                f"got {name_nbytes}"
            )
        name = self._read(PREAMBLE.size, name_nbytes).decode(errors="backslashreplace")
        start = PREAMBLE.size + name_nbytes
        matrices = MATRICES.unpack(self._read(start, MATRICES.size))
        start += MATRICES.size
        layout = self._read(start, LAYOUT.size)
        header = _parse_header(self.path, name, np.array(matrices).reshape(4, 4, 4), layout)
        return header, LAYOUT.unpack(layout)[-1], start + LAYOUT.size

    def _read_spans(self, frames: int, start: int) -> list[_Span]:
        if frames == 0:
            raise DataError(f"{self.path}: frames must be 1 or more, got 0")
        room = (self._size - start) // FRAME.size
        if frames > room:
            raise DataError(
                f"{self.path}: the header promises {frames} frames, "
                f"but the file has room for {room} at most; fetch it again"
            )
        spans: list[_Span] = []
        for index in range(frames):
            spans.append(self._read_span(index, start))
            start = spans[-1].end
        return spans

    def _read_span(self, index: int, start: int) -> _Span:
        data = os.pread(self._file.fileno(), FRAME.size, start)
        if len(data) == FRAME.size:
            span = _Span(start, *FRAME.unpack(data)[-2:])
            if span.end <= self._size:
                return span
        raise DataError(
            f"{self.path}[frame {index}]: the file ends inside this frame: "
            f"it starts at byte {start} of {self._size}; fetch it again"
        )

    def _check_tail(self, start: int) -> None:
        """Refuse bytes after the last frame that cannot be an IMU record."""
        left = self._size - start
        if left < IMU_COUNT.size:
            return
        (samples,) = IMU_COUNT.unpack(self._read(start, IMU_COUNT.size))
        whole = IMU_COUNT.size + samples * IMU_NBYTES
        if samples > MAX_IMU_SAMPLES or left > whole:
            raise DataError(
                f"{self.path}: {left} bytes follow the {len(self)} frames that the header "
                "promises and are no IMU record; the file may hold more frames than it says"
            )

    def _check_lengths(self, index: int, span: _Span) -> None:
        header = self.header
        _check_length(
            f"{self.path}[frame {index}]: colour",
            span.rgb_nbytes,
            header.rgb_size[0] * header.rgb_size[1] * 3,
            compressed=header.rgb_compression != "raw",
        )
        _check_length(
            f"{self.path}[frame {index}]: depth",
            span.depth_nbytes,
            header.depth_size[0] * header.depth_size[1] * 2,
            compressed=header.depth_compression != "raw",
        )


def _check_length(what: str, nbytes: int, raw_nbytes: int, *, compressed: bool) -> None:
    if not compressed and nbytes != raw_nbytes:
        raise DataError(f"{what} must have {raw_nbytes} bytes as a raw image, got {nbytes}")
    # No codec in use doubles its input; the rest is room for headers and colour profiles.
    most = 2 * raw_nbytes + (1 << 20)
    if not 0 < nbytes <= most:
        raise DataError(f"{what} must have 1 to {most} bytes at its size, got {nbytes}")


def _parse_header(
    path: Path, sensor: str, matrices: Float64[np.ndarray, "4 4 4"], layout: bytes
) -> SensHeader:
    rgb_code, depth_code, *sizes, depth_shift, _ = LAYOUT.unpack(layout)
    if not 0 < depth_shift < np.inf:
        raise DataError(f"{path}: depth shift must be positive and finite, got {depth_shift}")
    return SensHeader(
        rgb_intrinsics=_checked_intrinsics(path, "colour", matrices[0]),
        depth_intrinsics=_checked_intrinsics(path, "depth", matrices[2]),
        rgb_compression=_rgb_compression(path, rgb_code),
        depth_compression=_depth_compression(path, depth_code),
        rgb_size=_checked_size(path, "colour", height=sizes[1], width=sizes[0]),
        depth_size=_checked_size(path, "depth", height=sizes[3], width=sizes[2]),
        depth_shift=depth_shift,
        sensor=sensor,
    )


def _rgb_compression(path: Path, code: int) -> RgbCompression:
    if code not in RGB_COMPRESSIONS:
        raise DataError(
            f"{path}: colour compression must be 0 (raw), 1 (png) or 2 (jpeg), got {code}"
        )
    return RGB_COMPRESSIONS[code]


def _depth_compression(path: Path, code: int) -> DepthCompression:
    if code == OCCI:
        raise DataError(
            f"{path}: depth is compressed as occi_ushort, which needs the separate uplink codec; "
            "rewrite the file with zlib_ushort depth"
        )
    if code not in DEPTH_COMPRESSIONS:
        raise DataError(f"{path}: depth compression must be 0 (raw) or 1 (zlib), got {code}")
    return DEPTH_COMPRESSIONS[code]


def _checked_size(path: Path, what: str, *, height: int, width: int) -> tuple[int, int]:
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise DataError(
            f"{path}: {what} size must be 1 to {MAX_SIDE} a side and at most {MAX_PIXELS} pixels, "
            f"got {height} x {width}"
        )
    return height, width


def _checked_intrinsics(
    path: Path, what: str, matrix: Float64[np.ndarray, "4 4"]
) -> Float64[np.ndarray, "4 4"]:
    used = matrix[:2, :3]
    if not (np.isfinite(used).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise DataError(
            f"{path}: {what} intrinsics must be finite with positive focal lengths, "
            f"got {used.tolist()}"
        )
    if matrix[0, 1] != 0 or matrix[1, 0] != 0:
        raise DataError(f"{path}: {what} intrinsics must have no skew, got {used.tolist()}")
    return matrix
