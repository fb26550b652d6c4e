"""The floor of a room as somebody who walks sees it: where there is space."""

import math
from collections.abc import Sequence
from typing import final

import numpy as np
from jaxtyping import Bool, Float64

from geomim_data.sources.synthetic.solids import Placed

CELL_M = 0.06
CLEARANCE_M = 0.42
"""How far a camera keeps from everything that stands about."""


@final
class Ground:
    """How far each place of the floor is from furniture and walls, on a grid of small cells."""

    def __init__(self, size: tuple[float, float], things: Sequence[Placed]) -> None:
        """Measure a room of ``size`` (width, depth) with a corner at the origin."""
        width, depth = size
        xs = np.arange(CELL_M / 2, width, CELL_M)
        ys = np.arange(CELL_M / 2, depth, CELL_M)
        x, y = np.meshgrid(xs, ys, indexing="ij")
        gap = np.minimum(np.minimum(x, width - x), np.minimum(y, depth - y))
        for thing in (part for root in things for part in root.all()):
            if thing.thing.blocks:
                cos, sin = math.cos(thing.yaw), math.sin(thing.yaw)
                across = np.abs(cos * (x - thing.x) + sin * (y - thing.y)) - thing.thing.half_width
                ahead = np.abs(cos * (y - thing.y) - sin * (x - thing.x)) - thing.thing.half_depth
                gap = np.minimum(gap, np.hypot(np.maximum(across, 0), np.maximum(ahead, 0)))
        self.gap = gap
        self.free = _largest_part(gap > min(CLEARANCE_M, 0.95 * float(gap.max())))

    def free_m2(self) -> float:
        """Return the area of the free floor."""
        return float(self.free.sum()) * CELL_M**2

    def at(self, place: Float64[np.ndarray, "point 2"]) -> Bool[np.ndarray, " point"]:
        """Tell which places are free."""
        cell = np.clip((place / CELL_M).astype(np.int64), 0, np.array(self.free.shape) - 1)
        return self.free[cell[:, 0], cell[:, 1]]


def _largest_part(free: Bool[np.ndarray, "x y"]) -> Bool[np.ndarray, "x y"]:
    """Keep the largest connected piece."""
    left, best = free.copy(), np.zeros_like(free)
    while left.any():
        part = np.zeros_like(free)
        part[np.unravel_index(left.argmax(), left.shape)] = True
        grown = 0
        while part.sum() != grown:
            grown = part.sum()
            wider = part.copy()
            wider[1:] |= part[:-1]
            wider[:-1] |= part[1:]
            wider[:, 1:] |= part[:, :-1]
            wider[:, :-1] |= part[:, 1:]
            part = wider & left
        left &= ~part
        best = part if part.sum() > best.sum() else best
    return best
