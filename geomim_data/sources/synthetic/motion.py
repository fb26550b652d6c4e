"""How things move along a street: speeds, lanes, and poses at any time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import numpy as np
from jaxtyping import Float64
from numpy.random import Generator

from geomim_data.sources.synthetic.track import OnTrack, Track

Times = Float64[np.ndarray, " time"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Pace:
    """How far along something is: spans of constant acceleration, the first and last without end.

    ``start_s``, ``along`` and ``speed`` are those at the start of each span.
    """

    start_s: Times
    along: Times
    speed: Times
    acceleration: Times

    def at(self, time_s: Times) -> Float64[np.ndarray, " time"]:
        """Return how far along it is at each time."""
        span, passed = self._span(time_s)
        return self.along[span] + passed * (self.speed[span] + passed * self.acceleration[span] / 2)

    def speed_at(self, time_s: Times) -> Float64[np.ndarray, " time"]:
        """Return the speed at each time."""
        span, passed = self._span(time_s)
        return self.speed[span] + passed * self.acceleration[span]

    def shifted(self, along: float, speed: float) -> "Pace":
        """Return the pace of something that is ahead, and goes faster throughout."""
        return Pace(
            self.start_s,
            self.along + along + speed * self.start_s,
            self.speed + speed,
            self.acceleration,
        )

    def _span(self, time_s: Times) -> tuple[np.ndarray, Times]:
        span = np.searchsorted(self.start_s[1:], time_s, side="right")
        return span, time_s - self.start_s[span]


def make_pace(along: float, speed: float, changes: Sequence[tuple[float, float]] = ()) -> Pace:
    """Start at time 0 with a speed; ``changes`` are times and the acceleration from then on."""
    pace = Pace(np.zeros(1), np.array([along]), np.array([speed]), np.zeros(1))
    for start_s, acceleration in changes:
        time_s = np.array([start_s])
        pace = Pace(
            np.append(pace.start_s, start_s),
            np.append(pace.along, pace.at(time_s)),
            np.append(pace.speed, pace.speed_at(time_s)),
            np.append(pace.acceleration, acceleration),
        )
    return pace


@runtime_checkable
class Motion(Protocol):
    """Tells where something is at any time."""

    def at(self, time_s: Times) -> OnTrack:
        """Return places, and the direction in which it faces."""
        ...

    def speed_at(self, time_s: Times) -> Float64[np.ndarray, " time"]:
        """Return how fast it goes, without regard to the direction."""
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class Ride:
    """Going along a track beside its line; ``turned`` is how much it faces away from the track."""

    track: Track
    pace: Pace
    offset: float
    turned: float = 0.0

    def at(self, time_s: Times) -> OnTrack:
        """Return places, and the direction in which it faces."""
        xy, heading = self.track.at(self.pace.at(time_s), self.offset)
        return OnTrack(xy, heading + self.turned)

    def speed_at(self, time_s: Times) -> Float64[np.ndarray, " time"]:
        """Return how fast it goes; on the inside of a bend less than along the track."""
        along = self.pace.at(time_s)
        piece = np.searchsorted(self.track.begin[1:], along, side="right")
        inside = 1 - self.offset * self.track.curvature[piece]
        return np.abs(self.pace.speed_at(time_s) * inside)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Rest:
    """Standing still."""

    xy: tuple[float, float]
    heading: float

    def at(self, time_s: Times) -> OnTrack:
        """Return the same place for every time."""
        count = len(time_s)
        return OnTrack(np.tile(np.array(self.xy), (count, 1)), np.full(count, self.heading))

    def speed_at(self, time_s: Times) -> Float64[np.ndarray, " time"]:
        """Return no speed."""
        return np.zeros(len(time_s))


@final
class Sway:
    """A smooth wobble in time within -1..1."""

    def __init__(self, rng: Generator) -> None:
        self._rate = 2 * np.pi * rng.uniform(0.15, 0.9, 4)
        self._phase = rng.uniform(0, 2 * np.pi, 4)

    def at(self, time_s: Times) -> Float64[np.ndarray, " time"]:
        """Return the wobble at each time."""
        return np.sin(time_s[:, None] * self._rate + self._phase).mean(axis=1)
