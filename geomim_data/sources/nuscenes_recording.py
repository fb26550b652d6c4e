"""One scene of nuScenes, open: its cameras, lidars, boxes and map."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, final

import numpy as np
from jaxtyping import Float64, Int64

from geomim_data.errors import DataError
from geomim_data.recording import (
    BoxTracks,
    CameraRecording,
    Frame,
    LidarRecording,
    MapLines,
    Sweep,
)
from geomim_data.schema import MAX_SWEEP_POINTS
from geomim_data.sources.nuscenes_index import SceneIndex
from geomim_data.sources.nuscenes_map import map_path, read_map_lines
from geomim_data.sources.png import checked_image_size
from geomim_data.sources.quaternions import pose_matrices
from geomim_data.sources.text import MAX_IMAGE_BYTES, read_bytes, resolve_inside

MAP_MARGIN_M: Final = 100.0
POINT_NUMBERS: Final = 5  # x, y, z, intensity, ring, each a little-endian float32
_POINT_BYTES: Final = 4 * POINT_NUMBERS


@final
@dataclass(frozen=True, slots=True, eq=False)
class SensorFiles:
    """The files of one sensor in time, and where it was."""

    root: Path
    filenames: tuple[str, ...]
    timestamp_us: Int64[np.ndarray, " file"]
    world_from_sensor: Float64[np.ndarray, "file 4 4"]
    size: tuple[int, int]

    def frames(self) -> Iterator[Frame]:
        """Yield a camera's frames.

        Raises:
            DataError: If an image is missing, broken or of another size than the first.
        """
        for index in range(len(self.filenames)):
            data, place = self._read(index, most=MAX_IMAGE_BYTES)
            checked_image_size(data, place, size=self.size)
            yield Frame(
                rgb=data,
                depth=None,
                world_from_cam=self.world_from_sensor[index],
                rgb_timestamp_us=int(self.timestamp_us[index]),
                depth_timestamp_us=0,
            )

    def sweeps(self) -> Iterator[Sweep]:
        """Yield a lidar's sweeps.

        Raises:
            DataError: If a file is missing, cut off or holds other numbers.
        """
        for index in range(len(self.filenames)):
            data, place = self._read(index, most=MAX_SWEEP_POINTS * _POINT_BYTES)
            if len(data) % _POINT_BYTES:
                raise DataError(
                    f"{place}: must have {_POINT_BYTES} bytes a point, got {len(data)}: it is "
                    "truncated; get the file again"
                )
            numbers = np.frombuffer(data, dtype="<f4").reshape(-1, POINT_NUMBERS)
            ring = numbers[:, 4]
            if (
                not np.isfinite(numbers).all()
                or ((ring % 1 != 0) | (ring < 0) | (ring > 255)).any()
            ):
                raise DataError(
                    f"{place}: must hold finite x, y, z, intensity and a ring of 0 to 255; "
                    "get the file again"
                )
            yield Sweep(
                points=np.ascontiguousarray(numbers[:, :3], dtype=np.float32),
                world_from_lidar=self.world_from_sensor[index],
                timestamp_us=int(self.timestamp_us[index]),
                intensity=np.ascontiguousarray(numbers[:, 3], dtype=np.float32),
                ring=ring.astype(np.uint8),
            )

    def _read(self, index: int, *, most: int) -> tuple[bytes, str]:
        path = resolve_inside(self.root, self.filenames[index], where="sample_data.json")
        place = f"{path}[frame {index}]"
        if not path.is_file():
            raise DataError(
                f"{place}: is missing; get the part of the data set that holds it, or leave the "
                "scene out (--scenes)"
            )
        return read_bytes(path, most=most), place


@final
class NuScenesRecording:
    """A scene of single files, each open only while it is read."""

    def __init__(self, name: str, root: Path, index: SceneIndex, *, with_map: bool) -> None:
        """Gather the scene's sensors.

        Raises:
            DataError: If there is no file of any, or a camera's images differ in size.
        """
        self.name = name
        self._root = root
        self._index = index
        self._with_map = with_map
        # Each sensor has a pose of its own: the vehicle moves while the others wait their turn.
        self._world_from_ego = pose_matrices(index.ego[:, :3], index.ego[:, 3:])
        ego_from_sensor = pose_matrices(index.calibration[:, :3], index.calibration[:, 3:])
        self._world_from_sensor = self._world_from_ego @ ego_from_sensor
        rows = [
            (sensor, np.flatnonzero(index.sensor == sensor))
            for sensor in range(len(index.channels))
        ]
        rows = [(sensor, found) for sensor, found in rows if len(found)]
        if not rows:
            raise DataError(f"{name}: has no file of the wanted sensors")
        self.cameras = tuple(self._camera(s, r) for s, r in rows if not index.is_lidar[s])
        self.lidars = tuple(self._lidar(s, r) for s, r in rows if index.is_lidar[s])

    def __enter__(self) -> "NuScenesRecording":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hold nothing, so release nothing."""

    def read_boxes(self) -> BoxTracks | None:
        """Return the annotated boxes, axes x forward, y left, z up; None if there are none."""
        index = self._index
        if len(index.box_sample) == 0:
            return None
        return BoxTracks(
            sample=index.box_sample,
            timestamp_us=index.sample_timestamp_us[index.box_sample],
            track=index.box_track,
            category=index.box_category.astype(np.int16),
            world_from_box=pose_matrices(index.box_pose[:, :3], index.box_pose[:, 3:]),
            size=index.box_size.astype(np.float32),
            velocity=index.box_velocity.astype(np.float32),
            lidar_points=index.box_lidar_points.astype(np.int32),
            categories=tuple(index.categories.tolist()),
        )

    def read_map(self) -> MapLines | None:
        """Return what the map shows within ``MAP_MARGIN_M`` of the vehicle's path.

        Raises:
            DataError: If the map is broken.
        """
        location = str(self._index.location)
        path = map_path(self._root, location)
        if not self._with_map or not path.is_file():
            return None
        path = resolve_inside(self._root, f"maps/expansion/{location}.json", where="log.json")
        positions = self._world_from_ego[:, :2, 3]
        low, high = positions.min(axis=0) - MAP_MARGIN_M, positions.max(axis=0) + MAP_MARGIN_M
        return read_map_lines(path, low, high)

    def _files(self, rows: Int64[np.ndarray, " file"], size: tuple[int, int]) -> SensorFiles:
        return SensorFiles(
            root=self._root,
            filenames=tuple(name.decode() for name in self._index.filename[rows].tolist()),
            timestamp_us=self._index.timestamp_us[rows],
            world_from_sensor=self._world_from_sensor[rows],
            size=size,
        )

    def _camera(self, sensor: int, rows: Int64[np.ndarray, " file"]) -> CameraRecording:
        index, name = self._index, str(self._index.channels[sensor])
        sizes = np.unique(index.size[rows], axis=0).tolist()
        if len(sizes) != 1 or min(sizes[0]) < 1:
            raise DataError(f"{name}: sample_data.json must give one size, got {sizes}")
        size = (sizes[0][0], sizes[0][1])
        matrix = index.matrix[rows]
        # nuScenes puts pixel centres on integers, we half a pixel on.
        intrinsics = matrix[:, [0, 1, 0, 1], [0, 1, 2, 2]] + np.array([0, 0, 0.5, 0.5])
        return CameraRecording(
            name=name,
            frames=len(rows),
            rgb_size=size,
            rgb_intrinsics=intrinsics,
            source_pixel_centre="integer",
            read=self._files(rows, size),
            key_frame=index.key_frame[rows],
            sample=index.sample[rows],
        )

    def _lidar(self, sensor: int, rows: Int64[np.ndarray, " file"]) -> LidarRecording:
        index = self._index
        return LidarRecording(
            name=str(index.channels[sensor]),
            sweeps=len(rows),
            read=self._files(rows, (0, 0)),
            intensity="float32",
            has_ring=True,
            key_frame=index.key_frame[rows],
            sample=index.sample[rows],
        )
