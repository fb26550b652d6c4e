import os

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from geomim_data import shards
from geomim_data.codecs import encode_plane, seal
from geomim_data.errors import DataError
from geomim_data.metadata import GroupFiles
from geomim_data.shards import (
    BlobWriter,
    ChunkWriter,
    blob_start,
    chunk_index,
    index_nbytes,
    read_index,
)


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of 256 bytes in chunks of 16, so that a few frames fill several."""
    monkeypatch.setattr(shards, "CHUNK_BYTES", 16)
    monkeypatch.setattr("geomim_data.metadata.CHUNK_BYTES", 16)
    monkeypatch.setattr(shards, "SHARD_BYTES", 256)


def write_group(folder, files):
    for name, content in files.contents().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write_blob(folder, frames):
    blob = BlobWriter(folder / "rgb")
    offsets = [blob.append(frame) for frame in frames]
    blob.finish()
    files = GroupFiles()
    files.add_blob("rgb", length=blob.length, shard=blob.shard)
    write_group(folder, files)
    return blob, offsets


@pytest.mark.usefixtures("small_shards")
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=12))
@settings(max_examples=15, deadline=None)
def test_zarr_python_reads_every_frame_of_a_blob(tmp_path_factory, frames):
    folder = tmp_path_factory.mktemp("blob")
    _, offsets = write_blob(folder, frames)
    array = zarr.open_array(folder / "rgb", mode="r")
    for offset, frame in zip(offsets, frames, strict=True):
        assert bytes(array[offset : offset + len(frame)]) == frame


@pytest.mark.usefixtures("small_shards")
def test_no_frame_crosses_a_shard(tmp_path):
    frames = [bytes([index]) * 100 for index in range(1, 8)]
    blob, offsets = write_blob(tmp_path, frames)
    assert [offset // 256 for offset in offsets] == [0, 0, 1, 1, 2, 2, 3]
    assert len(blob.files) == 4
    assert blob.shard == 256


@pytest.mark.usefixtures("small_shards")
def test_zeros_are_kept_and_leave_no_hole(tmp_path):
    _, offsets = write_blob(tmp_path, [b"a" * 20, bytes(150), b"b" * 20])
    with (tmp_path / "rgb/c/0").open("rb") as file:
        index = read_index(file.fileno(), chunks=12, used=12)
        assert blob_start(index) == 0
    assert offsets == [0, 20, 170]


@pytest.mark.usefixtures("small_shards")
def test_a_blob_of_one_shard_is_no_longer_than_it_must_be(tmp_path):
    blob, _ = write_blob(tmp_path, [b"x" * 40])
    assert blob.shard == 48
    assert (tmp_path / "rgb/c/0").stat().st_size == 48 + index_nbytes(3)


@pytest.mark.usefixtures("small_shards")
def test_a_frame_larger_than_a_shard_is_refused(tmp_path):
    blob = BlobWriter(tmp_path)
    with pytest.raises(DataError, match="an image must be at most 256 bytes, got 257"):
        blob.append(bytes(257))


@pytest.mark.parametrize("codec", ["gzip", "blosc"])
@pytest.mark.parametrize("per_shard", [1, 2, 5])
def test_zarr_python_reads_every_plane(tmp_path, codec, per_shard):
    planes = np.random.default_rng(0).integers(0, 9, (5, 4, 6), dtype=np.uint16)
    planes[2] = 0
    writer = ChunkWriter(tmp_path / "depth", per_shard=per_shard, axes=3)
    for plane in planes:
        writer.append(seal(encode_plane(plane, codec)))
    writer.finish()
    files = GroupFiles()
    shape = (5, 4, 6)
    files.add_planes("depth", shape, per_shard=per_shard, codec=codec, attributes={"a": 1})
    write_group(tmp_path, files)
    array = zarr.open_array(tmp_path / "depth", mode="r")
    assert np.array_equal(array[...], planes)
    assert array.attrs["a"] == 1
    assert len(writer.files) == -(-5 // per_shard)


def shard_file(path, *, body=b"x" * 30, index=None, chunks=3):
    index = chunk_index([10, 20], chunks) if index is None else index
    writer = shards.ShardWriter(path)
    writer.append(body)
    writer.finish(np.array(index, dtype=np.uint64))
    return path


def read(path, *, chunks=3, used=2):
    with path.open("rb") as file:
        return read_index(file.fileno(), chunks=chunks, used=used)


def test_an_index_gives_offset_and_length(tmp_path):
    assert read(shard_file(tmp_path / "0")).tolist() == [[0, 10], [10, 20]]


def test_a_shard_truncated_at_any_byte_is_refused(tmp_path):
    path = shard_file(tmp_path / "0")
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(DataError, match=r"index does not match|shorter than its index of 52"):
            read(path)


def test_a_flipped_bit_of_the_index_is_refused(tmp_path):
    path = shard_file(tmp_path / "0")
    content = bytearray(path.read_bytes())
    content[35] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="crc32c of the shard's index does not match"):
        read(path)


@pytest.mark.parametrize(
    "index",
    [
        [[0, 10], [2**64 - 1, 2**64 - 1], [0, 0]],
        [[0, 10], [10, 21], [0, 0]],
        [[0, 10], [2**64 - 5, 10], [0, 0]],
    ],
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path, index):
    path = shard_file(tmp_path / "0", index=index)
    with pytest.raises(DataError, match="index points to absent chunks or beyond its 30 bytes"):
        read(path)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("index", [[[0, 16], [32, 16]], [[0, 16], [16, 15]]])
def test_a_hole_between_chunks_is_refused(index):
    with pytest.raises(DataError, match="must follow each other, each of 16 bytes"):
        blob_start(np.array(index, dtype=np.uint64))
