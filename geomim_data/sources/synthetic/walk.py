"""Walk a hand-held camera through a room: smooth, clear of furniture, looking at things."""

import heapq
import math
from typing import final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.random import Generator

from geomim.transforms import RigidTransform
from geomim_data.sources.synthetic.casting import Hits, cast_from
from geomim_data.sources.synthetic.ground import CELL_M, CLEARANCE_M, Ground
from geomim_data.sources.synthetic.labels import CATEGORIES
from geomim_data.sources.synthetic.rooms import Room

FRAME_S = 0.2
"""Seconds between frames: a slow hand-held scan thinned out to five frames a second."""

_SPEED_M_S = 0.55
_EYE_M = 1.5
_STEP_M = 0.03
_GLANCE_S = 1.6
_BUILDING = [CATEGORIES[name].raw_id for name in ("wall", "floor", "ceiling")]
# Directions of a coarse look: 9 columns by 7 rows over a field of view of about 58 by 45 degrees.
_LOOK = np.array(
    [(u, v, 1.0) for v in np.linspace(-0.4, 0.4, 7) for u in np.linspace(-0.5, 0.5, 9)]
)


def walk(room: Room, *, frames: int, seed: int) -> RigidTransform:
    """Return ``world_from_cam`` of every frame, ``FRAME_S`` apart, in double precision.

    The camera goes at eye level from one free place to another and glances at what is about it,
    the next thing every second or two; it keeps away from furniture and walls, and sways a little
    in height, pitch and roll.

    Raises:
        ValueError: If ``frames`` is not positive.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    rng = np.random.default_rng(seed)
    ground = Ground(room.size[:2], room.things)
    track = _track(ground, rng, length=(frames - 1) * FRAME_S * _SPEED_M_S)
    time = np.arange(frames) * FRAME_S
    along, steps = time * _SPEED_M_S / _STEP_M, np.arange(len(track))
    x, y = (np.interp(along, steps, track[:, axis]) for axis in (0, 1))
    sway = _Sway(rng)
    z = _EYE_M + 0.08 * sway.at(time)
    place = np.column_stack([x, y, z])
    yaw, pitch = _gaze(room, place, rng)
    roll = math.radians(3) * sway.at(time + 50)
    rotation = _orientation(yaw, pitch + math.radians(2) * sway.at(time + 90), roll)
    return RigidTransform(torch.from_numpy(rotation), torch.from_numpy(place))


@final
class _Sway:
    """A smooth wobble in time within -1..1."""

    def __init__(self, rng: Generator) -> None:
        self._rate = 2 * math.pi * rng.uniform(0.1, 0.7, 4)
        self._phase = rng.uniform(0, 2 * math.pi, 4)

    def at(self, time: Float64[np.ndarray, " time"]) -> Float64[np.ndarray, " time"]:
        return np.sin(time[:, None] * self._rate + self._phase).mean(axis=1)


def _track(ground: Ground, rng: Generator, *, length: float) -> Float64[np.ndarray, "step 2"]:
    """Return places ``_STEP_M`` apart on a smooth way over free floor, some ``length`` long."""
    cells = np.argwhere(ground.free)
    here = _cell(cells[rng.integers(len(cells))])
    way, reached = [here], 0.0
    while reached < length * 1.2 + 1.0 and len(cells) > 1:
        ahead = cells[rng.integers(0, len(cells), 8)]
        there = _cell(ahead[np.abs(ahead - here).sum(axis=1).argmax()])
        leg = _shortest_way(ground, here, there)
        way += leg[1:]
        reached += len(leg) * CELL_M
        here = there
    points = (np.array(way, dtype=np.float64) + 0.5) * CELL_M
    return _resampled(_smoothed(points, ground))


def _cell(index: Int64[np.ndarray, "2"]) -> tuple[int, int]:
    return int(index[0]), int(index[1])


def _shortest_way(
    ground: Ground, start: tuple[int, int], goal: tuple[int, int]
) -> list[tuple[int, int]]:
    """Find the cheapest way over free cells, where room to spare makes a cell cheaper (A*)."""
    price = 1 + 3 * np.exp(-(ground.gap - CLEARANCE_M) / 0.15)
    queue = [(0.0, 0.0, start, start)]
    came: dict[tuple[int, int], tuple[int, int]] = {}
    while queue:
        _, spent, cell, before = heapq.heappop(queue)
        if cell in came:
            continue
        came[cell] = before
        if cell == goal:
            break
        for step in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            beyond = (cell[0] + step[0], cell[1] + step[1])
            inside = 0 <= beyond[0] < price.shape[0] and 0 <= beyond[1] < price.shape[1]
            if inside and beyond not in came and ground.free[beyond]:
                cost = spent + math.hypot(*step) * float(price[beyond])
                rest = math.hypot(goal[0] - beyond[0], goal[1] - beyond[1])
                heapq.heappush(queue, (cost + rest, cost, beyond, cell))
    way = [goal]
    while way[-1] != start:
        way.append(came[way[-1]])
    return way[::-1]


def _smoothed(
    points: Float64[np.ndarray, "step 2"], ground: Ground
) -> Float64[np.ndarray, "step 2"]:
    """Round corners off as far as the ground stays free."""
    for _ in range(150):
        middle = points.copy()
        middle[1:-1] = 0.25 * points[:-2] + 0.5 * points[1:-1] + 0.25 * points[2:]
        points = np.where(ground.at(middle)[:, None], middle, points)
    return points


def _resampled(points: Float64[np.ndarray, "step 2"]) -> Float64[np.ndarray, "place 2"]:
    length = np.append(0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    stops = np.arange(0, length[-1] + _STEP_M, _STEP_M)
    return np.column_stack([np.interp(stops, length, points[:, axis]) for axis in (0, 1)])


def _gaze(
    room: Room, place: Float64[np.ndarray, "time 3"], rng: Generator
) -> tuple[Float64[np.ndarray, " time"], Float64[np.ndarray, " time"]]:
    """Return yaw (from x towards y) and pitch (up) that move from one good view to the next."""
    every = max(1, round(_GLANCE_S / FRAME_S))
    stops = np.append(np.arange(0, len(place) - 1, every), len(place) - 1)
    yaws: list[float] = []
    pitches: list[float] = []
    fresh = np.ones(int(room.scene.instance.max()) + 1)
    for stop in stops:
        view = _good_view(room, place[stop], yaws[-1] if yaws else None, rng, fresh)
        yaws.append(view[0])
        pitches.append(view[1])
    unwound = np.unwrap(np.array(yaws))
    share = np.interp(np.arange(len(place)), stops, np.arange(len(stops)))
    whole = np.floor(share)
    eased = whole + (share - whole) ** 2 * (3 - 2 * (share - whole))
    order = np.arange(len(stops))
    return np.interp(eased, order, unwound), np.interp(eased, order, np.array(pitches))


def _good_view(
    room: Room,
    place: Float64[np.ndarray, "3"],
    before: float | None,
    rng: Generator,
    fresh: Float64[np.ndarray, " instance"],
) -> tuple[float, float]:
    """Pick the best of some directions, not far to turn; what it shows becomes less ``fresh``."""
    first = rng.uniform(-math.pi, math.pi) if before is None else before
    spread = math.pi if before is None else 1.2
    yaw = first + rng.uniform(-spread, spread, 10)
    pitch = np.radians(rng.uniform(-30, -3, 10))
    looks = [_coarse_look(room, place, *view) for view in zip(yaw, pitch, strict=True)]
    best = int(np.argmax([_interest(room, look, fresh) for look in looks]))
    fresh[room.scene.instance[looks[best].primitive]] *= 0.6
    return float(yaw[best]), float(pitch[best])


def _coarse_look(room: Room, place: Float64[np.ndarray, "3"], yaw: float, pitch: float) -> Hits:
    rotation = _orientation(np.array([yaw]), np.array([pitch]), np.zeros(1))[0]
    directions = _LOOK @ rotation.T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return cast_from(place, directions, room.scene.primitives)


def _interest(room: Room, look: Hits, fresh: Float64[np.ndarray, " instance"]) -> float:
    """Rate a view: things in it that are new, less what is too close, far off or bare building."""
    new = float(fresh[np.unique(room.scene.instance[look.primitive])].sum())
    bare = float(np.isin(room.scene.label[look.primitive], _BUILDING).mean())
    near = float((look.distance < 0.8).mean())
    far = float((look.distance > 5.5).mean())
    return new / 8 - bare - 3 * near - 0.5 * far


def _orientation(
    yaw: Float64[np.ndarray, " time"],
    pitch: Float64[np.ndarray, " time"],
    roll: Float64[np.ndarray, " time"],
) -> Float64[np.ndarray, "time 3 3"]:
    """Return rotations of a camera (x right, y down, z forward) into a world whose z is up."""
    ahead = np.stack(
        [np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], axis=-1
    )
    right = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)], axis=-1)
    down = np.cross(ahead, right)
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    return np.stack([cos * right + sin * down, cos * down - sin * right, ahead], axis=-1)
