"""What stands along a street: ground, pavements, houses, trees, poles."""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.random import Generator

from geomim_data.sources.synthetic import roadside
from geomim_data.sources.synthetic.scene import PAVED
from geomim_data.sources.synthetic.solids import Placed, Thing, box
from geomim_data.sources.synthetic.street_materials import Wardrobe
from geomim_data.sources.synthetic.street_plan import KERB_M, StreetPlan

LABELS: Final[dict[str, int]] = {
    "ground": 1,
    "pavement": 2,
    "building": 3,
    "vegetation": 4,
    "pole": 5,
    "sign": 6,
    "traffic light": 7,
    "clutter": 8,
    "vehicle.car": 9,
    "vehicle.truck": 10,
    "vehicle.bus.rigid": 11,
    "human.pedestrian.adult": 12,
}
"""What the things of a street are called, and the ids of their classes in rendered labels."""

_GROUND_M = 3000.0
_FAR_M = 600.0
_STRIP_M = 13.0


def build_street(plan: StreetPlan, wear: Wardrobe, rng: Generator) -> list[Placed]:
    """Return everything about a street that never moves, parked cars aside."""
    middle = plan.track.at(np.array([plan.length_m / 2]), 0.0).xy[0]
    slab = box((0.0, 0.0, -0.5), (_GROUND_M, _GROUND_M, 1.0), PAVED)
    placed = [Placed(Thing("ground", (slab,), 0.0, 0.0), float(middle[0]), float(middle[1]))]
    for side in (-1, 1):
        placed += _pavements(plan, side)
        placed += _houses(plan, wear, rng, side)
        placed += _furniture(plan, wear, rng, side)
    return placed


def stand(
    plan: StreetPlan, thing: Thing, along: float, offset: float, *, z: float = KERB_M
) -> Placed:
    """Place a thing beside the road, facing it."""
    xy, heading = plan.track.at(np.array([along]), offset)
    yaw = float(heading[0]) + (math.pi if offset > 0 else 0.0)
    return Placed(thing, float(xy[0, 0]), float(xy[0, 1]), z, yaw)


def _pavements(plan: StreetPlan, side: int) -> Iterator[Placed]:
    """Yield raised strips that follow the kerb: long on straights, short round bends."""
    bounds = [-_FAR_M, *plan.track.begin[1:].tolist(), plan.length_m + _FAR_M]
    for first, last, bend in zip(
        bounds[:-1], bounds[1:], plan.track.curvature.tolist(), strict=True
    ):
        pieces = 1 if bend == 0 else max(1, round((last - first) / min(3.0, 0.08 / abs(bend))))
        length = (last - first) / pieces
        # On the inside of a bend a strip must not reach its centre.
        room = 0.9 / abs(bend) - plan.kerb_m if side * bend > 0 else math.inf
        width = min(plan.pavement_m + plan.setback_m + _STRIP_M, room)
        outer = side * (plan.kerb_m + width)
        reach = length * max(1.0, 1 - bend * outer) + (0.0 if bend == 0 else 0.02)
        strip = box((0.0, -width / 2, -0.5 + KERB_M / 2), (reach, width, 1.0 + KERB_M), PAVED)
        thing = Thing("pavement", (strip,), 0.0, 0.0)
        for number in range(pieces):
            along = first + (number + 0.5) * length
            yield stand(plan, thing, along, side * plan.kerb_m, z=0.0)


def _houses(plan: StreetPlan, wear: Wardrobe, rng: Generator, side: int) -> Iterator[Placed]:
    """Yield houses, wall to wall or with gaps; now and then trees on a lawn instead."""
    along, end = plan.ends
    while along < end:
        if rng.random() < 0.12:
            wide = rng.uniform(10, 25)
            for _ in range(int(wide / 4)):
                away = plan.front_m + rng.uniform(2, 10)
                where = along + rng.uniform(0, wide)
                if _clear(plan, where, side * away, 2.0, 2.0):
                    yield stand(plan, roadside.tree(rng, wear), where, side * away)
            along += wide
            continue
        thing = roadside.house(rng, wear, most_m=26.0)
        middle, half = along + thing.half_width, thing.half_width
        if _clear(plan, middle, side * plan.front_m, half, 2 * thing.half_depth):
            yield stand(plan, thing, middle, side * plan.front_m)
            along += 2 * half + (0.0 if rng.random() < 0.6 else rng.uniform(1.5, 6.0))
        else:
            along += 4.0


def _clear(plan: StreetPlan, along: float, offset: float, half_width: float, depth: float) -> bool:
    """Tell whether the footprint of something that faces the road stays behind the pavement."""
    xy, heading = plan.track.at(np.array([along]), offset)
    ahead = np.array([math.cos(heading[0]), math.sin(heading[0])])
    out = math.copysign(1.0, offset) * np.array([-ahead[1], ahead[0]])
    across, back = np.meshgrid(np.linspace(-half_width, half_width, 9), np.linspace(0, depth, 5))
    places = xy + across.reshape(-1, 1) * ahead + back.reshape(-1, 1) * out
    away = np.abs(plan.track.locate(places)[:, 1])
    return bool((away >= plan.kerb_m + plan.pavement_m - 0.3).all())


def _furniture(plan: StreetPlan, wear: Wardrobe, rng: Generator, side: int) -> Iterator[Placed]:
    """Yield lamp posts, trees and smaller things along the kerb."""
    first, last = plan.ends
    kerb = side * (plan.kerb_m + 0.55)
    green = rng.random() < 0.7
    gap = rng.uniform(22, 30)
    for along in np.arange(first + rng.uniform(0, 10), last, gap).tolist():
        yield stand(plan, roadside.lamp_post(rng, wear), along, kerb)
        for part in (0.35, 0.7):
            where = along + part * gap + rng.uniform(-1.5, 1.5)
            if green and _off_crossing(plan, where, 5.0):
                offset = side * (plan.kerb_m + 0.8)
                yield stand(plan, roadside.tree(rng, wear), where, offset)
        if rng.random() < 0.5:
            yield stand(plan, roadside.sign(rng, wear), along + 0.15 * gap, kerb)
        if rng.random() < 0.4:
            yield stand(plan, roadside.rubbish_bin(rng, wear), along + 0.55 * gap, kerb)
        if rng.random() < 0.4 and plan.setback_m > 1.2:
            offset = side * (plan.front_m - 0.6)
            yield stand(plan, roadside.bush(rng, wear), along + 0.5 * gap, offset)
    if plan.crossing_m is not None:
        along = plan.crossing_m + side * 2.2
        yield stand(plan, roadside.traffic_light(wear), along, kerb)


def _off_crossing(plan: StreetPlan, along: float, gap: float) -> bool:
    return plan.crossing_m is None or abs(along - plan.crossing_m) > gap
