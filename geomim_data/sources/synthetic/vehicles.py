"""Vehicles made of solids, whole inside the box that is said to hold them.

The frame of a thing: x right, y to the front, z up, standing on z = 0.
"""

import math
from dataclasses import dataclass
from typing import final

from numpy.random import Generator

from geomim_data.sources.synthetic.solids import Solid, Thing, box, rod
from geomim_data.sources.synthetic.street_materials import Wardrobe

_GLOW = 0.35


@final
@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A thing that moves as one, and the box about it: width, length, height from the ground."""

    thing: Thing
    size: tuple[float, float, float]


def draw_vehicle(rng: Generator, wear: Wardrobe, *, large: bool = True) -> Body:
    """Draw a vehicle: mostly cars; some vans, lorries and buses if ``large`` ones may come."""
    kinds = (car, van, truck, bus)
    shares = (0.78, 0.1, 0.07, 0.05) if large else (0.9, 0.1, 0.0, 0.0)
    return kinds[int(rng.choice(4, p=shares))](rng, wear)


def car(rng: Generator, wear: Wardrobe) -> Body:
    """Draw a car: saloon, hatchback or a tall one."""
    width, length = rng.uniform(1.72, 1.92), rng.uniform(3.9, 4.85)
    tall = rng.random() < 0.35
    height = rng.uniform(1.6, 1.75) if tall else rng.uniform(1.4, 1.5)
    bonnet, boot = rng.uniform(0.9, 1.15), (rng.uniform(0.55, 0.8) if length > 4.4 else 0.05)
    sill, belt, lid = 0.22, height * 0.6, height * 0.53
    paint = wear.paints[rng.integers(len(wear.paints))]
    front, back = length / 2, -length / 2
    cabin_front, cabin_back = front - bonnet, back + boot
    body = [
        _span((width - 0.02, sill, belt), (back + 0.08, cabin_front), paint),
        _span((width - 0.06, sill + 0.02, lid), (cabin_front, front - 0.06), paint),
        _span((width - 0.04, sill - 0.01, 0.52), (back + 0.01, front - 0.01), wear.trims[1]),
        *_cabin(width, (belt, height), (cabin_back, cabin_front), wear, paint),
        *_wheels(width, length, 0.31, wear),
        *_lamps(width, length, 0.66, wear),
    ]
    return _body("vehicle.car", body, (width, length, height))


def _cabin(
    width: float,
    span: tuple[float, float],
    ends: tuple[float, float],
    wear: Wardrobe,
    paint: int,
) -> list[Solid]:
    """Return windows all round under a roof, with a slanting windscreen and rear window."""
    (low, high), (back, front) = span, ends
    rise, inset = high - low, 0.12
    slope, rear = 0.95 * rise + 0.2, 0.55 * rise
    roof = (back + rear, front - slope)
    glass = [
        _span((width - 2 * inset, low, high - 0.05), roof, wear.glass),
        _slanted(width - 2 * inset, (low, high - 0.05), (front, roof[1]), wear.glass),
        _slanted(width - 2 * inset, (low, high - 0.05), (back, roof[0]), wear.glass),
    ]
    pillar = (roof[0] + roof[1]) / 2
    return [
        *glass,
        _span((width - 2 * inset + 0.02, high - 0.09, high), roof, paint),
        _span((width - 2 * inset + 0.02, low, high), (pillar - 0.06, pillar + 0.06), paint),
        _span((width - 2 * inset + 0.02, low, high - 0.02), (roof[0], roof[0] + 0.1), paint),
    ]


def _slanted(
    width: float, span: tuple[float, float], ends: tuple[float, float], material: int
) -> Solid:
    """Return a slab whose outer face climbs from ``ends[0]`` below to ``ends[1]`` above."""
    (low, high), (foot, head) = span, ends
    rise, run = high - low, abs(foot - head)
    length, thick = math.hypot(rise, run), 0.5 * min(rise, run)
    outward = 1.0 if foot > head else -1.0
    # The slab lies along the slope; its middle is half its thickness inside the face.
    normal_y, normal_z = outward * rise / length, run / length
    y, z = (foot + head) / 2 - normal_y * thick / 2, (low + high) / 2 - normal_z * thick / 2
    tilt = -outward * math.atan2(rise, run)
    return box((0.0, y, z), (width, length, thick), material, tilt=tilt)


def van(rng: Generator, wear: Wardrobe) -> Body:
    """Draw a delivery van."""
    width, length, height = rng.uniform(1.9, 2.05), rng.uniform(4.8, 5.6), rng.uniform(2.1, 2.5)
    paint = wear.paints[int(rng.choice((0, 0, 1, 5)))]
    front, back, nose = length / 2, -length / 2, 0.8
    glass = (height * 0.52, height * 0.82)
    body = [
        _span((width - 0.02, 0.3, height), (back + 0.04, front - nose - 0.55), paint),
        _span((width - 0.04, 0.3, glass[0]), (front - nose - 0.6, front - 0.05), paint),
        _slanted(width - 0.14, (glass[0], height), (front - nose + 0.2, front - 1.35), wear.glass),
        _span((width - 0.01, *glass), (front - nose - 1.3, front - nose - 0.7), wear.glass),
        _span((width - 0.03, 0.28, 0.55), (back + 0.01, front - 0.01), wear.trims[1]),
        *_wheels(width, length, 0.33, wear),
        *_lamps(width, length, 0.75, wear),
    ]
    return _body("vehicle.car", body, (width, length, height))


def truck(rng: Generator, wear: Wardrobe) -> Body:
    """Draw a lorry with a box behind its cab."""
    width, length, height = rng.uniform(2.3, 2.5), rng.uniform(6.5, 8.5), rng.uniform(3.0, 3.5)
    paint, cargo = (wear.paints[int(number)] for number in rng.choice(8, 2))
    front, back, cab = length / 2, -length / 2, 1.9
    body = [
        _span((width, 0.95, height), (back, front - cab - 0.15), cargo),
        _span((width - 0.5, 0.55, 0.95), (back + 0.1, front - 0.3), wear.trims[1]),
        _span((width - 0.1, 0.5, 1.5), (front - cab, front - 0.04), paint),
        _span((width - 0.12, 1.5, 2.2), (front - cab + 0.1, front - 0.12), wear.glass),
        _span((width - 0.1, 2.2, 2.45), (front - cab, front - 0.15), paint),
        _span((width - 0.1, 1.4, 2.3), (front - cab, front - cab + 0.4), paint),
        *_wheels(width, length, 0.45, wear),
        *_lamps(width, length, 0.85, wear),
    ]
    return _body("vehicle.truck", body, (width, length, height))


def bus(rng: Generator, wear: Wardrobe) -> Body:
    """Draw a city bus."""
    width, length, height = rng.uniform(2.45, 2.55), rng.uniform(9.5, 11.5), rng.uniform(2.9, 3.1)
    paint = wear.paints[int(rng.integers(len(wear.paints)))]
    front, back = length / 2, -length / 2
    body = [
        _span((width - 0.06, 0.35, height), (back + 0.05, front - 0.05), paint),
        _span((width, 1.35, 2.35), (back + 0.6, front - 0.9), wear.glass),
        _span((width - 0.2, 1.1, 2.5), (front - 0.2, front), wear.glass),
        *_wheels(width, length, 0.46, wear),
        *_lamps(width, length, 0.8, wear),
    ]
    for number in range(5):
        y = back + 1.6 + number * (length - 3.2) / 4
        body.append(_span((width - 0.002, 1.35, 2.35), (y - 0.08, y + 0.08), paint))
    return _body("vehicle.bus.rigid", body, (width, length, height))


def _wheels(width: float, length: float, radius: float, wear: Wardrobe) -> list[Solid]:
    lying = {"tilt": math.pi / 2, "turn": math.pi / 2}
    wheels: list[Solid] = []
    for side in (-1, 1):
        for end in (-1, 1):
            place = (side * (width / 2 - 0.115), end * 0.3 * length, radius)
            wheels.append(rod(place, radius, 0.22, wear.rubber, **lying))
            hub = (side * (width / 2 - 0.112), end * 0.3 * length, radius)
            wheels.append(rod(hub, 0.58 * radius, 0.224, wear.chrome, **lying))
    return wheels


def _lamps(width: float, length: float, z: float, wear: Wardrobe) -> list[Solid]:
    """Return head and tail lamps and number plates."""
    lamps: list[Solid] = []
    for side in (-1, 1):
        x = side * (width / 2 - 0.26)
        head, tail = (x, length / 2 - 0.1, z), (x, -length / 2 + 0.1, z + 0.08)
        lamps.append(box(head, (0.38, 0.16, 0.13), wear.white_light, glow=_GLOW))
        lamps.append(box(tail, (0.3, 0.18, 0.16), wear.red_light, glow=_GLOW))
    ends = (-length / 2 + 0.02, length / 2 - 0.02)
    return lamps + [box((0.0, y, 0.46), (0.5, 0.04, 0.11), wear.plate) for y in ends]


def _span(across: tuple[float, float, float], ends: tuple[float, float], material: int) -> Solid:
    """Return a box of a width that reaches from one height and one end to another."""
    width, low, high = across
    back, front = ends
    centre = (0.0, (back + front) / 2, (low + high) / 2)
    return box(centre, (width, front - back, high - low), material)


def _body(category: str, solids: list[Solid], size: tuple[float, float, float]) -> Body:
    return Body(Thing(category, tuple(solids), size[0] / 2, size[1] / 2), size)
