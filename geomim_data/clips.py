"""Clips of a store: what each camera of a rig saw at some moments around a key frame."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from geomim_data.augment import REDUCTIONS, resample_rgb
from geomim_data.camera_reader import CameraReader
from geomim_data.clip_batch import BoxParts, Clip, ClipBatch, SweepParts, collate_clips
from geomim_data.codecs import decode_rgb
from geomim_data.errors import DataError, leading
from geomim_data.lidar_reader import LidarReader
from geomim_data.moments import nearest_rigid
from geomim_data.sampler import SampleKey
from geomim_data.split import FrameKey
from geomim_data.store import Scene, Store

OnCorrupt = Literal["raise", "mask"]
Size = tuple[int, int]

_MICRO = 1_000_000
_LARGEST_SIDE = 2**14


@final
@dataclass(frozen=True, slots=True, eq=False)
class ClipTimes:
    """Which moments make up a clip, counted from each sensor's own key frame.

    In ``seconds`` an offset takes the sensor's frame nearest to it, at most ``tolerance_s`` off;
    in ``frames`` the frame that many behind (negative) or ahead, however far that is. Frames count
    through key frames, past and future alike.

    Raises:
        ValueError: If there are no offsets, two could take the same frame, or frames are no whole
            numbers.
    """

    offsets: tuple[int | float, ...]
    unit: Literal["seconds", "frames"] = "seconds"
    tolerance_s: float = 0.04

    def __post_init__(self):
        if not self.offsets or len(set(self.offsets)) != len(self.offsets):
            raise ValueError(f"offsets must be different moments, got {self.offsets}")
        if self.unit == "frames" and any(offset % 1 for offset in self.offsets):
            raise ValueError(f"offsets in frames must be whole numbers, got {self.offsets}")
        apart = np.diff(sorted(self.offsets))
        if self.unit == "seconds" and len(apart) and 2 * self.tolerance_s >= apart.min():
            raise ValueError(
                f"tolerance_s must be under half of the offsets' least distance, {apart.min():g}, "
                f"so that none takes another's frame, got {self.tolerance_s}"
            )

    def choose(self, timestamp_us: Int64[np.ndarray, " frame"], own: int) -> list[int]:
        """Return the frame of each offset from frame ``own``, or -1 where there is none."""
        match self.unit:
            case "seconds":
                return self.near(timestamp_us, int(timestamp_us[own]))
            case "frames":
                frames = [own + int(offset) for offset in self.offsets]
                return [frame if 0 <= frame < len(timestamp_us) else -1 for frame in frames]

    def near(self, timestamp_us: Int64[np.ndarray, " frame"], moment_us: int) -> list[int]:
        """Return the frame of each offset from a moment, or -1 where none is near enough.

        In ``frames`` nothing is known of a sensor that has no key frame to count from.
        """
        if self.unit == "frames" or not len(timestamp_us):
            return [-1] * len(self.offsets)
        chosen: list[int] = []
        for offset in self.offsets:
            apart = np.abs(timestamp_us - (moment_us + round(offset * _MICRO)))
            frame = int(apart.argmin())
            chosen.append(frame if apart[frame] <= self.tolerance_s * _MICRO else -1)
        return chosen


def _at_key_frames() -> ClipTimes:
    return ClipTimes((0.0,))


@final
class ClipDataset:
    """Give clips around the samples of a store, by ``(epoch, sample)``.

    Images are scaled by ``scale`` and padded at the bottom and the right to the largest camera,
    and on to a multiple of ``multiple``; intrinsics follow exactly. What a rig or a moment lacks
    is masked: a camera that a scene does not have, a moment before its first frame, a gap, a frame
    whose pose is unknown. Nothing is drawn at random, so every epoch shows the same.

    Args:
        store: Where the scenes are.
        anchors: The (scene, sample) pairs that make up the data set; see ``split_samples``.
        times: The moments of every clip.
        cameras: The views, in order; by default every camera of the anchors' scenes.
        scale: Size of the images to that in the store.
        multiple: What height and width of the images are multiples of.
        lidar: The lidar to take sweeps of; None for none.
        lidar_times: The sweeps of every clip; by default the key frame's own.
        boxes: Whether clips hold the anchor's boxes.
        on_corrupt: ``mask`` takes a broken frame for a missing one and says so in
            ``Clip.skipped``.

    Raises:
        ValueError: If there are no anchors, or an option is out of range.
        DataError: If an anchor's scene has no such sample, no boxes that are asked for, or names
            their categories differently.
    """

    def __init__(
        self,
        store: Store,
        anchors: Sequence[FrameKey],
        *,
        times: ClipTimes,
        cameras: Sequence[str] | None = None,
        scale: float = 0.5,
        multiple: int = 32,
        lidar: str | None = None,
        lidar_times: ClipTimes | None = None,
        boxes: bool = False,
        on_corrupt: OnCorrupt = "raise",
    ):
        if not anchors:
            raise ValueError("anchors must hold at least one (scene, sample), got none")
        if not 0 < scale <= 1 or multiple < 1:
            raise ValueError(
                f"scale must be in (0, 1] and multiple at least 1, got {scale} and {multiple}"
            )
        self._store = store
        self._times = times
        self._scale = scale
        self._lidar = lidar
        self._lidar_times = lidar_times or _at_key_frames()
        self._on_corrupt: OnCorrupt = on_corrupt
        # Arrays, not a list of tuples: forked workers share them without copying.
        self._scenes = tuple(dict.fromkeys(scene for scene, _ in anchors))
        number = {scene: index for index, scene in enumerate(self._scenes)}
        self._scene_of = np.array([number[scene] for scene, _ in anchors], dtype=np.int32)
        self._sample_of = np.array([sample for _, sample in anchors], dtype=np.int32)
        self._check_samples()
        scenes = [store.scene(scene) for scene in self._scenes]
        there = dict.fromkeys(name for scene in scenes for name in scene.cameras)
        self.cameras = tuple(there if cameras is None else cameras)
        self.image_size = self._largest(scenes, multiple)
        self._categories = _shared_categories(scenes) if boxes else None

    def __len__(self) -> int:
        return len(self._sample_of)

    def __getitem__(self, key: SampleKey | tuple[int, int]) -> Clip:
        """Read clip ``key[1]``; all epochs show the same.

        Raises:
            DataError: If a frame is broken and broken frames are not masked.
        """
        _, at = key
        scene = self._store.scene(self._scenes[self._scene_of[at]])
        sample = int(self._sample_of[at])
        moment_us = _moment(scene, sample)
        reading = _Reading(scene, self._on_corrupt)
        shape = (len(self._times.offsets), len(self.cameras))
        views = _Views.empty(shape, self.image_size)
        for view, name in enumerate(self.cameras):
            if name in scene.cameras:
                camera = scene.camera(name)
                for time, frame in enumerate(_frames(camera, self._times, sample, moment_us)):
                    if frame >= 0 and camera.pose_valid[frame]:
                        with reading.of(f"{name}[frame {frame}]"):
                            views.put(camera, frame, (time, view), self._scaled(camera.rgb_size))
        sweeps = self._sweeps(scene, sample, moment_us, reading)
        return Clip(
            images=views.images,
            unpadded=views.unpadded,
            intrinsics=views.intrinsics,
            world_from_cam=views.world_from_cam,
            timestamp_us=views.timestamp_us,
            valid=views.valid,
            origin=_origin(views, sweeps),
            scene=scene.name,
            sample=sample,
            lidar=sweeps,
            boxes=None if self._categories is None else _boxes_at(scene, sample),
            skipped=tuple(reading.skipped),
        )

    def collate(self, samples: Sequence[Clip]) -> ClipBatch:
        """Lay clips side by side."""
        return collate_clips(samples, categories=self._categories or ())

    def _check_samples(self) -> None:
        for number, scene in enumerate(self._scenes):
            wanted = self._sample_of[self._scene_of == number]
            there = self._store.scene(scene).samples
            if not 0 <= wanted.min() <= wanted.max() < there:
                raise DataError(
                    f"{self._store.path}/{scene}: must have sample {wanted.max()}, it has {there}; "
                    "convert a source with key frames, such as nuScenes"
                )

    def _largest(self, scenes: Iterable[Scene], multiple: int) -> Size:
        sizes = [
            self._scaled(scene.attributes.cameras[name].rgb_size)
            for scene in scenes
            for name in self.cameras
            if name in scene.cameras
        ]
        if not sizes:
            raise DataError(
                f"{self._store.path}: must have one of the cameras {', '.join(self.cameras)}"
            )
        height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))
        if max(height, width) > _LARGEST_SIDE:
            raise ValueError(f"images must be at most {_LARGEST_SIDE} wide, got {height}x{width}")
        return height, width

    def _scaled(self, size: Size) -> Size:
        return max(1, round(self._scale * size[0])), max(1, round(self._scale * size[1]))

    def _sweeps(
        self, scene: Scene, sample: int, moment_us: int, reading: "_Reading"
    ) -> SweepParts | None:
        if self._lidar is None:
            return None
        count = len(self._lidar_times.offsets)
        points: list[np.ndarray] = [np.zeros((0, 3), dtype=np.float32)]
        counts, times = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        poses = np.tile(np.eye(4), (count, 1, 1))
        valid = np.zeros(count, dtype=np.bool_)
        if self._lidar in scene.lidars:
            lidar = scene.lidar(self._lidar)
            frames = _frames(lidar, self._lidar_times, sample, moment_us)
            for index, frame in enumerate(frames):
                if frame >= 0 and lidar.pose_valid[frame]:
                    with reading.of(f"lidar/{self._lidar}[sweep {frame}]"):
                        points.append(lidar.points(frame))
                        counts[index], valid[index] = len(points[-1]), True
                        times[index] = lidar.timestamp_us[frame]
                        poses[index] = nearest_rigid(lidar.world_from_lidar[frame])
        return SweepParts(np.concatenate(points), counts, poses, times, valid)


@final
class _Reading:
    """Let broken frames pass, remembering them, if they are to be masked."""

    def __init__(self, scene: Scene, on_corrupt: OnCorrupt):
        self.skipped: list[str] = []
        self._scene = scene.place
        self._frame = ""
        self._on_corrupt: OnCorrupt = on_corrupt

    def of(self, frame: str) -> "_Reading":
        """Say which frame is read next."""
        self._frame = frame
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, DataError):
            return False
        message = str(error)
        if not message.startswith(self._scene):
            message = f"{self._scene}/{self._frame}: {message}"
        if self._on_corrupt == "raise":
            raise DataError(message) from error
        self.skipped.append(message)
        return True


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Views:
    """The cameras' part of a clip while it is filled; masked wherever nothing was put."""

    images: Float32[Tensor, "time view 3 h w"]
    unpadded: Int64[np.ndarray, "time view 2"]
    intrinsics: Float64[np.ndarray, "time view 4"]
    world_from_cam: Float64[np.ndarray, "time view 4 4"]
    timestamp_us: Int64[np.ndarray, "time view"]
    valid: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, int], image_size: Size) -> "_Views":
        return cls(
            images=torch.zeros(*shape, 3, *image_size),
            unpadded=np.zeros((*shape, 2), dtype=np.int64),
            intrinsics=np.tile(np.array([1.0, 1.0, 0.0, 0.0]), (*shape, 1)),
            world_from_cam=np.tile(np.eye(4), (*shape, 1, 1)),
            timestamp_us=np.zeros(shape, dtype=np.int64),
            valid=np.zeros(shape, dtype=np.bool_),
        )

    def put(self, camera: CameraReader, frame: int, at: tuple[int, int], size: Size) -> None:
        """Fill one place; it stays masked if anything is broken."""
        image = _read_image(camera, frame, size)
        down, across = (new / old for new, old in zip(size, camera.rgb_size, strict=True))
        intrinsics = camera.rgb_intrinsics[frame] * np.array([across, down, across, down])
        pose = nearest_rigid(camera.world_from_cam[frame])
        timestamp_us = camera.rgb_timestamp_us[frame]
        self.images[at][:, : size[0], : size[1]] = image
        self.unpadded[at] = size
        self.intrinsics[at] = intrinsics
        self.world_from_cam[at] = pose
        self.timestamp_us[at] = timestamp_us
        self.valid[at] = True


def _read_image(camera: CameraReader, frame: int, size: Size) -> Float32[Tensor, "3 h w"]:
    """Decode an image at a size; a JPEG that shrinks by a power of two needs no resampling."""
    full = camera.rgb_size
    spare = min(full[0] / size[0], full[1] / size[1])
    reduction = next((each for each in REDUCTIONS if spare >= each), 1)
    reduced = (-(-full[0] // reduction), -(-full[1] // reduction))
    exact = all(side % reduction == 0 for side in full)
    least = reduced if exact else full
    image = decode_rgb(camera.rgb_bytes(frame), min_height=least[0], min_width=least[1])
    if image.shape[:2] not in (full, least):
        raise DataError(f"rgb must be {full[0]}x{full[1]} pixels, got {image.shape[:2]}")
    return resample_rgb(image, image_size=size, flip=False)


def _frames(
    sensor: CameraReader | LidarReader, times: ClipTimes, sample: int, moment_us: int
) -> list[int]:
    """Return the sensor's frame of each moment around a sample, or -1."""
    timestamp_us = _timestamps(sensor)
    own = _key_frame(sensor, sample)
    if own is None:
        return times.near(timestamp_us, moment_us)
    return times.choose(timestamp_us, own)


def _timestamps(sensor: CameraReader | LidarReader) -> Int64[np.ndarray, " frame"]:
    return sensor.timestamp_us if isinstance(sensor, LidarReader) else sensor.rgb_timestamp_us


def _key_frame(sensor: CameraReader | LidarReader, sample: int) -> int | None:
    """Return the sensor's own key frame of a sample."""
    if not (sensor.attributes.has_key_frame and sensor.attributes.has_sample):
        return None
    found = np.flatnonzero(sensor.key_frame & (sensor.sample == sample))
    return int(found[0]) if len(found) else None


def _moment(scene: Scene, sample: int) -> int:
    """Return the time of a sample: that of a lidar's key frame, else of the cameras' median.

    Raises:
        DataError: If no sensor has a key frame of it.
    """
    for sensors in (map(scene.lidar, scene.lidars), map(scene.camera, scene.cameras)):
        moments = [
            int(_timestamps(sensor)[own])
            for sensor in sensors
            if (own := _key_frame(sensor, sample)) is not None
        ]
        if moments:
            return sorted(moments)[len(moments) // 2]
    raise DataError(f"{scene.place}[sample {sample}]: no sensor has a key frame of it")


def _origin(views: _Views, sweeps: SweepParts | None) -> Float64[np.ndarray, "3"]:
    """Return where the clip's first known sensor was."""
    known = [views.world_from_cam[views.valid]]
    if sweeps is not None:
        known.insert(0, sweeps.world_from_lidar[sweeps.valid])
    poses = np.concatenate(known)
    return poses[0, :3, 3].copy() if len(poses) else np.zeros(3)


def _boxes_at(scene: Scene, sample: int) -> BoxParts:
    boxes = scene.boxes()
    if boxes is None:
        raise DataError(f"{scene.place}: must have boxes, got none")
    here = boxes.sample == sample
    return BoxParts(
        world_from_box=boxes.world_from_box[here],
        size=boxes.size[here],
        velocity=boxes.velocity[here],
        category=boxes.category[here].astype(np.int64),
        track=boxes.track[here].astype(np.int64),
    )


def _shared_categories(scenes: Sequence[Scene]) -> tuple[str, ...]:
    named: tuple[str, ...] | None = None
    for scene in scenes:
        with leading(scene.place):
            known = scene.attributes.boxes
            if known is None:
                raise DataError("must have boxes, got none; leave the scene out")
            if named not in (None, known.categories):
                raise DataError(
                    f"must name its categories as the others do, got {known.categories}"
                )
            named = known.categories
    return named or ()
