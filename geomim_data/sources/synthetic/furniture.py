"""Furniture built of boxes, cylinders and ellipsoids, in sizes and materials drawn at random.

Every maker returns a thing that faces +y: its back, at -half_depth, is the side for the wall.
"""

import math

from numpy.random import Generator

from geomim_data.sources.synthetic.palette import Palette
from geomim_data.sources.synthetic.solids import Placed, Solid, Thing, Top, ball, box, rod


def table(rng: Generator, palette: Palette, category: str = "table") -> Thing:
    """Make a table, round or not, on legs, panels or a single foot; a coffee table is low."""
    low = category == "coffee table"
    width = rng.uniform(0.7, 1.1) if low else rng.uniform(0.9, 1.8)
    depth = rng.uniform(0.45, 0.7) if low else rng.uniform(0.65, 0.95)
    height = rng.uniform(0.35, 0.48) if low else rng.uniform(0.7, 0.78)
    board, legs = palette.draw("wood", "planks", "stone"), palette.draw("wood", "metal")
    thick = rng.uniform(0.025, 0.05)
    if not low and rng.random() < 0.3:
        return _round_table(rng, height, thick, (board, legs))
    under = height - thick
    solids = [box((0.0, 0.0, height - thick / 2), (width, depth, thick), board)]
    if rng.random() < 0.7:
        solids += _four_legs(rng, (width, depth, under), legs)
    else:
        side = width / 2 - 0.08
        solids += [
            box((x, 0.0, under / 2), (0.05, depth - 0.08, under), legs) for x in (-side, side)
        ]
        solids.append(box((0.0, 0.0, under * 0.4), (2 * side, 0.04, 0.08), legs))
    return Thing(category, tuple(solids), width / 2, depth / 2, (_whole_top(width, depth, height),))


def _round_table(rng: Generator, height: float, thick: float, materials: tuple[int, int]) -> Thing:
    radius, (board, foot) = rng.uniform(0.45, 0.65), materials
    solids = (
        rod((0.0, 0.0, height - thick / 2), radius, thick, board),
        rod((0.0, 0.0, (height - thick) / 2), rng.uniform(0.04, 0.08), height - thick, foot),
        rod((0.0, 0.0, 0.02), radius * 0.55, 0.04, foot),
    )
    inner = radius * 0.7
    return Thing("table", solids, radius, radius, (Top(0.0, 0.0, height, inner, inner),))


def _four_legs(
    rng: Generator, size: tuple[float, float, float], material: int, inset: float = 0.06
) -> list[Solid]:
    """Stand legs under the corners of a (width, depth, height) block."""
    width, depth, height = size
    thick = rng.uniform(0.03, 0.07)
    corners = [
        (x * (width / 2 - inset), y * (depth / 2 - inset), height / 2)
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    if rng.random() < 0.5:
        return [rod(corner, thick / 2, height, material) for corner in corners]
    return [box(corner, (thick, thick, height), material) for corner in corners]


def _whole_top(width: float, depth: float, height: float) -> Top:
    return Top(0.0, 0.0, height, width / 2 - 0.04, depth / 2 - 0.04)


def desk(rng: Generator, palette: Palette) -> Thing:
    """Make a desk with a block of drawers, one side panel and a panel at its back."""
    width, depth, height = rng.uniform(1.1, 1.7), rng.uniform(0.6, 0.8), rng.uniform(0.71, 0.77)
    board, body = palette.draw("wood", "paint"), palette.draw("wood", "paint", "metal")
    under, chest = height - 0.035, rng.uniform(0.35, 0.45)
    side = rng.choice((-1, 1))
    x = side * (width / 2 - chest / 2 - 0.02)
    solids = [
        box((0.0, 0.0, height - 0.0175), (width, depth, 0.035), board),
        box((x, 0.0, under / 2 + 0.03), (chest, depth - 0.06, under - 0.06), body),
        box((-side * (width / 2 - 0.03), 0.0, under / 2), (0.04, depth - 0.04, under), body),
        box((0.0, -depth / 2 + 0.05, under * 0.65), (width - 0.1, 0.02, under * 0.6), body),
    ]
    solids += _fronts(rng, palette, (x, depth / 2 - 0.03), (chest, under - 0.06, 0.06), rows=3)
    return Thing("desk", tuple(solids), width / 2, depth / 2, (_whole_top(width, depth, height),))


def _fronts(
    rng: Generator,
    palette: Palette,
    place: tuple[float, float],
    size: tuple[float, float, float],
    *,
    rows: int,
    columns: int = 1,
) -> list[Solid]:
    """Put doors or drawers with handles at ``place`` (x, y), over (width, height, base)."""
    (x, y), (width, height, base) = place, size
    front, handle = palette.draw("wood", "paint"), palette.draw("metal")
    bar = rng.random() < 0.5
    cell_width, cell_height = width / columns, height / rows
    solids: list[Solid] = []
    for row in range(rows):
        for column in range(columns):
            left = x + (column + 0.5) * cell_width - width / 2
            middle = base + (row + 0.5) * cell_height
            size = (cell_width - 0.015, 0.018, cell_height - 0.015)
            solids.append(box((left, y + 0.009, middle), size, front))
            if bar:
                solids.append(box((left, y + 0.03, middle), (0.12, 0.02, 0.015), handle))
            else:
                solids.append(ball((left, y + 0.03, middle), (0.017, 0.017, 0.017), handle))
    return solids


def chair(rng: Generator, palette: Palette) -> Thing:
    """Make a chair on four legs; its back leans and is one board or slats, arms now and then."""
    width, depth, seat = rng.uniform(0.4, 0.5), rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.48)
    frame, cover = palette.draw("wood", "metal"), palette.draw("fabric", "wood", "paint")
    high, lean = rng.uniform(0.38, 0.55), rng.uniform(0.03, 0.2)
    solids = [box((0.0, 0.0, seat - 0.025), (width, depth, 0.05), cover)]
    solids += _four_legs(rng, (width, depth, seat - 0.05), frame, inset=0.03)
    back, middle = -depth / 2 + 0.02, seat + high / 2
    shift = -math.sin(lean) * high / 2
    if rng.random() < 0.5:
        solids.append(box((0.0, back + shift, middle), (width, 0.035, high), cover, tilt=lean))
    else:
        for x in (-width / 2 + 0.02, 0.0, width / 2 - 0.02):
            solids.append(box((x, back + shift, middle), (0.04, 0.03, high), frame, tilt=lean))
        top = (0.0, back + 2 * shift, seat + high - 0.04)
        solids.append(box(top, (width, 0.04, 0.12), cover, tilt=lean))
    if rng.random() < 0.25:
        for x in (-width / 2, width / 2):
            solids.append(box((x, 0.0, seat + 0.2), (0.04, depth * 0.9, 0.03), frame))
            solids.append(box((x, depth * 0.38, seat + 0.1), (0.03, 0.03, 0.2), frame))
    return Thing("chair", tuple(solids), width / 2 + 0.02, depth / 2 + 0.05)


def office_chair(rng: Generator, palette: Palette) -> Thing:
    """Make a swivel chair: a column on a star with castors, padded seat and back."""
    seat, cover, metal = rng.uniform(0.44, 0.52), palette.draw("fabric"), palette.draw("metal")
    solids = [
        rod((0.0, 0.0, seat / 2), 0.03, seat - 0.1, metal),
        box((0.0, 0.0, seat), (0.48, 0.46, 0.08), cover),
        box((0.0, -0.25, seat + 0.33), (0.44, 0.07, rng.uniform(0.4, 0.6)), cover, tilt=0.12),
        box((0.0, -0.24, seat + 0.08), (0.06, 0.03, 0.3), metal),
    ]
    for arm in range(5):
        angle = arm * 2 * math.pi / 5
        x, y = math.cos(angle), math.sin(angle)
        solids.append(box((0.14 * x, 0.14 * y, 0.08), (0.28, 0.04, 0.03), metal, turn=angle))
        solids.append(ball((0.27 * x, 0.27 * y, 0.035), (0.035, 0.035, 0.035), metal))
    for x in (-0.27, 0.27):
        solids.append(box((x, 0.0, seat + 0.2), (0.05, 0.26, 0.03), metal))
        solids.append(box((x, -0.05, seat + 0.1), (0.03, 0.04, 0.2), metal))
    return Thing("office chair", tuple(solids), 0.3, 0.3)


def couch(rng: Generator, palette: Palette) -> Thing:
    """Make a sofa or an armchair with seat and back cushions and loose pillows."""
    seats = int(rng.choice((1, 2, 3)))
    seat_width, arm = rng.uniform(0.58, 0.7), rng.uniform(0.12, 0.24)
    width, depth, seat = (
        seats * seat_width + 2 * arm,
        rng.uniform(0.8, 0.95),
        rng.uniform(0.4, 0.46),
    )
    body, cushion = palette.draw("fabric"), palette.draw("fabric")
    high = rng.uniform(0.75, 0.9)
    solids = [
        box((0.0, 0.0, 0.06 + seat * 0.3), (width - 0.02, depth - 0.02, seat * 0.6), body),
        box((0.0, -depth / 2 + 0.1, (high + 0.1) / 2), (width, 0.2, high - 0.1), body, tilt=0.06),
    ]
    for x in (-width / 2 + arm / 2, width / 2 - arm / 2):
        solids.append(box((x, 0.02, seat / 2 + 0.14), (arm, depth - 0.04, seat + 0.12), body))
        if rng.random() < 0.5:
            top = (x, 0.02, seat + 0.2)
            solids.append(rod(top, arm / 2, depth - 0.04, body, tilt=math.pi / 2))
    for index in range(seats):
        x = (index - (seats - 1) / 2) * seat_width
        solids.append(box((x, 0.08, seat - 0.06), (seat_width - 0.02, depth - 0.28, 0.15), cushion))
        upright = (x, -depth / 2 + 0.26, seat + 0.2)
        solids.append(box(upright, (seat_width - 0.03, 0.16, 0.36), cushion, tilt=0.2))
    pillows = [
        Placed(
            _pillow(rng, palette), (end * (width / 2 - arm - 0.24)), -depth / 2 + 0.42, seat + 0.02
        )
        for end in (-1, 1)
        if rng.random() < 0.5
    ]
    return Thing("couch", tuple(solids), width / 2, depth / 2, carries=tuple(pillows))


def _pillow(rng: Generator, palette: Palette) -> Thing:
    side = rng.uniform(0.19, 0.24)
    solid = ball(
        (0.0, 0.0, side), (side, 0.075, side), palette.draw("fabric", "stripes", "dots"), tilt=0.35
    )
    return Thing("pillow", (solid,), side, 0.15)


def bed(rng: Generator, palette: Palette) -> Thing:
    """Make a bed for one or two, its head at the wall, with blanket and pillows."""
    double = rng.random() < 0.6
    width, depth = (
        (rng.uniform(1.4, 1.8) if double else rng.uniform(0.9, 1.05)),
        rng.uniform(1.95, 2.1),
    )
    height, frame = rng.uniform(0.42, 0.6), palette.draw("wood", "fabric")
    sheet, blanket = palette.draw("paint", "fabric"), palette.draw("fabric", "stripes", "dots")
    solids = [
        box((0.0, 0.0, height * 0.38), (width, depth, height * 0.36), frame),
        box((0.0, 0.03, height * 0.78), (width - 0.06, depth - 0.12, height * 0.44), sheet),
        box((0.0, 0.29, height * 0.8), (width - 0.02, depth - 0.61, height * 0.46), blanket),
        box((0.0, -depth / 2 + 0.03, 0.5), (width + 0.04, 0.06, rng.uniform(0.8, 1.1)), frame),
    ]
    solids += _four_legs(rng, (width, depth, height * 0.25), frame)
    pillow_width = width / 2 - 0.1 if double else width - 0.3
    places = (-width / 4, width / 4) if double else (0.0,)
    cover = palette.draw("fabric", "paint", "stripes")
    pillow = Thing(
        "pillow",
        (ball((0.0, 0.0, 0.07), (pillow_width / 2, 0.22, 0.09), cover, tilt=-0.15),),
        *(pillow_width / 2, 0.22),
    )
    carries = tuple(Placed(pillow, x, -depth / 2 + 0.34, height) for x in places)
    return Thing("bed", tuple(solids), width / 2 + 0.02, depth / 2, carries=carries)


def bookshelf(rng: Generator, palette: Palette) -> Thing:
    """Make an open bookshelf with rows of books on its boards."""
    width, depth, height = rng.uniform(0.7, 1.3), rng.uniform(0.26, 0.36), rng.uniform(1.2, 2.1)
    body = palette.draw("wood", "paint", "planks")
    boards = int(height / rng.uniform(0.32, 0.42))
    solids = [
        box((x, 0.0, height / 2), (0.025, depth, height), body)
        for x in (-width / 2 + 0.0125, width / 2 - 0.0125)
    ]
    if rng.random() < 0.7:
        back = (0.0, -depth / 2 + 0.006, height / 2)
        solids.append(
            box(back, (width - 0.01, 0.012, height - 0.01), palette.draw("wood", "paint"))
        )
    levels = [0.06 + (height - 0.08) * index / boards for index in range(boards + 1)]
    solids += [box((0.0, 0.0, z), (width - 0.05, depth - 0.01, 0.022), body) for z in levels]
    room = (height - 0.08) / boards - 0.03
    tops = [Top(0.0, 0.0, z + 0.011, width / 2 - 0.05, depth / 2 - 0.03, room) for z in levels[:-1]]
    tops.append(Top(0.0, 0.0, levels[-1] + 0.011, width / 2 - 0.05, depth / 2 - 0.03))
    carries: list[Placed] = []
    for top in tops[:-1]:
        carries += books_in_a_row(rng, palette, top)
    return Thing("bookshelf", tuple(solids), width / 2, depth / 2, (tops[-1],), tuple(carries))


def books_in_a_row(rng: Generator, palette: Palette, top: Top) -> list[Placed]:
    """Fill part of a board, from either end, with blocks of books and the odd box or vase."""
    row: list[Placed] = []
    x, side = -top.half_width, rng.choice((-1, 1))
    while x < top.half_width - 0.1 and rng.random() < 0.8:
        length = min(rng.uniform(0.1, 0.35), top.half_width - x)
        deep, high = rng.uniform(0.14, 2 * top.half_depth), rng.uniform(0.55, 0.9) * top.head_room
        material = palette.exactly("spines") if rng.random() < 0.7 else palette.draw("paint")
        solid = box((0.0, 0.0, high / 2), (length, deep, high), material)
        books = Thing("book", (solid,), length / 2, deep / 2)
        row.append(Placed(books, side * (x + length / 2), deep / 2 - top.half_depth, top.z))
        x += length + rng.choice((0.004, rng.uniform(0.03, 0.2)))
    return row


def cabinet(rng: Generator, palette: Palette, category: str = "cabinet") -> Thing:
    """Make a closed body with doors or drawers: cabinet, dresser, nightstand or TV stand."""
    low, high, rows, columns = {
        "cabinet": ((0.8, 0.4, 0.8), (1.3, 0.6, 2.0), 1, 2),
        "dresser": ((0.8, 0.42, 0.75), (1.3, 0.52, 1.1), int(rng.integers(3, 5)), 2),
        "nightstand": ((0.38, 0.34, 0.45), (0.5, 0.42, 0.6), 2, 1),
        "tv stand": ((1.1, 0.38, 0.42), (1.7, 0.48, 0.58), 1, 3),
    }[category]
    width, depth, height = (float(edge) for edge in rng.uniform(low, high))
    body, foot = palette.draw("wood", "paint", "planks"), rng.uniform(0.04, 0.12)
    tall = height - foot
    solids = [
        box((0.0, -0.01, foot + tall / 2), (width, depth - 0.02, tall), body),
        *_four_legs(rng, (width, depth, foot), body),
        *_fronts(
            *(rng, palette, (0.0, depth / 2 - 0.02), (width - 0.02, tall - 0.02, foot + 0.01)),
            rows=rows,
            columns=columns,
        ),
    ]
    return Thing(
        category, tuple(solids), width / 2, depth / 2 + 0.03, (_whole_top(width, depth, height),)
    )


def refrigerator(rng: Generator, palette: Palette) -> Thing:
    """Make a refrigerator with two doors, one above the other, and upright handles."""
    width, depth, height = rng.uniform(0.55, 0.75), rng.uniform(0.58, 0.7), rng.uniform(1.45, 1.85)
    body, handle = palette.draw("paint", "metal"), palette.draw("metal")
    split, side = height * rng.uniform(0.3, 0.7), rng.choice((-1, 1)) * (width / 2 - 0.06)
    solids = [box((0.0, -0.03, height / 2 + 0.02), (width, depth - 0.06, height - 0.04), body)]
    for low, high in ((0.05, split - 0.01), (split + 0.01, height)):
        middle = (low + high) / 2
        solids.append(box((0.0, depth / 2 - 0.025, middle), (width, 0.05, high - low), body))
        solids.append(rod((side, depth / 2 + 0.03, middle), 0.012, 0.6 * (high - low), handle))
    top = Top(0.0, 0.0, height, width / 2 - 0.05, depth / 2 - 0.05)
    return Thing("refrigerator", tuple(solids), width / 2, depth / 2 + 0.04, (top,))
