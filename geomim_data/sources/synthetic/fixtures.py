"""What belongs to the building: walls, doors, windows, and what hangs on walls and ceilings.

Things for a wall stand in the wall's frame: x along it, y into the room, z up from the floor.
"""

import math

from numpy.random import Generator

from geomim_data.sources.synthetic.furniture import books_in_a_row
from geomim_data.sources.synthetic.palette import Palette
from geomim_data.sources.synthetic.solids import Placed, Thing, Top, ball, box, rod

_THICK = 0.1


def wall(length: float, height: float, material: int, skirting: int) -> Thing:
    """Make a wall that starts at the origin, with a board along its foot."""
    solids = (
        box((length / 2, -_THICK / 2, height / 2), (length + 2 * _THICK, _THICK, height), material),
        box((length / 2, 0.006, 0.04), (length, 0.012, 0.08), skirting),
    )
    return Thing("wall", solids, length / 2, 0.0, blocks=False)


def slab(category: str, size: tuple[float, float], z: float, material: int) -> Thing:
    """Make a floor or a ceiling whose middle lies at height ``z``."""
    width, depth = size[0] + 2 * _THICK, size[1] + 2 * _THICK
    solid = box((0.0, 0.0, z), (width, depth, _THICK), material)
    return Thing(category, (solid,), width / 2, depth / 2, blocks=False)


def pillar(rng: Generator, height: float, material: int) -> Thing:
    """Make a square pillar or chimney breast that counts as wall."""
    width, depth = rng.uniform(0.3, 0.9), rng.uniform(0.25, 0.6)
    solid = box((0.0, 0.0, height / 2), (width, depth, height), material)
    return Thing("wall", (solid,), width / 2, depth / 2)


def door(rng: Generator, palette: Palette) -> Thing:
    """Make a shut door in its frame, with one to three panels and a knob."""
    width, height = rng.uniform(0.8, 0.95), rng.uniform(1.98, 2.1)
    leaf, frame = palette.draw("wood", "paint"), palette.draw("wood", "paint")
    panels = int(rng.integers(1, 4))
    solids = [
        box((0.0, 0.02, height / 2), (width, 0.04, height), leaf),
        box((0.0, 0.03, height + 0.04), (width + 0.16, 0.06, 0.08), frame),
        *(box((x, 0.03, height / 2), (0.08, 0.06, height), frame) for x in _both(width / 2 + 0.04)),
    ]
    for panel in range(panels):
        high = (height - 0.3) / panels - 0.1
        middle = 0.2 + (panel + 0.5) * (height - 0.3) / panels
        solids.append(box((0.0, 0.045, middle), (width - 0.24, 0.012, high), leaf))
    knob = (rng.choice((-1, 1)) * (width / 2 - 0.07), 0.075, 1.02)
    solids.append(ball(knob, (0.03, 0.035, 0.03), palette.draw("metal")))
    return Thing("door", tuple(solids), width / 2 + 0.08, 0.06, blocks=False)


def _both(x: float) -> tuple[float, float]:
    return -x, x


def window(rng: Generator, palette: Palette) -> Thing:
    """Make a window that shines, with frame, bars, sill and, mostly, curtains."""
    width, height, base = rng.uniform(0.8, 1.7), rng.uniform(1.0, 1.3), rng.uniform(0.8, 1.0)
    frame, middle = palette.draw("paint", "wood"), base + height / 2
    solids = [
        box((0.0, 0.005, middle), (width, 0.01, height), palette.exactly("view"), glow=1.0),
        *(box((x, 0.02, middle), (0.06, 0.05, height), frame) for x in _both(width / 2)),
        *(box((0.0, 0.02, z), (width + 0.06, 0.05, 0.06), frame) for z in (base, base + height)),
        box((0.0, 0.015, middle), (0.04, 0.04, height), frame),
        box((0.0, 0.07, base - 0.04), (width + 0.2, 0.16, 0.03), frame),
    ]
    if rng.random() < 0.5:
        solids.append(box((0.0, 0.015, middle), (width, 0.04, 0.04), frame))
    carries: tuple[Placed, ...] = ()
    if rng.random() < 0.7:
        cloth = palette.draw("fabric", "stripes", "dots")
        low = 0.06 if rng.random() < 0.5 else base - 0.15
        drape = _curtain(rng, cloth, (low, base + height + 0.12))
        carries = tuple(Placed(drape, x, 0.1) for x in _both(width / 2 + drape.half_width * 0.6))
    return Thing("window", tuple(solids), width / 2 + 0.4, 0.12, carries=carries, blocks=False)


def _curtain(rng: Generator, material: int, span: tuple[float, float]) -> Thing:
    """Make a curtain of folds, which are upright cylinders side by side."""
    folds, radius = int(rng.integers(3, 6)), rng.uniform(0.035, 0.05)
    low, high = span
    solids = tuple(
        rod(
            ((index - (folds - 1) / 2) * 1.7 * radius, 0.0, (low + high) / 2),
            radius,
            high - low,
            material,
        )
        for index in range(folds)
    )
    return Thing("curtain", solids, folds * radius * 0.9, radius, blocks=False)


def picture(rng: Generator, palette: Palette) -> Thing:
    """Make a framed picture whose lower edge is at z = 0."""
    width, height = rng.uniform(0.3, 1.1), rng.uniform(0.3, 0.8)
    canvas = (0.0, 0.026, height / 2)
    solids = (
        box((0.0, 0.0125, height / 2), (width, 0.025, height), palette.draw("wood", "paint")),
        box(canvas, (width - 0.06, 0.006, height - 0.06), palette.exactly("painting")),
    )
    return Thing("picture", solids, width / 2, 0.03, blocks=False)


def clock(rng: Generator, palette: Palette) -> Thing:
    """Make a round wall clock that shows some time."""
    radius, face, hand = rng.uniform(0.12, 0.2), palette.draw("paint"), palette.draw("metal")
    rim = palette.draw("metal", "wood")
    solids = [
        rod((0.0, 0.02, radius), radius, 0.04, rim, tilt=math.pi / 2),
        rod((0.0, 0.025, radius), radius * 0.88, 0.04, face, tilt=math.pi / 2),
    ]
    for length, angle in zip((0.5, 0.75), rng.uniform(0.0, 2 * math.pi, 2), strict=True):
        x, z = math.cos(angle) * length * radius / 2, math.sin(angle) * length * radius / 2
        radii = (abs(x) + 0.008, 0.004, abs(z) + 0.008)
        solids.append(ball((x, 0.046, radius + z), radii, hand))
    return Thing("clock", tuple(solids), radius, 0.05, blocks=False)


def wall_shelf(rng: Generator, palette: Palette) -> Thing:
    """Make a single board on a wall with books on it."""
    width, board = rng.uniform(0.6, 1.2), palette.draw("wood", "paint")
    solids = (
        box((0.0, 0.12, 0.0125), (width, 0.24, 0.025), board),
        *(box((x, 0.06, -0.05), (0.02, 0.12, 0.1), board) for x in _both(width / 2 - 0.12)),
    )
    top = Top(0.0, 0.12, 0.025, width / 2 - 0.03, 0.1, 0.34)
    carries = tuple(books_in_a_row(rng, palette, top))
    return Thing("shelf", solids, width / 2, 0.24, carries=carries, blocks=False)


def hanging_lamp(rng: Generator, palette: Palette) -> Thing:
    """Make a lamp that hangs down from z = 0 by about 0.5 m."""
    drop, shade = rng.uniform(0.2, 0.45), palette.exactly("paint")
    radius = rng.uniform(0.13, 0.24)
    if rng.random() < 0.5:
        glowing = ball(
            (0.0, 0.0, -drop - 0.1), (radius, radius, rng.uniform(0.1, radius)), shade, glow=1.0
        )
    else:
        glowing = rod((0.0, 0.0, -drop - 0.08), radius, rng.uniform(0.1, 0.22), shade, glow=1.0)
    cord = rod((0.0, 0.0, -drop / 2), 0.008, drop, palette.draw("metal"))
    return Thing("lamp", (cord, glowing), radius, radius, blocks=False)
