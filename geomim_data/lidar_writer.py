"""Write the sweeps of one lidar of a scene."""

from pathlib import Path
from typing import final

import numpy as np

from geomim_data.codecs import encode_rows, seal
from geomim_data.errors import DataError
from geomim_data.files import write_file
from geomim_data.metadata import GroupFiles
from geomim_data.moments import moment_arrays, valid_poses
from geomim_data.recording import LidarRecording, Sweep
from geomim_data.schema import MAX_SWEEP_POINTS, LidarAttributes, point_columns
from geomim_data.shards import CHUNK_ROWS, SHARD_BYTES, ChunkWriter


@final
class RowStack:
    """Cut rows into chunks and write them, the last one filled up with zeros."""

    def __init__(self, folder: Path, *, dtype: np.dtype, behind: tuple[int, ...]):
        self.dtype = dtype
        self.behind = behind
        self.rows = 0
        self.nbytes = 0
        self._chunk = np.zeros((CHUNK_ROWS, *behind), dtype=dtype)
        per_shard = max(1, SHARD_BYTES // self._chunk.nbytes)
        self.writer = ChunkWriter(folder, per_shard=per_shard, axes=1 + len(behind))

    def append(self, rows: np.ndarray) -> None:
        """Write the next rows."""
        while len(rows):
            begin = self.rows % CHUNK_ROWS
            taken = rows[: CHUNK_ROWS - begin]
            self._chunk[begin : begin + len(taken)] = taken
            self.rows += len(taken)
            rows = rows[len(taken) :]
            if self.rows % CHUNK_ROWS == 0:
                self._write()

    def finish(self) -> None:
        """Write what is left."""
        begin = self.rows % CHUNK_ROWS
        if begin:
            self._chunk[begin:] = 0
            self._write()
        self.writer.finish()

    def _write(self) -> None:
        chunk = seal(encode_rows(self._chunk))
        self.writer.append(chunk)
        self.nbytes += len(chunk)


@final
class LidarWriter:
    """Write one lidar's sweeps as they come, then the metadata of its arrays."""

    def __init__(self, folder: Path, lidar: LidarRecording):
        self._folder = folder
        self._lidar = lidar
        self._offset = [0]
        self._timestamp_us: list[int] = []
        self._world_from_lidar: list[np.ndarray] = []
        columns = point_columns(
            intensity=lidar.intensity, has_ring=lidar.has_ring, has_time=lidar.has_time
        )
        self._stacks = {
            name: RowStack(folder / name, dtype=np.dtype(dtype), behind=behind)
            for name, (dtype, behind) in columns.items()
        }

    def close(self) -> None:
        """Close every open file, finished or not."""
        for stack in self._stacks.values():
            stack.writer.close()

    def append(self, sweep: Sweep) -> None:
        """Write a sweep.

        Raises:
            DataError: If a number is not finite, something is there against what the lidar
                announces, or has another length or type.
        """
        count = len(sweep.points)
        if count > MAX_SWEEP_POINTS:
            raise DataError(f"a sweep must have at most {MAX_SWEEP_POINTS} points, got {count}")
        if not np.isfinite(sweep.points).all():
            raise DataError("points must be finite; leave those without a return out")
        rows = {
            "points": sweep.points,
            "intensity": sweep.intensity,
            "ring": sweep.ring,
            "time_us": sweep.time_us,
        }
        for name, values in rows.items():
            self._check(name, values, count)
        for name, stack in self._stacks.items():
            stack.append(np.asarray(rows[name]))
        self._offset.append(self._offset[-1] + count)
        self._timestamp_us.append(_int64(sweep.timestamp_us))
        self._world_from_lidar.append(sweep.world_from_lidar)

    def _check(self, name: str, values: np.ndarray | None, count: int) -> None:
        stack = self._stacks.get(name)
        if values is None or stack is None:
            if values is not stack:
                verb = "be absent" if stack is None else "be there"
                raise DataError(f"{name} must {verb}, as the lidar announces")
            return
        shape = (count, *stack.behind)
        if (values.dtype, values.shape) != (stack.dtype, shape):
            raise DataError(
                f"{name} must be {stack.dtype} {shape}, got {values.dtype} {values.shape}"
            )

    def finish(self) -> tuple[LidarAttributes, dict[Path, str]]:
        """Finish the files; return what they hold and the SHA-256 of each.

        Raises:
            DataError: If there were fewer or more sweeps than the lidar announced, or no point.
        """
        sweeps = len(self._timestamp_us)
        if sweeps != self._lidar.sweeps or sweeps == 0:
            raise DataError(f"there must be {self._lidar.sweeps or 'some'} sweeps, got {sweeps}")
        if self._offset[-1] == 0:
            raise DataError("there must be some points, got none in any sweep")
        files: dict[Path, str] = {}
        for stack in self._stacks.values():
            stack.finish()
            files |= stack.writer.files
        poses = np.stack(self._world_from_lidar)
        pose_valid = valid_poses(poses)
        small = {
            "offset": np.array(self._offset, dtype=np.int64),
            "timestamp_us": np.array(self._timestamp_us, dtype=np.int64),
            "world_from_lidar": poses,
            "pose_valid": pose_valid,
            **moment_arrays(sweeps, key_frame=self._lidar.key_frame, sample=self._lidar.sample),
        }
        for name, content in self._metadata(small).items():
            files[self._folder / name] = write_file(self._folder / name, content)
        return self._attributes(int(pose_valid.sum())), files

    def _metadata(self, small: dict[str, np.ndarray]) -> dict[str, bytes]:
        group = GroupFiles()
        for name, stack in self._stacks.items():
            shape = (stack.rows, *stack.behind)
            group.add_rows(name, shape, stack.dtype, per_shard=stack.writer.per_shard)
        for name, values in small.items():
            group.add_small(name, values, {})
        return group.contents()

    def _attributes(self, poses: int) -> LidarAttributes:
        lidar = self._lidar
        return LidarAttributes(
            sweeps=lidar.sweeps,
            points=self._offset[-1],
            valid_poses=poses,
            bytes=sum(stack.nbytes for stack in self._stacks.values()),
            intensity=lidar.intensity,
            has_ring=lidar.has_ring,
            has_time=lidar.has_time,
            has_key_frame=lidar.key_frame is not None,
            has_sample=lidar.sample is not None,
        )


def _int64(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise DataError(f"timestamp_us must fit int64, got {value}")
    return value
