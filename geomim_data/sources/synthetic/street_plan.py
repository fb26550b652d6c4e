"""The plan of a street: its line, its lanes, and what lies how far from its middle."""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, final

import numpy as np
from numpy.random import Generator

from geomim_data.sources.synthetic.track import Track, make_track

Drive = Literal["straight", "curve", "turn", "stop"]
DRIVES: Final[tuple[Drive, ...]] = ("straight", "curve", "turn", "stop")
MARGIN_M: Final = 100.0
"""How far a street goes on before and behind the drive."""

LINE_M: Final = 0.13
KERB_M: Final = 0.15
"""How high a pavement lies above the road, and how wide its kerb stone is."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class StreetPlan:
    """A street with ``lanes`` each way. Traffic keeps to the right; left of the track is positive.

    ``length_m`` is how far the drive may go, from 0 along the track. ``crossing_m`` is the middle
    of a zebra crossing, if there is one.
    """

    drive: Drive
    track: Track
    length_m: float
    lanes: int
    lane_m: float
    parking_m: float
    pavement_m: float
    setback_m: float
    crossing_m: float | None

    @property
    def kerb_m(self) -> float:
        """How far the kerbs are from the middle of the road."""
        return self.lanes * self.lane_m + self.parking_m

    @property
    def front_m(self) -> float:
        """How far the houses are from the middle of the road."""
        return self.kerb_m + self.pavement_m + self.setback_m

    @property
    def ends(self) -> tuple[float, float]:
        """Where along the track the street that is built begins and ends."""
        return -MARGIN_M, self.length_m + MARGIN_M

    def lane_offset(self, lane: int) -> float:
        """Return the offset of the middle of a lane: 1, 2 with the drive, -1, -2 against it."""
        side = -1 if lane > 0 else 1
        return side * (abs(lane) - 0.5) * self.lane_m

    def tightest_radius(self, first: float, last: float) -> float:
        """Return the smallest radius of the track between two places along it."""
        ends = [*self.track.begin[1:].tolist(), math.inf]
        begins = [-math.inf, *self.track.begin[1:].tolist()]
        bends = [
            abs(curvature)
            for begin, end, curvature in zip(begins, ends, self.track.curvature, strict=True)
            if begin < last and end > first
        ]
        return 1 / max(max(bends), 1e-9)


def draw_plan(
    rng: Generator, drive: Drive, *, length_m: float, middle: tuple[float, float]
) -> StreetPlan:
    """Draw a street for a drive of some length, about a middle."""
    lanes = 1 if drive == "turn" or rng.random() < 0.6 else 2
    lane_m, pavement_m = rng.uniform(3.2, 3.6), rng.uniform(2.6, 4.2)
    parking_m = 2.3 if rng.random() < 0.85 else 0.4
    before, after = MARGIN_M, MARGIN_M
    heading = rng.uniform(-math.pi, math.pi)
    match drive:
        case "straight" | "stop":
            pieces = [(before + length_m + after, 0.0)]
        case "curve" | "turn":
            pieces = _bent(rng, length_m, tight=drive == "turn")
    return StreetPlan(
        drive=drive,
        track=_about(make_track(pieces, begin=-before, heading=heading), length_m, middle),
        length_m=length_m,
        lanes=lanes,
        lane_m=lane_m,
        parking_m=parking_m,
        pavement_m=pavement_m,
        setback_m=rng.uniform(0.2, 4.0),
        crossing_m=_crossing(rng, drive, length_m),
    )


def _about(track: Track, length_m: float, middle: tuple[float, float]) -> Track:
    """Move a track so that the box about its street has its middle at a place."""
    xy = track.at(np.linspace(-MARGIN_M, length_m + MARGIN_M, 400), 0.0).xy
    shift = np.array(middle) - (xy.min(axis=0) + xy.max(axis=0)) / 2
    return replace(track, xy=track.xy + shift)


def _bent(rng: Generator, length_m: float, *, tight: bool) -> list[tuple[float, float]]:
    """Return straights about a bend near the middle of the drive, and on long ones another."""
    radius = rng.uniform(17, 24) if tight else rng.uniform(45, 110)
    angle = math.radians(rng.uniform(55, 85) if tight else rng.uniform(25, 50))
    side, start = float(rng.choice((-1, 1))), rng.uniform(0.05, 0.3) * length_m
    pieces = [(MARGIN_M + start, 0.0), (radius * angle, side / radius)]
    rest = length_m + MARGIN_M - start - radius * angle
    if rest > MARGIN_M + 90:
        second = rng.uniform(50, 110)
        pieces += [(40.0, 0.0), (30.0, -side / second)]
        rest -= 70
    return [*pieces, (max(rest, 40.0), 0.0)]


def _crossing(rng: Generator, drive: Drive, length_m: float) -> float | None:
    match drive:
        case "stop":
            return length_m + 6.0
        case "straight":
            return float(rng.uniform(15, 40)) if rng.random() < 0.5 else None
        case "curve" | "turn":
            return float(-rng.uniform(8, 15)) if rng.random() < 0.4 else None
