import contextlib
import zipfile

import numpy as np
import pytest

from geomim_data.errors import DataError
from geomim_data.sources.scannet_images import (
    MAX_DIRECTORY_BYTES,
    ZipImages,
    find_frame_images,
    open_frame_images,
)


def make_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.fixture
def small_zip(tmp_path):
    members = [("label-filt/", b""), ("label-filt/0.png", b"zero"), ("label-filt/25.png", b"some")]
    return make_zip(tmp_path / "a.zip", members)


def test_folders_come_before_zips_and_filtered_is_asked_for(tmp_path):
    scan = tmp_path / "scene0000_00"
    assert find_frame_images(scan, "label", filtered=True) is None
    scan.mkdir()
    archive = scan / "scene0000_00_2d-label-filt.zip"
    archive.touch()
    assert find_frame_images(scan, "label", filtered=True) == archive
    assert find_frame_images(scan, "label", filtered=False) is None
    (scan / "label-filt").mkdir()
    assert find_frame_images(scan, "label", filtered=True) == scan / "label-filt"


def test_a_folder_and_a_zip_give_the_same(tmp_path, small_zip):
    folder = tmp_path / "label-filt"
    folder.mkdir()
    (folder / "0.png").write_bytes(b"zero")
    (folder / "25.png").write_bytes(b"some")
    (folder / "notes.txt").touch()
    (folder / "007.png").touch()
    for path, where in ((folder, folder / "25.png"), (small_zip, f"{small_zip}/label-filt/25.png")):
        images = open_frame_images(path)
        assert images.frames == {0, 25}
        assert images.read(25) == b"some"
        assert images.where(25) == str(where)
        images.close()


@pytest.mark.parametrize("name", ["../0.png", "/0.png", "a/../../0.png", "..\\0.png"])
def test_members_that_lead_outside_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"a\.zip: member .* must lie inside the zip"):
        ZipImages(make_zip(tmp_path / "a.zip", [(name, b"")]))


def test_a_frame_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.zip: must hold frame 3 once"):
        ZipImages(make_zip(tmp_path / "a.zip", [("a/3.png", b""), ("b/3.png", b"")]))


def test_too_many_members_are_refused(small_zip, monkeypatch):
    monkeypatch.setattr("geomim_data.sources.scannet_images.MAX_MEMBERS", 2)
    with pytest.raises(DataError, match=r"a\.zip: must have at most 2 members"):
        ZipImages(small_zip)


def test_a_long_list_of_members_is_refused_unread(small_zip, monkeypatch):
    monkeypatch.setattr(zipfile, "ZipFile", None)
    data = bytearray(small_zip.read_bytes())
    data[-10:-6] = (MAX_DIRECTORY_BYTES + 1).to_bytes(4, "little")
    small_zip.write_bytes(data)
    with pytest.raises(DataError, match="list of members must have at most 33554432 bytes"):
        ZipImages(small_zip)


def test_zip64_is_refused_unread(small_zip, monkeypatch):
    monkeypatch.setattr(zipfile, "ZipFile", None)
    data = small_zip.read_bytes()
    locator = b"PK\x06\x07" + bytes(16)
    small_zip.write_bytes(data[:-22] + locator + data[-22:])
    with pytest.raises(DataError, match="not in zip64"):
        ZipImages(small_zip)


def test_a_member_that_swells_is_refused(tmp_path):
    images = ZipImages(make_zip(tmp_path / "a.zip", [("0.png", bytes(5_000_000))]))
    with pytest.raises(DataError, match=r"a\.zip/0\.png: must unpack to at most 1048576 bytes"):
        images.read(0)
    images.close()


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("0.png", bytes(5_000_000))])
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    images = ZipImages(path)
    with pytest.raises(DataError, match=r"a\.zip/0\.png: cannot be unpacked: Bad CRC-32"):
        images.read(0)
    images.close()


def test_other_compressions_are_refused(tmp_path):
    images = ZipImages(make_zip(tmp_path / "a.zip", [("0.png", b"x")], zipfile.ZIP_LZMA))
    with pytest.raises(DataError, match=r"0\.png: must be stored or deflated; zip it again"):
        images.read(0)
    images.close()


def test_an_encrypted_member_is_refused(small_zip):
    data = bytearray(small_zip.read_bytes())
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(start, at + 1)) >= 0:
            data[at + flags] |= 1
    small_zip.write_bytes(data)
    images = ZipImages(small_zip)
    with pytest.raises(DataError, match=r"cannot be unpacked: .*encrypted"):
        images.read(0)
    images.close()


@pytest.mark.parametrize("data", [b"", b"PK", bytes(100), b"PK\x05\x06"])
def test_files_that_are_no_zip_are_refused(tmp_path, data):
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip: cannot be read as a zip: no end record"):
        ZipImages(path)


def test_flipped_zips_are_refused_or_read(small_zip):
    data = np.frombuffer(small_zip.read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(200):
        flipped = data.copy()
        flipped[rng.integers(0, len(data), 2)] ^= rng.integers(1, 256, 2, dtype=np.uint8)
        small_zip.write_bytes(flipped.tobytes())
        with contextlib.suppress(DataError), contextlib.closing(ZipImages(small_zip)) as images:
            assert len([images.read(frame) for frame in images.frames]) <= 2
