import struct
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from geomim_data.sources.sens import SensFile
from geomim_data.sources.sens_writer import IMU_DTYPE, encode_frame, write_sens


@pytest.mark.parametrize("rgb", ["raw", "png", "jpeg"])
@pytest.mark.parametrize("depth", ["raw", "zlib"])
def test_what_is_written_is_read(tmp_path, header, make_frames, rgb, depth):
    header = replace(header, rgb_compression=rgb, depth_compression=depth, depth_shift=500.0)
    frames = make_frames(header, 3)
    assert write_sens(tmp_path / "a.sens", header, iter(frames)) == 3
    with SensFile(tmp_path / "a.sens") as sens:
        assert (sens.header.rgb_compression, sens.header.depth_compression) == (rgb, depth)
        assert (sens.header.rgb_size, sens.header.depth_size) == (header.rgb_size, (6, 8))
        assert (sens.header.sensor, sens.header.depth_shift) == ("StructureSensor", 500)
        np.testing.assert_array_equal(sens.header.rgb_intrinsics, header.rgb_intrinsics)
        np.testing.assert_array_equal(sens.header.depth_intrinsics, header.depth_intrinsics)
        for index, frame in enumerate(frames):
            found = sens.frame(index)
            np.testing.assert_array_equal(found.world_from_cam, frame.world_from_cam)
            assert (found.rgb, found.depth) == (frame.rgb, frame.depth)
            assert found.rgb_timestamp_us == found.depth_timestamp_us == 33_333 * index


def test_writing_what_was_read_gives_the_same_file(tmp_path, write_small_sens):
    path = write_small_sens()
    with SensFile(path) as sens:
        frames = (sens.frame(index) for index in range(len(sens)))
        write_sens(tmp_path / "again.sens", sens.header, frames)
    assert (tmp_path / "again.sens").read_bytes() == path.read_bytes()


def test_images_are_compressed_as_the_header_says(header, make_images):
    rgb, depth = make_images(0)

    def encode(rgb_compression, depth_compression):
        changed = replace(
            header, rgb_compression=rgb_compression, depth_compression=depth_compression
        )
        return encode_frame(changed, rgb, depth, np.eye(4), timestamp_us=0)

    assert encode("raw", "raw").rgb == rgb.tobytes()
    assert encode("raw", "raw").depth == depth.tobytes()
    assert zlib.decompress(encode("raw", "zlib").depth) == depth.tobytes()
    assert simplejpeg.decode_jpeg_header(encode("jpeg", "raw").rgb)[:2] == (12, 16)
    with Image.open(BytesIO(encode("png", "raw").rgb)) as image:
        np.testing.assert_array_equal(np.asarray(image), rgb)


def test_an_image_of_another_size_is_refused(header, make_images):
    rgb, depth = make_images(0)
    with pytest.raises(ValueError, match=r"rgb must have the header's size \(12, 16\), got"):
        encode_frame(header, rgb[1:], depth, np.eye(4), timestamp_us=0)
    with pytest.raises(ValueError, match=r"depth must have the header's size \(6, 8\), got"):
        encode_frame(header, rgb, depth[1:], np.eye(4), timestamp_us=0)


def test_inertial_records_follow_the_frames(tmp_path, header, make_frames):
    imu = np.zeros(2, IMU_DTYPE)
    imu["gravity"] = [0, 0, -9.8]
    imu["timestamp_us"] = [5, 6]
    path = tmp_path / "imu.sens"
    write_sens(path, header, make_frames(header, 1), imu=imu)
    tail = path.read_bytes()[-8 - 2 * 128 :]
    assert struct.unpack_from("<Q", tail) == (2,)
    assert struct.unpack_from("<3dQ", tail, 8 + 128 + 96) == (0, 0, -9.8, 6)
    with SensFile(path) as sens:
        assert len(sens) == 1


def test_other_inertial_records_are_refused(tmp_path, header, make_frames):
    with pytest.raises(ValueError, match="imu must have dtype IMU_DTYPE, got float64"):
        write_sens(tmp_path / "a.sens", header, make_frames(header, 1), imu=np.zeros(3))


def test_no_frames_leave_no_file(tmp_path, header):
    with pytest.raises(ValueError, match="frames must hold at least one frame, got none"):
        write_sens(tmp_path / "a.sens", header, [])
    assert list(tmp_path.iterdir()) == []
