"""Rays from one point, cast against the solids of a scene, in NumPy."""

from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from geomim.raycasting import Primitives, cast_rays


@final
class Hits(NamedTuple):
    """Where rays of unit length met solids; ``primitive`` is -1 and the rest 0 where none did."""

    distance: Float64[np.ndarray, " ray"]
    primitive: Int64[np.ndarray, " ray"]
    normal_world: Float64[np.ndarray, "ray 3"]


def cast_from(
    origin_world: Float64[np.ndarray, "3"],
    directions_world: Float64[np.ndarray, "ray 3"],
    primitives: Primitives,
) -> Hits:
    """Find the first surface along rays of unit length that leave one point."""
    near = np.flatnonzero(_meets_cone(origin_world, directions_world, primitives))
    index = torch.from_numpy(near)
    kept = Primitives(
        primitives.kind[index], primitives.world_from_primitive[index], primitives.half_size[index]
    )
    found = cast_rays(torch.from_numpy(origin_world), torch.from_numpy(directions_world), kept)
    # Index -1, no solid, finds the -1 at the end.
    primitive = np.append(near, -1)[found.primitive.numpy()]
    return Hits(found.distance.numpy(), primitive, found.normal_world.numpy())


def _meets_cone(
    apex: Float64[np.ndarray, "3"],
    directions: Float64[np.ndarray, "ray 3"],
    primitives: Primitives,
) -> Bool[np.ndarray, " primitive"]:
    """Tell which solids' bounding balls reach into a round cone about the rays.

    A camera looks away from most of a room: this halves the time that its rays take.
    """
    axis = directions.sum(axis=0)
    axis /= max(float(np.linalg.norm(axis)), 1e-12)
    spread = np.arccos(np.clip((directions @ axis).min(initial=1.0), -1, 1))
    ahead = primitives.world_from_primitive.translation.numpy() - apex
    radius = np.linalg.norm(primitives.half_size.numpy(), axis=1)
    distance = np.maximum(np.linalg.norm(ahead, axis=1), radius)
    off_axis = np.arccos(np.clip(ahead @ axis / distance, -1, 1))
    return (distance <= radius) | (off_axis <= spread + np.arcsin(radius / distance) + 1e-6)
