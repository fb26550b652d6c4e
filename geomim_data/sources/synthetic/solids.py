"""What synthetic scenes are put together from: solids, and things made of solids."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64

from geomim.raycasting import PrimitiveKind

Point = tuple[float, float, float]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Solid:
    """One primitive in the frame of its thing: x right, y to the front, z up.

    ``tilt`` turns it about x, then ``turn`` about z. ``glow`` is the light it gives off by
    itself, in units of its own colour under full light; what glows throws no shadow.
    """

    kind: PrimitiveKind
    centre: Point
    half_size: Point
    material: int
    turn: float = 0.0
    tilt: float = 0.0
    glow: float = 0.0

    def rotation(self) -> Float64[np.ndarray, "3 3"]:
        """Return the rotation from the solid's own axes to its thing's."""
        return rotation_about_z(self.turn) @ rotation_about_x(self.tilt)

    def top(self) -> float:
        """Return how high the solid reaches, at most, in its thing's frame."""
        return self.centre[2] + float(np.abs(self.rotation()[2]) @ np.array(self.half_size))


def box(
    centre: Point,
    size: Point,
    material: int,
    *,
    turn: float = 0.0,
    tilt: float = 0.0,
    glow: float = 0.0,
) -> Solid:
    """Make a box of full edge lengths ``size``."""
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    return Solid(PrimitiveKind.BOX, centre, half, material, turn, tilt, glow)


def rod(
    centre: Point,
    radius: float,
    length: float,
    material: int,
    *,
    turn: float = 0.0,
    tilt: float = 0.0,
    glow: float = 0.0,
) -> Solid:
    """Make a capped cylinder, upright unless tilted."""
    half = (radius, radius, length / 2)
    return Solid(PrimitiveKind.CYLINDER, centre, half, material, turn, tilt, glow)


def ball(
    centre: Point, radii: Point, material: int, *, tilt: float = 0.0, glow: float = 0.0
) -> Solid:
    """Make an ellipsoid."""
    return Solid(PrimitiveKind.SPHERE, centre, radii, material, 0.0, tilt, glow)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Top:
    """A level place to put things on, in the frame of the thing that offers it."""

    x: float
    y: float
    z: float
    half_width: float
    half_depth: float
    head_room: float = 0.6


@final
@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """One labelled thing, standing on z = 0 and centred on its footprint, with what it carries.

    ``blocks`` says whether it is in the way of somebody who walks.
    """

    category: str
    solids: tuple[Solid, ...]
    half_width: float
    half_depth: float
    tops: tuple[Top, ...] = ()
    carries: tuple["Placed", ...] = ()
    blocks: bool = True

    def height(self) -> float:
        """Return how high the thing reaches without what it carries."""
        return max(solid.top() for solid in self.solids)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A thing at its place: ``yaw`` turns it about z, then its origin moves to the place."""

    thing: Thing
    x: float
    y: float
    z: float = 0.0
    yaw: float = 0.0

    def reach(self) -> tuple[float, float]:
        """Return the half sizes of the box along x and y that holds the footprint."""
        cos, sin = abs(np.cos(self.yaw)), abs(np.sin(self.yaw))
        width, depth = self.thing.half_width, self.thing.half_depth
        return float(cos * width + sin * depth), float(sin * width + cos * depth)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Carry a place on the thing into the frame that the thing stands in."""
        cos, sin = float(np.cos(self.yaw)), float(np.sin(self.yaw))
        return self.x + cos * x - sin * y, self.y + sin * x + cos * y

    def holds(self, other: "Placed") -> "Placed":
        """Carry another thing, placed in this thing's frame, into the frame this one stands in."""
        x, y = self.at(other.x, other.y)
        return Placed(other.thing, x, y, self.z + other.z, self.yaw + other.yaw)

    def all(self) -> Iterator["Placed"]:
        """Walk over the thing and everything it carries, in the frame that it stands in."""
        yield self
        for carried in self.thing.carries:
            yield from self.holds(carried).all()


def rotation_about_z(angle: float) -> Float64[np.ndarray, "3 3"]:
    """Return the rotation that turns x towards y."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def rotation_about_x(angle: float) -> Float64[np.ndarray, "3 3"]:
    """Return the rotation that turns y towards z."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
