import gzip
import io
import re
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geomim_data.codecs import (
    MAX_PIXELS,
    crc32c,
    decode_plane,
    decode_rgb,
    encode_plane,
    gzip_from_zlib,
    image_size,
    seal,
    unseal,
)
from geomim_data.errors import DataError


def smooth(height: int, width: int) -> np.ndarray:
    v, u = np.mgrid[:height, :width]
    return np.stack([u % 256, v % 256, (u + v) % 256], axis=-1).astype(np.uint8)


def jpeg(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def plane(height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5000, (height, width), dtype=np.uint16)


def deflated(content: np.ndarray) -> bytes:
    return zlib.compress(content.tobytes(), 6)


def test_crc32c_has_the_check_value_of_its_definition():
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("encode", [jpeg, png])
@pytest.mark.parametrize("size", [(1, 1), (48, 64), (7, 33)])
def test_the_size_of_an_image_is_height_then_width(encode, size):
    assert image_size(encode(smooth(*size))) == size


@pytest.mark.parametrize("options", [{"progressive": True}, {"comment": b"\xff\xd9" * 9}])
def test_jpegs_of_other_layouts_are_measured(options):
    assert image_size(jpeg(smooth(48, 64), **options)) == (48, 64)


def test_zeros_behind_a_jpeg_are_allowed():
    assert image_size(jpeg(smooth(8, 8)) + bytes(7)) == (8, 8)


@pytest.mark.parametrize("encode", [jpeg, png])
def test_an_image_truncated_at_any_byte_is_refused(encode):
    whole = encode(smooth(16, 16))
    for end in range(len(whole)):
        with pytest.raises(DataError, match=r"truncated|header cannot be decoded|must be a JPEG"):
            image_size(whole[:end])


def test_a_marker_inside_a_comment_is_not_the_end_of_a_jpeg():
    whole = jpeg(smooth(8, 8), comment=b"\xff\xd9" * 9)
    with pytest.raises(DataError, match="the JPEG has no end marker: it is truncated"):
        image_size(whole[:-2])


def test_bytes_that_are_no_image_are_quoted():
    with pytest.raises(DataError, match="an image must be a JPEG or PNG file, got bytes '47 49 46"):
        image_size(b"GIF89a")


def test_a_broken_header_is_refused():
    whole = jpeg(smooth(8, 8))
    at = whole.index(b"\xff\xc0")
    broken = whole[: at + 4] + b"\x63" + whole[at + 5 :]  # 99 bits a sample
    with pytest.raises(DataError, match="the JPEG's header cannot be decoded"):
        image_size(broken)
    with pytest.raises(DataError, match="the PNG's header cannot be decoded"):
        image_size(png(smooth(8, 8)).replace(b"IHDR", b"IHDX"))


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    content = png(smooth(1, 1)).replace(
        b"IHDR\0\0\0\1\0\0\0\1", b"IHDR\xff\xff\xff\x7f\xff\xff\xff\x7f"
    )
    with pytest.raises(DataError, match=f"must have 1 to {MAX_PIXELS} pixels, got 42"):
        decode_rgb(content)


@pytest.mark.parametrize("encode", [jpeg, png])
def test_images_decode_as_opencv_decodes_them(encode):
    data = encode(smooth(48, 64))
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_allclose(decode_rgb(data).astype(int), expected.astype(int), atol=2)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_png_modes_become_rgb(mode):
    buffer = io.BytesIO()
    Image.fromarray(smooth(5, 4)).convert(mode).save(buffer, "PNG")
    assert decode_rgb(buffer.getvalue()).shape == (5, 4, 3)


def test_a_png_of_16_bits_is_no_rgb():
    with pytest.raises(DataError, match="a PNG must be 8-bit grey, palette or RGB, got I;16"):
        decode_rgb(png(plane()))


def test_a_jpeg_may_be_decoded_smaller_but_not_below_what_was_asked():
    data = jpeg(smooth(96, 128))
    assert decode_rgb(data, min_height=40, min_width=40).shape == (48, 64, 3)
    assert decode_rgb(data).shape == (96, 128, 3)


@pytest.mark.parametrize("encode", [jpeg, png])
def test_an_image_with_broken_content_is_refused(encode):
    whole = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    broken = whole[: len(whole) // 2] + b"\xff\xd8" * 40 + whole[-20:]
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_rgb(broken)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["gzip", "blosc"]))
def test_a_plane_survives_its_codec(height, width, codec):
    content = plane(height, width)
    assert np.array_equal(
        decode_plane(encode_plane(content, codec), codec, (height, width)), content
    )


def test_a_rewrapped_stream_is_gzip_with_the_same_compressed_bytes():
    content = plane()
    payload = deflated(content)
    wrapped = gzip_from_zlib(payload, content.nbytes)
    assert gzip.decompress(wrapped) == content.tobytes()
    assert payload[2:-4] in wrapped
    assert len(wrapped) == len(payload) + 12
    for strict in (False, True):
        assert np.array_equal(decode_plane(wrapped, "gzip", content.shape, strict=strict), content)


def test_a_gzip_with_a_file_name_in_its_header_is_read():
    content = plane()
    buffer = io.BytesIO()
    with gzip.GzipFile("depth.raw", "wb", fileobj=buffer) as file:
        file.write(content.tobytes())
    assert np.array_equal(decode_plane(buffer.getvalue(), "gzip", content.shape), content)


def test_a_stream_truncated_at_any_byte_is_refused():
    payload = deflated(plane())
    for end in range(len(payload)):
        with pytest.raises(DataError, match=r"truncated after|cannot be inflated"):
            gzip_from_zlib(payload[:end], plane().nbytes)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"no zlib stream", r"the plane cannot be inflated \(Error -3"),
        (deflated(plane(12, 17)), "must inflate to 384 bytes, got more than 384"),
        (deflated(plane(12, 15)), "must inflate to 384 bytes, got 360"),
        (deflated(plane()) + b"x", "must end where the bytes end, got bytes behind it"),
        (deflated(plane())[:-1] + b"x", r"cannot be inflated \(Error -3 .*incorrect data check"),
    ],
)
def test_a_depth_stream_that_is_not_one_plane_is_refused(payload, message):
    with pytest.raises(DataError, match=message):
        gzip_from_zlib(payload, plane().nbytes)


def test_a_bomb_is_not_inflated():
    bomb = zlib.compress(bytes(50_000_000), 9)
    with pytest.raises(DataError, match="must inflate to 384 bytes, got more than 384"):
        gzip_from_zlib(bomb, 384)


@pytest.mark.parametrize("change", [slice(4, 8), slice(12, 16)])
def test_a_blosc_chunk_that_lies_about_its_length_is_refused(change):
    chunk = bytearray(encode_plane(plane(), "blosc"))
    chunk[change] = b"\xff\xff\xff\x7f"
    with pytest.raises(DataError, match=r"blosc chunk must unpack .* got a header of .*2147483647"):
        decode_plane(bytes(chunk), "blosc", (12, 16))


def test_a_blosc_chunk_without_a_header_or_with_broken_content_is_refused():
    with pytest.raises(DataError, match="must have a header, got 3 bytes"):
        decode_plane(b"abc", "blosc", (12, 16))
    chunk = encode_plane(np.zeros((64, 64), np.uint16), "blosc")
    broken = chunk[:16] + np.random.default_rng(0).bytes(len(chunk) - 16)
    with pytest.raises(DataError, match=re.escape("blosc chunk cannot be unpacked (")):
        decode_plane(broken, "blosc", (64, 64))


@given(st.binary(max_size=64))
def test_a_sealed_chunk_opens_and_a_flipped_bit_does_not(chunk):
    sealed = seal(chunk)
    assert unseal(sealed) == chunk
    flipped = bytes([sealed[0] ^ 1]) + sealed[1:]
    with pytest.raises(DataError, match="crc32c does not match"):
        unseal(flipped)
