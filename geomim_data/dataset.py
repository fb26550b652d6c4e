"""Frames of a store as samples and batches of what a network reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt16
from torch import Tensor

from geomim.cameras import PinholeCamera
from geomim.depth import depth_from_distance
from geomim.transforms import RigidTransform
from geomim_data.augment import Augment, CentreFit, Window, resample_nearest, resample_rgb
from geomim_data.camera_reader import CameraReader
from geomim_data.codecs import decode_rgb
from geomim_data.errors import DataError, leading
from geomim_data.moments import nearest_rigid
from geomim_data.sampler import SampleKey
from geomim_data.split import FrameKey
from geomim_data.store import Store

OnCorrupt = Literal["raise", "skip"]
MAX_SKIPS = 100


@final
@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One frame, cropped and resized; see ``RgbdBatch`` for what each field holds.

    ``intrinsics`` are fx, fy, cx, cy of the image as it is here; ``skipped`` tells of the broken
    frames that this one stands in for.
    """

    rgb: Float32[Tensor, "3 h w"]
    depth: Float32[Tensor, "h w"]
    intrinsics: Float64[np.ndarray, "4"]
    world_from_cam: Float64[np.ndarray, "4 4"]
    pose_valid: bool
    scene: str
    frame: int
    label: Int64[Tensor, "h w"] | None = None
    instance: Int64[Tensor, "h w"] | None = None
    skipped: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True, eq=False)
class RgbdBatch:
    """Frames side by side: colour of 0 to 1, depth in metres (0 where invalid), and their views.

    ``camera`` is that of the images as they are here. ``world_from_cam`` is the identity where
    ``pose_valid`` is False. Labels are 0 where nothing is known.
    """

    rgb: Float32[Tensor, "batch 3 h w"]
    depth: Float32[Tensor, "batch h w"]
    depth_valid: Bool[Tensor, "batch h w"]
    camera: PinholeCamera
    world_from_cam: RigidTransform
    pose_valid: Bool[Tensor, " batch"]
    scene: tuple[str, ...]
    frame: tuple[int, ...]
    label: Int64[Tensor, "batch h w"] | None = None
    instance: Int64[Tensor, "batch h w"] | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "RgbdBatch":
        """Return the batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "RgbdBatch":
        """Return the batch in page-locked memory, from where copies to a GPU run beside it."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> "RgbdBatch":
        pose, camera = self.world_from_cam, self.camera
        return RgbdBatch(
            rgb=move(self.rgb),
            depth=move(self.depth),
            depth_valid=move(self.depth_valid),
            camera=PinholeCamera(
                focal=move(camera.focal),
                principal_point=move(camera.principal_point),
                size=camera.size,
            ),
            world_from_cam=RigidTransform(move(pose.rotation), move(pose.translation)),
            pose_valid=move(self.pose_valid),
            scene=self.scene,
            frame=self.frame,
            label=None if self.label is None else move(self.label),
            instance=None if self.instance is None else move(self.instance),
        )


def collate(samples: Sequence[Sample]) -> RgbdBatch:
    """Lay samples of one size side by side."""
    depth = torch.stack([sample.depth for sample in samples])
    intrinsics = torch.from_numpy(np.stack([s.intrinsics for s in samples])).float()
    matrices = torch.from_numpy(np.stack([s.world_from_cam for s in samples])).float()
    return RgbdBatch(
        rgb=torch.stack([sample.rgb for sample in samples]),
        depth=depth,
        depth_valid=depth > 0,
        camera=PinholeCamera(
            focal=intrinsics[:, :2],
            principal_point=intrinsics[:, 2:],
            size=(depth.shape[1], depth.shape[2]),
        ),
        world_from_cam=RigidTransform.from_matrix(matrices),
        pose_valid=torch.tensor([sample.pose_valid for sample in samples]),
        scene=tuple(sample.scene for sample in samples),
        frame=tuple(sample.frame for sample in samples),
        label=_stack([sample.label for sample in samples]),
        instance=_stack([sample.instance for sample in samples]),
    )


def _stack(planes: Sequence[Tensor | None]) -> Tensor | None:
    present = [plane for plane in planes if plane is not None]
    return torch.stack(present) if present else None


@final
class RgbdDataset:
    """Give a store's frames as samples of one size, by ``(epoch, sample)``.

    What a sample shows is drawn from a generator seeded by ``(seed, epoch, sample)`` alone, so it
    is the same in any process. Colour and depth are taken to show the same view, as in ScanNet:
    each is resampled from its own size, and the camera is the colour image's. Where a sensor's
    two cameras differ (7-Scenes: 5 to 15 pixels), depth stays that much off.

    The camera of a mirrored image has a negative first focal length: points and poses stay those
    of the one world.

    Args:
        store: Where the frames are.
        frames: The (scene, frame) pairs that make up the data set.
        image_size: (height, width) of every sample.
        augment: Which part of a frame to show; the centre by default.
        seed: What all draws follow from.
        needs_depth: Whether a scene without depth is an error; else its depth is 0 throughout.
        labels: Whether samples hold ``label``, and ``instance`` if all scenes have them.
        on_corrupt: ``skip`` puts the next frame that can be read in the place of a broken one, and
            says so in ``Sample.skipped``.
        camera: The camera to read.

    Raises:
        ValueError: If there are no frames.
        DataError: If a scene lacks the depth or the labels that are asked for.
    """

    def __init__(
        self,
        store: Store,
        frames: Sequence[FrameKey],
        *,
        image_size: tuple[int, int],
        augment: Augment | None = None,
        seed: int = 0,
        needs_depth: bool = True,
        labels: bool = False,
        on_corrupt: OnCorrupt = "raise",
        camera: str = "camera",
    ):
        if not frames:
            raise ValueError("frames must hold at least one (scene, frame), got none")
        self._store = store
        self._image_size = image_size
        self._augment: Augment = CentreFit() if augment is None else augment
        self._seed = seed
        self._labels = labels
        self._on_corrupt: OnCorrupt = on_corrupt
        self._camera = camera
        # Arrays, not a list of tuples: forked workers share them without copying.
        self._scenes = tuple(dict.fromkeys(scene for scene, _ in frames))
        number = {scene: index for index, scene in enumerate(self._scenes)}
        self._scene_of = np.array([number[scene] for scene, _ in frames], dtype=np.int32)
        self._frame_of = np.array([frame for _, frame in frames], dtype=np.int32)
        for scene in self._scenes:
            self._check(scene, needs_depth=needs_depth)
        self._instances = labels and all(self._reader(s).has_instance for s in self._scenes)

    def __len__(self) -> int:
        return len(self._frame_of)

    def _reader(self, scene: str) -> CameraReader:
        return self._store.scene(scene).camera(self._camera)

    def _check(self, scene: str, *, needs_depth: bool) -> None:
        reader = self._reader(scene)
        if needs_depth and not reader.has_depth:
            raise DataError(
                f"{self._store.path}/{scene}: must have depth, got none; leave the scene out, or "
                "train on colour alone (method: mae)"
            )
        if self._labels and not reader.has_label:
            raise DataError(f"{self._store.path}/{scene}: must have labels, got none")

    def __getitem__(self, key: SampleKey | tuple[int, int]) -> Sample:
        """Read sample ``key[1]`` as epoch ``key[0]`` shows it.

        Raises:
            DataError: If the frame is broken and broken frames are not skipped, or too many follow
                one another.
        """
        epoch, first = key
        skipped: list[str] = []
        while True:
            at = (first + len(skipped)) % len(self)
            scene, frame = self._scenes[self._scene_of[at]], int(self._frame_of[at])
            try:
                sample = self._read(scene, frame, generator=self._generator(epoch, first))
            except DataError as error:
                if self._on_corrupt == "raise" or len(skipped) >= min(MAX_SKIPS, len(self) - 1):
                    raise
                skipped.append(str(error))
            else:
                return replace(sample, skipped=tuple(skipped)) if skipped else sample

    def collate(self, samples: Sequence[Sample]) -> RgbdBatch:
        """Lay samples side by side."""
        return collate(samples)

    def _generator(self, epoch: int, sample: int) -> torch.Generator:
        words = np.random.SeedSequence((self._seed, epoch, sample)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(words[0]))

    def _read(self, scene: str, frame: int, *, generator: torch.Generator) -> Sample:
        reader = self._reader(scene)
        drawn = self._augment.window(reader.rgb_size, self._image_size, generator=generator)
        with leading(f"{self._store.path}/{scene}[frame {frame}]"):
            rgb, window = _show(reader, frame, drawn, self._image_size)
        intrinsics = window.intrinsics(
            reader.rgb_intrinsics[frame], size=reader.rgb_size, image_size=self._image_size
        )
        pose_valid = bool(reader.pose_valid[frame])
        pose = nearest_rigid(reader.world_from_cam[frame]) if pose_valid else np.eye(4)
        return Sample(
            rgb=self._augment.recolour(rgb, generator=generator),
            depth=self._depth(reader, frame, window),
            intrinsics=intrinsics,
            world_from_cam=pose,
            pose_valid=pose_valid,
            scene=scene,
            frame=frame,
            label=self._ids(reader.label, frame, window) if self._labels else None,
            instance=self._ids(reader.instance, frame, window) if self._instances else None,
        )

    def _depth(self, reader: CameraReader, frame: int, window: Window) -> Float32[Tensor, "h w"]:
        if not reader.has_depth:
            return torch.zeros(self._image_size)
        plane = reader.depth(frame)
        if reader.depth_kind == "depth":
            plane = resample_nearest(plane, window, self._image_size)
            return torch.from_numpy(plane.astype(np.float32) * np.float32(reader.depth_unit_m))
        depth = _along_the_axis(plane * reader.depth_unit_m, reader.depth_intrinsics[frame])
        return torch.from_numpy(resample_nearest(depth, window, self._image_size)).float()

    def _ids(
        self, read: Callable[[int], UInt16[np.ndarray, "_h _w"]], frame: int, window: Window
    ) -> Int64[Tensor, "h w"]:
        ids = resample_nearest(read(frame), window, self._image_size)
        return torch.from_numpy(ids.astype(np.int64))


def _show(
    reader: CameraReader, frame: int, drawn: Window, image_size: tuple[int, int]
) -> tuple[Float32[Tensor, "3 h w"], Window]:
    """Return the drawn part of a colour image, and the window that it is, to whole pixels."""
    height, width = size = reader.rgb_size
    reduction = drawn.reduction(size, image_size)
    reduced = (-(-height // reduction), -(-width // reduction))
    whole = decode_rgb(reader.rgb_bytes(frame), min_height=reduced[0], min_width=reduced[1])
    if whole.shape[:2] == size:  # a PNG is always decoded at its own size
        reduction = 1
    elif whole.shape[:2] != reduced:
        raise DataError(f"rgb must be {height}x{width} pixels, got {whole.shape[:2]}")
    window = drawn.snap(size, reduction=reduction)
    crop = whole[window.box(size, reduction=reduction)]
    return resample_rgb(crop, image_size=image_size, flip=window.flip), window


def _along_the_axis(
    distance: Float64[np.ndarray, "h w"], intrinsics: Float64[np.ndarray, "4"]
) -> Float64[np.ndarray, "h w"]:
    height, width = distance.shape
    focal, principal_point = torch.from_numpy(intrinsics.copy()).split(2)
    camera = PinholeCamera(focal, principal_point, (height, width))
    return depth_from_distance(torch.from_numpy(distance), camera).depth.numpy()
