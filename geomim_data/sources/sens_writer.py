"""Write ScanNet ``.sens`` recordings, version 4, one frame in memory at a time."""

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import simplejpeg
from jaxtyping import Float64, UInt8, UInt16

from geomim_data.sources.png import encode_png
from geomim_data.sources.sens import (
    DEPTH_COMPRESSIONS,
    FRAME,
    IMU_COUNT,
    LAYOUT,
    MATRICES,
    PREAMBLE,
    RGB_COMPRESSIONS,
    VERSION,
    SensFrame,
    SensHeader,
)

# The record of an inertial sensor as it stands after the last frame; 128 bytes each.
IMU_DTYPE: Final = np.dtype(
    [
        ("rotation_rate", "<f8", 3),
        ("acceleration", "<f8", 3),
        ("magnetic_field", "<f8", 3),
        ("attitude", "<f8", 3),
        ("gravity", "<f8", 3),
        ("timestamp_us", "<u8"),
    ]
)
JPEG_QUALITY: Final = 90


def write_sens(
    path: Path, header: SensHeader, frames: Iterable[SensFrame], *, imu: np.ndarray | None = None
) -> int:
    """Write the frames as they come and return how many there were.

    The file appears under its name once it is whole. Extrinsics are written as identity; ``imu``
    holds records of ``IMU_DTYPE``, by default none.

    Raises:
        ValueError: If there are no frames, or ``imu`` has another dtype.
    """
    if imu is not None and imu.dtype != IMU_DTYPE:
        raise ValueError(f"imu must have dtype IMU_DTYPE, got {imu.dtype}")
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            count = _write(file, header, frames)
            records = np.empty(0, IMU_DTYPE) if imu is None else imu
            file.write(IMU_COUNT.pack(len(records)) + records.tobytes())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def encode_frame(
    header: SensHeader,
    rgb: UInt8[np.ndarray, "h w 3"],
    depth: UInt16[np.ndarray, "depth_h depth_w"],
    world_from_cam: Float64[np.ndarray, "4 4"],
    *,
    timestamp_us: int,
    jpeg_quality: int = JPEG_QUALITY,
) -> SensFrame:
    """Compress two images as the header says; both get the same time.

    Raises:
        ValueError: If an image has another size than the header says.
    """
    for name, image, size in (("rgb", rgb, header.rgb_size), ("depth", depth, header.depth_size)):
        if image.shape[:2] != size:
            raise ValueError(f"{name} must have the header's size {size}, got {image.shape[:2]}")
    return SensFrame(
        world_from_cam=world_from_cam,
        rgb_timestamp_us=timestamp_us,
        depth_timestamp_us=timestamp_us,
        rgb=_encode_rgb(header, np.ascontiguousarray(rgb), jpeg_quality),
        depth=_encode_depth(header, depth),
    )


def _encode_rgb(header: SensHeader, rgb: UInt8[np.ndarray, "h w 3"], jpeg_quality: int) -> bytes:
    match header.rgb_compression:
        case "raw":
            return rgb.tobytes()
        case "png":
            return encode_png(rgb)
        case "jpeg":
            return simplejpeg.encode_jpeg(rgb, quality=jpeg_quality, colorsubsampling="420")


def _encode_depth(header: SensHeader, depth: UInt16[np.ndarray, "h w"]) -> bytes:
    plane = depth.astype("<u2").tobytes()
    return plane if header.depth_compression == "raw" else zlib.compress(plane)


def _write(file: BinaryIO, header: SensHeader, frames: Iterable[SensFrame]) -> int:
    file.write(_pack_header(header, 0))
    count = 0
    for frame in frames:
        file.write(_pack_frame(frame))
        file.write(frame.rgb)
        file.write(frame.depth)
        count += 1
    if count == 0:
        raise ValueError("frames must hold at least one frame, got none")
    # The count stands in the header and is known only now.
    file.seek(0)
    file.write(_pack_header(header, count))
    file.seek(0, 2)
    return count


def _pack_header(header: SensHeader, frames: int) -> bytes:
    name = header.sensor.encode()
    identity = np.eye(4)
    matrices = np.stack([header.rgb_intrinsics, identity, header.depth_intrinsics, identity])
    rgb_codes = {name: code for code, name in RGB_COMPRESSIONS.items()}
    depth_codes = {name: code for code, name in DEPTH_COMPRESSIONS.items()}
    return (
        PREAMBLE.pack(VERSION, len(name))
        + name
        + MATRICES.pack(*matrices.ravel().tolist())
        + LAYOUT.pack(
            rgb_codes[header.rgb_compression],
            depth_codes[header.depth_compression],
            *header.rgb_size[::-1],
            *header.depth_size[::-1],
            header.depth_shift,
            frames,
        )
    )


def _pack_frame(frame: SensFrame) -> bytes:
    return FRAME.pack(
        *frame.world_from_cam.ravel().tolist(),
        frame.rgb_timestamp_us,
        frame.depth_timestamp_us,
        len(frame.rgb),
        len(frame.depth),
    )
