"""What the tables of nuScenes say of each scene, gathered once and kept a file a scene.

The tables are read row by row into columns, of chosen scenes and sensors alone; what is left lies
in NumPy files, which each process that converts a scene opens for itself.
"""

from array import array
from collections.abc import Iterable, Iterator, MutableSequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from geomim_data.errors import DataError
from geomim_data.schema import check_name
from geomim_data.sources import nuscenes_tables as tables
from geomim_data.sources.json_rows import read_rows
from geomim_data.sources.nuscenes_boxes import BoxColumns, Boxes, gather_boxes
from geomim_data.sources.nuscenes_samples import Samples, read_samples


@final
@dataclass(frozen=True, slots=True)
class Selection:
    """What to take: all scenes and cameras by default, key frames and what lies between them."""

    scenes: tuple[str, ...] | None = None
    cameras: tuple[str, ...] | None = None
    lidar: bool = True
    sweeps: bool = True


@final
@dataclass(frozen=True, slots=True, eq=False)
class SceneIndex:
    """One scene. Rows of ``sensor`` to ``ego`` are its files, sorted by sensor, then by time.

    Translations come before quaternions; ``matrix`` is NaN where a sensor has none. ``key_frame``
    files show the moment ``sample``, others lead up to it.
    """

    location: np.ndarray
    channels: np.ndarray
    is_lidar: Bool[np.ndarray, " channel"]
    sample_timestamp_us: Int64[np.ndarray, " sample"]
    sensor: Int32[np.ndarray, " file"]
    timestamp_us: Int64[np.ndarray, " file"]
    key_frame: Bool[np.ndarray, " file"]
    sample: Int32[np.ndarray, " file"]
    size: Int32[np.ndarray, "file 2"]
    filename: np.ndarray
    calibration: Float64[np.ndarray, "file 7"]
    matrix: Float64[np.ndarray, "file 3 3"]
    ego: Float64[np.ndarray, "file 7"]
    box_sample: Int32[np.ndarray, " box"]
    box_track: Int32[np.ndarray, " box"]
    box_category: Int32[np.ndarray, " box"]
    box_pose: Float64[np.ndarray, "box 7"]
    box_size: Float64[np.ndarray, "box 3"]
    box_velocity: Float64[np.ndarray, "box 3"]
    box_lidar_points: Int64[np.ndarray, " box"]
    categories: np.ndarray


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Rig:
    """The wanted sensors, and where they were mounted: by token the number of a calibration."""

    channels: list[str]
    is_lidar: list[bool]
    number: dict[str, int]  # -1: known, but of a sensor that is not wanted
    sensor: Int32[np.ndarray, " calibration"]
    pose: Float64[np.ndarray, "calibration 7"]
    matrix: Float64[np.ndarray, "calibration 3 3"]


@final
@dataclass(slots=True, eq=False)
class _Files:
    """The wanted rows of ``sample_data``, as columns."""

    scene: MutableSequence[int] = field(default_factory=lambda: array("i"))
    sample: MutableSequence[int] = field(default_factory=lambda: array("i"))
    calibration: MutableSequence[int] = field(default_factory=lambda: array("i"))
    timestamp_us: MutableSequence[int] = field(default_factory=lambda: array("q"))
    key_frame: MutableSequence[int] = field(default_factory=lambda: array("b"))
    height: MutableSequence[int] = field(default_factory=lambda: array("i"))
    width: MutableSequence[int] = field(default_factory=lambda: array("i"))
    pose: MutableSequence[int] = field(default_factory=lambda: array("i"))  # number of the ego pose
    filename: list[bytes] = field(default_factory=list[bytes])


def index_tables(folder: Path, out: Path, selection: Selection) -> list[str]:
    """Read the tables of a version's folder; write a file a scene to ``out``, and name them.

    Raises:
        DataError: If a table is missing or broken, or a row names another that is not there.
    """
    samples = read_samples(folder, selection.scenes)
    rig = _read_rig(folder, selection)
    files, poses = _read_files(folder, samples, rig, sweeps=selection.sweeps)
    ego = _read_ego_poses(folder, poses)
    del poses
    categories, boxes = gather_boxes(folder, samples)
    _write_scenes(out, samples, rig, files, ego, categories, boxes)
    return list(samples.names)


def read_scene_index(path: Path) -> SceneIndex:
    """Read what ``index_tables`` wrote of a scene."""
    with np.load(path, allow_pickle=False) as kept:
        return SceneIndex(**{each.name: kept[each.name] for each in fields(SceneIndex)})


def _read_rig(folder: Path, selection: Selection) -> _Rig:
    path = folder / "sensor.json"
    sensors = {row.token: row for _, row in read_rows(path, tables.Sensor)}
    wanted = {token: row for token, row in sensors.items() if _is_wanted(row, selection)}
    there = {row.channel for row in wanted.values()}
    for channel in selection.cameras or ():
        if channel not in there:
            raise DataError(f"{path}: holds no camera {channel!r}; see --cameras")
    for row in wanted.values():
        check_name(row.channel, what="sensor")
    if len(there) != len(wanted):
        raise DataError(f"{path}: sensors must have different channels")
    channels = {token: index for index, token in enumerate(wanted)}
    number: dict[str, int] = {}
    mounted: list[tuple[int, tables.CalibratedSensor]] = []
    for place, row in read_rows(folder / "calibrated_sensor.json", tables.CalibratedSensor):
        tables.resolve(sensors, row.sensor_token, place, "sensor")
        sensor = channels.get(row.sensor_token)
        number[row.token] = -1 if sensor is None else len(mounted)
        if sensor is not None:
            _check_mounting(wanted[row.sensor_token], row, place)
            mounted.append((sensor, row))
    no_matrix = [[np.nan] * 3] * 3
    return _Rig(
        channels=[row.channel for row in wanted.values()],
        is_lidar=[row.modality == "lidar" for row in wanted.values()],
        number=number,
        sensor=np.array([sensor for sensor, _ in mounted], dtype=np.int32),
        pose=_rows([(*row.translation, *row.rotation) for _, row in mounted], 7),
        matrix=_rows([row.camera_intrinsic or no_matrix for _, row in mounted], 3, 3),
    )


def _is_wanted(row: tables.Sensor, selection: Selection) -> bool:
    match row.modality:
        case "camera":
            return selection.cameras is None or row.channel in selection.cameras
        case "lidar":
            return selection.lidar
        case "radar":
            return False


def _check_mounting(sensor: tables.Sensor, row: tables.CalibratedSensor, place: str) -> None:
    tables.check_rotation(row.rotation, place)
    if sensor.modality == "lidar":
        return
    if not row.camera_intrinsic:
        raise DataError(f"{place}: a camera must have a camera_intrinsic, got none")
    (fx, skew, _), (below, fy, _), last = row.camera_intrinsic
    if min(fx, fy) <= 0 or skew or below or last != (0.0, 0.0, 1.0):
        raise DataError(
            f"{place}: camera_intrinsic must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], "
            f"got {row.camera_intrinsic}"
        )


def _read_files(
    folder: Path, samples: Samples, rig: _Rig, *, sweeps: bool
) -> tuple[_Files, dict[str, int]]:
    """Return the wanted files, and by token the number of each ego pose that they need."""
    files, poses = _Files(), dict[str, int]()
    for place, row in read_rows(folder / "sample_data.json", tables.SampleData):
        scene, sample = tables.resolve(samples.place, row.sample_token, place, "sample")
        calibration = tables.resolve(
            rig.number, row.calibrated_sensor_token, place, "calibrated_sensor"
        )
        if scene < 0 or calibration < 0 or not (row.is_key_frame or sweeps):
            continue
        files.scene.append(scene)
        files.sample.append(sample)
        files.calibration.append(calibration)
        files.timestamp_us.append(row.timestamp)
        files.key_frame.append(row.is_key_frame)
        files.height.append(row.height or 0)
        files.width.append(row.width or 0)
        files.pose.append(poses.setdefault(row.ego_pose_token, len(poses)))
        files.filename.append(row.filename.encode())
    return files, poses


def _read_ego_poses(folder: Path, numbers: dict[str, int]) -> Float64[np.ndarray, "pose 7"]:
    path = folder / "ego_pose.json"
    ego = np.full((len(numbers), 7), np.nan)
    for place, row in read_rows(path, tables.EgoPose):
        number = numbers.get(row.token)
        if number is not None:
            tables.check_rotation(row.rotation, place)
            ego[number] = (*row.translation, *row.rotation)
    missing = np.flatnonzero(np.isnan(ego[:, 0]))
    if len(missing):
        token = next(token for token, number in numbers.items() if number == missing[0])
        raise DataError(
            f"{path}: {len(missing)} ego poses that sample_data.json names are missing, such as "
            f"{token!r}; {tables.INCOMPLETE}"
        )
    return ego


def _write_scenes(
    out: Path,
    samples: Samples,
    rig: _Rig,
    files: _Files,
    ego: Float64[np.ndarray, "pose 7"],
    categories: list[str],
    boxes: BoxColumns,
) -> None:
    scene, calibration = np.array(files.scene), np.array(files.calibration)
    sensor = rig.sensor[calibration] if len(calibration) else calibration
    columns = {
        "timestamp_us": np.array(files.timestamp_us, dtype=np.int64),
        "key_frame": np.array(files.key_frame, dtype=np.bool_),
        "sample": np.array(files.sample, dtype=np.int32),
        "size": np.stack([np.array(files.height), np.array(files.width)], axis=1),
    }
    order = np.lexsort((columns["timestamp_us"], sensor, scene))
    pose = np.array(files.pose)
    for number, rows in _split(scene, order, len(samples.names)):
        mounted = calibration[rows]
        index = SceneIndex(
            location=np.array(samples.locations[number]),
            channels=np.array(rig.channels),
            is_lidar=np.array(rig.is_lidar, dtype=np.bool_),
            sample_timestamp_us=samples.timestamps_us[number],
            sensor=sensor[rows].astype(np.int32),
            timestamp_us=columns["timestamp_us"][rows],
            key_frame=columns["key_frame"][rows],
            sample=columns["sample"][rows],
            size=columns["size"][rows].astype(np.int32),
            filename=np.array([files.filename[row] for row in rows.tolist()], dtype=np.bytes_),
            calibration=rig.pose[mounted],
            matrix=rig.matrix[mounted],
            ego=ego[pose[rows]],
            categories=np.array(categories),
            **_box_columns(boxes.of_scene(number)),
        )
        kept = {each.name: getattr(index, each.name) for each in fields(SceneIndex)}
        np.savez(out / f"{samples.names[number]}.npz", **kept)


def _box_columns(boxes: Boxes) -> dict[str, np.ndarray]:
    return {f"box_{each.name}": getattr(boxes, each.name) for each in fields(boxes)}


def _split(
    scene: np.ndarray, order: np.ndarray, scenes: int
) -> Iterator[tuple[int, Int64[np.ndarray, " row"]]]:
    """Yield each scene's number and its rows, in ``order``."""
    ends = np.searchsorted(scene[order], np.arange(scenes + 1))
    for number in range(scenes):
        yield number, order[ends[number] : ends[number + 1]]


def _rows(values: Iterable[object], *row: int) -> np.ndarray:
    return np.array(list(values), dtype=np.float64).reshape(-1, *row)
