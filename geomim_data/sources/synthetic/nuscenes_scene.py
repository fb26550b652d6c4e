"""One synthetic drive written as nuScenes writes a scene: its files, and its rows of the tables."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, final

import numpy as np
import simplejpeg
import torch
from jaxtyping import Bool, Float64, Int64

from geomim.transforms import RigidTransform
from geomim_data.sources.synthetic.nuscenes_taxonomy import (
    attribute_token,
    category_token,
    sensor_token,
    visibility_token,
)
from geomim_data.sources.synthetic.nuscenes_tokens import Row, token
from geomim_data.sources.synthetic.rendering import RenderedView, render_scene
from geomim_data.sources.synthetic.rig import (
    EXPOSURES_PER_SAMPLE,
    LIDAR,
    SWEEPS_PER_SAMPLE,
    MountedCamera,
    Rig,
    exposures_us,
    sweeps_us,
)
from geomim_data.sources.synthetic.spinning_lidar import Sweep, measure_sweep
from geomim_data.sources.synthetic.street_boxes import Boxes, boxes_at, unoccluded_pixels
from geomim_data.sources.synthetic.street_traffic import Actor
from geomim_data.sources.synthetic.streets import Street

JPEG_QUALITY: Final = 90
LOCATION: Final = "boston-seaport"
"""The one place of nuScenes' where traffic keeps to the right; its toolkit knows but four."""
_ANNOTATED_M = 75.0
_STANDING_M_S = 0.2
_FIRST_US, _SCENE_US = 1_600_000_000_000_000, 3_600_000_000

Tables = dict[str, list[Row]]


@final
class Camera(NamedTuple):
    """One camera of a recorded scene: its frames' times and poses, and how it was mounted."""

    mounted: MountedCamera
    time_s: Float64[np.ndarray, " frame"]
    world_from_cam: RigidTransform


@final
@dataclass(frozen=True, slots=True, eq=False)
class RecordedDrive:
    """A street, the car's sensors, and when they fire: all that the files of a scene come from."""

    number: int
    seed: int
    street: Street
    rig: Rig
    samples: int
    between: bool = True
    """Whether the sensors fire between key frames too."""

    @property
    def name(self) -> str:
        """The name of the scene."""
        return f"scene-{9000 + self.number}"

    @property
    def log(self) -> str:
        """The name of the log, which leads the names of files."""
        return f"n900-2020-09-13-12-26-40+0000-{self.number:04d}"

    @property
    def start_us(self) -> int:
        """The timestamp of the first key frame: time 0 of the street."""
        return _FIRST_US + self.number * _SCENE_US

    @property
    def exposures_per_sample(self) -> int:
        """How many frames of a camera there are for each key frame."""
        return EXPOSURES_PER_SAMPLE if self.between else 1

    @property
    def sweeps_per_sample(self) -> int:
        """How many turns of the lidar there are for each key frame."""
        return SWEEPS_PER_SAMPLE if self.between else 1

    @property
    def sweeps_us(self) -> Int64[np.ndarray, " sweep"]:
        """When the turns of the lidar end, in microseconds after the first key frame."""
        return sweeps_us(self.samples, per_sample=self.sweeps_per_sample)

    def exposures_us(self, channel: str) -> Int64[np.ndarray, " frame"]:
        """Return when a camera fires, in microseconds after the first key frame."""
        fires_at = self.rig.cameras[channel].fires_at
        return exposures_us(fires_at, self.samples, per_sample=self.exposures_per_sample)

    def token(self, *parts: object) -> str:
        """Return a token that no other scene or seed has."""
        return token(self.seed, self.name, *parts)

    def camera(self, channel: str) -> Camera:
        """Return when and from where a camera takes its frames."""
        mounted = self.rig.cameras[channel]
        time_s = self.exposures_us(channel) / 1e6
        return Camera(
            mounted, time_s, self.street.ego.world_from_ego(time_s) @ mounted.ego_from_cam
        )

    def render(self, channel: str, frame: int) -> RenderedView:
        """Return what a camera sees in a frame, with its exact depth."""
        camera = self.camera(channel)
        scene = self.street.at(float(camera.time_s[frame]))
        return render_scene(scene, camera.mounted.camera, camera.world_from_cam[frame])

    def sweep(self, number: int) -> Sweep:
        """Return the points of one turn of the lidar."""
        end_s = float(self.sweeps_us[number] / 1e6)
        return measure_sweep(self.street, self.rig.ego_from_lidar, end_s)


@final
class SceneWriter:
    """Writes the files of one scene below ``root`` and collects its rows."""

    def __init__(self, drive: RecordedDrive, root: Path) -> None:
        self._drive, self._root = drive, root
        self._shown = np.zeros((drive.samples, len(drive.street.actors)), np.int64)
        self._whole = np.zeros_like(self._shown)
        self._hit = np.zeros_like(self._shown)
        self.tables: Tables = defaultdict(list)

    def write(self, advance: Callable[[int, int], None]) -> Tables:
        """Write everything and return the rows; ``advance`` hears of images and sweeps."""
        channels = list(self._drive.rig.cameras)
        counts = [len(self._drive.camera(channel).time_s) for channel in channels]
        total = sum(counts) + len(self._drive.sweeps_us)
        done = 0
        for channel, count in zip(channels, counts, strict=True):
            names = self._add_camera(channel)
            for frame in range(count):
                self._write_image(channel, frame, names[frame])
                done += 1
                advance(done, total)
        for number, name in enumerate(self._add_lidar()):
            self._write_sweep(number, name)
            done += 1
            advance(done, total)
        self._add_samples()
        self._add_annotations()
        return dict(self.tables)

    def _write_image(self, channel: str, frame: int, name: str) -> None:
        view = self._drive.render(channel, frame)
        data = simplejpeg.encode_jpeg(view.rgb, quality=JPEG_QUALITY, colorsubsampling="420")
        (self._root / name).write_bytes(data)
        sample, between = divmod(frame, self._drive.exposures_per_sample)
        if between:
            return
        street = self._drive.street
        camera = self._drive.camera(channel)
        self._whole[sample] += unoccluded_pixels(
            street,
            camera.mounted.camera,
            camera.world_from_cam[frame],
            float(camera.time_s[frame]),
        )
        counts = np.bincount(view.instance.ravel(), minlength=street.instance(len(street.actors)))
        self._shown[sample] += counts[street.instance(0) : street.instance(len(street.actors))]

    def _write_sweep(self, number: int, name: str) -> None:
        sweep = self._drive.sweep(number)
        rows = np.column_stack([sweep.points_lidar, sweep.intensity, sweep.ring])
        (self._root / name).write_bytes(rows.astype("<f4").tobytes())
        sample, between = divmod(number, self._drive.sweeps_per_sample)
        if between:
            return
        end_s = sample * 0.5
        world_from_lidar = self._drive.street.ego.world_from_ego(np.array([end_s]))[0]
        world_from_lidar @= self._drive.rig.ego_from_lidar
        # What a reader of the file sees: single precision.
        points = rows[:, :3].astype(np.float32).astype(np.float64)
        points_world = world_from_lidar.apply(torch.from_numpy(points)).numpy()
        self._hit[sample] = boxes_at(self._drive.street, end_s).holding(points_world).sum(axis=1)

    def _add_camera(self, channel: str) -> list[str]:
        drive, mounted = self._drive, self._drive.rig.cameras[channel]
        matrix = mounted.camera.matrix().numpy().copy()
        # nuScenes puts the centre of the first pixel at (0, 0).
        matrix[:2, 2] -= 0.5
        self._add_calibration(channel, mounted.ego_from_cam, matrix.tolist())
        times, every = drive.start_us + drive.exposures_us(channel), drive.exposures_per_sample
        return self._add_data(channel, times, every, mounted.camera.size, "jpg")

    def _add_lidar(self) -> list[str]:
        drive = self._drive
        self._add_calibration(LIDAR, drive.rig.ego_from_lidar, [])
        times = drive.start_us + drive.sweeps_us
        return self._add_data(LIDAR, times, drive.sweeps_per_sample, (0, 0), "pcd")

    def _add_calibration(
        self, channel: str, ego_from_sensor: RigidTransform, intrinsic: list[list[float]]
    ) -> None:
        self.tables["calibrated_sensor"].append(
            {
                "token": self._drive.token("calibrated", channel),
                "sensor_token": sensor_token(channel),
                **_pose(ego_from_sensor),
                "camera_intrinsic": intrinsic,
            }
        )

    def _add_data(
        self,
        channel: str,
        times: Int64[np.ndarray, " frame"],
        every: int,
        size: tuple[int, int],
        fileformat: str,
    ) -> list[str]:
        """Add the rows of one sensor and return the files to write."""
        drive, count = self._drive, len(times)
        tokens = [drive.token(channel, frame) for frame in range(count)]
        poses = drive.street.ego.world_from_ego((times - drive.start_us) / 1e6)
        names: list[str] = []
        for frame, time_us in enumerate(times.tolist()):
            is_key = frame % every == 0
            ending = {"jpg": "jpg", "pcd": "pcd.bin"}[fileformat]
            folder = f"{'samples' if is_key else 'sweeps'}/{channel}"
            names.append(f"{folder}/{drive.log}__{channel}__{time_us}.{ending}")
            self.tables["ego_pose"].append(
                {"token": tokens[frame], "timestamp": time_us, **_pose(poses[frame])}
            )
            self.tables["sample_data"].append(
                {
                    "token": tokens[frame],
                    # The key frame that comes next.
                    "sample_token": drive.token("sample", -(-frame // every)),
                    "ego_pose_token": tokens[frame],
                    "calibrated_sensor_token": drive.token("calibrated", channel),
                    "timestamp": time_us,
                    "fileformat": fileformat,
                    "is_key_frame": is_key,
                    "height": size[0],
                    "width": size[1],
                    "filename": names[-1],
                    **_neighbours(tokens, frame),
                }
            )
        return names

    def _add_samples(self) -> None:
        drive = self._drive
        tokens = [drive.token("sample", sample) for sample in range(drive.samples)]
        scene, log = drive.token("scene"), drive.token("log")
        step_us = int(sweeps_us(2)[-1])
        self.tables["sample"] += [
            {
                "token": name,
                "timestamp": drive.start_us + sample * step_us,
                **_neighbours(tokens, sample),
                "scene_token": scene,
            }
            for sample, name in enumerate(tokens)
        ]
        self.tables["scene"].append(
            {
                "token": scene,
                "log_token": log,
                "nbr_samples": drive.samples,
                "first_sample_token": tokens[0],
                "last_sample_token": tokens[-1],
                "name": drive.name,
                "description": f"Synthetic street, {drive.street.plan.drive}",
            }
        )
        self.tables["log"].append(
            {
                "token": log,
                "logfile": drive.log,
                "vehicle": "n900",
                "date_captured": "2020-09-13",
                "location": LOCATION,
            }
        )

    def _add_annotations(self) -> None:
        drive = self._drive
        when = [sample * 0.5 for sample in range(drive.samples)]
        boxes = [boxes_at(drive.street, time_s) for time_s in when]
        ego = drive.street.ego.world_from_ego(np.array(when)).translation.numpy()
        for number, actor in enumerate(drive.street.actors):
            centres = np.stack([b.world_from_box.translation[number].numpy() for b in boxes])
            near = np.linalg.norm(centres - ego, axis=1) < _ANNOTATED_M
            seen = _first_to_last(near & (self._hit[:, number] > 0))
            if len(seen):
                self._add_instance(number, actor, seen, boxes)

    def _add_instance(
        self, number: int, actor: Actor, seen: Sequence[int], boxes: Sequence[Boxes]
    ) -> None:
        drive = self._drive
        tokens = [drive.token("annotation", number, sample) for sample in seen]
        instance = drive.token("instance", number)
        self.tables["instance"].append(
            {
                "token": instance,
                "category_token": category_token(actor.category),
                "nbr_annotations": len(tokens),
                "first_annotation_token": tokens[0],
                "last_annotation_token": tokens[-1],
            }
        )
        for place, sample in enumerate(seen):
            box = boxes[sample]
            length, width, height = box.size[number].tolist()
            share = self._shown[sample, number] / max(self._whole[sample, number], 1)
            self.tables["sample_annotation"].append(
                {
                    "token": tokens[place],
                    "sample_token": drive.token("sample", sample),
                    "instance_token": instance,
                    "visibility_token": visibility_token(float(share)),
                    "attribute_tokens": [
                        attribute_token(_attribute(actor, float(box.speed[number])))
                    ],
                    **_pose(box.world_from_box[number]),
                    "size": [width, length, height],
                    **_neighbours(tokens, place),
                    "num_lidar_pts": int(self._hit[sample, number]),
                    "num_radar_pts": 0,
                }
            )


def _neighbours(tokens: Sequence[str], index: int) -> Row:
    return {
        "prev": tokens[index - 1] if index else "",
        "next": tokens[index + 1] if index + 1 < len(tokens) else "",
    }


def _pose(target_from_source: RigidTransform) -> Row:
    return {
        "translation": target_from_source.translation.tolist(),
        "rotation": target_from_source.quaternion().tolist(),
    }


def _first_to_last(seen: Bool[np.ndarray, " sample"]) -> list[int]:
    """Return the samples from the first to the last that is True: a track has no holes."""
    which = np.flatnonzero(seen)
    return list(range(which[0], which[-1] + 1)) if len(which) else []


def _attribute(actor: Actor, speed: float) -> str:
    moves = speed > _STANDING_M_S
    if actor.category.startswith("human"):
        return "pedestrian.moving" if moves else "pedestrian.standing"
    if actor.state == "parked":
        return "vehicle.parked"
    return "vehicle.moving" if moves else "vehicle.stopped"
