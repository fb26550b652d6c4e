"""What the layouts of RGB-D recordings have in common: a list of files, and where they lie."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Float64

from geomim_data.errors import DataError

LOST_POSE: Final = np.full((4, 4), np.nan)


@final
@dataclass(frozen=True, slots=True, eq=False)
class RgbdEntry:
    """The files of one frame; times are 0 where the layout records none."""

    rgb: Path
    depth: Path | None
    world_from_cam: Float64[np.ndarray, "4 4"]
    label: Path | None = None
    rgb_timestamp_us: int = 0
    depth_timestamp_us: int = 0


@final
@dataclass(frozen=True, slots=True, eq=False)
class RgbdListing:
    """A recording's frames in order and the camera of its colour images.

    ``intrinsics`` are fx, fy, cx, cy with pixel centres on integers. ``depth_scale`` is the number
    of depth units in a metre; depths of ``no_depth`` mean none, as 0 does.
    """

    entries: tuple[RgbdEntry, ...]
    intrinsics: Float64[np.ndarray, "4"]
    depth_scale: float
    no_depth: int = 0


def numbered_files(folder: Path, name: re.Pattern[str]) -> dict[int, Path]:
    """Map frame numbers to the files of ``folder`` whose names match, in order of number.

    Raises:
        DataError: If two files have one number.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = name.fullmatch(path.name)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            raise DataError(f"{path}: frame {number} must have one file, has {found[number]} too")
        found[number] = path
    return dict(sorted(found.items()))
