"""Scenes of nuScenes and their samples, the annotated moments, in time."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int64

from geomim_data.errors import DataError
from geomim_data.schema import check_name
from geomim_data.sources import nuscenes_tables as tables
from geomim_data.sources.json_rows import read_rows


@final
@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The chosen scenes, by number, and where each sample of the data set belongs.

    ``place`` maps a sample's token to its scene's number, -1 where that is not chosen, and to its
    own number in the scene.
    """

    names: tuple[str, ...]
    locations: tuple[str, ...]
    timestamps_us: tuple[Int64[np.ndarray, " _sample"], ...]
    place: dict[str, tuple[int, int]]


def read_samples(folder: Path, chosen: tuple[str, ...] | None) -> Samples:
    """Read scenes, in the order of ``chosen`` or of their names, and walk through each.

    Raises:
        DataError: If a chosen scene is not there, or its samples do not follow each other in time.
    """
    scenes = _read_scenes(folder, chosen)
    logs = {row.token: row for _, row in read_rows(folder / "log.json", tables.Log)}
    path = folder / "sample.json"
    rows = {row.token: row for _, row in read_rows(path, tables.Sample)}
    counts: dict[str, int] = {}
    for row in rows.values():
        counts[row.scene_token] = counts.get(row.scene_token, 0) + 1
    place: dict[str, tuple[int, int]] = dict.fromkeys(rows, (-1, 0))
    locations: list[str] = []
    times: list[Int64[np.ndarray, " _sample"]] = []
    for number, (where, scene) in enumerate(scenes):
        walked = _walk(scene, rows, counts.get(scene.token, 0), path)
        place |= {row.token: (number, index) for index, row in enumerate(walked)}
        times.append(np.array([row.timestamp for row in walked], dtype=np.int64))
        log = tables.resolve(logs, scene.log_token, where, "log")
        locations.append(log.location)
    names = tuple(scene.name for _, scene in scenes)
    return Samples(names, tuple(locations), tuple(times), place)


def _read_scenes(folder: Path, chosen: tuple[str, ...] | None) -> list[tuple[str, tables.Scene]]:
    path = folder / "scene.json"
    there: dict[str, tuple[str, tables.Scene]] = {}
    for place, row in read_rows(path, tables.Scene):
        check_name(row.name, what="scene")
        if row.name in there:
            raise DataError(f"{place}: scenes must have different names, got {row.name!r} twice")
        there[row.name] = (place, row)
    missing = [name for name in chosen or () if name not in there]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(chosen or ())} chosen scenes are not there, such as "
            f"{missing[0]!r}; they may be of another --version"
        )
    return [there[name] for name in (sorted(there) if chosen is None else chosen)]


def _walk(
    scene: tables.Scene, rows: dict[str, tables.Sample], count: int, path: Path
) -> list[tables.Sample]:
    """Follow a scene's samples from its first to its last."""
    walked: list[tables.Sample] = []
    token = scene.first_sample_token
    while token and len(walked) <= count:
        row = tables.resolve(rows, token, f"{path}: {scene.name}", "sample")
        late = not walked or row.timestamp > walked[-1].timestamp
        if row.scene_token != scene.token or not late:
            break
        walked.append(row)
        token = row.next
    if token or len(walked) != count:
        raise DataError(
            f"{path}: {scene.name}: next must lead through its {count} samples, each later than "
            f"the one before, got so far as {len(walked)}; {tables.INCOMPLETE}"
        )
    return walked
