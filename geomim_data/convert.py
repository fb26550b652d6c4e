"""Convert recordings to a store: whole, or resumable where it was stopped."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import final

from pydantic import JsonValue

from geomim_data.camera_writer import DepthCodecChoice
from geomim_data.errors import DataError, leading
from geomim_data.files import locked, replace_file, working
from geomim_data.progress import Progress, Silent
from geomim_data.recording import DrivingRecording, Source
from geomim_data.resume import adopt, claim_folder, keep_whole_scenes, remove_parts
from geomim_data.schema import (
    FORMAT_VERSION,
    MANIFEST_JSON,
    Converter,
    Manifest,
    SceneEntry,
    StoreAttributes,
    check_name,
)
from geomim_data.workers import Done, Lost, Step, run_tasks_or_here
from geomim_data.writer import SceneWriter

_REPORT_SECONDS = 0.1


@final
@dataclass(frozen=True, slots=True, eq=False)
class ConvertReport:
    """What a conversion ended with; ``kept`` scenes were there before."""

    manifest: Manifest
    kept: int

    @property
    def failed(self) -> dict[str, str]:
        """The scenes that failed, and why."""
        return self.manifest.failed


def convert(
    source: Source,
    out: Path | str,
    *,
    workers: int = 1,
    overwrite: bool = False,
    depth_codec: DepthCodecChoice = "auto",
    progress: Progress | None = None,
) -> ConvertReport:
    """Convert every scene of ``source`` into a store at ``out``.

    A store that was left unfinished, by a crash or by scenes that failed, goes on where it
    stopped if source and arguments are the same. A scene that fails leaves nothing behind and
    does not stop the others; the manifest, written last, lists it with its message.

    Args:
        source: What to convert.
        out: A new or empty folder, or one that holds an unfinished store of the same source.
        workers: Processes to share the scenes; with 1, this one converts them.
        overwrite: Start anew if ``out`` holds a store, whichever; nothing else is ever replaced.
        depth_codec: ``auto`` keeps deflated depth as it is, in gzip's wrapping, and compresses
            other depth with blosc.
        progress: Hears how far it has come.

    Raises:
        DataError: If there are no scenes, or ``out`` may not be written to.
    """
    root, heard = Path(out), progress or Silent()
    names = _scene_names(source)
    attributes = _store_attributes(source, depth_codec)
    claim_folder(root)
    with locked(root):
        adopt(root, attributes, overwrite=overwrite)
        kept = keep_whole_scenes(root, names, source)
        missing = [name for name in names if name not in kept]
        heard.start(len(missing))
        tally = _Tally(source.dataset, heard)
        try:
            task = _SceneTask(source, root, depth_codec)
            run_tasks_or_here(task, missing, workers=workers, hear=tally.hear)
        finally:
            remove_parts(root)
        done = kept | tally.done
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            dataset=source.dataset,
            scenes={name: done[name] for name in names if name in done},
            failed=tally.failed,
        )
        replace_file(root / MANIFEST_JSON, manifest.model_dump_json(indent=1).encode())
    return ConvertReport(manifest, len(kept))


def _scene_names(source: Source) -> list[str]:
    names = source.scenes()
    if not names:
        raise DataError(f"{source.root}: holds no scene of {source.dataset} to convert")
    for name in names:
        check_name(name, what="scene")
    if len(set(names)) != len(names):
        raise DataError(f"{source.root}: scenes must have different names, got {names}")
    return names


def _store_attributes(source: Source, depth_codec: DepthCodecChoice) -> StoreAttributes:
    arguments: dict[str, JsonValue] = {**source.arguments(), "depth_codec": depth_codec}
    converter = Converter(name="geomim-data", version=version("geomim"), arguments=arguments)
    return StoreAttributes(
        format_version=FORMAT_VERSION, dataset=source.dataset, converter=converter
    )


@final
@dataclass(frozen=True, slots=True, eq=False)
class _SceneTask:
    """Convert one scene; return its manifest entry, or the message of why it failed."""

    source: Source
    root: Path
    depth_codec: DepthCodecChoice

    def __call__(self, scene: str, progress: Callable[[int, int], None]) -> SceneEntry | str:
        place = f"{self.source.dataset}/{scene}"
        try:
            with leading(place), working(self.root):
                return self._write(scene, place, progress)
        except DataError as error:
            return str(error)
        except OSError as error:
            return f"{place}: {error.filename or self.root}: {error.strerror}"

    def _write(self, scene: str, place: str, progress: Callable[[int, int], None]) -> SceneEntry:
        with (
            self.source.open(scene) as recording,
            SceneWriter(
                self.root / "scenes", scene, place=place, depth_codec=self.depth_codec
            ) as writer,
        ):
            driving = recording if isinstance(recording, DrivingRecording) else None
            lidars = () if driving is None else driving.lidars
            total = sum(camera.frames for camera in recording.cameras)
            report = _throttled(progress, total + sum(lidar.sweeps for lidar in lidars))
            for camera in recording.cameras:
                writer.write_camera(camera, report)
            for lidar in lidars:
                writer.write_lidar(lidar, report)
            if driving is not None:
                _write_world(driving, writer)
            return writer.commit()


def _write_world(recording: DrivingRecording, writer: SceneWriter) -> None:
    boxes, lines = recording.read_boxes(), recording.read_map()
    if boxes is not None:
        writer.write_boxes(boxes)
    if lines is not None:
        writer.write_map(lines)


def _throttled(progress: Callable[[int, int], None], total: int) -> Callable[[], None]:
    done, last = 0, 0.0

    def report() -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if now - last >= _REPORT_SECONDS or done == total:
            last = now
            progress(done, total)

    return report


@final
class _Tally:
    """Count scenes as they end."""

    def __init__(self, dataset: str, progress: Progress):
        self.done: dict[str, SceneEntry] = {}
        self.failed: dict[str, str] = {}
        self._dataset = dataset
        self._progress = progress

    def hear(self, event: Step | Done[SceneEntry | str] | Lost) -> None:
        match event:
            case Step(name=name, done=frames, total=total):
                self._progress.advance(name, frames, total)
            case Done(name=name, result=SceneEntry() as entry):
                self.done[name] = entry
                self._progress.finish(name, None)
            case Done(name=name, result=str() as message):
                self._fail(name, message)
            case Lost(name=name, reason=reason):
                self._fail(name, f"{self._dataset}/{name}: {reason}")
            case _:
                raise AssertionError(f"no event: {event}")

    def _fail(self, name: str, message: str) -> None:
        self.failed[name] = message
        self._progress.finish(name, message)
