"""Zarr metadata and small arrays, made by zarr-python in memory, so that any reader takes them."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import zarr
from pydantic import BaseModel
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from geomim_data.codecs import BLOSC_LEVEL, GZIP_LEVEL
from geomim_data.schema import ATTRIBUTES_KEY, DepthCodec
from geomim_data.shards import CHUNK_BYTES, CHUNK_ROWS

Attributes = Mapping[str, Any]  # JSON


def group_json(model: BaseModel) -> bytes:
    """Return the ``zarr.json`` of a group that carries ``model`` as our attributes."""
    files: dict[str, Buffer] = {}
    attributes = {ATTRIBUTES_KEY: model.model_dump(mode="json")}
    zarr.create_group(MemoryStore(files), attributes=attributes)
    return files["zarr.json"].to_bytes()


def plain_group_json() -> bytes:
    """Return the ``zarr.json`` of a group without attributes."""
    return GroupFiles().contents()["zarr.json"]


@final
class GroupFiles:
    """Collect the files of a group: ``zarr.json`` of it and its arrays, and small arrays whole."""

    def __init__(self) -> None:
        self._files: dict[str, Buffer] = {}
        self._group = zarr.create_group(MemoryStore(self._files))

    def contents(self) -> dict[str, bytes]:
        """Return every file by its path in the group."""
        return {name: content.to_bytes() for name, content in self._files.items()}

    def add_small(self, name: str, values: np.ndarray, attributes: Attributes) -> None:
        """Add an array with its values, as one chunk with a checksum."""
        array = self._group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=values.shape,
            compressors=[Crc32cCodec()],
            filters=None,
            fill_value=0,
            attributes={**attributes},
            # An absent chunk is an error to us, also where all values are zero.
            config={"write_empty_chunks": True},
        )
        array[...] = values

    def add_blob(self, name: str, *, length: int, shard: int) -> None:
        """Add the metadata of a blob of ``length`` bytes in shards of ``shard``."""
        self._group.create_array(
            name,
            shape=(length,),
            dtype=np.uint8,
            chunks=(CHUNK_BYTES,),
            shards=(shard,),
            compressors=None,
            filters=None,
            fill_value=0,
        )

    def add_planes(
        self,
        name: str,
        shape: tuple[int, int, int],
        *,
        per_shard: int,
        codec: DepthCodec,
        attributes: Attributes,
    ) -> None:
        """Add the metadata of (frame, h, w) uint16 planes, one a chunk, ``per_shard`` a shard."""
        self._group.create_array(
            name,
            shape=shape,
            dtype=np.uint16,
            chunks=(1, *shape[1:]),
            shards=(per_shard, *shape[1:]),
            compressors=_compressors(codec, typesize=2),
            filters=None,
            fill_value=0,
            attributes={**attributes},
        )

    def add_rows(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype, *, per_shard: int
    ) -> None:
        """Add the metadata of an array in chunks of ``CHUNK_ROWS`` rows, ``per_shard`` a shard."""
        self._group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=(CHUNK_ROWS, *shape[1:]),
            shards=(per_shard * CHUNK_ROWS, *shape[1:]),
            compressors=_compressors("blosc", typesize=dtype.itemsize),
            filters=None,
            fill_value=0,
        )


def _compressors(codec: DepthCodec, *, typesize: int) -> Sequence[BytesBytesCodec]:
    match codec:
        case "gzip":
            return [GzipCodec(level=GZIP_LEVEL), Crc32cCodec()]
        case "blosc":
            blosc = BloscCodec(
                typesize=typesize, cname="zstd", clevel=BLOSC_LEVEL, shuffle="shuffle"
            )
            return [blosc, Crc32cCodec()]
