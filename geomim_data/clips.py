"""Clips of a store: what each camera of a rig saw at some moments around a key frame."""

from collections.abc import Iterable, Sequence
from typing import Literal, final

import numpy as np
from jaxtyping import Float64

from geomim_data.clip_batch import BoxParts, Clip, ClipBatch, SweepParts, collate_clips
from geomim_data.clip_times import ClipTimes, frames_around, moment_of
from geomim_data.clip_views import ClipViews, Size
from geomim_data.errors import DataError, leading
from geomim_data.moments import nearest_rigid
from geomim_data.sampler import SampleKey
from geomim_data.split import FrameKey
from geomim_data.store import Scene, Store

OnCorrupt = Literal["raise", "mask"]

_LARGEST_SIDE = 2**14


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
        self._lidar_times = lidar_times or ClipTimes((0.0,))
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
        moment_us = moment_of(scene, sample)
        reading = _Reading(scene, self._on_corrupt)
        shape = (len(self._times.offsets), len(self.cameras))
        views = ClipViews.empty(shape, self.image_size)
        for view, name in enumerate(self.cameras):
            if name in scene.cameras:
                camera = scene.camera(name)
                for time, frame in enumerate(frames_around(camera, self._times, sample, moment_us)):
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
            frames = frames_around(lidar, self._lidar_times, sample, moment_us)
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


def _origin(views: ClipViews, sweeps: SweepParts | None) -> Float64[np.ndarray, "3"]:
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
