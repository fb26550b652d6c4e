"""The byte layout of Zarr's ``sharding_indexed`` codec: chunks, then the index, then its CRC-32C.

The index has an (offset, length) pair of little-endian uint64 for every chunk of the shard, both
2**64 - 1 where a chunk is absent. Source: the Zarr v3 sharding specification, version 1.0.
"""

import hashlib
import os
from pathlib import Path
from typing import final

import google_crc32c
import numpy as np
from jaxtyping import UInt64

from geomim_data.errors import DataError

CHUNK_BYTES = 64 * 2**10  # inner chunk of a blob
CHUNK_ROWS = 2**12  # inner chunk of points and what goes with them: 48 KiB of xyz
SHARD_BYTES = 64 * 2**20
ABSENT = 2**64 - 1

_CRC_BYTES = 4
_PAIR_BYTES = 16


def index_nbytes(chunks: int) -> int:
    """Return the size of the index of a shard of ``chunks`` chunks, its checksum included."""
    return chunks * _PAIR_BYTES + _CRC_BYTES


@final
class ShardWriter:
    """Write one shard file in a single pass.

    ``size`` counts the bytes so far and ``sha256`` is their digest; both hold for the whole file
    once ``finish`` has returned.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.size = 0
        self._file = path.open("xb")
        self._hash = hashlib.sha256()

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def append(self, data: bytes) -> None:
        """Write bytes behind those already there."""
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def finish(self, index: UInt64[np.ndarray, "chunk 2"]) -> str:
        """Write the index, close the file and return its SHA-256."""
        pairs = index.astype("<u8").tobytes()
        self.append(pairs + google_crc32c.value(pairs).to_bytes(_CRC_BYTES, "little"))
        self._file.close()
        return self._hash.hexdigest()


def blob_index(used: int, chunks: int) -> UInt64[np.ndarray, "chunk 2"]:
    """Index a blob's shard whose first ``used`` chunks of ``CHUNK_BYTES`` follow each other."""
    index = np.full((chunks, 2), ABSENT, dtype=np.uint64)
    index[:used, 0] = np.arange(used, dtype=np.uint64) * CHUNK_BYTES
    index[:used, 1] = CHUNK_BYTES
    return index


def chunk_index(nbytes: list[int], chunks: int) -> UInt64[np.ndarray, "chunk 2"]:
    """Index a shard whose first chunks have these sizes and follow each other."""
    index = np.full((chunks, 2), ABSENT, dtype=np.uint64)
    sizes = np.array(nbytes, dtype=np.uint64)
    index[: len(nbytes), 0] = np.cumsum(sizes) - sizes
    index[: len(nbytes), 1] = sizes
    return index


def read_index(file: int, *, chunks: int, used: int) -> UInt64[np.ndarray, "chunk 2"]:
    """Read and check the index at the end of an open shard.

    Args:
        file: A file descriptor.
        chunks: How many chunks the shard's index has.
        used: How many of them, the first ones, must be there.

    Returns:
        The pairs of the ``used`` chunks.

    Raises:
        DataError: If the file is too short, the checksum does not match, or a chunk is absent or
            lies outside the file.
    """
    end = os.fstat(file).st_size - index_nbytes(chunks)
    if end < 0:
        raise DataError(f"the shard is shorter than its index of {index_nbytes(chunks)} bytes")
    content = os.pread(file, index_nbytes(chunks), end)
    pairs = content[:-_CRC_BYTES]
    if google_crc32c.value(pairs) != int.from_bytes(content[-_CRC_BYTES:], "little"):
        raise DataError("the crc32c of the shard's index does not match: it is truncated or broken")
    index = np.frombuffer(pairs, dtype="<u8").reshape(-1, 2)[:used].astype(np.uint64)
    # Offsets first: a sum of hostile numbers could wrap around.
    if (index > end).any() or (index.sum(axis=1) > end).any():
        raise DataError(f"the shard's index points to absent chunks or beyond its {end} bytes")
    return index


def blob_start(index: UInt64[np.ndarray, "chunk 2"]) -> int:
    """Return where a blob's bytes start in its shard.

    Raises:
        DataError: If the chunks are not one contiguous run, so that a frame would have a hole.
    """
    start = index[0, 0]
    expected = start + np.arange(len(index), dtype=np.uint64) * np.uint64(CHUNK_BYTES)
    if (index[:, 0] != expected).any() or (index[:, 1] != CHUNK_BYTES).any():
        raise DataError(f"the shard's chunks must follow each other, each of {CHUNK_BYTES} bytes")
    return int(start)


@final
class BlobWriter:
    """Concatenate frames into the shards of a one-dimensional uint8 array.

    Frames lie whole in one shard: where one does not fit, zeros fill the shard. ``length`` is the
    array's, ``shard`` the bytes of array that one shard covers, both final after ``finish``;
    ``files`` maps each finished shard to its SHA-256.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[Path, str] = {}
        self.length = 0
        self.shard = SHARD_BYTES
        self._open: ShardWriter | None = None

    def close(self) -> None:
        """Close the file that is being written, finished or not."""
        if self._open is not None:
            self._open.close()

    def append(self, frame: bytes) -> int:
        """Write a frame and return its offset in the array.

        Raises:
            DataError: If it is larger than a shard.
        """
        if len(frame) > SHARD_BYTES:
            raise DataError(f"an image must be at most {SHARD_BYTES} bytes, got {len(frame)}")
        if self._open is not None and self._open.size + len(frame) > SHARD_BYTES:
            self._finish_shard(self._open, SHARD_BYTES)
        if self._open is None:
            self._open = ShardWriter(self.folder / "c" / str(len(self.files)))
        offset = len(self.files) * SHARD_BYTES + self._open.size
        self._open.append(frame)
        self.length = offset + len(frame)
        return offset

    def finish(self) -> None:
        """Finish the last shard."""
        if self._open is not None:
            used = -(-self._open.size // CHUNK_BYTES) * CHUNK_BYTES
            # An array of one shard needs no index entries for what it does not hold.
            self.shard = SHARD_BYTES if self.files else used
            self._finish_shard(self._open, used)

    def _finish_shard(self, shard: ShardWriter, used: int) -> None:
        shard.append(bytes(used - shard.size))
        index = blob_index(used // CHUNK_BYTES, self.shard // CHUNK_BYTES)
        self.files[shard.path] = shard.finish(index)
        self._open = None


@final
class ChunkWriter:
    """Write encoded chunks along the first of an array's ``axes``, ``per_shard`` of them a shard.

    Of an array of a single shard, ``per_shard`` becomes what that holds. ``files`` maps each
    finished shard to its SHA-256.
    """

    def __init__(self, folder: Path, *, per_shard: int, axes: int):
        self.folder = folder
        self.per_shard = per_shard
        self._behind = ["0"] * (axes - 1)
        self.files: dict[Path, str] = {}
        self._nbytes: list[int] = []
        self._open: ShardWriter | None = None

    def close(self) -> None:
        """Close the file that is being written, finished or not."""
        if self._open is not None:
            self._open.close()

    def append(self, chunk: bytes) -> None:
        """Write the next chunk."""
        if self._open is None:
            name = self.folder.joinpath("c", str(len(self.files)), *self._behind)
            self._open = ShardWriter(name)
        self._open.append(chunk)
        self._nbytes.append(len(chunk))
        if len(self._nbytes) == self.per_shard:
            self.finish()

    def finish(self) -> None:
        """Finish the last shard."""
        if self._open is not None:
            if not self.files:
                self.per_shard = len(self._nbytes)
            digest = self._open.finish(chunk_index(self._nbytes, self.per_shard))
            self.files[self._open.path] = digest
            self._open = None
            self._nbytes = []
