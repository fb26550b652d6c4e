"""Bytes of one frame: image headers and decoding, depth planes in and out, checksums.

Errors here do not know the place; callers lead them with it.
"""

import struct
import zlib
from io import BytesIO
from typing import Literal

import google_crc32c
import numpy as np
import simplejpeg
from jaxtyping import Shaped, UInt8, UInt16
from numcodecs import blosc  # pyright: ignore[reportAttributeAccessIssue] - compiled, untyped
from PIL import Image, UnidentifiedImageError

from geomim_data.errors import DataError
from geomim_data.schema import DepthCodec

# Blosc's own threads do not survive a fork; without them every call is a pure function.
blosc.use_threads = False

MAX_PIXELS = 2**26
CRC_BYTES = 4
GZIP_LEVEL = 6
BLOSC_LEVEL = 5

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
# RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_GZIP_MAGIC = b"\x1f\x8b\x08\0"  # no flags, so that the header has its shortest length
_GZIP_TRAILER_BYTES = 8
_GZIP_WBITS = 16 + zlib.MAX_WBITS
_BLOSC_HEADER = struct.Struct("<4xIII")  # plain bytes, block, stored bytes
_JPEG_SCAN = 0xDA


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of ``data``."""
    return google_crc32c.value(data)


def image_format(data: bytes) -> Literal["jpeg", "png"]:
    """Tell JPEG from PNG by the first bytes.

    Raises:
        DataError: If it is neither.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(_PNG_START):
        return "png"
    raise DataError(f"an image must be a JPEG or PNG file, got bytes {data[:4].hex(' ')!r}")


def image_size(data: bytes) -> tuple[int, int]:
    """Read (height, width) from a JPEG or PNG file's header and check that the file is whole.

    Raises:
        DataError: If a start or end marker is missing, the header cannot be read, or there are
            more than ``MAX_PIXELS`` pixels.
    """
    height, width = _jpeg_size(data) if image_format(data) == "jpeg" else _png_size(data)
    if not 0 < height * width <= MAX_PIXELS:
        raise DataError(f"an image must have 1 to {MAX_PIXELS} pixels, got {height}x{width}")
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int]:
    # A thumbnail in the header ends with the same marker: look behind the first scan alone,
    # where entropy coding never produces it.
    if data.rfind(b"\xff\xd9", _first_scan(data)) < 0:
        raise DataError("the JPEG has no end marker: it is truncated")
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise DataError(f"the JPEG's header cannot be decoded ({error})") from error
    return int(height), int(width)


def _first_scan(data: bytes) -> int:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # fill byte
            at += 1
        elif data[at + 1] == _JPEG_SCAN:
            return at
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise DataError("the JPEG's header cannot be decoded (no scan follows it)")


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise DataError("the PNG's header cannot be decoded (no IHDR)")
    if not data.endswith(_PNG_END):
        raise DataError("the PNG has no end marker: it is truncated")
    width, height = struct.unpack(">II", data[16:24])
    return height, width


def decode_rgb(
    data: bytes, *, min_height: int | None = None, min_width: int | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a JPEG or PNG file to RGB.

    Args:
        data: The file.
        min_height: If given with ``min_width``, a JPEG may be decoded at the smallest of its
            reduced sizes (whole eighths) that is at least this large; a PNG never is.
        min_width: See ``min_height``.

    Raises:
        DataError: If the image is broken, too large, or not 8-bit grey, palette or RGB.
    """
    if image_format(data) == "png":
        return _decode_png(data)
    image_size(data)
    try:
        return simplejpeg.decode_jpeg(data, min_height=min_height or 0, min_width=min_width or 0)
    except ValueError as error:
        raise DataError(f"the JPEG cannot be decoded ({error})") from error


def _decode_png(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    image_size(data)
    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            if image.mode not in _PNG_MODES:
                raise DataError(f"a PNG must be 8-bit grey, palette or RGB, got {image.mode}")
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the PNG cannot be decoded ({error})") from error


def gzip_from_zlib(payload: bytes, expected_nbytes: int) -> bytes:
    """Rewrap a zlib stream as gzip, keeping its compressed bytes.

    Args:
        payload: One whole zlib stream, its checksum included.
        expected_nbytes: What it must inflate to; no more than that is ever inflated.

    Raises:
        DataError: If the stream is broken, truncated, followed by other bytes, or inflates to
            another size.
    """
    plain = _inflate(payload, expected_nbytes, wbits=zlib.MAX_WBITS)
    return _GZIP_HEADER + payload[2:-4] + struct.pack("<II", zlib.crc32(plain), expected_nbytes)


def plane_from_zlib(payload: bytes, size: tuple[int, int]) -> UInt16[np.ndarray, "h w"]:
    """Inflate a zlib stream of little-endian uint16 to a plane of (height, width).

    Raises:
        DataError: As ``gzip_from_zlib``.
    """
    plain = _inflate(payload, 2 * size[0] * size[1], wbits=zlib.MAX_WBITS)
    return np.frombuffer(bytearray(plain), dtype="<u2").reshape(size)


def _inflate(stream: bytes, nbytes: int, *, wbits: int, trailer: int = 0) -> bytes:
    inflater = zlib.decompressobj(wbits)
    try:
        # One byte of room more than is expected tells a longer stream without inflating it.
        plain = inflater.decompress(stream, nbytes + 1)
    except zlib.error as error:
        raise DataError(f"the plane cannot be inflated ({error})") from error
    if not inflater.eof and len(plain) <= nbytes:
        raise DataError(f"the plane's stream is truncated after {len(plain)} of {nbytes} bytes")
    if len(plain) != nbytes:
        size = len(plain) if inflater.eof else f"more than {nbytes}"
        raise DataError(f"the plane must inflate to {nbytes} bytes, got {size}")
    if len(inflater.unused_data) != trailer:
        raise DataError("the plane's stream must end where the bytes end, got bytes behind it")
    return plain


def encode_plane(plane: UInt16[np.ndarray, "h w"], codec: DepthCodec) -> bytes:
    """Compress one plane of depth or labels, without the chunk's checksum."""
    plain = np.ascontiguousarray(plane, dtype="<u2")
    if codec == "blosc":
        return blosc.compress(plain, b"zstd", BLOSC_LEVEL, blosc.SHUFFLE)
    deflater = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
    return deflater.compress(plain.tobytes()) + deflater.flush()


def decode_plane(
    chunk: bytes, codec: DepthCodec, size: tuple[int, int], *, strict: bool = False
) -> UInt16[np.ndarray, "h w"]:
    """Decompress one plane; never more than ``size`` says is unpacked.

    Args:
        chunk: The bytes that ``encode_plane`` or ``gzip_from_zlib`` returned.
        codec: What compressed it.
        size: Its height and width.
        strict: Check gzip's own checksum too, which takes a fifth of the time again and catches
            nothing that the chunk's crc32c lets through, save a mistake of the writer.

    Raises:
        DataError: If the chunk is broken or holds another size.
    """
    match codec:
        case "gzip":
            return _decode_gzip(chunk, size, strict=strict)
        case "blosc":
            return _decode_blosc(chunk, np.empty(size, dtype="<u2"), what="plane")


def encode_rows(rows: Shaped[np.ndarray, "row *axis"]) -> bytes:
    """Compress rows of numbers, without the chunk's checksum."""
    plain = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
    return blosc.compress(plain, b"zstd", BLOSC_LEVEL, blosc.SHUFFLE)


def decode_rows(
    chunk: bytes, shape: tuple[int, ...], dtype: np.dtype
) -> Shaped[np.ndarray, "row *axis"]:
    """Decompress rows; never more than ``shape`` says is unpacked.

    Raises:
        DataError: If the chunk is broken or holds another size.
    """
    return _decode_blosc(chunk, np.empty(shape, dtype=dtype.newbyteorder("<")), what="sweep")


def _decode_gzip(chunk: bytes, size: tuple[int, int], *, strict: bool) -> UInt16[np.ndarray, "h w"]:
    nbytes = 2 * size[0] * size[1]
    if strict or not chunk.startswith(_GZIP_MAGIC):
        plain = _inflate(chunk, nbytes, wbits=_GZIP_WBITS)
    else:
        stream = chunk[len(_GZIP_HEADER) :]
        plain = _inflate(stream, nbytes, wbits=-zlib.MAX_WBITS, trailer=_GZIP_TRAILER_BYTES)
    return np.frombuffer(bytearray(plain), dtype="<u2").reshape(size)


def _decode_blosc(chunk: bytes, out: np.ndarray, *, what: str) -> np.ndarray:
    if len(chunk) < _BLOSC_HEADER.size:
        raise DataError(f"the {what}'s blosc chunk must have a header, got {len(chunk)} bytes")
    nbytes, _, stored = _BLOSC_HEADER.unpack_from(chunk)
    # The library trusts its header's lengths: check them before it reads by them.
    if nbytes != out.nbytes or stored != len(chunk):
        raise DataError(
            f"the {what}'s blosc chunk must unpack {len(chunk)} bytes to {out.nbytes}, "
            f"got a header of {stored} bytes to {nbytes}"
        )
    try:
        blosc.decompress(chunk, out)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"the {what}'s blosc chunk cannot be unpacked ({error})") from error
    return out


def seal(chunk: bytes) -> bytes:
    """Append the CRC-32C that Zarr's ``crc32c`` codec expects."""
    return chunk + crc32c(chunk).to_bytes(CRC_BYTES, "little")


def unseal(sealed: bytes) -> bytes:
    """Check and strip the CRC-32C at the end of a chunk.

    Raises:
        DataError: If it does not match.
    """
    chunk = sealed[:-CRC_BYTES]
    if crc32c(chunk) != int.from_bytes(sealed[-CRC_BYTES:], "little"):
        raise DataError("the chunk's crc32c does not match its bytes")
    return chunk
