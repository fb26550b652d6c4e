"""PNG planes: depth and label images in, raw colour out."""

import io
import struct

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from geomim_data.codecs import image_format, image_size
from geomim_data.errors import DataError


def encode_png(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Compress a colour image without loss."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "png", compress_level=3)
    return buffer.getvalue()


def checked_image_size(
    data: bytes, where: str, *, size: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Read a JPEG's or PNG's (height, width), and compare it with ``size`` if given.

    Raises:
        DataError: If the image is cut off, has no readable header or is of another size.
    """
    try:
        found = image_size(data)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if size is not None and found != size:
        raise DataError(
            f"{where}: an image must have the recording's size {size[0]}x{size[1]}, "
            f"got {found[0]}x{found[1]}"
        )
    return found


def decode_grey_png(
    data: bytes, where: str, *, size: tuple[int, int], narrow: bool = True
) -> UInt16[np.ndarray, "h w"]:
    """Decode a 16-bit greyscale PNG of a known (height, width), or, if ``narrow``, an 8-bit one.

    Raises:
        DataError: If it is another kind of image, has another size, or is broken.
    """
    checked_image_size(data, where, size=size)
    rule = f"must be a greyscale PNG of {'8 or ' if narrow else ''}16 bits"
    if image_format(data) != "png":
        raise DataError(f"{where}: {rule}, got a JPEG")
    mode, plane = _load(data, where)
    # Pillow before 12 may call 16-bit grey "I".
    if mode not in ("I", "I;16") and not (narrow and mode == "L"):
        raise DataError(f"{where}: {rule}, got mode {mode}")
    return plane.astype(np.uint16)


def _load(data: bytes, where: str) -> tuple[str, np.ndarray]:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return image.mode, np.asarray(image)
    # Pillow reports broken chunks as any of these.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise DataError(f"{where}: cannot be decoded: {error}") from error
