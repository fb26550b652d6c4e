"""Read the frames of one camera of a store."""

from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt16

from geomim_data.arrays import DataType, read_layout, read_small
from geomim_data.errors import DataError
from geomim_data.schema import CameraAttributes, DepthCodec, DepthKind
from geomim_data.shard_files import BlobReader, PlaneReader, ShardFiles


@final
class CameraReader:
    """Give per-frame arrays, read when first asked for, and images one by one.

    Sizes are (height, width); intrinsics are fx, fy, cx, cy in our pixels; ``world_from_cam`` is
    as the source gave it, a rigid transform only where ``pose_valid``. No array is to be written
    to, save the planes that ``depth``, ``label`` and ``instance`` return.

    Raises:
        DataError: Naming scene and frame, from every method and property, if files are absent or
            do not have the bytes that were stored.
    """

    def __init__(self, folder: Path, attributes: CameraAttributes, files: ShardFiles, place: str):
        self.attributes = attributes
        self._folder = folder
        self._files = files
        self._place = place

    def __reduce__(self) -> "tuple[type[CameraReader], tuple[object, ...]]":
        return CameraReader, (self._folder, self.attributes, self._files, self._place)

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return self.attributes.frames

    @property
    def rgb_size(self) -> tuple[int, int]:
        """Size of the colour images."""
        return self.attributes.rgb_size

    @property
    def depth_size(self) -> tuple[int, int] | None:
        """Size of the depth planes; None without depth."""
        return self.attributes.depth_size

    @property
    def depth_unit_m(self) -> float:
        """Length of one count of depth."""
        return self.attributes.depth_unit_m

    @property
    def depth_kind(self) -> DepthKind:
        """Whether depth runs along the axis (``depth``) or the ray (``distance``)."""
        return self.attributes.depth_kind

    @property
    def has_depth(self) -> bool:
        """Whether every frame has depth; otherwise none has."""
        return self.attributes.depth_size is not None

    @property
    def has_label(self) -> bool:
        """Whether frames may have labels: see ``label_valid``."""
        return self.attributes.label_size is not None

    @property
    def has_instance(self) -> bool:
        """Whether frames may have instance ids."""
        return self.attributes.has_instance

    @cached_property
    def rgb_intrinsics(self) -> Float64[np.ndarray, "frame 4"]:
        """Intrinsics of the colour images."""
        return self._small("rgb_intrinsics", "float64", 4)

    @cached_property
    def depth_intrinsics(self) -> Float64[np.ndarray, "frame 4"]:
        """Intrinsics of the depth planes."""
        self._expect(self.has_depth, "depth")
        return self._small("depth_intrinsics", "float64", 4)

    @cached_property
    def world_from_cam(self) -> Float64[np.ndarray, "frame 4 4"]:
        """Poses as the source gave them, not finite included."""
        return self._small("world_from_cam", "float64", 4, 4)

    @cached_property
    def pose_valid(self) -> Bool[np.ndarray, " frame"]:
        """Which poses are finite rigid transforms."""
        return self._small("pose_valid", "bool")

    @cached_property
    def label_valid(self) -> Bool[np.ndarray, " frame"]:
        """Which frames have labels."""
        self._expect(self.has_label, "labels")
        return self._small("label_valid", "bool")

    @cached_property
    def rgb_timestamp_us(self) -> Int64[np.ndarray, " frame"]:
        """When the colour images were taken."""
        return self._small("rgb_timestamp_us", "int64")

    @cached_property
    def depth_timestamp_us(self) -> Int64[np.ndarray, " frame"]:
        """When the depth planes were taken."""
        self._expect(self.has_depth, "depth")
        return self._small("depth_timestamp_us", "int64")

    @cached_property
    def key_frame(self) -> Bool[np.ndarray, " frame"]:
        """Which frames belong to a sample, an annotated moment of the scene."""
        self._expect(self.attributes.has_key_frame, "key frames")
        return self._small("key_frame", "bool")

    @cached_property
    def sample(self) -> Int32[np.ndarray, " frame"]:
        """Number of the sample that each frame belongs to or leads up to, or -1."""
        self._expect(self.attributes.has_sample, "samples")
        return self._small("sample", "int32")

    def rgb_bytes(self, frame: int) -> bytes:
        """Return a frame's JPEG or PNG file as the source had it."""
        self._check(frame)
        try:
            return self._rgb.read(frame)
        except DataError as error:
            raise self._broken(error, frame) from error

    def depth(self, frame: int, *, strict: bool = False) -> UInt16[np.ndarray, "h w"]:
        """Return a frame's depth in multiples of ``depth_unit_m``, 0 = none.

        ``strict`` also checks what only a mistake of the writer can have spoilt.
        """
        self._expect(self.has_depth, "depth")
        return self._plane("depth", frame, strict=strict)

    def label(self, frame: int) -> UInt16[np.ndarray, "h w"]:
        """Return a frame's label ids, all 0 where not ``label_valid``."""
        self._expect(self.has_label, "labels")
        return self._plane("label", frame)

    def instance(self, frame: int) -> UInt16[np.ndarray, "h w"]:
        """Return a frame's instance ids, 0 = none."""
        self._expect(self.has_instance, "instances")
        return self._plane("instance", frame)

    def check_layout(self) -> None:
        """Verify that every array is there as the attributes say, its small parts whole."""
        _ = self.rgb_intrinsics, self.world_from_cam, self.pose_valid, self.rgb_timestamp_us
        if self.has_depth:
            _ = self.depth_intrinsics, self.depth_timestamp_us
        if self.has_label:
            _ = self.label_valid
        if self.attributes.has_key_frame:
            _ = self.key_frame
        if self.attributes.has_sample:
            _ = self.sample
        try:
            _ = self._rgb, self._planes
        except DataError as error:
            raise self._broken(error) from error

    def check_planes(self, frame: int) -> None:
        """Verify the checksums of a frame's planes without unpacking them."""
        self._check(frame)
        try:
            for planes in self._planes.values():
                planes.check(frame)
        except DataError as error:
            raise self._broken(error, frame) from error

    def _plane(self, name: str, frame: int, *, strict: bool = False) -> np.ndarray:
        self._check(frame)
        try:
            return self._planes[name].read(frame, strict=strict)
        except DataError as error:
            raise self._broken(error, frame) from error

    @cached_property
    def _rgb(self) -> BlobReader:
        folder = self._folder / "rgb"
        return BlobReader(
            folder,
            read_layout(folder, self._files.root),
            self._files,
            offset=self._small("rgb_offset", "int64"),
            nbytes=self._small("rgb_nbytes", "int64"),
            checksum=self._small("rgb_crc32c", "uint32"),
        )

    @cached_property
    def _planes(self) -> dict[str, PlaneReader]:
        attributes = self.attributes
        instance_size = attributes.label_size if attributes.has_instance else None
        kinds: dict[str, tuple[tuple[int, int] | None, DepthCodec]] = {
            "depth": (attributes.depth_size, attributes.depth_codec or "blosc"),
            "label": (attributes.label_size, "blosc"),
            "instance": (instance_size, "blosc"),
        }
        return {
            name: self._plane_reader(name, size, codec)
            for name, (size, codec) in kinds.items()
            if size is not None
        }

    def _plane_reader(self, name: str, size: tuple[int, int], codec: DepthCodec) -> PlaneReader:
        folder = self._folder / name
        layout = read_layout(folder, self._files.root)
        shape = (self.frames, *size)
        return PlaneReader(folder, layout, self._files, shape=shape, codec=codec)

    def _small(self, name: str, data_type: DataType, *row: int) -> np.ndarray:
        folder, shape = self._folder / name, (self.frames, *row)
        try:
            return read_small(folder, self._files.root, shape=shape, data_type=data_type)
        except DataError as error:
            raise self._broken(error) from error

    def _check(self, frame: int) -> None:
        if not 0 <= frame < self.attributes.frames:
            raise IndexError(f"frame must be 0 to {self.frames - 1} of {self._place}, got {frame}")

    def _expect(self, there: bool, what: str) -> None:
        if not there:
            raise ValueError(f"{self._place} must have {what} for this, it has none")

    def _broken(self, error: DataError, frame: int | None = None) -> DataError:
        if str(error).startswith(self._place):
            return error
        place = self._place if frame is None else f"{self._place}[frame {frame}]"
        return DataError(f"{place}: {error}; run geomim-data verify {self._files.root}")
