"""Boxes of nuScenes: which are of one thing, and how fast that moves."""

from array import array
from collections.abc import MutableSequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Float64, Int32, Int64

from geomim_data.errors import DataError
from geomim_data.sources import nuscenes_tables as tables
from geomim_data.sources.json_rows import read_rows
from geomim_data.sources.nuscenes_samples import Samples

# As box_velocity of nuscenes-devkit: between the boxes before and behind, or next to the only one.
MAX_APART_S: Final = 1.5


@final
@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Some boxes, in order of time; ``pose`` is a translation and a quaternion."""

    sample: Int32[np.ndarray, " box"]
    track: Int32[np.ndarray, " box"]
    category: Int32[np.ndarray, " box"]
    pose: Float64[np.ndarray, "box 7"]
    size: Float64[np.ndarray, "box 3"]
    velocity: Float64[np.ndarray, "box 3"]
    lidar_points: Int64[np.ndarray, " box"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class BoxColumns:
    """The boxes of all chosen scenes; ``scene`` is each one's scene."""

    scene: Int64[np.ndarray, " box"]
    boxes: Boxes

    def of_scene(self, number: int) -> Boxes:
        """Return the boxes of a scene, its things numbered from 0 as they come up."""
        start, stop = np.searchsorted(self.scene, [number, number + 1])
        part = slice(start, stop)
        boxes = self.boxes
        _, first, track = np.unique(boxes.track[part], return_index=True, return_inverse=True)
        return Boxes(
            sample=boxes.sample[part],
            track=np.argsort(np.argsort(first))[track].astype(np.int32),
            category=boxes.category[part],
            pose=boxes.pose[part],
            size=boxes.size[part],
            velocity=boxes.velocity[part],
            lidar_points=boxes.lidar_points[part],
        )


@final
@dataclass(slots=True, eq=False)
class _Rows:
    """The rows of ``sample_annotation`` of chosen scenes, as columns."""

    scene: MutableSequence[int] = field(default_factory=lambda: array("i"))
    sample: MutableSequence[int] = field(default_factory=lambda: array("i"))
    instance: MutableSequence[int] = field(default_factory=lambda: array("i"))
    numbers: MutableSequence[float] = field(default_factory=lambda: array("d"))  # pose and size
    lidar_points: MutableSequence[int] = field(default_factory=lambda: array("q"))
    prev: list[str] = field(default_factory=list[str])
    next: list[str] = field(default_factory=list[str])
    row_of: dict[str, int] = field(default_factory=dict[str, int])


def gather_boxes(folder: Path, samples: Samples) -> tuple[list[str], BoxColumns]:
    """Return the names of all categories, and the boxes of the chosen scenes.

    Raises:
        DataError: If a table is missing or broken, or a row names another that is not there.
    """
    categories = {
        row.token: row.name for _, row in read_rows(folder / "category.json", tables.Category)
    }
    number = {token: index for index, token in enumerate(categories)}
    instances: dict[str, int] = {}
    category: list[int] = []
    for place, row in read_rows(folder / "instance.json", tables.Instance):
        instances[row.token] = len(category)
        category.append(tables.resolve(number, row.category_token, place, "category"))
    path = folder / "sample_annotation.json"
    rows = _read_rows(path, samples, instances)
    scene, sample = np.array(rows.scene, dtype=np.int64), np.array(rows.sample, dtype=np.int32)
    instance = np.array(rows.instance, dtype=np.int32)
    numbers = np.array(rows.numbers, dtype=np.float64).reshape(-1, 10)
    moment_us = _moments(scene, sample, samples)
    velocity = _velocities(path, rows, moment_us, instance, numbers[:, :3])
    order = np.lexsort((instance, sample, scene))
    boxes = Boxes(
        sample=sample[order],
        track=instance[order],
        category=np.array(category, dtype=np.int32)[instance][order],
        pose=numbers[order, :7],
        size=numbers[order, 7:],
        velocity=velocity[order],
        lidar_points=np.array(rows.lidar_points, dtype=np.int64)[order],
    )
    return list(categories.values()), BoxColumns(scene[order], boxes)


def _read_rows(path: Path, samples: Samples, instances: dict[str, int]) -> _Rows:
    rows = _Rows()
    for place, row in read_rows(path, tables.SampleAnnotation):
        scene, sample = tables.resolve(samples.place, row.sample_token, place, "sample")
        if scene < 0:
            continue
        instance = tables.resolve(instances, row.instance_token, place, "instance")
        tables.check_rotation(row.rotation, place)
        rows.row_of[row.token] = len(rows.scene)
        rows.scene.append(scene)
        rows.sample.append(sample)
        rows.instance.append(instance)
        width, length, height = row.size
        rows.numbers.extend((*row.translation, *row.rotation, length, width, height))
        rows.lidar_points.append(row.num_lidar_pts)
        rows.prev.append(row.prev)
        rows.next.append(row.next)
    return rows


def _moments(
    scene: Int64[np.ndarray, " box"], sample: Int32[np.ndarray, " box"], samples: Samples
) -> Int64[np.ndarray, " box"]:
    moments = np.zeros(len(scene), dtype=np.int64)
    for number, times in enumerate(samples.timestamps_us):
        here = scene == number
        moments[here] = times[sample[here]]
    return moments


def _velocities(
    path: Path,
    rows: _Rows,
    moment_us: Int64[np.ndarray, " box"],
    instance: Int32[np.ndarray, " box"],
    position: Float64[np.ndarray, "box 3"],
) -> Float64[np.ndarray, "box 3"]:
    """Return velocities in m/s, NaN where no neighbour is near enough in time."""
    own = np.arange(len(moment_us))
    before, behind = (_neighbours(path, rows, links) for links in (rows.prev, rows.next))
    has_before, has_behind = before >= 0, behind >= 0
    first, last = np.where(has_before, before, own), np.where(has_behind, behind, own)
    for neighbour, there, sign in ((first, has_before, -1), (last, has_behind, 1)):
        wrong = (instance[neighbour] != instance) | (sign * (moment_us[neighbour] - moment_us) <= 0)
        if (there & wrong).any():
            box = int((there & wrong).argmax())
            token = next(token for token, row in rows.row_of.items() if row == box)
            raise DataError(
                f"{path}: prev and next of {token!r} must be boxes of the same instance, earlier "
                f"and later; {tables.INCOMPLETE}"
            )
    apart_s = 1e-6 * (moment_us[last] - moment_us[first])
    limit_s = np.where(has_before & has_behind, 2 * MAX_APART_S, MAX_APART_S)
    known = (has_before | has_behind) & (apart_s <= limit_s)
    moved = position[last] - position[first]
    return np.where(known[:, None], moved / np.where(known, apart_s, 1.0)[:, None], np.nan)


def _neighbours(path: Path, rows: _Rows, links: list[str]) -> Int64[np.ndarray, " box"]:
    """Return the row that each box's link names, or -1."""
    numbers = np.full(len(links), -1, dtype=np.int64)
    for row, token in enumerate(links):
        if token:
            numbers[row] = tables.resolve(rows.row_of, token, str(path), "sample_annotation")
    return numbers
