"""Small data sets in nuScenes' layout, of a size to break in every way."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

VERSION = "v1.0-mini"
SIZE = (18, 32)
CAMERAS = ("CAM_FRONT", "CAM_BACK")
START_US = 1_532_402_927_000_000
SWEEP_US = {"CAM_FRONT": 83_333, "CAM_BACK": 83_333, "LIDAR_TOP": 50_000}
PHASE_US = {"CAM_FRONT": -20_000, "CAM_BACK": 10_000, "LIDAR_TOP": 0}
MATRIX = [[20.0, 0.0, 15.5], [0.0, 21.0, 8.5], [0.0, 0.0, 1.0]]
# Quaternions (w, x, y, z) of cameras that look along the vehicle's x, and back.
LOOKS = {
    "CAM_FRONT": [0.5, -0.5, 0.5, -0.5],
    "CAM_BACK": [0.5, -0.5, -0.5, 0.5],
    "LIDAR_TOP": [0.5**0.5, 0.0, 0.0, -(0.5**0.5)],
}
SPEED = 10.0  # of the vehicle, along x, while it turns left
YAW_RATE = 0.2
MAP_NODES = ((0.0, 0.0), (300.0, 0.0), (600.0, 0.0), (600.0, 5.0), (0.0, 5.0), (20.0, 1.0))


def token(*parts: object) -> str:
    """A token that says what it is of, padded to the length of real ones."""
    return "-".join(str(part) for part in parts).ljust(32, "0")


def ego_pose(time_us: int) -> tuple[list[float], list[float]]:
    """Where the vehicle is: translation, and quaternion."""
    seconds = (time_us - START_US) / 1e6
    yaw = YAW_RATE * seconds
    position = [1000.0 + SPEED * seconds, 500.0 + seconds**2, 0.0]
    return position, [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def box_position(thing: int, time_us: int) -> list[float]:
    """Where a box is: thing 0 drives, thing 1 stands."""
    seconds = (time_us - START_US) / 1e6
    return [1010.0 + 3.0 * seconds * (thing == 0), 500.0 + 4 * thing, 1.0]


def points(time_us: int) -> np.ndarray:
    """The numbers of one lidar file."""
    rng = np.random.default_rng(time_us)
    count = 40 + int(rng.integers(0, 20))
    numbers = rng.normal(0, 10, (count, 5))
    numbers[:, 3:] = rng.integers(0, 32, (count, 2))
    return numbers.astype("<f4")


def jpeg(time_us: int) -> bytes:
    """An image that tells one file from another."""
    rng = np.random.default_rng(time_us)
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


@dataclass
class Root:
    """Tables in memory, to be changed before ``write``."""

    folder: Path
    scenes: tuple[str, ...] = ("scene-0001",)
    samples: int = 3
    tables: dict[str, list[dict[str, object]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        channels = ("CAM_FRONT", "CAM_BACK", "LIDAR_TOP", "RADAR_FRONT")
        modality = {"C": "camera", "L": "lidar", "R": "radar"}
        self.tables = {
            name: []
            for name in (
                *("scene", "sample", "sample_data", "ego_pose", "instance", "map"),
                *("sample_annotation", "attribute", "visibility"),
            )
        }
        self.tables["log"] = [
            {
                "token": token("log"),
                "logfile": "n001",
                "vehicle": "n001",
                "date_captured": "2018-07-24",
                "location": "singapore-onenorth",
            }
        ]
        self.tables["map"] = [
            {
                "token": token("map"),
                "log_tokens": [token("log")],
                "category": "semantic_prior",
                "filename": "",
            }
        ]
        self.tables["category"] = [
            {"token": token("category", name), "name": name, "description": ""}
            for name in ("human.pedestrian.adult", "vehicle.car")
        ]
        self.tables["sensor"] = [
            {"token": token(c), "channel": c, "modality": modality[c[0]]} for c in channels
        ]
        self.tables["calibrated_sensor"] = [
            {
                "token": token("mounted", c),
                "sensor_token": token(c),
                "translation": [1.5 - 2 * (c == "CAM_BACK"), 0.1, 1.5],
                "rotation": LOOKS.get(c, [1.0, 0.0, 0.0, 0.0]),
                "camera_intrinsic": MATRIX if c in CAMERAS else [],
            }
            for c in channels
        ]
        for number, name in enumerate(self.scenes):
            self._add_scene(number, name)

    def _add_scene(self, number: int, name: str) -> None:
        begin = START_US + number * 10_000_000
        times = [begin + 500_000 * index for index in range(self.samples)]
        tokens = [token("sample", number, index) for index in range(self.samples)]
        self.tables["scene"].append(
            {
                "token": token("scene", number),
                "log_token": token("log"),
                "nbr_samples": self.samples,
                "first_sample_token": tokens[0],
                "last_sample_token": tokens[-1],
                "name": name,
                "description": "",
            }
        )
        for index, time_us in enumerate(times):
            self.tables["sample"].append(
                {
                    "token": tokens[index],
                    "timestamp": time_us,
                    "prev": tokens[index - 1] if index else "",
                    "next": tokens[index + 1] if index + 1 < self.samples else "",
                    "scene_token": token("scene", number),
                }
            )
        for channel in SWEEP_US:
            self._add_files(channel, times, tokens)
        self._add_boxes(number, times, tokens)

    def _add_files(self, channel: str, times: list[int], tokens: list[str]) -> None:
        """Key frames at the samples, others between them."""
        step, ends = SWEEP_US[channel], [*times[1:], times[-1] + 1]
        rows: list[tuple[int, bool, str]] = []
        for index, (time_us, end) in enumerate(zip(times, ends, strict=True)):
            shifted = time_us + PHASE_US[channel]
            rows.append((shifted, True, tokens[index]))
            between = range(shifted + step, end + PHASE_US[channel] - step // 2, step)
            rows += [(each, False, tokens[index + 1]) for each in between]
        suffix = "pcd.bin" if channel.startswith("LIDAR") else "jpg"
        own = [token("d", channel, time_us) for time_us, _, _ in rows]
        for index, (time_us, is_key, sample) in enumerate(rows):
            folder = "samples" if is_key else "sweeps"
            position, rotation = ego_pose(time_us)
            self.tables["ego_pose"].append(
                {
                    "token": own[index],
                    "timestamp": time_us,
                    "rotation": rotation,
                    "translation": position,
                }
            )
            is_image = suffix == "jpg"
            self.tables["sample_data"].append(
                {
                    "token": own[index],
                    "sample_token": sample,
                    "ego_pose_token": own[index],
                    "calibrated_sensor_token": token("mounted", channel),
                    "timestamp": time_us,
                    "fileformat": "jpg" if is_image else "pcd",
                    "is_key_frame": is_key,
                    "height": SIZE[0] if is_image else 0,
                    "width": SIZE[1] if is_image else 0,
                    "filename": f"{folder}/{channel}/n001__{channel}__{time_us}.{suffix}",
                    "prev": own[index - 1] if index else "",
                    "next": own[index + 1] if index + 1 < len(rows) else "",
                }
            )

    def _add_boxes(self, number: int, times: list[int], tokens: list[str]) -> None:
        for thing in (0, 1):
            self.tables["instance"].append(
                {
                    "token": token("thing", number, thing),
                    "category_token": token(
                        "category", ("vehicle.car", "human.pedestrian.adult")[thing]
                    ),
                    "nbr_annotations": self.samples,
                    "first_annotation_token": token("box", number, thing, 0),
                    "last_annotation_token": token("box", number, thing, self.samples - 1),
                }
            )
            for index, time_us in enumerate(times):
                more = index + 1 < self.samples
                self.tables["sample_annotation"].append(
                    {
                        "token": token("box", number, thing, index),
                        "sample_token": tokens[index],
                        "instance_token": token("thing", number, thing),
                        "visibility_token": "",
                        "attribute_tokens": [],
                        "translation": box_position(thing, time_us),
                        "size": [2.0, 4.5, 1.6],
                        "rotation": [0.8, 0.0, 0.0, 0.6],
                        "prev": token("box", number, thing, index - 1) if index else "",
                        "next": token("box", number, thing, index + 1) if more else "",
                        "num_lidar_pts": 10 * index + thing,
                        "num_radar_pts": 0,
                    }
                )

    def write(self) -> Path:
        """Write tables and files."""
        folder = self.folder / VERSION
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))
        for row in self.tables["sample_data"]:
            path = self.folder / str(row["filename"])
            path.parent.mkdir(parents=True, exist_ok=True)
            time_us = int(str(row["timestamp"]))
            image = row["fileformat"] == "jpg"
            path.write_bytes(jpeg(time_us) if image else points(time_us).tobytes())
        return self.folder

    def file(self, channel: str, index: int) -> Path:
        """Return where a file of a sensor lies."""
        rows = [row for row in self.tables["sample_data"] if f"/{channel}/" in str(row["filename"])]
        return self.folder / str(rows[index]["filename"])

    def write_map(self, **changes: object) -> Path:
        """Write a map with a divider of 600 m and a crossing of four corners and a hole."""
        nodes = [
            {"token": f"n{index}", "x": 1000 + x, "y": 500 + y}
            for index, (x, y) in enumerate(MAP_NODES)
        ]
        layers = {
            "version": "1.3",
            "node": nodes,
            "line": [{"token": "l0", "node_tokens": ["n0", "n1", "n2"]}],
            "polygon": [
                {
                    "token": "p0",
                    "exterior_node_tokens": ["n0", "n1", "n3", "n4"],
                    "holes": [{"node_tokens": ["n0", "n5", "n4"]}],
                }
            ],
            "road_divider": [{"token": "d0", "line_token": "l0"}],
            "ped_crossing": [{"token": "c0", "polygon_token": "p0"}],
            "drivable_area": [{"token": "a0", "polygon_tokens": ["p0", "p0"]}],
        }
        path = self.folder / "maps/expansion/singapore-onenorth.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(layers | changes))
        return path
