"""Furnished rooms, drawn at random from a seed."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import numpy as np
from numpy.random import Generator

from geomim_data.sources.synthetic import clutter, fixtures, furniture
from geomim_data.sources.synthetic.floor_plan import FloorPlan, Rectangle, footprint
from geomim_data.sources.synthetic.ground import Ground
from geomim_data.sources.synthetic.lights import Light, Lighting
from geomim_data.sources.synthetic.palette import Palette
from geomim_data.sources.synthetic.scene import Scene, assemble
from geomim_data.sources.synthetic.solids import Placed, Thing, Top

_DOOR_SWING_M = 0.9
# ScanNet's instance images have 8 bits.
_FEWEST_THINGS, _MOST_THINGS = 32, 255
_LEAST_FREE_M2 = 3.5
_Maker = Callable[[Generator, Palette], Thing]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Room:
    """A room of ``size`` (width, depth, height) with a corner of its floor at the origin, z up.

    ``things`` are what stands, lies and hangs in it, the building itself included.
    """

    size: tuple[float, float, float]
    things: tuple[Placed, ...]
    scene: Scene


def room(seed: int) -> Room:
    """Build and furnish a room; the same seed gives the same room.

    Its kind (bedroom, living room, study, dining room), its size, furniture, materials and light
    are drawn at random. Materials do not depend on what wears them.
    """
    rng = np.random.default_rng(seed)
    while True:
        palette = Palette(rng)
        size = (rng.uniform(4.4, 6.8), rng.uniform(3.8, 5.6), rng.uniform(2.45, 2.9))
        things, lighting = _equip(size, palette)
        count = sum(1 for root in things for _ in root.all())
        if (
            _FEWEST_THINGS <= count <= _MOST_THINGS
            and Ground(size[:2], things).free_m2() >= _LEAST_FREE_M2
        ):
            return Room(size, things, assemble(things, palette.atlas(), lighting, rng=rng))


def _equip(
    size: tuple[float, float, float], palette: Palette
) -> tuple[tuple[Placed, ...], Lighting]:
    plan = FloorPlan(size[:2], palette.rng)
    _open_walls(plan, palette)
    _furnish(plan, palette)
    _scatter(plan, palette)
    _hang(plan, palette, size[2])
    lighting = _light(plan, palette, size)
    return (*_shell(plan, palette, size[2]), *plan.placed), lighting


def _shell(plan: FloorPlan, palette: Palette, height: float) -> list[Placed]:
    rng, (width, depth) = plan.rng, plan.size
    floor = palette.draw("planks", "carpet", "tiles", "wood", "planks")
    paper, skirting = (
        palette.draw("paint", "paint", "dots", "stripes"),
        palette.draw("paint", "wood"),
    )
    accent = palette.draw("paint", "bricks", "planks", "dots") if rng.random() < 0.4 else paper
    middle = (width / 2, depth / 2)
    shell = [
        Placed(fixtures.slab("floor", plan.size, -0.05, floor), *middle),
        Placed(
            fixtures.slab("ceiling", plan.size, height + 0.05, palette.exactly("whitewash")),
            *middle,
        ),
    ]
    for side in range(4):
        material = accent if side == 0 else paper
        thing = fixtures.wall(plan.wall_length(side), height, material, skirting)
        shell.append(plan.on_wall(side, thing, 0.0, 0.0))
    return shell


def _open_walls(plan: FloorPlan, palette: Palette) -> None:
    """Put in a door that can open, windows, and now and then a pillar in a corner."""
    rng = plan.rng
    first = int(rng.integers(4))
    door = fixtures.door(rng, palette)
    x = rng.uniform(door.half_width + 0.1, plan.wall_length(first) - door.half_width - 0.1)
    plan.add(plan.on_wall(first, door, x, 0.0), takes_floor=False)
    swing = replace(door, half_depth=_DOOR_SWING_M / 2)
    plan.taken.append(footprint(plan.on_wall(first, swing, x, _DOOR_SWING_M / 2)))
    for wall in {(first + 2) % 4, (first + int(rng.choice((1, 3)))) % 4}:
        glass = fixtures.window(rng, palette)
        space = plan.wall_length(wall) - 2 * glass.half_width
        if space > 0.2 and rng.random() < 0.75:
            x = glass.half_width + rng.uniform(0.05, space - 0.05)
            placed = plan.add(plan.on_wall(wall, glass, x, 0.0), takes_floor=False)
            plan.windows.append(footprint(placed, margin=0.05))
    if rng.random() < 0.3:
        column = fixtures.pillar(rng, 3.0, palette.draw("paint", "bricks"))
        plan.stand_at_wall(replace(column, half_depth=column.half_depth + 0.02))


def _furnish(plan: FloorPlan, palette: Palette) -> None:
    """Set up what makes the room's kind, then add storage along the walls while there is space."""
    groups = (_bedroom, _living_room, _study, _dining_room)
    order = plan.rng.permutation(len(groups))
    groups[order[0]](plan, palette)
    if plan.size[0] * plan.size[1] > 22:
        groups[order[1]](plan, palette)
    storage: tuple[_Maker, ...] = (
        furniture.bookshelf,
        furniture.cabinet,
        partial(furniture.cabinet, category="dresser"),
        furniture.refrigerator,
        furniture.desk,
        furniture.chair,
    )
    for _ in range(int(plan.rng.integers(3, 6))):
        maker = storage[plan.rng.integers(len(storage))]
        plan.stand_at_wall(_laid(plan.rng, palette, maker(plan.rng, palette)))


def _bedroom(plan: FloorPlan, palette: Palette) -> None:
    rng = plan.rng
    bed = plan.stand_at_wall(furniture.bed(rng, palette))
    if bed is None:
        return
    for side in (-1, 1):
        stand = _laid(rng, palette, furniture.cabinet(rng, palette, "nightstand"))
        x = side * (bed.thing.half_width + stand.half_width + 0.06)
        plan.stand_beside(bed, stand, x, stand.half_depth - bed.thing.half_depth)


def _living_room(plan: FloorPlan, palette: Palette) -> None:
    rng = plan.rng
    couch = plan.stand_at_wall(furniture.couch(rng, palette))
    if couch is not None:
        low = _laid(rng, palette, furniture.table(rng, palette, "coffee table"))
        y = couch.thing.half_depth + low.half_depth + rng.uniform(0.3, 0.45)
        plan.stand_beside(couch, low, rng.uniform(-0.2, 0.2), y)
    stand = furniture.cabinet(rng, palette, "tv stand")
    screen = Placed(clutter.monitor(rng, palette, "tv"), 0.0, -0.05, stand.height())
    plan.stand_at_wall(replace(stand, carries=(screen,)))
    plan.stand_at_wall(furniture.couch(rng, palette))


def _study(plan: FloorPlan, palette: Palette) -> None:
    rng = plan.rng
    for _ in range(int(rng.integers(1, 3))):
        desk = plan.stand_at_wall(_laid(rng, palette, furniture.desk(rng, palette)))
        if desk is not None:
            seat = furniture.office_chair(rng, palette)
            y = desk.thing.half_depth + seat.half_depth + rng.uniform(0.0, 0.15)
            yaw = math.pi + rng.normal(0.0, 0.4)
            plan.stand_beside(desk, seat, rng.uniform(-0.2, 0.2), y + 0.1, yaw=yaw)


def _dining_room(plan: FloorPlan, palette: Palette) -> None:
    rng = plan.rng
    table = plan.stand_anywhere(_laid(rng, palette, furniture.table(rng, palette)), margin=0.65)
    if table is None:
        return
    state = rng.bit_generator.state
    for side in range(4):
        # Chairs of one set look alike: draw each from the same state.
        rng.bit_generator.state = state
        seat = furniture.chair(rng, palette)
        across = table.thing.half_depth if side % 2 == 0 else table.thing.half_width
        reach = across + seat.half_depth + 0.03
        angle = side * math.pi / 2
        x, y = -reach * math.sin(angle), reach * math.cos(angle)
        plan.stand_beside(table, seat, x, y, yaw=angle + math.pi)


def _scatter(plan: FloorPlan, palette: Palette) -> None:
    """Stand small things about and spread rugs where nothing hinders."""
    rng = plan.rng
    makers: tuple[_Maker, ...] = (
        clutter.trash_can,
        clutter.toy_ball,
        clutter.carton,
        clutter.ottoman,
        partial(clutter.plant, tall=True),
        partial(clutter.lamp, tall=True),
    )
    for _ in range(int(rng.integers(5, 9))):
        thing = makers[rng.integers(len(makers))](rng, palette)
        if rng.random() < 0.75:
            plan.stand_at_wall(thing)
        else:
            plan.stand_anywhere(thing, margin=0.1)
    if rng.random() < 0.6:
        width, depth = plan.size
        x, y = width * rng.uniform(0.4, 0.6), depth * rng.uniform(0.4, 0.6)
        plan.add(
            Placed(clutter.mat(rng, palette), x, y, yaw=rng.normal(0.0, 0.2)), takes_floor=False
        )


def _laid(rng: Generator, palette: Palette, thing: Thing) -> Thing:
    """Put small things on everything that has a top."""
    carried = list(thing.carries)
    for top in thing.tops:
        carried += _spread(rng, palette, top, screen=thing.category == "desk")
    return replace(thing, carries=tuple(carried))


def _spread(rng: Generator, palette: Palette, top: Top, *, screen: bool) -> list[Placed]:
    laid: list[Placed] = []
    if screen and rng.random() < 0.8:
        thing = clutter.monitor(rng, palette)
        y = top.y - top.half_depth + 0.14
        laid.append(Placed(thing, top.x + rng.normal(0.0, 0.1), y, top.z, rng.normal(0.0, 0.15)))
    for _ in range(int(rng.poisson(1.5 + 4 * top.half_width * top.half_depth * 4))):
        thing = _small_thing(rng, palette)
        half = max(thing.half_width, thing.half_depth)
        span_x, span_y = top.half_width - half, top.half_depth - half
        if min(span_x, span_y) <= 0 or top.z + thing.height() > 2.2:
            continue
        x, y = top.x + rng.uniform(-span_x, span_x), top.y + rng.uniform(-span_y, span_y)
        placed = Placed(thing, x, y, top.z, rng.uniform(-math.pi, math.pi))
        if not any(footprint(placed).overlaps(footprint(other)) for other in laid):
            laid.append(placed)
    return laid


def _small_thing(rng: Generator, palette: Palette) -> Thing:
    makers: tuple[_Maker, ...] = (
        partial(clutter.lamp, tall=False),
        partial(clutter.plant, tall=False),
        partial(clutter.toy_ball, small=True),
        partial(clutter.carton, small=True),
        clutter.bottle,
        clutter.cup,
        clutter.book_pile,
    )
    return makers[rng.integers(len(makers))](rng, palette)


def _hang(plan: FloorPlan, palette: Palette, height: float) -> None:
    """Hang pictures, a clock and boards on what is left of the walls."""
    rng = plan.rng
    hung: list[Rectangle] = [
        footprint(item) for item in plan.placed if item.thing.category == "door"
    ]
    for number in range(int(rng.integers(5, 10))):
        makers: tuple[_Maker, ...] = (fixtures.clock, fixtures.wall_shelf, fixtures.picture)
        thing = makers[min(number, 2)](rng, palette)
        wall, z = int(rng.integers(4)), rng.uniform(1.25, 1.5)
        space = plan.wall_length(wall) - 2 * thing.half_width - 0.2
        x = thing.half_width + 0.1 + rng.uniform(0.0, max(space, 0.0))
        placed = plan.on_wall(wall, thing, x, 0.0, z=z)
        patch = footprint(placed, margin=0.04)
        high = [footprint(item) for item in plan.placed if item.thing.height() > z - 0.1]
        in_the_way = any(patch.overlaps(other) for other in (*hung, *high, *plan.windows))
        if not in_the_way and z + thing.height() < height - 0.1:
            hung.append(patch)
            plan.add(placed, takes_floor=False)


def _light(plan: FloorPlan, palette: Palette, size: tuple[float, float, float]) -> Lighting:
    """Hang a lamp near the middle of the ceiling; windows shine too."""
    rng, (width, depth, height) = plan.rng, size
    warm = np.array([1.0, rng.uniform(0.85, 1.0), rng.uniform(0.7, 1.0)], np.float32)
    x, y = width * rng.uniform(0.38, 0.62), depth * rng.uniform(0.38, 0.62)
    plan.add(Placed(fixtures.hanging_lamp(rng, palette), x, y, height), takes_floor=False)
    reach = 0.45 * math.hypot(width, depth)
    lamp = np.array([x, y, height - 0.45], np.float32)
    sources = [Light(lamp, warm * np.float32(rng.uniform(1.0, 1.5)), reach, shadows=True)]
    sky = np.array([0.85, 0.93, 1.0], np.float32)
    for item in plan.placed:
        if item.thing.category == "window":
            inside = np.array([*item.at(0.0, 0.35), 1.45], np.float32)
            sources.append(
                Light(inside, sky * np.float32(rng.uniform(0.3, 0.7)), 1.8, shadows=False)
            )
    from_above = sky * np.float32(rng.uniform(0.22, 0.34))
    from_below = warm * from_above.mean() * np.float32(rng.uniform(0.5, 0.8))
    return Lighting(tuple(sources), from_above, from_below, size)
