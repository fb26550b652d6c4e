"""Lines on the ground made of straight pieces and arcs: places along them, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float64


@final
class OnTrack(NamedTuple):
    """Places on the ground and the direction of the track there, from x towards y."""

    xy: Float64[np.ndarray, "place 2"]
    heading: Float64[np.ndarray, " place"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """Pieces of constant curvature, one after the other; beyond its ends it goes on as it was.

    ``begin`` is how far along each piece begins, ``curvature`` is positive to the left. Offsets
    from the track are positive to the left too.
    """

    begin: Float64[np.ndarray, " piece"]
    curvature: Float64[np.ndarray, " piece"]
    xy: Float64[np.ndarray, "piece 2"]
    heading: Float64[np.ndarray, " piece"]

    def at(
        self, along: Float64[np.ndarray, " place"], offset: Float64[np.ndarray, " #place"] | float
    ) -> OnTrack:
        """Return places so far along and so far to the left of the track."""
        piece = np.searchsorted(self.begin[1:], along, side="right")
        length, curvature = along - self.begin[piece], self.curvature[piece]
        heading = self.heading[piece] + curvature * length
        # The chord of an arc points half-way between the directions of its ends.
        chord = length * np.sinc(curvature * length / (2 * np.pi))
        middle = self.heading[piece] + curvature * length / 2
        left = np.stack([-np.sin(heading), np.cos(heading)], axis=-1)
        ahead = chord[:, None] * np.stack([np.cos(middle), np.sin(middle)], axis=-1)
        return OnTrack(self.xy[piece] + ahead + np.reshape(offset, (-1, 1)) * left, heading)

    def locate(self, xy: Float64[np.ndarray, "place 2"]) -> Float64[np.ndarray, "place 2"]:
        """Return how far along the nearest place of the track lies, and the offset from it."""
        best = np.full((len(xy), 2), np.inf)
        lengths = np.append(np.diff(self.begin), np.inf)
        for piece, length in enumerate(lengths):
            along, offset = self._from_piece(piece, xy)
            first = -np.inf if piece == 0 else -1e-9
            nearer = (along >= first) & (along <= length) & (np.abs(offset) < np.abs(best[:, 1]))
            found = np.stack([self.begin[piece] + along, offset], axis=-1)
            best[nearer] = found[nearer]
        return best

    def _from_piece(
        self, piece: int, xy: Float64[np.ndarray, "place 2"]
    ) -> tuple[Float64[np.ndarray, " place"], Float64[np.ndarray, " place"]]:
        heading, curvature = self.heading[piece], self.curvature[piece]
        ahead = np.array([np.cos(heading), np.sin(heading)])
        left = np.array([-ahead[1], ahead[0]])
        away = xy - self.xy[piece]
        x, y = away @ ahead, away @ left
        if curvature == 0:
            return x, y
        # In units of the radius, seen from the centre of the arc.
        x, y = x * curvature, 1 - y * curvature
        return np.arctan2(x, y) / curvature, (1 - np.hypot(x, y)) / curvature


def make_track(
    pieces: Sequence[tuple[float, float]],
    *,
    begin: float,
    xy: tuple[float, float] = (0.0, 0.0),
    heading: float = 0.0,
) -> Track:
    """Join pieces, each a length and a curvature, starting ``begin`` along the track.

    Raises:
        ValueError: If the first or the last piece, which go on for ever, is not straight.
    """
    if not pieces or pieces[0][1] != 0 or pieces[-1][1] != 0:
        raise ValueError(f"pieces must begin and end straight, got {list(pieces)}")
    track = Track(np.array([begin]), np.zeros(1), np.array([xy]), np.array([heading]))
    for number, (length, curvature) in enumerate(pieces):
        track = Track(track.begin, _with_last(track.curvature, curvature), track.xy, track.heading)
        if number + 1 < len(pieces):
            end = track.at(track.begin[-1:] + length, 0.0)
            track = Track(
                np.append(track.begin, track.begin[-1] + length),
                np.append(track.curvature, 0.0),
                np.concatenate([track.xy, end.xy]),
                np.append(track.heading, end.heading),
            )
    return track


def _with_last(values: Float64[np.ndarray, " piece"], last: float) -> Float64[np.ndarray, " piece"]:
    return np.append(values[:-1], last)
