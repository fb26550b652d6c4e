"""The sensors on a synthetic car: six cameras and a lidar, laid out as on nuScenes' cars."""

import math
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Int64
from numpy.random import Generator

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform

CAMERAS: Final = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
LIDAR: Final = "LIDAR_TOP"
REAL_SIZE: Final = (900, 1600)
SWEEP_US: Final = 50_000
"""The lidar turns 20 times a second; its rotation ends at the sweep's timestamp."""
SWEEPS_PER_SAMPLE: Final = 10
EXPOSURES_PER_SAMPLE: Final = 6

# Where each camera looks (degrees to the left), its focal length at 1600 x 900, its place.
_MOUNTS: Final = {
    "CAM_FRONT": (0.0, 1266.0, (1.70, 0.0, 1.51)),
    "CAM_FRONT_RIGHT": (-55.0, 1261.0, (1.55, -0.49, 1.50)),
    "CAM_FRONT_LEFT": (55.0, 1272.0, (1.52, 0.49, 1.51)),
    "CAM_BACK": (180.0, 809.0, (0.03, 0.0, 1.58)),
    "CAM_BACK_LEFT": (108.0, 1257.0, (1.04, 0.48, 1.59)),
    "CAM_BACK_RIGHT": (-110.0, 1260.0, (1.01, -0.48, 1.56)),
}
_LIDAR_PLACE: Final = (0.94, 0.0, 1.84)


@final
@dataclass(frozen=True, slots=True, eq=False)
class MountedCamera:
    """A camera, its place on the car, and how far into a turn of the lidar it fires."""

    camera: PinholeCamera
    ego_from_cam: RigidTransform
    fires_at: float


@final
@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """The sensors of one car: cameras by channel, and the lidar (x right, y to the front)."""

    cameras: dict[str, MountedCamera]
    ego_from_lidar: RigidTransform


def draw_rig(rng: Generator, *, size: tuple[int, int]) -> Rig:
    """Mount the sensors, each a little off its nominal place as on any real car.

    Args:
        rng: Where the errors of mounting come from.
        size: Height and width of the images; the field of view does not depend on them.
    """
    cameras = {channel: _mount(rng, size, *_MOUNTS[channel]) for channel in CAMERAS}
    wobble = _wobble(rng)
    turned = RigidTransform.from_rotation_vector(
        torch.tensor([0.0, 0.0, -math.pi / 2], dtype=torch.float64), _vector(_LIDAR_PLACE)
    )
    return Rig(cameras, turned @ wobble)


def exposures_us(
    fires_at: float, samples: int, *, per_sample: int = EXPOSURES_PER_SAMPLE
) -> Int64[np.ndarray, " frame"]:
    """Return when a camera fires, in microseconds after the first key frame of the lidar.

    As on nuScenes' cars a camera fires when the lidar looks along its axis, and twelve times in
    twenty turns, spread as evenly as whole turns allow.
    """
    frames = np.arange((samples - 1) * per_sample + 1)
    turns = frames * SWEEPS_PER_SAMPLE // per_sample
    return turns * SWEEP_US + round((fires_at - 1) * SWEEP_US)


def sweeps_us(samples: int, *, per_sample: int = SWEEPS_PER_SAMPLE) -> Int64[np.ndarray, " sweep"]:
    """Return when the turns of the lidar end, in microseconds after the first key frame."""
    turns = np.arange((samples - 1) * per_sample + 1) * SWEEPS_PER_SAMPLE // per_sample
    return turns * SWEEP_US


def _mount(
    rng: Generator,
    size: tuple[int, int],
    left_deg: float,
    focal: float,
    place: tuple[float, float, float],
) -> MountedCamera:
    height, width = size
    left = math.radians(left_deg)
    ahead = (math.cos(left), math.sin(left), 0.0)
    right = (math.sin(left), -math.cos(left), 0.0)
    rotation = torch.tensor([right, (0.0, 0.0, -1.0), ahead], dtype=torch.float64).T
    ego_from_cam = RigidTransform(rotation.contiguous(), _vector(place)) @ _wobble(rng)
    scale = torch.tensor([width / REAL_SIZE[1], height / REAL_SIZE[0]], dtype=torch.float64)
    centre = torch.from_numpy(np.array([800.0, 480.0]) + rng.normal(0, 12, 2))
    camera = PinholeCamera(focal * (1 + rng.normal(0, 0.003)) * scale, centre * scale, size)
    # The lidar turns clockwise, seen from above, and starts where it looks to the left.
    return MountedCamera(camera, ego_from_cam, (90.0 - left_deg) % 360 / 360)


def _wobble(rng: Generator) -> RigidTransform:
    """Return a turn of a fraction of a degree and a shift of millimetres."""
    return RigidTransform.from_rotation_vector(
        torch.from_numpy(rng.normal(0, 0.006, 3)), torch.from_numpy(rng.normal(0, 0.008, 3))
    )


def _vector(values: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
