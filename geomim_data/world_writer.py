"""Write what a scene knows of the world: boxes around things, and the map."""

from pathlib import Path

import numpy as np

from geomim_data.errors import DataError
from geomim_data.files import write_file
from geomim_data.metadata import Attributes, GroupFiles
from geomim_data.moments import valid_poses
from geomim_data.recording import BoxTracks, MapLines
from geomim_data.schema import BoxAttributes, MapAttributes

MAX_KINDS = 256


def write_boxes(folder: Path, boxes: BoxTracks) -> tuple[BoxAttributes, dict[Path, str]]:
    """Write a scene's boxes; return what they are and the SHA-256 of each file.

    Raises:
        DataError: If there are none, they differ in number, or one is no box.
    """
    arrays = {
        "sample": boxes.sample,
        "timestamp_us": boxes.timestamp_us,
        "track": boxes.track,
        "category": boxes.category,
        "world_from_box": boxes.world_from_box,
        "size": boxes.size,
        "velocity": boxes.velocity,
        "lidar_points": boxes.lidar_points,
    }
    count = len(boxes.track)
    if count == 0 or any(len(values) != count for values in arrays.values()):
        lengths = {name: len(values) for name, values in arrays.items()}
        raise DataError(f"boxes must have as many values of each kind, and some, got {lengths}")
    _check_boxes(boxes)
    attributes = BoxAttributes(
        boxes=count, tracks=len(np.unique(boxes.track)), categories=boxes.categories
    )
    described: dict[str, Attributes] = {"category": {"categories": list(boxes.categories)}}
    return attributes, _write(folder, arrays, described)


def _check_boxes(boxes: BoxTracks) -> None:
    broken = ~valid_poses(boxes.world_from_box)
    broken |= ~(np.isfinite(boxes.size) & (boxes.size > 0)).all(axis=1)
    if broken.any():
        box = int(broken.argmax())
        raise DataError(
            f"box {box} must have a rigid pose and a positive size, got a size of "
            f"{boxes.size[box].tolist()} at {boxes.world_from_box[box, :3, 3].tolist()}"
        )
    numbers = (("sample", boxes.sample, 2**31), ("track", boxes.track, 2**31))
    for name, values, end in (*numbers, ("category", boxes.category, len(boxes.categories))):
        if not 0 <= values.min() <= values.max() < end:
            raise DataError(f"{name} must be 0 to {end - 1}, got {values.min()}, {values.max()}")


def write_map(folder: Path, lines: MapLines) -> tuple[MapAttributes, dict[Path, str]]:
    """Write the map around a scene; return what it is and the SHA-256 of each file.

    Raises:
        DataError: If there is no line, or points, offsets and kinds do not fit each other.
    """
    count, (points, axes) = len(lines.kind), lines.points.shape
    offset = lines.offset
    ends = (int(offset[0]), int(offset[-1])) if len(offset) == count + 1 else None
    if not count or ends != (0, points) or (np.diff(offset) < 2).any() or axes not in (2, 3):
        raise DataError(f"a map must have lines of two points or more, got {count} of {points}")
    if not np.isfinite(lines.points).all():
        raise DataError("a map's points must be finite")
    if not lines.kind.max() < len(lines.kinds) <= MAX_KINDS:
        raise DataError(f"kind must be below {len(lines.kinds)}, got {lines.kind.max()}")
    arrays = {"points": lines.points, "offset": offset, "kind": lines.kind}
    attributes = MapAttributes(
        lines=count,
        points=points,
        axes=2 if axes == 2 else 3,
        kinds=lines.kinds,
    )
    return attributes, _write(folder, arrays, {"kind": {"kinds": list(lines.kinds)}})


def _write(
    folder: Path, arrays: dict[str, np.ndarray], described: dict[str, Attributes]
) -> dict[Path, str]:
    group = GroupFiles()
    for name, values in arrays.items():
        group.add_small(name, values, described.get(name, {}))
    return {
        folder / name: write_file(folder / name, content)
        for name, content in group.contents().items()
    }
