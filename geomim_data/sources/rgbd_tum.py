"""TUM RGB-D: ``rgb.txt``, ``depth.txt`` and ``groundtruth.txt``, each with times of its own.

Source: TUM RGB-D benchmark, "File formats" and "Intrinsic camera calibration of the Kinect".
"""

from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from geomim_data.errors import DataError
from geomim_data.sources.rgbd_listing import LOST_POSE, RgbdEntry, RgbdListing
from geomim_data.sources.text import parse_numbers, read_intrinsics, read_lines, resolve_inside

DEPTH_SCALE: Final = 5000.0
MAX_APART_US: Final = 20_000
INTRINSICS_NAMES: Final = ("K.txt", "intrinsics.txt")
DEFAULT_INTRINSICS: Final = MappingProxyType(
    {
        "freiburg1": (517.3, 516.5, 318.6, 255.3),
        "freiburg2": (520.9, 521.0, 325.1, 249.7),
        "freiburg3": (535.4, 539.2, 320.1, 247.6),
    }
)
# Beyond it, microseconds do not fit int64.
_MAX_SECONDS: Final = 9e12


def is_tum(folder: Path) -> bool:
    """Tell by the files that every recording of this layout has."""
    return all((folder / name).is_file() for name in ("rgb.txt", "depth.txt"))


def list_tum(folder: Path) -> RgbdListing:
    """List a recording: colour and depth paired by nearest time, each image in one pair at most.

    The pose is the one nearest to the colour image's time; without one within 20 ms it is NaN.

    Raises:
        DataError: If a text file is broken, no images pair, or no intrinsics are known.
    """
    intrinsics = _intrinsics(folder)
    rgb_times, rgb = _read_images(folder, "rgb.txt")
    depth_times, depth = _read_images(folder, "depth.txt")
    pairs = pair_by_time(rgb_times, depth_times)
    if not pairs:
        raise DataError(
            f"{folder}: rgb.txt and depth.txt must name images within "
            f"{MAX_APART_US / 1e6} s of each other, got none"
        )
    poses = _poses_at(rgb_times, folder / "groundtruth.txt")
    entries = tuple(
        RgbdEntry(
            rgb=rgb[i],
            depth=depth[j],
            world_from_cam=poses[i],
            rgb_timestamp_us=int(rgb_times[i]),
            depth_timestamp_us=int(depth_times[j]),
        )
        for i, j in pairs
    )
    return RgbdListing(entries=entries, intrinsics=intrinsics, depth_scale=DEPTH_SCALE)


def pair_by_time(
    rgb_us: Int64[np.ndarray, " rgb"], depth_us: Int64[np.ndarray, " depth"]
) -> list[tuple[int, int]]:
    """Pair two lists of rising times, the closest first, none twice, none over 20 ms apart.

    Returns:
        Indices into both, in order of time; the pairs of the benchmark's ``associate.py``.
    """
    i, j = np.arange(len(rgb_us)), np.arange(len(depth_us))
    pairs: list[tuple[int, int]] = []
    while len(i) and len(j):
        # The closest two of all that are left are each other's nearest.
        nearest = _nearest(rgb_us[i], depth_us[j])
        mutual = _nearest(depth_us[j], rgb_us[i])[nearest] == np.arange(len(i))
        apart = abs(rgb_us[i] - depth_us[j][nearest])
        paired = mutual & (apart <= MAX_APART_US)
        if not paired.any():
            break
        pairs += zip(i[paired].tolist(), j[nearest[paired]].tolist(), strict=True)
        j = np.delete(j, nearest[paired])
        i = i[~paired]
    return sorted(pairs)


def _nearest(
    times: Int64[np.ndarray, " time"], among: Int64[np.ndarray, " other"]
) -> Int64[np.ndarray, " time"]:
    """Return the index of the nearest of ``among``, which rises, the earlier one of two."""
    right = np.searchsorted(among, times).clip(max=len(among) - 1)
    left = (right - 1).clip(min=0)
    return np.where(abs(times - among[left]) <= abs(among[right] - times), left, right)


def _intrinsics(folder: Path) -> Float64[np.ndarray, "4"]:
    for name in INTRINSICS_NAMES:
        if (folder / name).is_file():
            return read_intrinsics(folder / name)
    for series, intrinsics in DEFAULT_INTRINSICS.items():
        if series in folder.resolve().name:
            return np.array(intrinsics)
    raise DataError(
        f"{folder}: intrinsics must be in intrinsics.txt as 'fx fy cx cy' "
        f"where the folder's name holds none of {', '.join(DEFAULT_INTRINSICS)}"
    )


def _read_images(folder: Path, name: str) -> tuple[Int64[np.ndarray, " image"], list[Path]]:
    """Read times in microseconds and files, in order of time."""
    rows: list[tuple[int, Path]] = []
    for where, line in read_lines(folder / name):
        time, _, image = line.partition(" ")
        path = resolve_inside(folder, image.strip(), where=where)
        if not path.is_file():
            raise DataError(f"{where}: {path} is missing")
        rows.append((_microseconds(where, parse_numbers(where, time, 1)[0]), path))
    rows.sort()
    return np.array([time for time, _ in rows], dtype=np.int64), [path for _, path in rows]


def _poses_at(times: Int64[np.ndarray, " time"], path: Path) -> Float64[np.ndarray, "time 4 4"]:
    """Read the camera-to-world nearest to each time."""
    rows = [
        (_microseconds(where, numbers[0]), _pose(where, numbers[1:]))
        for where, line in (read_lines(path) if path.is_file() else ())
        for numbers in (parse_numbers(where, line, 8),)
    ]
    poses = np.broadcast_to(LOST_POSE, (len(times), 4, 4)).copy()
    if rows:
        rows.sort(key=lambda row: row[0])
        known = np.array([time for time, _ in rows], dtype=np.int64)
        nearest = _nearest(times, known)
        close = abs(known[nearest] - times) <= MAX_APART_US
        poses[close] = np.stack([pose for _, pose in rows])[nearest[close]]
    return poses


def _microseconds(where: str, seconds: float) -> int:
    if not abs(seconds) < _MAX_SECONDS:
        raise DataError(f"{where}: time must be in seconds below {_MAX_SECONDS:g}, got {seconds}")
    return round(seconds * 1e6)


def _pose(where: str, numbers: Float64[np.ndarray, "7"]) -> Float64[np.ndarray, "4 4"]:
    """Return the 4x4 of ``tx ty tz qx qy qz qw``."""
    norm = np.linalg.norm(numbers[3:])
    if norm == 0:
        raise DataError(f"{where}: quaternion must not be zero")
    x, y, z, w = numbers[3:] / norm
    pose = np.eye(4)
    # Rotation by a unit quaternion (Shepperd 1978).
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = numbers[:3]
    return pose
