"""Write one scene: whole and on the disk beside its place before it is renamed there."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import final

from geomim_data.camera_writer import CameraWriter, DepthCodecChoice
from geomim_data.errors import leading
from geomim_data.files import sync, sync_tree, write_file
from geomim_data.metadata import group_json
from geomim_data.recording import CameraRecording
from geomim_data.schema import (
    FORMAT_VERSION,
    ZARR_JSON,
    CameraAttributes,
    FileRecord,
    SceneAttributes,
    SceneEntry,
    check_name,
)


def scene_entry(attributes: SceneAttributes, sha256: str) -> SceneEntry:
    """Sum a scene up for the manifest; ``sha256`` is of its ``zarr.json``."""
    return SceneEntry(
        frames=sum(camera.frames for camera in attributes.cameras.values()),
        valid_poses=sum(camera.valid_poses for camera in attributes.cameras.values()),
        sha256=sha256,
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
        place = self._place if name == "camera" else f"{self._place}/{name}"
        writer = CameraWriter(self._folder / name, camera, depth_codec=self._depth_codec)
        with closing(writer), leading(place):
            for index, frame in enumerate(camera.read.frames()):
                with leading(f"{place}[frame {index}]"):
                    writer.append(frame)
                progress()
            self._cameras[name], files = writer.finish()
        self._files |= files

    def commit(self) -> SceneEntry:
        """Publish the scene under its name, replacing nothing, and return its manifest entry."""
        attributes = SceneAttributes(
            format_version=FORMAT_VERSION,
            cameras=self._cameras,
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
