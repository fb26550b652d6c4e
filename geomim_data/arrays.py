"""Read the arrays of a store without zarr-python, and only the few kinds that ``writer`` makes.

zarr-python reads the same files; here nothing but an allow-listed layout is accepted, absent
chunks are errors instead of fill values, and no event loop has to survive a fork.
"""

import math
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from geomim_data.codecs import unseal
from geomim_data.errors import DataError, leading
from geomim_data.files import open_inside, read_inside
from geomim_data.schema import MAX_JSON_BYTES, ZARR_JSON, parse_json, parse_model

MAX_SMALL_BYTES = 2**30
_MAP_BYTES = 2**16

DataType = Literal[
    "bool", "uint8", "uint16", "uint32", "int16", "int32", "int64", "float32", "float64"
]
Kind = Literal["small", "blob", "gzip", "blosc"]
Shape = tuple[Annotated[int, Field(ge=0, lt=2**48)], ...]


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class _Endian(_Part):
    endian: Literal["little"]


class _Bytes(_Part):
    name: Literal["bytes"]
    configuration: _Endian | None = None


class _Level(_Part):
    level: int


class _Gzip(_Part):
    name: Literal["gzip"]
    configuration: _Level


class _Shuffle(_Part):
    typesize: int
    cname: Literal["zstd"]
    clevel: int
    shuffle: Literal["shuffle"]
    blocksize: int


class _Blosc(_Part):
    name: Literal["blosc"]
    configuration: _Shuffle


class _Crc32c(_Part):
    name: Literal["crc32c"]


_Inner = Annotated[_Bytes | _Gzip | _Blosc | _Crc32c, Field(discriminator="name")]


class _Shards(_Part):
    chunk_shape: Shape
    codecs: tuple[_Inner, ...]
    index_codecs: tuple[_Bytes, _Crc32c]
    index_location: Literal["end"] = "end"


class _Sharding(_Part):
    name: Literal["sharding_indexed"]
    configuration: _Shards


class _ChunkShape(_Part):
    chunk_shape: Shape


class _Grid(_Part):
    name: Literal["regular"]
    configuration: _ChunkShape


class _Separator(_Part):
    separator: Literal["/"]


class _Keys(_Part):
    name: Literal["default"]
    configuration: _Separator


class _Metadata(BaseModel):
    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: Shape
    data_type: DataType
    chunk_grid: _Grid
    chunk_key_encoding: _Keys
    codecs: tuple[
        Annotated[_Bytes | _Gzip | _Blosc | _Crc32c | _Sharding, Field(discriminator="name")], ...
    ]
    attributes: dict[str, Any] = {}
    storage_transformers: tuple[()] = ()


@final
@dataclass(frozen=True, slots=True, eq=False)
class ArrayLayout:
    """How an array lies on disk.

    ``kind`` is ``small`` (one chunk with a checksum), ``blob`` (bytes in shards) or the codec of
    its planes or rows; ``outer`` is the shape of one file and ``inner`` that of one chunk in it.
    """

    shape: tuple[int, ...]
    data_type: DataType
    kind: Kind
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    attributes: dict[str, Any]


_KINDS: dict[tuple[bool, tuple[str, ...]], Kind] = {
    (False, ("bytes", "crc32c")): "small",
    (True, ("bytes",)): "blob",
    (True, ("bytes", "gzip", "crc32c")): "gzip",
    (True, ("bytes", "blosc", "crc32c")): "blosc",
}


def read_layout(folder: Path, root: Path) -> ArrayLayout:
    """Read and check an array's ``zarr.json``.

    Raises:
        DataError: If it is broken, or not laid out as ``writer`` lays arrays out.
    """
    path = folder / ZARR_JSON
    content = parse_json(read_inside(path, root, limit=MAX_JSON_BYTES), path)
    metadata = parse_model(_Metadata, content, path)
    return _layout(metadata, path)


def _layout(metadata: _Metadata, path: Path) -> ArrayLayout:
    outer = metadata.chunk_grid.configuration.chunk_shape
    first = metadata.codecs[0] if len(metadata.codecs) == 1 else None
    sharded = isinstance(first, _Sharding)
    codecs = first.configuration.codecs if isinstance(first, _Sharding) else metadata.codecs
    inner = first.configuration.chunk_shape if isinstance(first, _Sharding) else outer
    names = tuple(codec.name for codec in codecs)
    kind = _KINDS.get((sharded, names))
    if kind is None:
        raise DataError(f"{path}: codecs must be those of a geomim store, got {', '.join(names)}")
    fits = len(metadata.shape) == len(outer) == len(inner) > 0
    if not fits or any(i < 1 or o % i for o, i in zip(outer, inner, strict=True)):
        raise DataError(
            f"{path}: chunks must divide shards, got {inner} and {outer} of {metadata.shape}"
        )
    return ArrayLayout(metadata.shape, metadata.data_type, kind, outer, inner, metadata.attributes)


def read_small(
    folder: Path, root: Path, *, shape: tuple[int, ...], data_type: DataType
) -> np.ndarray:
    """Read a whole small array.

    Raises:
        DataError: If it is broken, or has another shape or type than is asked for.
    """
    layout = read_layout(folder, root)
    if layout.kind != "small" or (layout.shape, layout.data_type) != (shape, data_type):
        raise DataError(
            f"{folder}: must be a small {data_type} array of {shape}, "
            f"got a {layout.kind} {layout.data_type} array of {layout.shape}"
        )
    if layout.outer != shape:
        raise DataError(f"{folder}: must be one chunk of {shape}, got chunks of {layout.outer}")
    path = folder.joinpath("c", *("0" for _ in shape))
    dtype = np.dtype(data_type).newbyteorder("<")
    sealed = read_inside(path, root, limit=MAX_SMALL_BYTES)
    with leading(str(path)):
        chunk = unseal(sealed)
    if len(chunk) != math.prod(shape) * dtype.itemsize:
        raise DataError(f"{path}: must hold {math.prod(shape)} values, got {len(chunk)} bytes")
    if len(chunk) < _MAP_BYTES:
        return np.frombuffer(chunk, dtype=dtype).reshape(shape)
    # The page cache holds one copy for all loader workers, where each would hold its own.
    with os.fdopen(open_inside(path, root), "rb") as file:
        mapped = mmap.mmap(file.fileno(), len(sealed), prot=mmap.PROT_READ)
    return np.frombuffer(mapped, dtype=dtype, count=math.prod(shape)).reshape(shape)
