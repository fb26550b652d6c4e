"""Where things may stand in a room: what is taken, along which wall, next to what."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, final

from numpy.random import Generator

from geomim_data.sources.synthetic.solids import Placed, Thing


@final
class Rectangle(NamedTuple):
    """A patch of floor in metres, edges along x and y."""

    left: float
    right: float
    low: float
    high: float

    def overlaps(self, other: "Rectangle") -> bool:
        """Tell whether two patches share more than an edge."""
        across = self.left < other.right and other.left < self.right
        return across and self.low < other.high and other.low < self.high


def footprint(placed: Placed, *, margin: float = 0.0) -> Rectangle:
    """Return the patch of floor that a thing takes, widened by ``margin`` all round."""
    x, y = placed.reach()
    x, y = x + margin, y + margin
    return Rectangle(placed.x - x, placed.x + x, placed.y - y, placed.y + y)


@final
@dataclass(slots=True, eq=False)
class FloorPlan:
    """A rectangular room of ``size`` (width, depth) with a corner at the origin.

    Wall 0 lies along y = 0, then they go round against the clock; each has its own frame with x
    along the wall and y into the room.
    """

    size: tuple[float, float]
    rng: Generator
    placed: list[Placed] = field(default_factory=list)
    taken: list[Rectangle] = field(default_factory=list)
    windows: list[Rectangle] = field(default_factory=list)

    def wall_length(self, wall: int) -> float:
        """Return the length of a wall."""
        return self.size[wall % 2]

    def on_wall(self, wall: int, thing: Thing, x: float, y: float, *, z: float = 0.0) -> Placed:
        """Place a thing given in the frame of a wall, facing the room."""
        width, depth = self.size
        corner = ((0.0, 0.0), (width, 0.0), (width, depth), (0.0, depth))[wall]
        frame = Placed(thing, *corner, yaw=wall * math.pi / 2)
        return Placed(thing, *frame.at(x, y), z, frame.yaw)

    def add(self, placed: Placed, *, takes_floor: bool = True) -> Placed:
        """Put a thing down."""
        self.placed.append(placed)
        if takes_floor:
            self.taken.append(footprint(placed))
        return placed

    def is_free(self, placed: Placed, *, margin: float = 0.04) -> bool:
        """Tell whether a thing fits in the room and keeps its distance from all others."""
        inner, patch = footprint(placed), footprint(placed, margin=margin)
        width, depth = self.size
        if min(inner.left, inner.low) < 0 or inner.right > width or inner.high > depth:
            return False
        return not any(patch.overlaps(other) for other in self.taken)

    def stand_at_wall(self, thing: Thing, *, tries: int = 20) -> Placed | None:
        """Stand a thing with its back to a wall, a high one not before a window, if it fits."""
        for _ in range(tries):
            wall = int(self.rng.integers(4))
            half = thing.half_width + 0.03
            if 2 * half > self.wall_length(wall):
                continue
            x = self.rng.uniform(half, self.wall_length(wall) - half)
            y = thing.half_depth + self.rng.uniform(0.02, 0.06)
            placed = self.on_wall(wall, thing, x, y)
            if self.is_free(placed) and not self._hides_window(placed):
                return self.add(placed)
        return None

    def _hides_window(self, placed: Placed) -> bool:
        patch = footprint(placed)
        return placed.thing.height() > 1.0 and any(patch.overlaps(glass) for glass in self.windows)

    def stand_beside(
        self, anchor: Placed, thing: Thing, x: float, y: float, *, yaw: float = 0.0
    ) -> Placed | None:
        """Stand a thing at a place given in the frame of another, if it fits."""
        placed = anchor.holds(Placed(thing, x, y, yaw=yaw))
        return self.add(placed) if self.is_free(placed, margin=0.0) else None

    def stand_anywhere(self, thing: Thing, *, margin: float, tries: int = 20) -> Placed | None:
        """Stand a thing, turned at random, ``margin`` away from all others, if it fits."""
        width, depth = self.size
        for _ in range(tries):
            x, y = self.rng.uniform(0, width), self.rng.uniform(0, depth)
            placed = Placed(thing, x, y, yaw=self.rng.uniform(-math.pi, math.pi))
            if self.is_free(placed, margin=margin):
                return self.add(placed)
        return None
