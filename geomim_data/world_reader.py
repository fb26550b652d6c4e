"""Read what a scene of a store knows of the world: boxes around things, and the map."""

from pathlib import Path

import numpy as np

from geomim_data.arrays import DataType, read_small
from geomim_data.errors import DataError
from geomim_data.recording import BoxTracks, MapLines
from geomim_data.schema import BoxAttributes, MapAttributes

_Layout = dict[str, tuple[DataType, tuple[int, ...]]]


def read_boxes(folder: Path, root: Path, attributes: BoxAttributes) -> BoxTracks:
    """Read a scene's boxes.

    Raises:
        DataError: If an array is broken, or a category has no name.
    """
    count = attributes.boxes
    arrays = _read(
        folder,
        root,
        {
            "sample": ("int32", (count,)),
            "timestamp_us": ("int64", (count,)),
            "track": ("int32", (count,)),
            "category": ("int16", (count,)),
            "world_from_box": ("float64", (count, 4, 4)),
            "size": ("float32", (count, 3)),
            "velocity": ("float32", (count, 3)),
            "lidar_points": ("int32", (count,)),
        },
    )
    category = arrays["category"]
    if not 0 <= category.min() <= category.max() < len(attributes.categories):
        raise DataError(f"{folder}/category: must be below {len(attributes.categories)}")
    return BoxTracks(**arrays, categories=attributes.categories)


def read_map(folder: Path, root: Path, attributes: MapAttributes) -> MapLines:
    """Read the map around a scene.

    Raises:
        DataError: If an array is broken, lines do not follow each other, or a kind has no name.
    """
    arrays = _read(
        folder,
        root,
        {
            "points": ("float64", (attributes.points, attributes.axes)),
            "offset": ("int64", (attributes.lines + 1,)),
            "kind": ("uint8", (attributes.lines,)),
        },
    )
    offset = arrays["offset"]
    if (offset[0], offset[-1]) != (0, attributes.points) or (np.diff(offset) < 0).any():
        raise DataError(f"{folder}/offset: must rise from 0 to {attributes.points}")
    if arrays["kind"].max() >= len(attributes.kinds):
        raise DataError(f"{folder}/kind: must be below {len(attributes.kinds)}")
    return MapLines(**arrays, kinds=attributes.kinds)


def _read(folder: Path, root: Path, layout: _Layout) -> dict[str, np.ndarray]:
    return {
        name: read_small(folder / name, root, shape=shape, data_type=data_type)
        for name, (data_type, shape) in layout.items()
    }
