"""7-Scenes and its kin: ``frame-NNNNNN.color.png``, ``.depth.png``, ``.pose.txt`` in one folder.

Source: Microsoft 7-Scenes, readme.txt; 3DMatch and label-fusion recordings use the same names.
"""

import re
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64

from geomim_data.errors import DataError
from geomim_data.sources.rgbd_listing import RgbdEntry, RgbdListing, numbered_files
from geomim_data.sources.text import read_intrinsics, read_matrix

MILLIMETRES: Final = 1000.0
NO_DEPTH: Final = 65535
# The published camera, of 640x480 images.
DEFAULT_INTRINSICS: Final = (585.0, 585.0, 320.0, 240.0)
INTRINSICS_NAMES: Final = ("camera-intrinsics.color.txt", "camera-intrinsics.txt")

_COLOUR: Final = re.compile(r"frame-([0-9]{1,9})\.color\.(?:png|jpg)")


def is_7scenes(folder: Path) -> bool:
    """Tell by the files that every recording of this layout has."""
    return next(folder.glob("frame-*.color.*"), None) is not None


def list_7scenes(folder: Path) -> RgbdListing:
    """List a sequence, its ``.segm.png`` labels included where there are any.

    Intrinsics are those of 7-Scenes unless ``camera-intrinsics.color.txt`` or
    ``camera-intrinsics.txt`` lies beside the frames or one folder up.

    Raises:
        DataError: If a frame lacks depth or pose, or a text file is broken.
    """
    colours = numbered_files(folder, _COLOUR)
    if not colours:
        raise DataError(f"{folder}: must hold at least one frame-NNNNNN.color.png, got none")
    return RgbdListing(
        entries=tuple(_entry(colour) for colour in colours.values()),
        intrinsics=_intrinsics(folder),
        depth_scale=MILLIMETRES,
        no_depth=NO_DEPTH,
    )


def _entry(colour: Path) -> RgbdEntry:
    stem = colour.name.split(".")[0]
    depth, label = (colour.with_name(f"{stem}.{kind}.png") for kind in ("depth", "segm"))
    if not depth.is_file():
        raise DataError(f"{depth}: is missing beside {colour.name}")
    return RgbdEntry(
        rgb=colour,
        depth=depth,
        label=label if label.is_file() else None,
        world_from_cam=read_matrix(colour.with_name(f"{stem}.pose.txt"), rows=4, columns=4),
    )


def _intrinsics(folder: Path) -> Float64[np.ndarray, "4"]:
    for parent in (folder, folder.resolve().parent):
        for name in INTRINSICS_NAMES:
            if (parent / name).is_file():
                return read_intrinsics(parent / name)
    return np.array(DEFAULT_INTRINSICS)
