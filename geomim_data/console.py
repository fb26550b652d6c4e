"""Progress and tables for people: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal, final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from geomim_data import progress as progress_module
from geomim_data.info import CameraInfo, LidarInfo, StoreInfo, WorldInfo

_UNITS = ("B", "kB", "MB", "GB", "TB")
_MOST_ROWS = 50
_FILE_WIDTH = 200
_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("scene", "left"),
    ("frames", "right"),
    ("valid poses", "right"),
    ("labelled", "right"),
    ("colour (h x w)", "left"),
    ("depth (h x w)", "left"),
)
_LIDAR_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("lidar", "left"),
    ("sweeps", "right"),
    ("valid poses", "right"),
    ("points", "right"),
    ("of each point", "left"),
)
_WORLD_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("scene", "left"),
    ("samples", "right"),
    ("boxes", "right"),
    ("tracks", "right"),
    ("map lines", "right"),
)


@contextmanager
def showing_progress(verb: str) -> Generator[progress_module.Progress, None, None]:
    """Give something to report progress to, which shows it on the standard error."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield PlainLines(console, verb)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield Bar(bar, verb)


@final
class Bar:
    """Show scenes and frames on one line of a terminal."""

    def __init__(self, bar: Progress, verb: str):
        self._bar = bar
        self._task = bar.add_task(verb, total=None, counts="")
        self._scenes = 0
        self._frames = 0
        self._finished = 0
        self._running: dict[str, tuple[int, int]] = {}

    def start(self, scenes: int) -> None:
        """Set the length of the bar."""
        self._scenes = scenes
        self._bar.update(self._task, total=max(scenes, 1))
        self._show()

    def advance(self, scene: str, done: int, total: int) -> None:
        """Move the bar by parts of a scene."""
        self._frames += done - self._running.get(scene, (0, 1))[0]
        self._running[scene] = done, total
        self._show()

    def finish(self, scene: str, error: str | None) -> None:
        """Move the bar by a scene, and print what went wrong above it."""
        self._running.pop(scene, None)
        self._finished += 1
        if error is not None:
            self._bar.console.print(Text(f"error: {error}"), soft_wrap=True)
        self._show()

    def _show(self) -> None:
        parts = sum(done / max(total, 1) for done, total in self._running.values())
        counts = f"{self._finished}/{self._scenes} scenes, {self._frames} frames"
        self._bar.update(self._task, completed=self._finished + parts, counts=counts)


@final
class PlainLines:
    """Print a line when a scene ends."""

    def __init__(self, console: Console, verb: str):
        self._console = console
        self._verb = verb
        self._scenes = 0
        self._finished = 0
        self._frames: dict[str, int] = {}
        self._began = time.monotonic()

    def start(self, scenes: int) -> None:
        """Remember how many scenes there are."""
        self._scenes = scenes
        self._began = time.monotonic()

    def advance(self, scene: str, done: int, total: int) -> None:  # noqa: ARG002 - a protocol
        """Remember how many frames there are."""
        self._frames[scene] = done

    def finish(self, scene: str, error: str | None) -> None:
        """Print how the scene ended, and how long the others may take."""
        self._finished += 1
        if error is not None:
            self._console.print(Text(f"error: {error}"), soft_wrap=True)
            return
        left = self._scenes - self._finished
        seconds = (time.monotonic() - self._began) / self._finished * left
        frames = f": {self._frames[scene]} frames" if scene in self._frames else ""
        line = f"{self._verb} {self._finished}/{self._scenes} {scene}{frames}"
        self._console.print(Text(f"{line}, {seconds:.0f} s left" if left else line), soft_wrap=True)


def print_info(info: StoreInfo) -> None:
    """Print a table of a store."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)
    arguments = ", ".join(f"{key}={value}" for key, value in info.converter.arguments.items())
    console.print(Text(f"{info.path}: {totals(info)}"), soft_wrap=True)
    console.print(
        Text(
            f"dataset {info.dataset}, format {info.format_version}, written by "
            f"{info.converter.name} {info.converter.version} ({arguments})"
        ),
        soft_wrap=True,
    )
    for columns, rows in (
        (_COLUMNS, [_row(camera) for camera in info.cameras]),
        (_LIDAR_COLUMNS, [_lidar_row(lidar) for lidar in info.lidars]),
        (_WORLD_COLUMNS, [_world_row(scene) for scene in info.world]),
    ):
        if rows or columns is _COLUMNS:
            _print_table(console, columns, rows)
    for message in info.failed.values():
        console.print(Text(f"failed: {message}"), soft_wrap=True)


def _print_table(
    console: Console,
    columns: tuple[tuple[str, Literal["left", "right"]], ...],
    rows: list[tuple[str, ...]],
) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in columns:
        table.add_column(title, justify=justify)
    for row in rows[:_MOST_ROWS]:
        table.add_row(*row)
    console.print(table)
    if len(rows) > _MOST_ROWS:
        console.print(f"... and {len(rows) - _MOST_ROWS} more; --json lists all")


def totals(info: StoreInfo) -> str:
    """Say in words how much a store holds."""
    counts = [many(info.scenes, "scene"), many(info.frames, "frame")]
    counts += [many(info.sweeps, "sweep")] if info.sweeps else []
    counts += [many(info.boxes, "box", "boxes")] if info.boxes else []
    counts.append(many(info.valid_poses, "valid pose"))
    return f"{', '.join(counts)}, {in_bytes(info.bytes)}"


def many(count: int, what: str, several: str | None = None) -> str:
    """Count things in words."""
    return f"{count} {what}" if count == 1 else f"{count} {several or what + 's'}"


def in_bytes(count: int) -> str:
    """Write a number of bytes with a decimal unit."""
    scaled, unit = float(count), 0
    while scaled >= 1000 and unit < len(_UNITS) - 1:
        scaled, unit = scaled / 1000, unit + 1
    return f"{count} B" if unit == 0 else f"{scaled:.1f} {_UNITS[unit]}"


def _row(camera: CameraInfo) -> tuple[str, ...]:
    values = camera.attributes
    depth = "none"
    if values.depth_size is not None:
        depth = (
            f"{_by(values.depth_size)} {values.depth_codec} {in_bytes(values.depth_bytes)}, "
            f"unit {1000 * values.depth_unit_m:g} mm"
        )
    scene = camera.scene if camera.camera == "camera" else f"{camera.scene}/{camera.camera}"
    colour = f"{_by(values.rgb_size)} {in_bytes(values.rgb_bytes)}"
    counts = (values.frames, values.valid_poses, values.labelled_frames)
    return (scene, *(str(count) for count in counts), colour, depth)


def _lidar_row(lidar: LidarInfo) -> tuple[str, ...]:
    values = lidar.attributes
    parts = {
        "xyz": True,
        f"intensity ({values.intensity})": values.intensity is not None,
        "ring": values.has_ring,
        "time": values.has_time,
    }
    kept = ", ".join(name for name, there in parts.items() if there)
    counts = (values.sweeps, values.valid_poses, values.points)
    described = f"{kept}: {in_bytes(values.bytes)}"
    return (f"{lidar.scene}/{lidar.lidar}", *(str(count) for count in counts), described)


def _world_row(scene: WorldInfo) -> tuple[str, ...]:
    boxes, lines = scene.boxes, scene.map
    counts = (
        scene.samples,
        0 if boxes is None else boxes.boxes,
        0 if boxes is None else boxes.tracks,
        0 if lines is None else lines.lines,
    )
    return (scene.scene, *(str(count) for count in counts))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
