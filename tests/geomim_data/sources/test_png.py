from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from geomim_data.errors import DataError
from geomim_data.sources.png import checked_image_size, decode_grey_png, encode_png

PLANE = np.arange(6, dtype=np.uint16).reshape(2, 3) * 10_000


def png(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "png", **options)
    return buffer.getvalue()


def test_colour_survives():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    with Image.open(BytesIO(encode_png(rgb))) as image:
        np.testing.assert_array_equal(np.asarray(image), rgb)


def test_planes_of_16_and_8_bits_are_read():
    found = decode_grey_png(png(Image.fromarray(PLANE)), "a.png", size=(2, 3))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, PLANE)
    narrow = (PLANE // 256).astype(np.uint8)
    found = decode_grey_png(png(Image.fromarray(narrow)), "a.png", size=(2, 3))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, narrow)


def test_the_size_is_read_from_the_header():
    assert checked_image_size(png(Image.fromarray(PLANE)), "a.png") == (2, 3)


def test_another_size_is_refused():
    with pytest.raises(DataError, match=r"^a\.png: an image must have .* size 3x2, got 2x3"):
        decode_grey_png(png(Image.fromarray(PLANE)), "a.png", size=(3, 2))


@pytest.mark.parametrize("mode", ["RGB", "P", "1", "LA"])
def test_images_that_are_no_plane_are_refused(mode):
    data = png(Image.new(mode, (3, 2)))
    with pytest.raises(DataError, match=rf"a\.png: must be a greyscale PNG .* got mode {mode}"):
        decode_grey_png(data, "a.png", size=(2, 3))


def test_depth_of_8_bits_is_refused():
    data = png(Image.new("L", (3, 2)))
    with pytest.raises(DataError, match="must be a greyscale PNG of 16 bits, got mode L"):
        decode_grey_png(data, "a.png", size=(2, 3), narrow=False)


def test_a_jpeg_is_no_plane():
    buffer = BytesIO()
    Image.new("L", (3, 2)).save(buffer, "jpeg")
    with pytest.raises(DataError, match="must be a greyscale PNG of 8 or 16 bits, got a JPEG"):
        decode_grey_png(buffer.getvalue(), "a.png", size=(2, 3))


def test_every_cut_is_refused():
    data = png(Image.fromarray(PLANE))
    for size in range(len(data)):
        with pytest.raises(DataError, match=r"^a\.png: "):
            decode_grey_png(data[:size], "a.png", size=(2, 3))


def test_broken_pixels_are_refused():
    rng = np.random.default_rng(0)
    data = bytearray(png(Image.fromarray(rng.integers(0, 65536, (9, 9), dtype=np.uint16))))
    at = data.index(b"IDAT") + 10
    data[at : at + 40] = bytes(40)
    with pytest.raises(DataError, match=r"^a\.png: cannot be decoded"):
        decode_grey_png(bytes(data), "a.png", size=(9, 9))


def test_flipped_bytes_give_a_plane_or_a_clear_error():
    data = np.frombuffer(png(Image.fromarray(PLANE)), dtype=np.uint8)
    rng = np.random.default_rng(1)
    for _ in range(500):
        flipped = data.copy()
        flipped[rng.integers(0, len(data), 2)] ^= rng.integers(1, 256, 2, dtype=np.uint8)
        try:
            plane = decode_grey_png(flipped.tobytes(), "a.png", size=(2, 3))
        except DataError:
            continue
        assert plane.shape == (2, 3)
