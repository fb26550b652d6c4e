"""What stands beside a road: houses, trees, lamp posts, signs, bins and people.

The frame of a thing: x right, y to the front (towards the road), z up, standing on z = 0.
"""

import math

from numpy.random import Generator

from geomim_data.sources.synthetic.solids import Solid, Thing, ball, box, rod
from geomim_data.sources.synthetic.street_materials import Wardrobe
from geomim_data.sources.synthetic.vehicles import Body


def house(rng: Generator, wear: Wardrobe, *, most_m: float) -> Thing:
    """Draw a building no wider than ``most_m``: storeys over shops or a plinth, and a cornice."""
    style = int(rng.integers(len(wear.facades)))
    cell = wear.facade_cells_m[style]
    bays = max(2, min(int(rng.integers(3, 8)), int(most_m / cell)))
    storeys, depth = int(rng.integers(2, 7)), rng.uniform(8, 13)
    width, top = bays * cell, (storeys + 1) * cell
    ground = (
        wear.shops[rng.integers(len(wear.shops))] if rng.random() < 0.45 else wear.facades[style]
    )
    trim = wear.trims[int(rng.random() < 0.3)]
    solids = [
        box((0.0, -depth / 2, cell / 2), (width, depth, cell), ground),
        box((0.0, -depth / 2, (cell + top) / 2), (width, depth, top - cell), wear.facades[style]),
        box((0.0, -depth / 2 + 0.1, cell), (width + 0.3, depth + 0.3, 0.3), trim),
        box((0.0, -depth / 2, top + 0.25), (width + 0.5, depth + 0.5, 0.5), trim),
        box((0.0, -depth / 2, 0.25), (width + 0.1, depth + 0.1, 0.5), wear.concrete),
    ]
    solids += _front(rng, wear, (bays, storeys, cell), trim)
    return Thing("building", tuple(solids), width / 2 + 0.25, depth / 2)


def _front(rng: Generator, wear: Wardrobe, shape: tuple[int, int, float], trim: int) -> list[Solid]:
    """Return a door and, on some houses, balconies or pilasters."""
    bays, storeys, cell = shape
    edge = -bays * cell / 2
    door = edge + (int(rng.integers(bays)) + 0.5) * cell
    solids = [box((door, 0.0, 1.2), (1.5, 0.16, 2.4), wear.paints[int(rng.integers(3, 7))])]
    solids.append(box((door, 0.3, 2.55), (2.0, 0.9, 0.12), trim))
    match int(rng.integers(3)):
        case 0:
            for bay in rng.permutation(bays)[: bays // 2].tolist():
                for storey in range(1, storeys + 1):
                    x, z = edge + (bay + 0.5) * cell, storey * cell + 0.25
                    solids.append(box((x, 0.5, z), (0.75 * cell, 1.0, 0.16), wear.concrete))
                    solids.append(box((x, 0.97, z + 0.5), (0.75 * cell, 0.06, 0.9), trim))
        case 1:
            for bay in range(bays + 1):
                x = edge + bay * cell
                size = (0.35, 0.3, storeys * cell)
                solids.append(box((x, 0.0, cell + storeys * cell / 2), size, trim))
        case _:
            pass
    return solids


def tree(rng: Generator, wear: Wardrobe) -> Thing:
    """Draw a tree: a trunk under a crown of several balls of leaves."""
    trunk, crown = rng.uniform(2.0, 3.0), rng.uniform(1.3, 2.1)
    radius = rng.uniform(0.12, 0.22)
    leaves = wear.leaves[rng.integers(len(wear.leaves))]
    solids = [rod((0.0, 0.0, trunk / 2 + 0.4), radius, trunk + 0.8, wear.bark)]
    for number in range(5):
        angle = number * 2 * math.pi / 4 + rng.uniform(0, 1)
        away = 0.0 if number == 4 else 0.55 * crown
        z = trunk + crown * (1.5 if number == 4 else rng.uniform(0.6, 1.0))
        size = crown * rng.uniform(0.55, 0.85)
        place = (away * math.cos(angle), away * math.sin(angle), z)
        solids.append(ball(place, (size, size, 0.85 * size), leaves, tilt=rng.uniform(-0.4, 0.4)))
    return Thing("vegetation", tuple(solids), 0.3, 0.3)


def bush(rng: Generator, wear: Wardrobe) -> Thing:
    """Draw a low bush."""
    leaves = wear.leaves[rng.integers(len(wear.leaves))]
    solids = [
        ball(
            (0.45 * number - 0.45, rng.uniform(-0.2, 0.2), 0.4),
            (0.5, 0.45, rng.uniform(0.4, 0.65)),
            leaves,
        )
        for number in range(3)
    ]
    return Thing("vegetation", tuple(solids), 0.9, 0.5)


def lamp_post(rng: Generator, wear: Wardrobe) -> Thing:
    """Draw a street lamp whose arm reaches over the road."""
    height, reach = rng.uniform(6.5, 8.0), rng.uniform(1.2, 2.0)
    solids = (
        rod((0.0, 0.0, height / 2), 0.075, height, wear.steel),
        rod((0.0, 0.0, 0.5), 0.12, 1.0, wear.steel),
        rod((0.0, reach / 2, height), 0.045, reach, wear.steel, tilt=math.pi / 2),
        box((0.0, reach, height - 0.03), (0.28, 0.65, 0.12), wear.trims[0]),
    )
    return Thing("pole", solids, 0.15, 0.15)


def sign(rng: Generator, wear: Wardrobe) -> Thing:
    """Draw a traffic sign, round or square, that faces along the road."""
    material = wear.signs[rng.integers(len(wear.signs))]
    height = rng.uniform(2.3, 2.7)
    plate = (
        rod((0.0, 0.0, height), 0.33, 0.03, material, tilt=math.pi / 2, turn=math.pi / 2)
        if rng.random() < 0.5
        else box((0.0, 0.0, height), (0.03, 0.62, 0.62), material)
    )
    ring = rod((0.012, 0.0, height), 0.2, 0.03, wear.signs[3], tilt=math.pi / 2, turn=math.pi / 2)
    post = rod((0.0, 0.0, height / 2), 0.035, height, wear.steel)
    return Thing("sign", (post, plate, ring), 0.1, 0.4)


def traffic_light(wear: Wardrobe) -> Thing:
    """Make a traffic light that faces along the road."""
    solids = [
        rod((0.0, 0.0, 1.6), 0.06, 3.2, wear.steel),
        box((0.0, 0.0, 2.9), (0.28, 0.34, 0.95), wear.rubber),
    ]
    for number, material in enumerate((wear.signs[0], wear.signs[2], wear.leaves[0])):
        place = (-0.14, 0.0, 3.2 - 0.3 * number)
        glow = 0.5 if number == 0 else 0.0
        lying = {"tilt": math.pi / 2, "turn": math.pi / 2}
        solids.append(rod(place, 0.1, 0.04, material, glow=glow, **lying))
    return Thing("traffic light", tuple(solids), 0.2, 0.2)


def rubbish_bin(rng: Generator, wear: Wardrobe) -> Thing:
    """Draw a bin or a post box."""
    paint = wear.paints[int(rng.integers(len(wear.paints)))]
    height = rng.uniform(0.9, 1.3)
    solids = (
        box((0.0, 0.0, height / 2), (0.5, 0.5, height), paint),
        box((0.0, 0.0, height + 0.03), (0.56, 0.56, 0.07), wear.trims[1]),
    )
    return Thing("clutter", solids, 0.28, 0.28)


def person(rng: Generator, wear: Wardrobe, *, walking: bool) -> Body:
    """Draw somebody, in mid-stride if ``walking``."""
    height = rng.uniform(1.55, 1.9)
    coat, trousers = (wear.clothes[int(number)] for number in rng.integers(6, size=2))
    hip, shoulder, stride = 0.49 * height, 0.82 * height, 0.32 if walking else 0.04
    leg = math.hypot(hip, stride / 1.2)
    solids = [
        box((0.0, 0.0, (hip + shoulder) / 2), (0.4, 0.24, shoulder - hip + 0.06), coat),
        ball((0.0, 0.01, 0.925 * height), (0.09, 0.105, 0.11), wear.skin),
        ball((0.0, -0.02, 0.935 * height), (0.098, 0.11, 0.095), wear.bark),
        rod((0.0, 0.0, 0.83 * height), 0.06, 0.12, wear.skin),
    ]
    for side in (-1, 1):
        tilt = side * math.atan2(stride / 1.2, hip)
        foot = side * 0.5 * stride / 1.2
        solids.append(
            rod((side * 0.1, foot, hip / 2 + 0.01), 0.085, 0.94 * leg, trousers, tilt=tilt)
        )
        arm = (side * 0.25, -0.5 * foot, shoulder - 0.3)
        solids.append(rod(arm, 0.05, 0.62, coat, tilt=-0.7 * tilt))
        solids.append(box((side * 0.1, 2 * foot + 0.04, 0.05), (0.1, 0.26, 0.1), wear.rubber))
    size = (0.64, 0.95 if walking else 0.5, height)
    thing = Thing("human.pedestrian.adult", tuple(solids), size[0] / 2, size[1] / 2)
    return Body(thing, size)
