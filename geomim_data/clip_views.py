"""The cameras' part of a clip: images at the size of the clip, and what is known of them."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from geomim_data.augment import REDUCTIONS, resample_rgb
from geomim_data.camera_reader import CameraReader
from geomim_data.codecs import decode_rgb
from geomim_data.errors import DataError
from geomim_data.moments import nearest_rigid

Size = tuple[int, int]


@final
@dataclass(frozen=True, slots=True, eq=False)
class ClipViews:
    """The cameras' part of a clip while it is filled; masked wherever nothing was put."""

    images: Float32[Tensor, "time view 3 h w"]
    unpadded: Int64[np.ndarray, "time view 2"]
    intrinsics: Float64[np.ndarray, "time view 4"]
    world_from_cam: Float64[np.ndarray, "time view 4 4"]
    timestamp_us: Int64[np.ndarray, "time view"]
    valid: Bool[np.ndarray, "time view"]

    @classmethod
    def empty(cls, shape: tuple[int, int], image_size: Size) -> "ClipViews":
        """Return places for ``shape`` images, with nothing in any."""
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
