"""PNG planes: depth and label images in, raw colour out."""

import io
import struct
from typing import Final

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from geomim_data.errors import DataError

MAX_PIXELS: Final = 1 << 26
_IHDR: Final = struct.Struct(">8s4x4sII")
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def encode_png(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Compress a colour image without loss."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "png", compress_level=3)
    return buffer.getvalue()


def grey_png_size(data: bytes, where: str) -> tuple[int, int]:
    """Read (height, width) from the header.

    Raises:
        DataError: If this is no PNG, or is larger than any camera's image.
    """
    if len(data) < _IHDR.size:
        raise DataError(f"{where}: must be a PNG file, got {len(data)} bytes")
    signature, kind, width, height = _IHDR.unpack_from(data)
    if signature != _SIGNATURE or kind != b"IHDR":
        raise DataError(f"{where}: must be a PNG file, got one that starts with {data[:8]!r}")
    if not 0 < height * width <= MAX_PIXELS:
        raise DataError(f"{where}: must have 1 to {MAX_PIXELS} pixels, got {height} x {width}")
    return height, width


def decode_grey_png(data: bytes, where: str, *, size: tuple[int, int]) -> UInt16[np.ndarray, "h w"]:
    """Decode an 8 or 16-bit greyscale PNG of a known (height, width).

    Raises:
        DataError: If it is another kind of image, has another size, or is broken.
    """
    found = grey_png_size(data, where)
    if found != size:
        raise DataError(
            f"{where}: must have the recording's size {size[0]} x {size[1]}, "
            f"got {found[0]} x {found[1]}"
        )
    plane = _load(data, where)
    if plane.ndim != 2 or plane.dtype.kind not in "iu":
        raise DataError(f"{where}: must be a greyscale PNG of 8 or 16 bits")
    return plane.astype(np.uint16)


def _load(data: bytes, where: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            # A palette's numbers are colours, which the plane alone no longer says.
            return np.asarray(image if image.mode != "P" else image.convert("RGB"))
    # Pillow reports broken chunks as any of these.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise DataError(f"{where}: cannot be decoded: {error}") from error
