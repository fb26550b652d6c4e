"""Rays cast against the solids of a scene, in NumPy, each against those near it alone."""

from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from geomim.raycasting import Primitives, cast_rays

# Ray and solid pairs that are tried together: about what culling another time costs.
_PAIRS = 1 << 20
# Where any choice is right, a part of the rays is enough to make a good one.
_SAMPLED = 8


@final
class Hits(NamedTuple):
    """Where rays of unit length met solids; ``primitive`` is -1 and the rest 0 where none did."""

    distance: Float64[np.ndarray, " ray"]
    primitive: Int64[np.ndarray, " ray"]
    normal_world: Float64[np.ndarray, "ray 3"]


def cast_from(
    origin_world: Float64[np.ndarray, "3"] | Float64[np.ndarray, "ray 3"],
    directions_world: Float64[np.ndarray, "ray 3"],
    primitives: Primitives,
) -> Hits:
    """Find the first surface along rays of unit length that leave one point, or several.

    Rays are halved by where they look until few solids lie in the way of each part; the result
    is that of trying all solids, to the last bit.
    """
    count = len(directions_world)
    hits = Hits(np.zeros(count), np.full(count, -1), np.zeros((count, 3)))
    solids = _Solids(primitives)
    # By coordinate: NumPy reduces rows several times as fast as columns.
    origins, directions = (
        np.ascontiguousarray(values.reshape(-1, 3).T) for values in (origin_world, directions_world)
    )
    parts = [(np.arange(count), np.arange(len(solids.radius)))]
    while parts:
        rays, kept = parts.pop()
        origin = origins if origins.shape[1] == 1 else origins[:, rays]
        direction = directions[:, rays]
        kept = kept[solids.meet_cone(origin, direction, kept)]
        if len(rays) * len(kept) > _PAIRS and len(rays) > 1:
            parts += [(rays[half], kept) for half in _halves(direction)]
        elif len(kept):
            solids.cast(origin.T, directions_world[rays], kept, rays, hits)
    return hits


def _halves(directions: Float64[np.ndarray, "3 ray"]) -> tuple[Int64[np.ndarray, " half"], ...]:
    """Split rays at the median of the coordinate in which they differ most."""
    spread = directions[np.ptp(directions[:, ::_SAMPLED], axis=1).argmax()]
    order = np.argpartition(spread, len(spread) // 2)
    return order[: len(order) // 2], order[len(order) // 2 :]


@final
class _Solids:
    """The solids of a scene and balls around them."""

    def __init__(self, primitives: Primitives) -> None:
        self.primitives = primitives
        self.centre = primitives.world_from_primitive.translation.numpy()
        self.radius = np.linalg.norm(primitives.half_size.numpy(), axis=1)

    def meet_cone(
        self,
        origins: Float64[np.ndarray, "3 #ray"],
        directions: Float64[np.ndarray, "3 ray"],
        which: Int64[np.ndarray, " solid"],
    ) -> Bool[np.ndarray, " solid"]:
        """Tell which solids' balls reach into a round cone about the rays.

        Balls grow by how far the rays' origins lie from their middle.
        """
        axis = directions[:, ::_SAMPLED].sum(axis=1)
        axis /= max(float(np.linalg.norm(axis)), 1e-12)
        spread = np.arccos(np.clip((axis @ directions).min(initial=1.0), -1, 1))
        low, high = origins.min(axis=1), origins.max(axis=1)
        ahead = self.centre[which] - (low + high) / 2
        radius = self.radius[which] + np.linalg.norm(high - low) / 2
        distance = np.maximum(np.sqrt(np.einsum("si,si->s", ahead, ahead)), radius)
        off_axis = np.arccos(np.clip(ahead @ axis / distance, -1, 1))
        return (distance <= radius) | (off_axis <= spread + np.arcsin(radius / distance) + 1e-6)

    def cast(
        self,
        origins: Float64[np.ndarray, "#ray 3"],
        directions: Float64[np.ndarray, "ray 3"],
        which: Int64[np.ndarray, " solid"],
        rays: Int64[np.ndarray, " ray"],
        out: Hits,
    ) -> None:
        """Fill the hits of some rays with some of the solids."""
        index = torch.from_numpy(which)
        chosen = Primitives(
            self.primitives.kind[index],
            self.primitives.world_from_primitive[index],
            self.primitives.half_size[index],
        )
        found = cast_rays(torch.from_numpy(origins), torch.from_numpy(directions), chosen)
        out.distance[rays] = found.distance.numpy()
        # Index -1, no solid, finds the -1 at the end.
        out.primitive[rays] = np.append(which, -1)[found.primitive.numpy()]
        out.normal_world[rays] = found.normal_world.numpy()
