"""Read the sweeps of one lidar of a store."""

from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8

from geomim_data.arrays import DataType, read_layout, read_small
from geomim_data.errors import DataError
from geomim_data.schema import MAX_SWEEP_POINTS, LidarAttributes, point_columns
from geomim_data.shard_files import RowReader, ShardFiles


@final
class LidarReader:
    """Give per-sweep arrays, read when first asked for, and points sweep by sweep.

    Points are in the lidar's own frame, in metres. A sweep is read by its own range of the files.
    No array is to be written to, save those that take a sweep's number.

    Raises:
        DataError: Naming scene and sweep, from every method and property, if files are absent or
            do not have the bytes that were stored.
    """

    def __init__(self, folder: Path, attributes: LidarAttributes, files: ShardFiles, place: str):
        self.attributes = attributes
        self._folder = folder
        self._files = files
        self._place = place

    def __reduce__(self) -> "tuple[type[LidarReader], tuple[object, ...]]":
        return LidarReader, (self._folder, self.attributes, self._files, self._place)

    @property
    def sweeps(self) -> int:
        """How many sweeps there are."""
        return self.attributes.sweeps

    @cached_property
    def offset(self) -> Int64[np.ndarray, " ends"]:
        """Where each sweep's points start among all points; the last one is where they end."""
        offset = self._small("offset", "int64", self.sweeps + 1)
        counts = np.diff(offset)
        ends = (int(offset[0]), int(offset[-1]))
        if ends != (0, self.attributes.points) or not _within(counts):
            raise self._broken(
                DataError(
                    f"offset must rise from 0 to {self.attributes.points}, by at most "
                    f"{MAX_SWEEP_POINTS} a sweep"
                )
            )
        return offset

    @cached_property
    def timestamp_us(self) -> Int64[np.ndarray, " sweep"]:
        """When each sweep was taken, by the source's clock."""
        return self._small("timestamp_us", "int64", self.sweeps)

    @cached_property
    def world_from_lidar(self) -> Float64[np.ndarray, "sweep 4 4"]:
        """Poses as the source gave them, not finite included."""
        return self._small("world_from_lidar", "float64", self.sweeps, 4, 4)

    @cached_property
    def pose_valid(self) -> Bool[np.ndarray, " sweep"]:
        """Which poses are finite rigid transforms."""
        return self._small("pose_valid", "bool", self.sweeps)

    @cached_property
    def key_frame(self) -> Bool[np.ndarray, " sweep"]:
        """Which sweeps belong to a sample, an annotated moment of the scene."""
        self._expect(self.attributes.has_key_frame, "key frames")
        return self._small("key_frame", "bool", self.sweeps)

    @cached_property
    def sample(self) -> Int32[np.ndarray, " sweep"]:
        """Number of the sample that each sweep belongs to or leads up to, or -1."""
        self._expect(self.attributes.has_sample, "samples")
        return self._small("sample", "int32", self.sweeps)

    def points(self, sweep: int) -> Float32[np.ndarray, "point 3"]:
        """Return a sweep's points."""
        return self._rows_of("points", sweep)

    def intensity(self, sweep: int) -> Float32[np.ndarray, " point"] | UInt8[np.ndarray, " point"]:
        """Return how strongly each point reflected, in the source's measure."""
        self._expect(self.attributes.intensity is not None, "intensity")
        return self._rows_of("intensity", sweep)

    def ring(self, sweep: int) -> UInt8[np.ndarray, " point"]:
        """Return which of the lidar's beams measured each point."""
        self._expect(self.attributes.has_ring, "rings")
        return self._rows_of("ring", sweep)

    def time_us(self, sweep: int) -> Int32[np.ndarray, " point"]:
        """Return when each point was measured, counted from the sweep's ``timestamp_us``."""
        self._expect(self.attributes.has_time, "times of points")
        return self._rows_of("time_us", sweep)

    def check_layout(self) -> None:
        """Verify that every array is there as the attributes say, its small parts whole."""
        _ = self.offset, self.timestamp_us, self.world_from_lidar, self.pose_valid
        if self.attributes.has_key_frame:
            _ = self.key_frame
        if self.attributes.has_sample:
            _ = self.sample
        try:
            _ = self._rows
        except DataError as error:
            raise self._broken(error) from error

    def check(self, sweep: int, *, unpack: bool) -> None:
        """Verify the checksums of a sweep's chunks, and that they unpack."""
        start, stop = self._range(sweep)
        try:
            for rows in self._rows.values():
                if unpack:
                    rows.read(start, stop)
                else:
                    rows.check(start, stop)
        except DataError as error:
            raise self._broken(error, sweep) from error

    def _range(self, sweep: int) -> tuple[int, int]:
        if not 0 <= sweep < self.sweeps:
            raise IndexError(f"sweep must be 0 to {self.sweeps - 1} of {self._place}, got {sweep}")
        return int(self.offset[sweep]), int(self.offset[sweep + 1])

    def _rows_of(self, name: str, sweep: int) -> np.ndarray:
        start, stop = self._range(sweep)
        try:
            return self._rows[name].read(start, stop)
        except DataError as error:
            raise self._broken(error, sweep) from error

    @cached_property
    def _rows(self) -> dict[str, RowReader]:
        attributes = self.attributes
        columns = point_columns(
            intensity=attributes.intensity,
            has_ring=attributes.has_ring,
            has_time=attributes.has_time,
        )
        return {
            name: RowReader(
                self._folder / name,
                read_layout(self._folder / name, self._files.root),
                self._files,
                shape=(attributes.points, *behind),
                data_type=data_type,
            )
            for name, (data_type, behind) in columns.items()
        }

    def _small(self, name: str, data_type: DataType, *shape: int) -> np.ndarray:
        try:
            folder = self._folder / name
            return read_small(folder, self._files.root, shape=shape, data_type=data_type)
        except DataError as error:
            raise self._broken(error) from error

    def _expect(self, there: bool, what: str) -> None:
        if not there:
            raise ValueError(f"{self._place} must have {what} for this, it has none")

    def _broken(self, error: DataError, sweep: int | None = None) -> DataError:
        if str(error).startswith(self._place):
            return error
        place = self._place if sweep is None else f"{self._place}[sweep {sweep}]"
        return DataError(f"{place}: {error}; run geomim-data verify {self._files.root}")


def _within(counts: Int64[np.ndarray, " sweep"]) -> bool:
    return bool((counts >= 0).all() and (counts <= MAX_SWEEP_POINTS).all())
