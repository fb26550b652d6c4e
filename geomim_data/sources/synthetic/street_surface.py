"""The ground of a street: asphalt with its markings, kerbs, pavements and lawns.

Markings are averaged over what a pixel covers, so that they neither flicker nor turn to steps.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Float32, Float64

from geomim_data.sources.synthetic.atlas import Atlas
from geomim_data.sources.synthetic.street_plan import KERB_M, LINE_M, StreetPlan

_WHITE, _YELLOW = (np.array(c, np.float32) for c in ((0.72, 0.72, 0.7), (0.7, 0.48, 0.06)))
_STONE = np.array((0.34, 0.34, 0.33), np.float32)
_DASH_M, _DASH_GAP_M = 3.0, 6.0
_STRIPE_M = 0.5
CROSSING_M = 3.2
"""How wide a zebra crossing is, along the street."""
STOP_LINE_M = 1.6
"""How far before a crossing its stop line lies."""

Values = Float64[np.ndarray, " point"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class StreetSurface:
    """Colours of the ground by place; the atlas holds asphalt, pavement and lawn, in this order."""

    plan: StreetPlan
    atlas: Atlas

    def reflectance(
        self,
        position_world: Float64[np.ndarray, "point 3"],
        directions_world: Float64[np.ndarray, "point 3"],
        footprint_m: Float[np.ndarray, " point"],
    ) -> Float32[np.ndarray, "point 3"]:
        """Return the linear reflectance of places, seen along unit directions."""
        plan = self.plan
        xy = position_world[:, :2]
        along, offset = plan.track.locate(xy).T
        seen = _seen_lengths(plan, along, directions_world, footprint_m)
        beside = np.abs(offset) - plan.kerb_m
        which = (beside > 0).astype(np.int64) + (beside > plan.pavement_m + _ragged(along))
        repeat = self.atlas.repeat_m[which, None]
        place = np.stack([along, offset], axis=-1).astype(np.float32) / repeat
        wide = footprint_m.astype(np.float32) / repeat[:, 0]
        colour = self.atlas.sample(which, place, wide)
        kerb = _cover(beside, 0.0, KERB_M, seen[1]) * (which > 0)
        colour += kerb[:, None] * (_STONE - colour)
        road = np.flatnonzero(beside <= 0)
        if len(road):
            colour[road] = self._marked(
                colour[road], along[road], offset[road], (seen[0][road], seen[1][road])
            )
        return colour

    def _marked(
        self,
        colour: Float32[np.ndarray, "point 3"],
        along: Values,
        offset: Values,
        seen: tuple[Values, Values],
    ) -> Float32[np.ndarray, "point 3"]:
        plan = self.plan
        white, yellow = np.zeros(len(along)), np.zeros(len(along))
        for side in (-1, 1):
            yellow += _line(offset, side * 0.14, seen[1])
            for lane in range(1, plan.lanes):
                dashed = _repeating(along, _DASH_M, _DASH_M + _DASH_GAP_M, seen[0])
                white += _line(offset, side * lane * plan.lane_m, seen[1]) * dashed
            if plan.parking_m > 1:
                white += _line(offset, side * plan.lanes * plan.lane_m, seen[1])
        # Tyres polish their tracks.
        within = np.abs(offset) % plan.lane_m / plan.lane_m
        worn = 0.12 * np.exp(-(((np.abs(within - 0.5) - 0.22) / 0.07) ** 2))
        colour = colour * (1 - worn[:, None].astype(np.float32))
        if plan.crossing_m is not None:
            near = along - plan.crossing_m
            zone = _cover(near, -CROSSING_M / 2, CROSSING_M / 2, seen[0])
            stripes = _repeating(offset, _STRIPE_M, 2 * _STRIPE_M, seen[1])
            white, yellow = white * (1 - zone) + stripes * zone, yellow * (1 - zone)
            for side in (-1, 1):
                before = side * near - CROSSING_M / 2 - STOP_LINE_M
                own_half = np.where(side * offset > 0.3, 1.0, 0.0)
                own_half *= np.abs(offset) < plan.lanes * plan.lane_m
                white += _cover(before, 0.0, 0.35, seen[0]) * own_half
        for paint, share in ((_WHITE, white), (_YELLOW, yellow)):
            cover = np.clip(share, 0, 1).astype(np.float32)[:, None]
            colour = colour + 0.9 * cover * (paint - colour)
        return colour


def _seen_lengths(
    plan: StreetPlan,
    along: Values,
    directions: Float64[np.ndarray, "point 3"],
    footprint_m: Float[np.ndarray, " point"],
) -> tuple[Values, Values]:
    """Return how far a pixel reaches along the street and across it, on level ground."""
    heading = plan.track.at(along, 0.0).heading
    flat = np.maximum(np.hypot(directions[:, 0], directions[:, 1]), 1e-9)
    ahead = (directions[:, 0] * np.cos(heading) + directions[:, 1] * np.sin(heading)) / flat
    stretched = np.minimum(1 / np.maximum(np.abs(directions[:, 2]), 1e-3), 100)
    across = np.sqrt(np.maximum(1 - ahead**2, 0))
    return (
        footprint_m * np.hypot(ahead * stretched, across),
        footprint_m * np.hypot(across * stretched, ahead),
    )


def _cover(place: Values, low: float, high: float, width: Values) -> Values:
    """Return the share of an interval of some width about each place that lies within another."""
    width = np.maximum(width, 1e-3)
    inside = np.minimum(place + width / 2, high) - np.maximum(place - width / 2, low)
    return np.clip(inside / width, 0, 1)


def _line(offset: Values, middle: float, width: Values) -> Values:
    return _cover(offset, middle - LINE_M / 2, middle + LINE_M / 2, width)


def _repeating(place: Values, mark: float, period: float, width: Values) -> Values:
    """Return the share of intervals that is marked, where a mark begins each period."""
    width = np.maximum(width, 1e-3)
    filled = [
        np.floor(end / period) * mark + np.minimum(end % period, mark)
        for end in (place - width / 2, place + width / 2)
    ]
    return (filled[1] - filled[0]) / width


def _ragged(along: Values) -> Values:
    """Return by how much the edge of a lawn strays."""
    return 0.03 * np.sin(7.1 * along) + 0.02 * np.sin(17.3 * along)
