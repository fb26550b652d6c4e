"""Synthetic streets written as a nuScenes dataset, just as its release lays them out."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np

from geomim_data.errors import DataError
from geomim_data.progress import Progress, Silent
from geomim_data.sources.synthetic.appearing import appearing
from geomim_data.sources.synthetic.nuscenes_scene import (
    LOCATION,
    RecordedDrive,
    SceneWriter,
    Tables,
)
from geomim_data.sources.synthetic.nuscenes_taxonomy import shared_tables
from geomim_data.sources.synthetic.nuscenes_tokens import Row, token
from geomim_data.sources.synthetic.rig import CAMERAS, LIDAR, REAL_SIZE, draw_rig
from geomim_data.sources.synthetic.street_map import StreetMap, draw_map, expansion, write_mask
from geomim_data.sources.synthetic.street_plan import MARGIN_M
from geomim_data.sources.synthetic.streets import street
from geomim_data.workers import Done, Lost, Step, run_tasks_or_here

IMAGE_SCALE: Final = 0.2
VERSION: Final = "v1.0-mini"
_MOST_SCENES = 256
_LONGEST_S = 60.0
_FASTEST_M_S = 15.0
_TABLES: Final = (
    *("category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor"),
    *("ego_pose", "log", "scene", "sample", "sample_data", "sample_annotation", "map"),
)


def image_size(image_scale: float) -> tuple[int, int]:
    """Return the height and width of images at a scale of nuScenes' own, which 1.0 gives.

    Raises:
        ValueError: If the scale is not within 0.05 to 1.
    """
    if not 0.05 <= image_scale <= 1:
        raise ValueError(f"image_scale must be 0.05 to 1, got {image_scale}")
    return round(REAL_SIZE[0] * image_scale), round(REAL_SIZE[1] * image_scale)


def synthesize_nuscenes(
    out: Path | str,
    *,
    scenes: int = 4,
    seconds: float = 4.0,
    seed: int = 0,
    image_scale: float = IMAGE_SCALE,
    version: str = VERSION,
    between: bool = True,
    workers: int = 1,
    progress: Progress | None = None,
) -> None:
    """Write a dataset of synthetic streets in nuScenes' layout, boxes and maps included.

    The same arguments give the same bytes, whatever the number of workers; a scene depends on its
    number and not on how many there are.

    Args:
        out: A new or empty folder; it appears once it is whole.
        scenes: How many drives; each is a scene ``scene-9NNN``.
        seconds: How long each drive takes: two key frames a second, and one at its start.
        seed: Where all randomness comes from.
        image_scale: Size of the images as a share of 1600 x 900, of the same field of view.
        version: Name of the folder of tables.
        between: Whether there are images and sweeps between key frames, as nuScenes has them.
        workers: Processes to share the scenes; with 1, this one writes them.
        progress: Hears how far it has come.

    Raises:
        ValueError: If a number is out of range.
        DataError: If ``out`` holds something.
    """
    if not 1 <= scenes <= _MOST_SCENES:
        raise ValueError(f"scenes must be 1 to {_MOST_SCENES}, got {scenes}")
    recipe = _Recipe(seed, seconds, image_size(image_scale), between)
    with appearing(Path(out).absolute()) as root:
        for kind in ("samples", "sweeps"):
            for channel in (*CAMERAS, LIDAR):
                (root / kind / channel).mkdir(parents=True)
        numbers = [str(number) for number in range(scenes)]
        parts = _run(_SceneTask(recipe, root), numbers, workers, progress or Silent())
        _write_tables(root, version, parts, recipe)


def recorded_drive(
    number: int, *, seed: int, seconds: float, image_scale: float = IMAGE_SCALE
) -> RecordedDrive:
    """Return the drive that a scene written with these arguments shows, to render from again."""
    return _Recipe(seed, seconds, image_size(image_scale)).drive(number)


@final
@dataclass(frozen=True, slots=True)
class _Recipe:
    """What the scenes of a dataset have in common."""

    seed: int
    seconds: float
    size: tuple[int, int]
    between: bool = True

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if not 0.5 <= self.seconds <= _LONGEST_S:
            raise ValueError(f"seconds must be 0.5 to {_LONGEST_S:g}, got {self.seconds}")

    @property
    def samples(self) -> int:
        """How many key frames a scene has."""
        return 1 + math.floor(2 * self.seconds + 1e-9)

    @property
    def tile_m(self) -> int:
        """The side of the square of the map that a street lies in."""
        return 10 * math.ceil((2 * MARGIN_M + _FASTEST_M_S * self.seconds + 40) / 10)

    def drive(self, number: int) -> RecordedDrive:
        """Return the drive of a scene."""
        seeds = np.random.SeedSequence([self.seed, number]).generate_state(2).tolist()
        column, row = _tile(number)
        middle = ((column + 0.5) * self.tile_m, (row + 0.5) * self.tile_m)
        return RecordedDrive(
            number=number,
            seed=self.seed,
            street=street(seeds[0], seconds=self.seconds, middle=middle),
            rig=draw_rig(np.random.default_rng(seeds[1]), size=self.size),
            samples=self.samples,
            between=self.between,
        )


def _tile(number: int) -> tuple[int, int]:
    """Return column and row of a scene's square: each shell about the first holds two more."""
    shell = math.isqrt(number)
    place = number - shell**2
    return (shell, place) if place <= shell else (2 * shell - place, shell)


@final
class _Part(NamedTuple):
    """What a scene adds to the tables and to the map."""

    tables: Tables
    street_map: StreetMap


@final
@dataclass(frozen=True, slots=True)
class _SceneTask:
    """Build the street of a scene, drive along it and write what the sensors see."""

    recipe: _Recipe
    root: Path

    def __call__(self, name: str, progress: Callable[[int, int], None]) -> _Part:
        drive = self.recipe.drive(int(name))
        tables = SceneWriter(drive, self.root).write(progress)
        return _Part(tables, draw_map(drive.street.plan, drive.token("map")))


def _run(task: _SceneTask, numbers: list[str], workers: int, heard: Progress) -> list[_Part]:
    heard.start(len(numbers))
    parts: dict[str, _Part] = {}

    def hear(event: Step | Done[_Part] | Lost) -> None:
        match event:
            case Step():
                heard.advance(_scene(event.name), event.done, event.total)
            case Done():
                parts[event.name] = event.result
                heard.finish(_scene(event.name), None)
            case Lost():
                raise DataError(f"{_scene(event.name)}: could not be written: {event.reason}")

    run_tasks_or_here(task, numbers, workers=workers, hear=hear)
    return [parts[number] for number in numbers]


def _scene(number: str) -> str:
    return f"scene-{9000 + int(number)}"


def _write_tables(root: Path, version: str, parts: Sequence[_Part], recipe: _Recipe) -> None:
    tables: dict[str, list[Row]] = {name: [] for name in _TABLES} | shared_tables()
    for part in parts:
        for name, rows in part.tables.items():
            tables[name] += rows
    mask = token(recipe.seed, "map")
    tables["map"] = [
        {
            "token": mask,
            "log_tokens": [row["token"] for row in tables["log"]],
            "category": "semantic_prior",
            "filename": f"maps/{mask}.png",
        }
    ]
    for name, rows in tables.items():
        _write_json(root / version / f"{name}.json", rows)
    maps = [part.street_map for part in parts]
    tiles = 1 + math.isqrt(len(maps) - 1)
    side = float(tiles * recipe.tile_m)
    content = expansion(maps, size_m=(side, side))
    _write_json(root / "maps" / "expansion" / f"{LOCATION}.json", content)
    write_mask(root / "maps" / f"{mask}.png", maps, tiles=tiles, tile_m=recipe.tile_m)


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=0))
