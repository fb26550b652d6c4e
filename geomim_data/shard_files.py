"""Frames and rows out of shards: one cached index a shard, files opened per process."""

import os
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from geomim_data.arrays import ArrayLayout, DataType
from geomim_data.codecs import crc32c, decode_plane, decode_rows, unseal
from geomim_data.errors import DataError, leading
from geomim_data.files import open_inside
from geomim_data.schema import DepthCodec
from geomim_data.shards import CHUNK_BYTES, CHUNK_ROWS, blob_start, read_index

MAX_OPEN = 256


@final
class _OpenShard:
    """A descriptor and the checked index; closed when the last reader lets go of it."""

    __slots__ = ("file", "index", "start")

    def __init__(self, path: Path, root: Path, *, chunks: int, used: int):
        self.file = open_inside(path, root)
        with leading(str(path)):
            self.index: UInt64[np.ndarray, "chunk 2"] = read_index(
                self.file, chunks=chunks, used=used
            )
        self.start = 0

    def __del__(self) -> None:
        file = getattr(self, "file", None)
        if file is not None:
            os.close(file)


@final
class ShardFiles:
    """Keep at most ``MAX_OPEN`` shards open, those opened last, and none across a fork."""

    def __init__(self, root: Path):
        self.root = root
        self._owner = os.getpid()
        self._open: dict[Path, _OpenShard] = {}

    def __reduce__(self) -> "tuple[type[ShardFiles], tuple[Path]]":
        return ShardFiles, (self.root,)

    def open(self, path: Path, *, chunks: int, used: int, blob: bool) -> _OpenShard:
        """Return an open shard, its index checked.

        Raises:
            DataError: If the file is absent, leads outside the root, or its index is broken.
        """
        if self._owner != os.getpid():
            self._owner, self._open = os.getpid(), {}
        shard = self._open.get(path)
        if shard is None:
            shard = _OpenShard(path, self.root, chunks=chunks, used=used)
            if blob:
                with leading(str(path)):
                    shard.start = blob_start(shard.index)
            while len(self._open) >= MAX_OPEN:
                self._open.pop(next(iter(list(self._open))), None)
            self._open[path] = shard
        return shard


def _read(shard: _OpenShard, nbytes: int, offset: int) -> bytes:
    data = os.pread(shard.file, nbytes, offset)
    if len(data) != nbytes:
        raise DataError(f"the shard ends {nbytes - len(data)} bytes early")
    return data


@final
class BlobReader:
    """Read the frames of a blob by the table of their offsets, lengths and checksums."""

    def __init__(
        self,
        folder: Path,
        layout: ArrayLayout,
        files: ShardFiles,
        *,
        offset: Int64[np.ndarray, " frame"],
        nbytes: Int64[np.ndarray, " frame"],
        checksum: UInt32[np.ndarray, " frame"],
    ):
        if layout.kind != "blob" or layout.data_type != "uint8" or layout.inner != (CHUNK_BYTES,):
            raise DataError(f"{folder}: must be a blob of uint8 in chunks of {CHUNK_BYTES}")
        self._length, self._shard = layout.shape[0], layout.outer[0]
        # Differences, since a sum of hostile numbers could wrap around.
        known = (offset >= 0) & (nbytes > 0) & (nbytes <= self._length - offset)
        if not (known & (nbytes <= self._shard - offset % self._shard)).all():
            raise DataError(f"{folder}: rgb_offset and rgb_nbytes must stay inside one shard each")
        self._paths = [folder / "c" / str(i) for i in range(-(-self._length // self._shard))]
        self._files = files
        self._offset, self._nbytes, self._checksum = offset, nbytes, checksum

    def read(self, frame: int) -> bytes:
        """Return a frame's bytes, their checksum verified."""
        number, offset = divmod(int(self._offset[frame]), self._shard)
        covered = min(self._shard, self._length - number * self._shard)
        shard = self._files.open(
            self._paths[number],
            chunks=self._shard // CHUNK_BYTES,
            used=-(-covered // CHUNK_BYTES),
            blob=True,
        )
        data = _read(shard, int(self._nbytes[frame]), shard.start + offset)
        if crc32c(data) != int(self._checksum[frame]):
            raise DataError("rgb does not have the bytes that were stored (crc32c)")
        return data


@final
class PlaneReader:
    """Read the planes of a (frame, h, w) array."""

    def __init__(
        self,
        folder: Path,
        layout: ArrayLayout,
        files: ShardFiles,
        *,
        shape: tuple[int, int, int],
        codec: DepthCodec,
    ):
        per_shard = layout.outer[0]
        expected = (codec, "uint16", shape, (per_shard, *shape[1:]), (1, *shape[1:]))
        found = (layout.kind, layout.data_type, layout.shape, layout.outer, layout.inner)
        if found != expected:
            raise DataError(f"{folder}: must be {codec} planes of {shape}, one a chunk")
        self._frames, self.size, self._per_shard = shape[0], shape[1:], per_shard
        self._codec: DepthCodec = codec
        self._paths = [folder / "c" / str(i) / "0" / "0" for i in range(-(-shape[0] // per_shard))]
        self._files = files
        self.name = folder.name

    def read(self, frame: int, *, strict: bool = False) -> np.ndarray:
        """Return a plane, its chunk's checksum verified; see ``decode_plane`` for ``strict``."""
        with leading(self.name):
            chunk = unseal(self._sealed(frame))
            return decode_plane(chunk, self._codec, self.size, strict=strict)

    def check(self, frame: int) -> None:
        """Verify the checksum of a plane's chunk alone."""
        with leading(self.name):
            unseal(self._sealed(frame))

    def _sealed(self, frame: int) -> bytes:
        number, row = divmod(frame, self._per_shard)
        used = min(self._per_shard, self._frames - number * self._per_shard)
        shard = self._files.open(self._paths[number], chunks=self._per_shard, used=used, blob=False)
        offset, nbytes = shard.index[row].tolist()
        return _read(shard, nbytes, offset)


@final
class RowReader:
    """Read rows of an array whose first axis runs through chunks of ``CHUNK_ROWS``."""

    def __init__(
        self,
        folder: Path,
        layout: ArrayLayout,
        files: ShardFiles,
        *,
        shape: tuple[int, ...],
        data_type: DataType,
    ):
        behind = shape[1:]
        expected = ("blosc", data_type, shape, behind, (CHUNK_ROWS, *behind))
        found = (layout.kind, layout.data_type, layout.shape, layout.outer[1:], layout.inner)
        if found != expected:
            raise DataError(
                f"{folder}: must be blosc rows of {data_type} {shape}, {CHUNK_ROWS} a chunk"
            )
        self.name = folder.name
        self._folder, self._files = folder, files
        self._chunks = -(-shape[0] // CHUNK_ROWS)
        self._per_shard = layout.outer[0] // CHUNK_ROWS
        self._behind, self._dtype = behind, np.dtype(data_type)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows, the checksums of their chunks verified."""
        out = np.empty((stop - start, *self._behind), dtype=self._dtype)
        with leading(self.name):
            for chunk in _chunks(start, stop):
                rows = decode_rows(
                    unseal(self._sealed(chunk)), (CHUNK_ROWS, *self._behind), self._dtype
                )
                first = chunk * CHUNK_ROWS
                begin, end = max(start, first), min(stop, first + CHUNK_ROWS)
                out[begin - start : end - start] = rows[begin - first : end - first]
        return out

    def check(self, start: int, stop: int) -> None:
        """Verify the checksums of the chunks of rows alone."""
        with leading(self.name):
            for chunk in _chunks(start, stop):
                unseal(self._sealed(chunk))

    def _sealed(self, chunk: int) -> bytes:
        number, row = divmod(chunk, self._per_shard)
        used = min(self._per_shard, self._chunks - number * self._per_shard)
        path = self._folder.joinpath("c", str(number), *("0" for _ in self._behind))
        shard = self._files.open(path, chunks=self._per_shard, used=used, blob=False)
        offset, nbytes = shard.index[row].tolist()
        return _read(shard, nbytes, offset)


def _chunks(start: int, stop: int) -> range:
    """Return the numbers of the chunks that hold rows."""
    return range(start // CHUNK_ROWS, -(-stop // CHUNK_ROWS) if stop > start else 0)
