"""Write one scene: whole and on the disk beside its place before it is renamed there."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import final

from geomim_data.camera_writer import CameraWriter, DepthCodecChoice
from geomim_data.errors import DataError, leading
from geomim_data.files import sync, sync_tree, write_file
from geomim_data.lidar_writer import LidarWriter
from geomim_data.metadata import group_json, plain_group_json
from geomim_data.recording import BoxTracks, CameraRecording, LidarRecording, MapLines
from geomim_data.schema import (
    FORMAT_VERSION,
    ZARR_JSON,
    BoxAttributes,
    CameraAttributes,
    FileRecord,
    LidarAttributes,
    MapAttributes,
    SceneAttributes,
    SceneEntry,
    check_name,
)
from geomim_data.world_writer import write_boxes, write_map

_RESERVED = ("lidar", "boxes", "map")


def scene_entry(attributes: SceneAttributes, sha256: str) -> SceneEntry:
    """Sum a scene up for the manifest; ``sha256`` is of its ``zarr.json``."""
    return SceneEntry(
        frames=sum(camera.frames for camera in attributes.cameras.values()),
        valid_poses=sum(camera.valid_poses for camera in attributes.cameras.values()),
        sha256=sha256,
        sweeps=sum(lidar.sweeps for lidar in attributes.lidars.values()),
        boxes=0 if attributes.boxes is None else attributes.boxes.boxes,
    )


@final
class SceneWriter:
    """Write a scene below ``scenes``; what ``commit`` has not published is gone afterwards.

    Errors lead with ``place`` (``dataset/scene``) and, where there is one, the frame.
    """

    def __init__(self, scenes: Path, scene: str, *, place: str, depth_codec: DepthCodecChoice):
        self._final = scenes / check_name(scene, what="scene")
        self._folder = scenes / f".{scene}.part"
        self._place = place
        self._depth_codec: DepthCodecChoice = depth_codec
        self._cameras: dict[str, CameraAttributes] = {}
        self._lidars: dict[str, LidarAttributes] = {}
        self._boxes: BoxAttributes | None = None
        self._map: MapAttributes | None = None
        self._samples = 0
        self._files: dict[Path, str] = {}

    def __enter__(self) -> "SceneWriter":
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def write_camera(self, camera: CameraRecording, progress: Callable[[], None]) -> None:
        """Write all frames of a camera, calling ``progress`` after each.

        Raises:
            DataError: If a frame is broken, with its place.
        """
        name = check_name(camera.name, what="camera")
        if name in _RESERVED:
            raise DataError(f"{self._place}: a camera must not be called {name!r}")
        place = self._place if name == "camera" else f"{self._place}/{name}"
        writer = CameraWriter(self._folder / name, camera, depth_codec=self._depth_codec)
        with closing(writer), leading(place):
            for index, frame in enumerate(camera.read.frames()):
                with leading(f"{place}[frame {index}]"):
                    writer.append(frame)
                progress()
            self._cameras[name], files = writer.finish()
        self._files |= files
        self._count_samples(camera)

    def write_lidar(self, lidar: LidarRecording, progress: Callable[[], None]) -> None:
        """Write all sweeps of a lidar, calling ``progress`` after each.

        Raises:
            DataError: If a sweep is broken, with its place.
        """
        name = check_name(lidar.name, what="lidar")
        place = f"{self._place}/lidar/{name}"
        writer = LidarWriter(self._folder / "lidar" / name, lidar)
        with closing(writer), leading(place):
            for index, sweep in enumerate(lidar.read.sweeps()):
                with leading(f"{place}[sweep {index}]"):
                    writer.append(sweep)
                progress()
            self._lidars[name], files = writer.finish()
        self._files |= files
        group = self._folder / "lidar" / ZARR_JSON
        if group not in self._files:
            self._files[group] = write_file(group, plain_group_json())
        self._count_samples(lidar)

    def write_boxes(self, boxes: BoxTracks) -> None:
        """Write the scene's boxes.

        Raises:
            DataError: If one is broken, with its place.
        """
        with leading(f"{self._place}/boxes"):
            self._boxes, files = write_boxes(self._folder / "boxes", boxes)
        self._files |= files
        self._samples = max(self._samples, int(boxes.sample.max()) + 1)

    def write_map(self, lines: MapLines) -> None:
        """Write the map around the scene.

        Raises:
            DataError: If it is broken, with its place.
        """
        with leading(f"{self._place}/map"):
            self._map, files = write_map(self._folder / "map", lines)
        self._files |= files

    def _count_samples(self, sensor: CameraRecording | LidarRecording) -> None:
        if sensor.sample is not None:
            self._samples = max(self._samples, int(sensor.sample.max()) + 1)

    def commit(self) -> SceneEntry:
        """Publish the scene under its name, replacing nothing, and return its manifest entry."""
        attributes = SceneAttributes(
            format_version=FORMAT_VERSION,
            cameras=self._cameras,
            lidars=self._lidars,
            boxes=self._boxes,
            map=self._map,
            samples=self._samples,
            files=tuple(self._record(path) for path in sorted(self._files)),
        )
        sync_tree(self._folder)
        path = self._folder / ZARR_JSON
        sha256 = write_file(path, group_json(attributes))
        sync(path)
        sync(self._folder)
        self._folder.rename(self._final)
        sync(self._final.parent)
        return scene_entry(attributes, sha256)

    def _record(self, path: Path) -> FileRecord:
        relative = path.relative_to(self._folder).as_posix()
        return FileRecord(path=relative, size=path.stat().st_size, sha256=self._files[path])
