"""Procedural streets with traffic: what stands, what moves, and the drive through them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.random import Generator
from torch import Tensor

from geomim.raycasting import Primitives
from geomim.transforms import RigidTransform
from geomim_data.sources.synthetic.atlas import make_atlas
from geomim_data.sources.synthetic.lights import Light, Lighting
from geomim_data.sources.synthetic.motion import Pace, Ride, Sway, Times
from geomim_data.sources.synthetic.scene import Scene, assemble, place_solids
from geomim_data.sources.synthetic.sky import draw_sky
from geomim_data.sources.synthetic.solids import Placed
from geomim_data.sources.synthetic.street_built import LABELS, build_street
from geomim_data.sources.synthetic.street_materials import (
    Materials,
    asphalt,
    grass,
    make_wardrobe,
    slabs,
)
from geomim_data.sources.synthetic.street_plan import DRIVES, Drive, StreetPlan, draw_plan
from geomim_data.sources.synthetic.street_surface import StreetSurface
from geomim_data.sources.synthetic.street_traffic import (
    Actor,
    draw_drive,
    draw_traffic,
    drive_length,
)

_SUN_M = 1500.0


@final
class EgoDrive:
    """The car that carries the sensors: along its lane, with a little wander, pitch and roll."""

    def __init__(self, ride: Ride, rng: Generator) -> None:
        self.ride = ride
        self._sways = [Sway(rng) for _ in range(4)]

    def world_from_ego(self, time_s: Times) -> RigidTransform:
        """Return poses: x to the front, y to the left, z up, the rear axle's middle on z = 0."""
        rolling = np.minimum(self.ride.speed_at(time_s) / 3, 1)
        aside, yaw, pitch, roll = (
            rolling * size * sway.at(time_s)
            for sway, size in zip(self._sways, (0.08, 0.006, 0.006, 0.006), strict=True)
        )
        xy, heading = self.ride.at(time_s)
        left = np.stack([-np.sin(heading), np.cos(heading)], axis=-1)
        place = np.column_stack([xy + aside[:, None] * left, np.zeros(len(time_s))])
        turn = _about_z(torch.from_numpy(heading + yaw))
        nod = torch.from_numpy(np.column_stack([roll, pitch, np.zeros(len(time_s))]))
        sway = RigidTransform.from_rotation_vector(nod, torch.zeros_like(nod))
        return RigidTransform(turn, torch.from_numpy(place)) @ sway


@final
@dataclass(frozen=True, slots=True, eq=False)
class Street:
    """A street in the world frame, z up, during a drive of ``seconds`` from time 0.

    ``scene`` shows it at time 0: first what stands still, then the ``actors``, those that are
    parked before those that move. ``things`` is the number of instances before the actors,
    ``solids_of`` says where in the scene the solids of each actor are. ``own_solids`` are in the
    actor's own frame: x right, y to the front, z up.
    """

    plan: StreetPlan
    seconds: float
    ego: EgoDrive
    actors: tuple[Actor, ...]
    scene: Scene
    things: int
    solids_of: tuple[slice, ...]
    own_solids: tuple[Primitives, ...]

    def instance(self, actor: int) -> int:
        """Return the instance number of an actor in what is rendered."""
        return self.things + 1 + actor

    def moving(self) -> list[int]:
        """Return the numbers of the actors that move."""
        return [number for number, actor in enumerate(self.actors) if actor.state == "moving"]

    def still(self) -> Primitives:
        """Return the solids that never move, the first of the scene."""
        moving = self.moving()
        count = self.solids_of[moving[0]].start if moving else len(self.scene.label)
        return _chosen(self.scene.primitives, np.arange(count))

    def world_from_thing(self, actor: int, time_s: Times) -> RigidTransform:
        """Return the poses of an actor's own frame."""
        return _world_from_thing(self.actors[actor], time_s)

    def at(self, time_s: float) -> Scene:
        """Return the scene as it is at a time."""
        pose = self.scene.primitives.world_from_primitive
        rotation, translation = pose.rotation.clone(), pose.translation.clone()
        for number in self.moving():
            own = self.own_solids[number].world_from_primitive
            placed = self.world_from_thing(number, np.array([time_s])) @ own
            rotation[self.solids_of[number]] = placed.rotation
            translation[self.solids_of[number]] = placed.translation
        primitives = replace(
            self.scene.primitives, world_from_primitive=RigidTransform(rotation, translation)
        )
        opaque = _chosen(primitives, np.flatnonzero(self.scene.glow == 0))
        return replace(self.scene, primitives=primitives, opaque=opaque)


def street(
    seed: int,
    *,
    seconds: float,
    drive: Drive | None = None,
    middle: tuple[float, float] = (0.0, 0.0),
) -> Street:
    """Build a street and its traffic; the same arguments give the same street.

    Args:
        seed: Where all randomness comes from.
        seconds: How long the drive takes.
        drive: How the car goes; drawn if not given.
        middle: Where in the world the middle of the street lies.
    """
    rng = np.random.default_rng(seed)
    drawn = DRIVES[rng.integers(len(DRIVES))]
    drive = drawn if drive is None else drive
    pace = draw_drive(rng, drive, seconds=seconds)
    length_m = drive_length(pace, drive, seconds=seconds)
    plan = draw_plan(rng, drive, length_m=length_m, middle=middle)
    ego = _ego(rng, plan, pace)
    materials = Materials(rng)
    wear = make_wardrobe(materials)
    built = build_street(plan, wear, rng)
    actors = draw_traffic(plan, ego.ride, wear, rng, seconds=seconds)
    actors.sort(key=lambda actor: actor.state == "moving")
    surface = StreetSurface(plan, make_atlas([asphalt(rng), slabs(rng), grass(rng)]))
    scene = assemble(
        [*built, *(_placed(actor) for actor in actors)],
        materials.atlas(),
        _light(rng, middle),
        rng=rng,
        labels=LABELS,
    )
    return Street(
        plan=plan,
        seconds=seconds,
        ego=ego,
        actors=tuple(actors),
        scene=replace(scene, paving=surface),
        things=len(built),
        solids_of=_slices(sum(len(placed.thing.solids) for placed in built), actors),
        own_solids=tuple(_own_solids(actor) for actor in actors),
    )


def _ego(rng: Generator, plan: StreetPlan, pace: Pace) -> EgoDrive:
    lane = 1 if plan.drive == "stop" else int(rng.integers(1, plan.lanes + 1))
    return EgoDrive(Ride(plan.track, pace, plan.lane_offset(lane)), rng)


def _slices(first: int, actors: Sequence[Actor]) -> tuple[slice, ...]:
    ends = first + np.cumsum([len(actor.body.thing.solids) for actor in actors])
    starts = [first, *ends[:-1].tolist()]
    return tuple(slice(start, end) for start, end in zip(starts, ends.tolist(), strict=True))


def _own_solids(actor: Actor) -> Primitives:
    thing = actor.body.thing
    return place_solids([(Placed(thing, 0.0, 0.0), solid) for solid in thing.solids])


def _placed(actor: Actor) -> Placed:
    xy, heading = actor.motion.at(np.zeros(1))
    yaw = float(heading[0]) - math.pi / 2
    return Placed(actor.body.thing, float(xy[0, 0]), float(xy[0, 1]), actor.z, yaw)


def _world_from_thing(actor: Actor, time_s: Times) -> RigidTransform:
    xy, heading = actor.motion.at(time_s)
    place = np.column_stack([xy, np.full(len(time_s), actor.z)])
    turn = _about_z(torch.from_numpy(heading - math.pi / 2))
    return RigidTransform(turn, torch.from_numpy(place))


def _about_z(angle: Float64[Tensor, " time"]) -> Float64[Tensor, "time 3 3"]:
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=-1)
    return turn.unflatten(-1, (3, 3))


def _chosen(primitives: Primitives, which: Int64[np.ndarray, " solid"]) -> Primitives:
    index = torch.from_numpy(which)
    return Primitives(
        primitives.kind[index], primitives.world_from_primitive[index], primitives.half_size[index]
    )


def _light(rng: Generator, middle: tuple[float, float]) -> Lighting:
    """Put a sun into a sky that is blue more often than grey."""
    overcast = rng.uniform(0, 0.2) if rng.random() < 0.7 else rng.uniform(0.5, 0.9)
    high, round_ = math.radians(rng.uniform(28, 62)), rng.uniform(-math.pi, math.pi)
    level = math.cos(high)
    ahead = np.array([level * math.cos(round_), level * math.sin(round_), math.sin(high)])
    sun = np.array([*middle, 0.0]) + _SUN_M * ahead
    colour = np.array([1.75, 1.55, 1.25]) * (1 - 0.9 * overcast)
    dome = np.array([0.31, 0.37, 0.46]) * (1 + overcast)
    return Lighting(
        sources=(Light(sun.astype(np.float32), colour.astype(np.float32), 1e6, shadows=True),),
        from_above=dome.astype(np.float32),
        from_below=(0.45 * dome * (1, 0.95, 0.85)).astype(np.float32),
        enclosure=None,
        sky=draw_sky(rng, overcast=overcast),
    )
