"""Who is on a street: the drive itself, cars that move and cars that are parked, and people."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.random import Generator

from geomim_data.sources.synthetic import roadside
from geomim_data.sources.synthetic.motion import Motion, Pace, Rest, Ride, make_pace
from geomim_data.sources.synthetic.street_materials import Wardrobe
from geomim_data.sources.synthetic.street_plan import KERB_M, Drive, StreetPlan
from geomim_data.sources.synthetic.track import make_track
from geomim_data.sources.synthetic.vehicles import Body, draw_vehicle

_SPEEDS: dict[Drive, tuple[float, float]] = {
    "straight": (7.0, 13.0),
    "curve": (6.0, 10.0),
    "turn": (4.0, 6.0),
    "stop": (5.0, 8.0),
}
_EGO_HALF_M = 2.6
"""From the middle of the ego car's reach to its ends; its origin is its rear axle."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Actor:
    """Somebody or something that has a box: what it is, how it moves, how high it stands."""

    body: Body
    motion: Motion
    state: Literal["moving", "parked"]
    z: float = 0.0

    @property
    def category(self) -> str:
        """The name of its class in nuScenes."""
        return self.body.thing.category


def draw_drive(rng: Generator, drive: Drive, *, seconds: float) -> Pace:
    """Draw how the ego car drives, from 0 along the street at time 0."""
    speed = rng.uniform(*_SPEEDS[drive])
    if drive != "stop":
        gain = rng.uniform(-0.4, 0.6)
        return make_pace(0.0, speed, [(0.0, gain), (min(seconds, 3.0), 0.0)])
    start, brake = 0.1 * seconds, rng.uniform(2.2, 3.2)
    speed = min(speed, 0.65 * seconds * brake)
    halt = start + speed / brake
    away = halt + 3.0
    return make_pace(
        0.0, speed, [(start, -brake), (halt, 0.0), (away, 1.5), (away + speed / 1.5, 0.0)]
    )


def drive_length(pace: Pace, drive: Drive, *, seconds: float) -> float:
    """Return how far the car goes; to its first halt, if it halts."""
    end = min(seconds, float(pace.start_s[2])) if drive == "stop" else seconds
    return float(pace.at(np.array([end]))[0])


def draw_traffic(
    plan: StreetPlan, ego: Ride, wear: Wardrobe, rng: Generator, *, seconds: float
) -> list[Actor]:
    """Draw everything on the street that has a box."""
    return [
        *_own_lane(plan, ego, wear, rng),
        *_next_lane(plan, ego, wear, rng),
        *_oncoming(plan, wear, rng),
        *_parked(plan, wear, rng),
        *_people(plan, wear, rng, seconds=seconds),
    ]


def _own_lane(plan: StreetPlan, ego: Ride, wear: Wardrobe, rng: Generator) -> Iterator[Actor]:
    """Yield a car ahead and one behind; they brake when the ego car does."""
    large = plan.drive in ("straight", "curve")
    for direction in (1, -1):
        body = draw_vehicle(rng, wear, large=large)
        gap = rng.uniform(7, 22) if direction == 1 else rng.uniform(6, 14)
        away = direction * (gap + _EGO_HALF_M + body.size[1] / 2) + 1.4
        apart = 0.0 if plan.drive == "stop" else direction * rng.uniform(0, 1.2)
        # Before a crossing the ego car is the first to stop.
        if not (plan.drive == "stop" and direction == 1) and rng.random() < 0.75:
            pace = ego.pace.shifted(away, apart)
            yield Actor(body, Ride(plan.track, pace, ego.offset), "moving")


def _next_lane(plan: StreetPlan, ego: Ride, wear: Wardrobe, rng: Generator) -> Iterator[Actor]:
    """Yield a car that overtakes, or is overtaken, where there is a lane for it."""
    if plan.lanes < 2 or plan.drive == "stop":
        return
    speed = float(ego.pace.speed_at(np.zeros(1))[0]) + rng.uniform(-2.5, 3.5)
    lane = 1 if math.isclose(ego.offset, plan.lane_offset(2)) else 2
    pace = make_pace(rng.uniform(-15, 22), max(speed, 2.0))
    yield Actor(draw_vehicle(rng, wear), Ride(plan.track, pace, plan.lane_offset(lane)), "moving")


def _oncoming(plan: StreetPlan, wear: Wardrobe, rng: Generator) -> Iterator[Actor]:
    """Yield cars in the lanes of the other direction, each lane at its own speed."""
    top = 6.0 if plan.drive == "turn" else 11.0
    for lane in range(1, plan.lanes + 1):
        speed, first = rng.uniform(0.5 * top, top), rng.uniform(12, 35)
        changes: list[tuple[float, float]] = []
        if plan.crossing_m is not None and plan.drive == "stop":
            first = plan.crossing_m + rng.uniform(18, 30)
            brake = speed**2 / 2 / (first - plan.crossing_m - 8)
            changes = [(0.0, brake), (speed / brake, 0.0)]
        for number in range(int(rng.integers(1, 4))):
            pace = make_pace(first + number * rng.uniform(22, 30), -speed, changes)
            body = draw_vehicle(rng, wear, large=plan.drive != "turn")
            offset = plan.lane_offset(-lane)
            yield Actor(body, Ride(plan.track, pace, offset, turned=math.pi), "moving")


def _parked(plan: StreetPlan, wear: Wardrobe, rng: Generator) -> Iterator[Actor]:
    if plan.parking_m < 1:
        return
    for side in (-1, 1):
        along, end = plan.ends
        while along < end:
            body = draw_vehicle(rng, wear, large=False)
            length = body.size[1]
            middle = along + length / 2
            if _may_park(plan, middle, length) and rng.random() < 0.68:
                offset = side * (plan.kerb_m - plan.parking_m / 2 + rng.uniform(-0.08, 0.08))
                xy, heading = plan.track.at(np.array([middle]), offset)
                turned = (math.pi if side > 0 else 0.0) + rng.normal(0, 0.015)
                rest = Rest((float(xy[0, 0]), float(xy[0, 1])), float(heading[0]) + turned)
                yield Actor(body, rest, "parked")
            along += length + rng.uniform(0.9, 2.2)


def _may_park(plan: StreetPlan, middle: float, length: float) -> bool:
    reach = length / 2 + 1.0
    if plan.tightest_radius(middle - reach, middle + reach) < 40:
        return False
    return plan.crossing_m is None or abs(middle - plan.crossing_m) > reach + 6.0


def _people(plan: StreetPlan, wear: Wardrobe, rng: Generator, *, seconds: float) -> Iterator[Actor]:
    """Yield people who walk or stand on the pavements, and one who crosses while the car waits."""
    for _ in range(int(rng.integers(3, 8))):
        walking, side = bool(rng.random() < 0.75), float(rng.choice((-1, 1)))
        along = rng.uniform(-15, plan.length_m + 40)
        offset = side * (plan.kerb_m + rng.uniform(1.5, max(1.6, plan.pavement_m - 0.4)))
        turned = float(rng.choice((0.0, math.pi))) + (0.0 if walking else rng.uniform(-2, 2))
        speed = rng.uniform(0.9, 1.6) * math.cos(turned) if walking else 0.0
        body = roadside.person(rng, wear, walking=walking)
        ride = Ride(plan.track, make_pace(along, speed), offset, turned)
        yield Actor(body, ride, "moving" if walking else "parked", z=KERB_M)
    if plan.drive == "stop" and plan.crossing_m is not None:
        body = roadside.person(rng, wear, walking=True)
        start = plan.track.at(np.array([plan.crossing_m]), -plan.kerb_m + rng.uniform(0, 1.5))
        xy, heading = tuple(start.xy[0].tolist()), float(start.heading[0]) + math.pi / 2
        across = make_track([(1.0, 0.0)], begin=0.0, xy=xy, heading=heading)
        pace = make_pace(0.0, min(rng.uniform(1.1, 1.6), 2 * plan.kerb_m / max(seconds, 4.0)))
        yield Actor(body, Ride(across, pace, 0.0), "moving")
