"""Small things that stand about: on floors, on tables, on shelves."""

from numpy.random import Generator

from geomim_data.sources.synthetic.palette import Palette
from geomim_data.sources.synthetic.solids import Solid, Thing, ball, box, rod


def lamp(rng: Generator, palette: Palette, *, tall: bool) -> Thing:
    """Make a lamp on a foot, for the floor if tall and else for a table; its shade glows."""
    height = rng.uniform(1.4, 1.75) if tall else rng.uniform(0.35, 0.55)
    scale = 1.0 if tall else 0.6
    metal, radius = palette.draw("metal"), scale * rng.uniform(0.16, 0.24)
    shade, high = palette.exactly("paint"), scale * rng.uniform(0.2, 0.34)
    place = (0.0, 0.0, height - high / 2)
    if rng.random() < 0.3:
        glowing = ball(place, (radius * 0.8, radius * 0.8, high / 2), shade, glow=1.0)
    else:
        glowing = rod(place, radius, high, shade, glow=1.0)
    foot = scale * rng.uniform(0.11, 0.16)
    stem = height - high
    if tall or rng.random() < 0.4:
        body = rod((0.0, 0.0, stem / 2), 0.015, stem, metal)
    else:
        body = ball((0.0, 0.0, stem / 2), (0.07, 0.07, stem / 2), palette.draw("paint", "stone"))
    solids = (rod((0.0, 0.0, 0.012), foot, 0.024, metal), body, glowing)
    return Thing("lamp", solids, radius, radius)


def plant(rng: Generator, palette: Palette, *, tall: bool) -> Thing:
    """Make a plant: a pot, a stem, and a crown of ellipsoids."""
    scale = rng.uniform(0.8, 1.3) if tall else rng.uniform(0.25, 0.4)
    pot, leaf = palette.draw("paint", "stone", "dots"), palette.draw("carpet", "fabric")
    solids = [
        rod((0.0, 0.0, 0.14 * scale), 0.15 * scale, 0.28 * scale, pot),
        rod((0.0, 0.0, 0.45 * scale), 0.02 * scale, 0.5 * scale, palette.draw("wood")),
    ]
    for _ in range(int(rng.integers(3, 7))):
        x, y = rng.normal(0.0, 0.09 * scale, 2)
        radii = tuple(float(radius) for radius in scale * rng.uniform(0.07, 0.22, 3))
        centre = (x, y, scale * rng.uniform(0.5, 1.0))
        solids.append(ball(centre, (radii[0], radii[1], radii[2]), leaf, tilt=rng.uniform(-1, 1)))
    return Thing("plant", tuple(solids), 0.2 * scale, 0.2 * scale)


def trash_can(rng: Generator, palette: Palette) -> Thing:
    """Make a bin, round or square, with a rim and a dark mouth."""
    radius, height = rng.uniform(0.12, 0.2), rng.uniform(0.25, 0.6)
    body, inside = palette.draw("metal", "paint"), palette.draw("carpet")
    if rng.random() < 0.6:
        solids = (
            rod((0.0, 0.0, height / 2), radius, height, body),
            rod((0.0, 0.0, height), radius * 1.06, 0.02, body),
            rod((0.0, 0.0, height + 0.006), radius * 0.92, 0.012, inside),
        )
    else:
        solids = (
            box((0.0, 0.0, height / 2), (2 * radius, 1.6 * radius, height), body),
            box((0.0, 0.0, height), (2.1 * radius, 1.7 * radius, 0.03), inside),
        )
    return Thing("trash can", solids, radius * 1.06, radius * 1.06)


def toy_ball(rng: Generator, palette: Palette, *, small: bool = False) -> Thing:
    """Make a ball."""
    radius = rng.uniform(0.03, 0.06) if small else rng.uniform(0.09, 0.3)
    material = palette.draw("stripes", "paint", "dots", "tiles")
    solid = ball(
        (0.0, 0.0, radius), (radius, radius, radius), material, tilt=rng.uniform(-1.5, 1.5)
    )
    return Thing("ball", (solid,), radius, radius)


def carton(rng: Generator, palette: Palette, *, small: bool = False) -> Thing:
    """Make a box, now and then with a lid or with a second one on top."""
    scale = 0.4 if small else 1.0
    width, depth, height = (float(edge) for edge in scale * rng.uniform(0.2, 0.55, 3))
    body = palette.draw("paint", "wood", "stripes")
    solids = [box((0.0, 0.0, height / 2), (width, depth, height), body)]
    match int(rng.integers(3)):
        case 0:
            lid = (width * 1.05, depth * 1.05, 0.15 * height)
            solids.append(box((0.0, 0.0, height * 0.95), lid, palette.draw("paint")))
        case 1:
            upper = (width * 0.7, depth * 0.7, height * 0.6)
            turn = rng.uniform(-0.5, 0.5)
            solids.append(
                box((0.0, 0.0, height * 1.3), upper, palette.draw("paint", "dots"), turn=turn)
            )
        case _:
            pass
    return Thing("box", tuple(solids), width * 0.55, depth * 0.55)


def ottoman(rng: Generator, palette: Palette) -> Thing:
    """Make a padded seat without a back, round or square."""
    radius, height = rng.uniform(0.22, 0.34), rng.uniform(0.34, 0.46)
    cover, side = palette.draw("fabric"), palette.draw("fabric", "wood")
    if rng.random() < 0.5:
        solids = (
            rod((0.0, 0.0, height / 2 - 0.03), radius, height - 0.06, side),
            ball((0.0, 0.0, height - 0.06), (radius, radius, 0.07), cover),
        )
    else:
        solids = (
            box((0.0, 0.0, height / 2 - 0.02), (1.7 * radius, 1.7 * radius, height - 0.1), side),
            box((0.0, 0.0, height - 0.04), (1.8 * radius, 1.8 * radius, 0.08), cover),
        )
    return Thing("ottoman", solids, radius, radius)


def mat(rng: Generator, palette: Palette) -> Thing:
    """Make a rug to walk on, round or not."""
    material = palette.draw("carpet", "stripes", "dots", "fabric", "tiles")
    if rng.random() < 0.3:
        radius = rng.uniform(0.7, 1.1)
        return Thing(
            "mat", (rod((0.0, 0.0, 0.006), radius, 0.012, material),), radius, radius, blocks=False
        )
    width, depth = rng.uniform(1.2, 2.4), rng.uniform(0.8, 1.6)
    solid = box((0.0, 0.0, 0.006), (width, depth, 0.012), material)
    return Thing("mat", (solid,), width / 2, depth / 2, blocks=False)


def cup(rng: Generator, palette: Palette) -> Thing:
    """Make a cup with something dark in it."""
    radius, height = rng.uniform(0.035, 0.05), rng.uniform(0.07, 0.12)
    solids = (
        rod((0.0, 0.0, height / 2), radius, height, palette.draw("paint", "dots", "stripes")),
        rod((0.0, 0.0, height), radius * 0.85, 0.006, palette.draw("carpet")),
        box((radius + 0.012, 0.0, height / 2), (0.03, 0.012, height * 0.6), palette.draw("paint")),
    )
    return Thing("cup", solids, 0.07, 0.05)


def bottle(rng: Generator, palette: Palette) -> Thing:
    """Make a bottle with neck and cap, or a vase with a round belly."""
    radius, height = rng.uniform(0.03, 0.05), rng.uniform(0.2, 0.32)
    body, cap = palette.draw("paint", "stone"), palette.draw("paint")
    solids: tuple[Solid, ...] = (
        rod((0.0, 0.0, height * 0.3), radius, height * 0.6, body),
        ball((0.0, 0.0, height * 0.6), (radius, radius, radius), body),
        rod((0.0, 0.0, height * 0.8), radius * 0.35, height * 0.4, body),
        rod((0.0, 0.0, height * 0.97), radius * 0.42, height * 0.06, cap),
    )
    return Thing("bottle", solids, radius, radius)


def book_pile(rng: Generator, palette: Palette) -> Thing:
    """Make a pile of one to four books, each turned a little."""
    width, depth, solids, base = rng.uniform(0.16, 0.24), rng.uniform(0.2, 0.3), [], 0.0
    for _ in range(int(rng.integers(1, 5))):
        thick, shrink = rng.uniform(0.015, 0.045), rng.uniform(0.8, 1.0)
        size = (width * shrink, depth * shrink, thick)
        turn, material = rng.normal(0.0, 0.25), palette.draw("paint", "stripes", "dots")
        solids.append(box((0.0, 0.0, base + thick / 2), size, material, turn=turn))
        base += thick
    return Thing("book", tuple(solids), 0.55 * width, 0.55 * depth)


def monitor(rng: Generator, palette: Palette, category: str = "monitor") -> Thing:
    """Make a flat screen on a foot; a TV is larger than a monitor."""
    width = rng.uniform(0.85, 1.25) if category == "tv" else rng.uniform(0.45, 0.65)
    high, case = width * 0.58, palette.draw("paint", "metal")
    lift = 0.06 if category == "tv" else 0.12
    picture = palette.exactly("screen")
    solids = (
        box((0.0, 0.0, lift + high / 2), (width, 0.035, high), case),
        box((0.0, 0.018, lift + high / 2), (width - 0.03, 0.004, high - 0.03), picture, glow=0.35),
        box((0.0, -0.01, lift / 2 + 0.02), (0.08, 0.02, lift + 0.08), case),
        box((0.0, 0.0, 0.008), (width * 0.4, 0.18, 0.016), case),
    )
    return Thing(category, solids, width / 2, 0.1)
