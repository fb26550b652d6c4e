"""A lidar that spins on a moving car, among moving things: every ray at its own time."""

from dataclasses import dataclass
from typing import Final, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8

from geomim.raycasting import Primitives
from geomim.transforms import RigidTransform
from geomim_data.sources.synthetic.casting import Hits, cast_from
from geomim_data.sources.synthetic.scene import Scene
from geomim_data.sources.synthetic.shading import SurfacePoints, reflectance
from geomim_data.sources.synthetic.streets import Street

BEAMS: Final = 32
COLUMNS: Final = 1084
TURN_S: Final = 0.05
_LOWEST_DEG, _HIGHEST_DEG = -30.67, 10.67
_NEAREST_M, _FARTHEST_M = 1.0, 100.0
# Signs and plates send light straight back.
_BRIGHT = 255.0
_RETROREFLECTING = 0.74


@final
@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """The points of one turn, in the order in which they were measured.

    ``points_lidar`` are where the car's motion, but not that of others, says that they are at the
    end of the turn. ``time_s`` is when each was measured, ``instance`` what it lies on.
    """

    points_lidar: Float64[np.ndarray, "point 3"]
    intensity: Float32[np.ndarray, " point"]
    ring: UInt8[np.ndarray, " point"]
    time_s: Float64[np.ndarray, " point"]
    instance: Int64[np.ndarray, " point"]


def measure_sweep(street: Street, ego_from_lidar: RigidTransform, end_s: float) -> Sweep:
    """Turn once around, clockwise seen from above, until ``end_s``, starting to the left."""
    rays = _spin(street, ego_from_lidar, end_s)
    origins, directions = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)
    hits = cast_from(origins, directions, street.still())
    for actor in street.moving():
        _meet_actor(street, actor, rays, hits)
    met = np.flatnonzero(
        (hits.primitive >= 0) & (hits.distance > _NEAREST_M) & (hits.distance < _FARTHEST_M)
    )
    points_world = origins[met] + hits.distance[met, None] * directions[met]
    end = street.ego.world_from_ego(np.array([end_s]))[0] @ ego_from_lidar
    return Sweep(
        points_lidar=end.inverse().apply(torch.from_numpy(points_world)).numpy(),
        intensity=_intensity(street.at(end_s), hits, met, directions[met], points_world),
        ring=(met % BEAMS).astype(np.uint8),
        time_s=rays.time_s[met // BEAMS],
        instance=street.scene.instance[hits.primitive[met]].astype(np.int64),
    )


@final
class _Rays(NamedTuple):
    """The rays of one turn: those of a column leave at one time, from one place."""

    time_s: Float64[np.ndarray, " column"]
    origins: Float64[np.ndarray, "column beam 3"]
    directions: Float64[np.ndarray, "column beam 3"]


def _spin(street: Street, ego_from_lidar: RigidTransform, end_s: float) -> _Rays:
    """Return the rays of a turn in the world; the lidar's axes are x right, y front, z up."""
    share = (np.arange(COLUMNS) + 0.5) / COLUMNS
    time_s = end_s + (share - 1) * TURN_S
    angle = (np.pi - 2 * np.pi * share)[:, None]
    up = np.radians(np.linspace(_LOWEST_DEG, _HIGHEST_DEG, BEAMS))
    flat, high = np.cos(up), np.broadcast_to(np.sin(up), (COLUMNS, BEAMS))
    directions = np.stack([flat * np.cos(angle), flat * np.sin(angle), high], axis=-1)
    world_from_lidar = street.ego.world_from_ego(time_s) @ ego_from_lidar
    origins = world_from_lidar.translation[:, None].expand(COLUMNS, BEAMS, 3).numpy()
    return _Rays(time_s, origins, world_from_lidar.rotate(torch.from_numpy(directions)).numpy())


def _meet_actor(street: Street, actor: int, rays: _Rays, hits: Hits) -> None:
    """Put into ``hits`` what rays meet of something that moves, each ray at its own time."""
    own = street.own_solids[actor]
    world_from_thing = street.world_from_thing(actor, rays.time_s)
    thing_from_world = world_from_thing.inverse()
    origins, directions = (
        move(torch.from_numpy(values)).numpy().reshape(-1, 3)
        for move, values in (
            (thing_from_world.apply, rays.origins),
            (thing_from_world.rotate, rays.directions),
        )
    )
    near = _near(origins, directions, own)
    found = cast_from(origins[near], directions[near], own)
    before = np.where(hits.primitive[near] < 0, np.inf, hits.distance[near])
    nearer = np.flatnonzero((found.primitive >= 0) & (found.distance < before))
    which = near[nearer]
    hits.distance[which] = found.distance[nearer]
    hits.primitive[which] = street.solids_of[actor].start + found.primitive[nearer]
    normal, pose = torch.from_numpy(found.normal_world[nearer]), world_from_thing
    hits.normal_world[which] = pose[torch.from_numpy(which // BEAMS)].rotate(normal).numpy()


def _near(
    origins: Float64[np.ndarray, "ray 3"],
    directions: Float64[np.ndarray, "ray 3"],
    own: Primitives,
) -> Int64[np.ndarray, " near"]:
    """Return the rays, in a thing's frame, that come close enough to meet any of its solids."""
    place, half = own.world_from_primitive.translation.numpy(), own.half_size.numpy()
    radius = float((np.linalg.norm(place, axis=1) + np.linalg.norm(half, axis=1)).max())
    ahead = -np.einsum("ri,ri->r", origins, directions)
    squared = np.einsum("ri,ri->r", origins, origins)
    return np.flatnonzero((ahead > -radius) & (squared - ahead**2 < radius**2))


def _intensity(
    scene: Scene,
    hits: Hits,
    met: Int64[np.ndarray, " point"],
    directions: Float64[np.ndarray, "point 3"],
    points_world: Float64[np.ndarray, "point 3"],
) -> Float32[np.ndarray, " point"]:
    """Return how much light comes back, in whole steps of 0 to 255."""
    normal = hits.normal_world[met]
    points = SurfacePoints(
        hits.primitive[met], directions, points_world, normal, 0.003 * hits.distance[met]
    )
    grey = reflectance(scene, points).mean(axis=1)
    facing = np.abs(np.einsum("pi,pi->p", directions, normal))
    steps = np.where(grey > _RETROREFLECTING, _BRIGHT, 90 * grey * (0.3 + 0.7 * facing))
    return np.rint(np.clip(steps, 0, 255)).astype(np.float32)
