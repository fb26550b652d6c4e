import contextlib
import hashlib
import json
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from geomim_data.errors import DataError
from geomim_data.sources.sens import SensFile

NAME_NBYTES = len("StructureSensor")
FIRST_FRAME = 304 + NAME_NBYTES


def patch(path: Path, offset: int, form: str, *values: float) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + form, data, offset, *values)
    path.write_bytes(data)


def read_all(path: Path) -> list[tuple[bytes, bytes]]:
    with SensFile(path) as sens:
        frames = [sens.frame(index) for index in range(len(sens))]
    return [(frame.rgb, frame.depth) for frame in frames]


def end_of_last_frame(path: Path) -> int:
    return path.stat().st_size - 8


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """Lay a file out from the table of offsets alone: 2x2 raw colour, 1x2 raw depth, two frames."""
    data = bytearray(304 + 4 + 2 * (96 + 12 + 4))
    struct.pack_into("<IQ4s", data, 0, 4, 4, b"Kino")
    for offset, focal in ((12, 2.0), (140, 1.0)):
        matrix = [focal, 0, 0.5, 0, 0, focal, 0.25, 0, 0, 0, 1, 0, 0, 0, 0, 1]
        struct.pack_into("<16f", data, offset + 4, *matrix)
    struct.pack_into("<2i", data, 268 + 4, 0, 0)
    struct.pack_into("<4I", data, 276 + 4, 2, 2, 2, 1)
    struct.pack_into("<fQ", data, 292 + 4, 1000.0, 2)
    for index, start in enumerate((308, 308 + 112)):
        pose = [1, 0, 0, index, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
        struct.pack_into("<16f4Q", data, start, *pose, 100 + index, 200 + index, 12, 4)
        data[start + 96 : start + 108] = bytes(range(12))
        struct.pack_into("<2H", data, start + 108, 513, index)
    path = tmp_path / "by_hand.sens"
    path.write_bytes(data)
    return path


def test_a_file_laid_out_by_hand_is_read(by_hand):
    with SensFile(by_hand) as sens:
        assert len(sens) == 2
        assert sens.header.sensor == "Kino"
        assert sens.header.rgb_size == (2, 2)
        assert sens.header.depth_size == (1, 2)
        assert sens.header.rgb_intrinsics[0].tolist() == [2, 0, 0.5, 0]
        assert sens.header.depth_intrinsics[1].tolist() == [0, 1, 0.25, 0]
        assert sens.header.depth_shift == 1000
        frame = sens.frame(1)
    assert frame.world_from_cam[0, 3] == 1
    assert (frame.rgb_timestamp_us, frame.depth_timestamp_us) == (101, 201)
    assert frame.rgb == bytes(range(12))
    assert frame.depth == b"\x01\x02\x01\x00"


def test_a_frame_is_read_without_the_images_before_it(write_small_sens, monkeypatch):
    path = write_small_sens(frames=5)
    asked: list[tuple[int, int]] = []
    pread = os.pread

    def spy(descriptor: int, nbytes: int, offset: int) -> bytes:
        asked.append((offset, nbytes))
        return pread(descriptor, nbytes, offset)

    monkeypatch.setattr(os, "pread", spy)
    with SensFile(path) as sens:
        indexing = list(asked)
        asked.clear()
        frame = sens.frame(4)
    assert sum(nbytes for _, nbytes in indexing) == FIRST_FRAME + 5 * 96 + 8
    assert [nbytes for _, nbytes in asked] == [96 + len(frame.rgb) + len(frame.depth)]


@pytest.mark.parametrize(("rgb", "depth"), [("raw", "raw"), ("png", "zlib"), ("jpeg", "zlib")])
def test_a_file_cut_anywhere_before_the_last_frame_ends_is_refused(write_small_sens, rgb, depth):
    path = write_small_sens(frames=2, rgb_compression=rgb, depth_compression=depth)
    expected = read_all(path)
    end = end_of_last_frame(path)
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        if size >= end:
            assert read_all(path) == expected
        else:
            with pytest.raises(DataError, match=r"the file ends inside|has room for"):
                SensFile(path)


@pytest.mark.parametrize("cut", [0, 1, 127, 128, 300, 383, 384, 391, 392])
def test_an_imu_record_may_be_short(write_small_sens, cut):
    path = write_small_sens()
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write((struct.pack("<Q", 3) + bytes(3 * 128))[: 392 - cut])
        file.truncate()
    assert len(read_all(path)) == 3


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.sens: cannot be opened: No such file"):
        SensFile(tmp_path / "none.sens")


def test_another_version_is_refused(write_small_sens):
    path = write_small_sens()
    patch(path, 0, "I", 3)
    with pytest.raises(DataError, match=r"\.sens version must be 4, got 3; convert older"):
        SensFile(path)


@pytest.mark.parametrize("nbytes", [1 << 60, (1 << 64) - 1, 5000])
def test_an_endless_sensor_name_is_refused(write_small_sens, nbytes):
    path = write_small_sens()
    patch(path, 4, "Q", nbytes)
    with pytest.raises(DataError, match=rf"sensor name must have at most 4096 bytes, got {nbytes}"):
        SensFile(path)


def test_occi_depth_names_the_codec_it_needs(write_small_sens):
    path = write_small_sens()
    patch(path, 272 + NAME_NBYTES, "i", 2)
    with pytest.raises(DataError, match="occi_ushort, which needs the separate uplink codec"):
        SensFile(path)


@pytest.mark.parametrize(
    ("offset", "code", "message"),
    [
        (268, -1, r"colour compression must be 0 \(raw\), 1 \(png\) or 2 \(jpeg\), got -1"),
        (268, 3, "colour compression must be .* got 3"),
        (272, -1, r"depth compression must be 0 \(raw\) or 1 \(zlib\), got -1"),
    ],
)
def test_an_unknown_compression_is_refused(write_small_sens, offset, code, message):
    path = write_small_sens()
    patch(path, offset + NAME_NBYTES, "i", code)
    with pytest.raises(DataError, match=message):
        SensFile(path)


@pytest.mark.parametrize("side", [0, 1 << 31, (1 << 14) + 1])
@pytest.mark.parametrize(
    ("offset", "what"), [(276, "colour"), (280, "colour"), (284, "depth"), (288, "depth")]
)
def test_an_absurd_size_is_refused(write_small_sens, offset, what, side):
    path = write_small_sens()
    patch(path, offset + NAME_NBYTES, "I", side)
    with pytest.raises(DataError, match=f"{what} size must be 1 to 16384 a side"):
        SensFile(path)


@pytest.mark.parametrize("shift", [0.0, -1000.0, np.inf, np.nan])
def test_a_depth_shift_that_gives_no_metres_is_refused(write_small_sens, shift):
    path = write_small_sens()
    patch(path, 292 + NAME_NBYTES, "f", shift)
    with pytest.raises(DataError, match="depth shift must be positive and finite, got"):
        SensFile(path)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        (0, np.nan, "intrinsics must be finite with positive focal lengths"),
        (5, -1.0, "intrinsics must be finite with positive focal lengths"),
        (6, np.inf, "intrinsics must be finite with positive focal lengths"),
        (1, 0.5, "intrinsics must have no skew"),
    ],
)
@pytest.mark.parametrize(("offset", "what"), [(12, "colour"), (140, "depth")])
def test_impossible_intrinsics_are_refused(write_small_sens, offset, what, entry, value, message):
    path = write_small_sens()
    patch(path, offset + NAME_NBYTES + 4 * entry, "f", value)
    with pytest.raises(DataError, match=f"{what} {message}"):
        SensFile(path)


def test_no_frames_are_refused(write_small_sens):
    path = write_small_sens()
    patch(path, 296 + NAME_NBYTES, "Q", 0)
    with pytest.raises(DataError, match="frames must be 1 or more, got 0"):
        SensFile(path)


@pytest.mark.parametrize("frames", [100, 1 << 40, (1 << 64) - 1])
def test_more_frames_than_have_room_are_refused(write_small_sens, frames):
    path = write_small_sens()
    patch(path, 296 + NAME_NBYTES, "Q", frames)
    with pytest.raises(DataError, match=f"promises {frames} frames, but the file has room for"):
        SensFile(path)


def test_one_frame_more_than_there_are_is_refused(write_small_sens):
    path = write_small_sens()
    patch(path, 296 + NAME_NBYTES, "Q", 4)
    with pytest.raises(DataError, match=r"small\.sens\[frame 3\]: the file ends inside this frame"):
        SensFile(path)


@pytest.mark.parametrize("pose_starts", [(1.0, 0.0), (0.3, -0.2), (0.0, 0.0), (-np.inf, -np.inf)])
def test_fewer_frames_than_there_are_are_refused(write_small_sens, pose_starts):
    path = write_small_sens()
    with SensFile(path) as sens:
        second = FIRST_FRAME + 96 + len(sens.frame(0).rgb) + len(sens.frame(0).depth)
    patch(path, second, "2f", *pose_starts)
    patch(path, 296 + NAME_NBYTES, "Q", 1)
    with pytest.raises(DataError, match=r"follow the 1 frames .* are no IMU record"):
        SensFile(path)


def test_bytes_after_the_imu_record_are_refused(write_small_sens):
    path = write_small_sens()
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=r"9 bytes follow the 3 frames .* are no IMU record"):
        SensFile(path)


@pytest.mark.parametrize("field", [80, 88])
@pytest.mark.parametrize("nbytes", [1 << 60, (1 << 64) - 1, 100_000])
def test_a_length_beyond_the_file_is_refused(write_small_sens, field, nbytes):
    path = write_small_sens()
    patch(path, FIRST_FRAME + field, "Q", nbytes)
    with pytest.raises(DataError, match=r"\[frame 0\]: the file ends inside this frame"):
        SensFile(path)


def test_a_raw_image_of_another_length_is_refused(write_small_sens):
    path = write_small_sens(rgb_compression="raw", depth_compression="raw")
    patch(path, FIRST_FRAME + 80, "2Q", 12 * 16 * 3 - 2, 6 * 8 * 2 + 2)
    with SensFile(path) as sens, pytest.raises(DataError, match="colour must have 576 bytes"):
        sens.frame(0)
    patch(path, FIRST_FRAME + 80, "2Q", 12 * 16 * 3, 6 * 8 * 2)
    patch(path, 284 + NAME_NBYTES, "I", 7)
    with SensFile(path) as sens, pytest.raises(DataError, match="depth must have 84 bytes"):
        sens.frame(0)


@pytest.mark.parametrize("nbytes", [0, 5_000_000])
def test_a_compressed_image_of_no_or_absurd_length_is_refused(write_small_sens, nbytes):
    path = write_small_sens(frames=1)
    with SensFile(path) as sens:
        rgb_nbytes = len(sens.frame(0).rgb)
    with path.open("r+b") as file:
        file.truncate(FIRST_FRAME + 96 + rgb_nbytes + nbytes)
    patch(path, FIRST_FRAME + 88, "Q", nbytes)
    with SensFile(path) as sens, pytest.raises(DataError, match=r"depth must have 1 to \d+ bytes"):
        sens.frame(0)


def test_junk_times_and_lost_poses_are_passed_on(write_small_sens):
    path = write_small_sens()
    patch(path, FIRST_FRAME, "16f2Q", *[-np.inf] * 15, np.nan, (1 << 64) - 1, 1 << 62)
    with SensFile(path) as sens:
        frame = sens.frame(0)
    assert np.isneginf(frame.world_from_cam.ravel()[:15]).all()
    assert np.isnan(frame.world_from_cam[3, 3])
    assert (frame.rgb_timestamp_us, frame.depth_timestamp_us) == (-1, 1 << 62)


def test_a_file_that_shrinks_while_open_is_refused(write_small_sens):
    path = write_small_sens()
    with SensFile(path) as sens:
        os.truncate(path, FIRST_FRAME + 200)
        with pytest.raises(DataError, match=r"\[frame 2\]: the file has shrunk while it was read"):
            sens.frame(2)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_and_cut_files_are_refused_or_read(write_small_sens, seed):
    rng = np.random.default_rng(seed)
    path = write_small_sens(rgb_compression=("raw", "jpeg")[seed % 2])
    whole = path.read_bytes()
    start = time.monotonic()
    read = 0
    for _ in range(200):
        data = np.frombuffer(whole, dtype=np.uint8).copy()
        places = rng.integers(0, rng.choice([FIRST_FRAME + 96, len(data)]), rng.integers(1, 4))
        data[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
        path.write_bytes(data[: rng.choice([len(data), rng.integers(0, len(data))])].tobytes())
        with contextlib.suppress(DataError):
            read += len(read_all(path)) > 0
    assert read > 0
    assert time.monotonic() - start < 30


def test_the_real_recording_holds_the_bytes_that_were_written(real_data):
    folder = real_data / "sens" / "scene9000_00"
    expected = json.loads((folder / "expected.json").read_text())
    with SensFile(folder / "scene9000_00.sens") as sens:
        assert len(sens) == len(expected["frames"]) == 24
        for index, known in enumerate(expected["frames"]):
            frame = sens.frame(index)
            depth = zlib.decompress(frame.depth)
            assert hashlib.sha256(frame.rgb).hexdigest() == known["jpeg_sha256"]
            assert hashlib.sha256(depth).hexdigest() == known["depth_sha256"]
            assert np.isfinite(frame.world_from_cam).all() == known["pose_valid"]
