"""The boxes about the things on a street: where they are, what hits them, what shows of them."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from geomim.cameras import PinholeCamera
from geomim.raycasting import Primitives
from geomim.transforms import RigidTransform
from geomim_data.sources.synthetic.casting import cast_from
from geomim_data.sources.synthetic.motion import Times
from geomim_data.sources.synthetic.streets import Street

_CORNERS = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
# People draw boxes a little loose; and points on the ground are no part of a thing.
_LOOSE_M = 0.01


@final
@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """The boxes of all actors at one time: x to their front, y to the left, z up, from the middle.

    ``size`` is length, width and height, along these axes. Boxes have a centimetre to spare, and
    begin a centimetre above the ground.
    """

    world_from_box: RigidTransform
    size: Float64[np.ndarray, "actor 3"]
    speed: Float64[np.ndarray, " actor"]

    def holding(self, points_world: Float64[np.ndarray, "point 3"]) -> Bool[np.ndarray, "actor p"]:
        """Tell which points lie in which box."""
        within: list[np.ndarray] = []
        for number, half in enumerate(self.size / 2):
            pose = self.world_from_box[number]
            local = pose.inverse().apply(torch.from_numpy(points_world)).numpy()
            within.append((np.abs(local) <= half).all(axis=1))
        return np.array(within).reshape(len(self.size), len(points_world))

    def corners(self, actor: int) -> Float64[np.ndarray, "8 3"]:
        """Return the corners of one box in the world."""
        local = torch.from_numpy(_CORNERS * self.size[actor])
        return self.world_from_box[actor].apply(local).numpy()


def boxes_at(street: Street, time_s: float) -> Boxes:
    """Return the boxes of all actors at a time, in their order."""
    when = np.array([time_s])
    poses = [street.world_from_thing(number, when)[0] for number in range(len(street.actors))]
    forward = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).double()
    sizes = np.array([actor.body.size for actor in street.actors]).reshape(-1, 3)
    rotations = [pose.rotation @ forward for pose in poses]
    centres = [
        pose.translation + torch.tensor([0.0, 0.0, height / 2 + _LOOSE_M], dtype=torch.float64)
        for pose, height in zip(poses, sizes[:, 2].tolist(), strict=True)
    ]
    return Boxes(
        world_from_box=RigidTransform(
            torch.stack(rotations or [torch.zeros(3, 3).double()])[: len(poses)],
            torch.stack(centres or [torch.zeros(3).double()])[: len(poses)],
        ),
        size=sizes[:, [1, 0, 2]] + (2 * _LOOSE_M, 2 * _LOOSE_M, 0.0),
        speed=np.array([float(actor.motion.speed_at(when)[0]) for actor in street.actors]),
    )


def unoccluded_pixels(
    street: Street, camera: PinholeCamera, world_from_cam: RigidTransform, time_s: float
) -> Int64[np.ndarray, " actor"]:
    """Count the pixels that each actor would cover if nothing stood before it."""
    boxes = boxes_at(street, time_s)
    counts = np.zeros(len(street.actors), np.int64)
    for actor in range(len(street.actors)):
        window = _window(boxes.corners(actor), camera, world_from_cam)
        if window is None:
            continue
        pixels = camera.pixel_grid()[window].reshape(-1, 2)
        directions = world_from_cam.rotate(camera.ray_directions(pixels).directions).numpy()
        solids = _placed_solids(street, actor, time_s)
        hits = cast_from(world_from_cam.translation.numpy(), directions, solids)
        counts[actor] = (hits.primitive >= 0).sum()
    return counts


def _placed_solids(street: Street, actor: int, time_s: Times | float) -> Primitives:
    own = street.own_solids[actor]
    pose = street.world_from_thing(actor, np.array([time_s])) @ own.world_from_primitive
    return Primitives(own.kind, pose, own.half_size)


def _window(
    corners_world: Float64[np.ndarray, "8 3"],
    camera: PinholeCamera,
    world_from_cam: RigidTransform,
) -> tuple[slice, slice] | None:
    """Return rows and columns that hold all of a box, the whole image for one beside the camera."""
    height, width = camera.size
    points_cam = world_from_cam.inverse().apply(torch.from_numpy(corners_world))
    if (points_cam[:, 2] <= 0).all():
        return None
    if (points_cam[:, 2] < 0.3).any():
        return slice(0, height), slice(0, width)
    pixels = camera.project(points_cam).pixels.numpy()
    left, top = np.maximum(np.floor(pixels.min(axis=0)).astype(int), 0).tolist()
    right, bottom = np.minimum(np.ceil(pixels.max(axis=0)).astype(int), (width, height)).tolist()
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None
