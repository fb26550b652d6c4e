"""Plain folders of RGB-D: ``images/NNNNN.png``, ``depth/NNNNN.png``, ``K.txt``, ``poses.txt``."""

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from geomim_data.errors import DataError
from geomim_data.sources.rgbd_listing import LOST_POSE, RgbdEntry, RgbdListing
from geomim_data.sources.text import parse_numbers, read_intrinsics, read_lines, resolve_inside

MILLIMETRES = 1000.0
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def is_folder(folder: Path) -> bool:
    """Tell by the files that every recording of this layout has."""
    return (folder / "images").is_dir() and (folder / "K.txt").is_file()


def list_folder(folder: Path) -> RgbdListing:
    """List a recording.

    Line i of ``poses.txt`` is the row-major 4x4 camera-to-world of line i of ``frames.txt``, or of
    the i-th image by name. Without ``poses.txt`` no pose is known, without ``depth/`` there is no
    depth.

    Raises:
        DataError: If a text file is broken or names a file that is not there.
    """
    names = _frame_names(folder)
    poses = _poses(folder / "poses.txt", len(names))
    has_depth = (folder / "depth").is_dir()
    entries: list[RgbdEntry] = []
    for (where, name), pose in zip(names, poses, strict=True):
        rgb = _existing(folder / "images", name, where)
        depth = f"{Path(name).stem}.png"
        entries.append(
            RgbdEntry(
                rgb=rgb,
                depth=_existing(folder / "depth", depth, where) if has_depth else None,
                world_from_cam=pose,
            )
        )
    return RgbdListing(
        entries=tuple(entries),
        intrinsics=read_intrinsics(folder / "K.txt"),
        depth_scale=MILLIMETRES,
    )


def _existing(folder: Path, name: str, where: str) -> Path:
    path = resolve_inside(folder, name, where=where)
    if not path.is_file():
        raise DataError(f"{where}: {path} is missing")
    return path


def _frame_names(folder: Path) -> list[tuple[str, str]]:
    """Return each image's name, led by what names it."""
    if (folder / "frames.txt").is_file():
        names = list(read_lines(folder / "frames.txt"))
    else:
        images = sorted(path.name for path in (folder / "images").iterdir())
        names = [
            (str(folder / "images"), name)
            for name in images
            if Path(name).suffix.lower() in _IMAGE_SUFFIXES
        ]
    if not names:
        raise DataError(f"{folder}: must hold at least one frame, got none")
    return names


def _poses(path: Path, frames: int) -> list[Float64[np.ndarray, "4 4"]]:
    if not path.is_file():
        return [LOST_POSE] * frames
    poses = [parse_numbers(where, line, 16).reshape(4, 4) for where, line in read_lines(path)]
    if len(poses) != frames:
        raise DataError(f"{path}: must hold a pose for each of {frames} frames, got {len(poses)}")
    return poses
