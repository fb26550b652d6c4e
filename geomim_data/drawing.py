"""Draw what is in the world, points, lines and boxes, into pictures: a camera's, or from above."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Real, UInt8
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# Turbo (A. Mikhailov, 2019), by the polynomials of its author and R. Schonlau.
_TURBO = np.array(
    [
        [0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943],
        [0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604],
        [0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973],
    ]
)
# The ends of the map are nearly black, which is what says that there is nothing.
_COLOURFUL = (0.08, 0.95)
_NEAR_M, _STEP_M = 0.5, 0.25
_SIGNS = np.array([[x, y, z] for x in (1, -1) for y in (1, -1) for z in (1, -1)]) / 2
# Corners that differ in one sign, and the front's cross, which tells where a box is heading.
_EDGES = [(i, j) for i in range(8) for j in range(i) if i ^ j in (1, 2, 4)] + [(0, 3), (1, 2)]


class Seen(NamedTuple):
    """Where points are in a picture. Pixels mean nothing where ``visible`` is False."""

    pixels: Float64[np.ndarray, "point 2"]
    distance: Float64[np.ndarray, " point"]
    """From nearest to farthest: depth in metres, or how far below the eye."""
    visible: Bool[np.ndarray, " point"]


Look = Callable[[Float[np.ndarray, "point 3"]], Seen]
"""How a picture sees points of the world."""


def turbo(fraction: Float64[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Colour numbers of 0 to 1 from blue over green to red."""
    powers = fraction[..., None] ** np.arange(_TURBO.shape[1])
    return np.round(255 * np.clip(powers @ _TURBO.T, 0, 1)).astype(np.uint8)


def warmth(
    values: Real[np.ndarray, "*shape"], *, cold: float, warm: float
) -> UInt8[np.ndarray, "*shape 3"]:
    """Colour values from blue, ``cold``, to red, ``warm``; whichever is larger."""
    span = warm - cold if warm != cold else 1.0
    low, high = _COLOURFUL
    return turbo(low + (high - low) * np.clip((values.astype(np.float64) - cold) / span, 0, 1))


def from_camera(
    world_from_cam: Float64[np.ndarray, "4 4"], intrinsics: Float64[np.ndarray, "4"]
) -> Look:
    """Return how a camera sees the world; intrinsics are fx, fy, cx, cy."""
    cam_from_world = np.linalg.inv(world_from_cam)

    def look(points: Float[np.ndarray, "point 3"]) -> Seen:
        points_cam = moved(cam_from_world, points)
        depth = points_cam[:, 2]
        visible = depth > _NEAR_M
        slopes = points_cam[:, :2] / np.where(visible, depth, 1.0)[:, None]
        return Seen(slopes * intrinsics[:2] + intrinsics[2:], depth, visible)

    return look


def from_above(
    world_from_rig: Float64[np.ndarray, "4 4"], *, size: tuple[int, int], reach_m: float
) -> Look:
    """Return how the world looks from above: the rig amid the picture, its x axis up.

    Args:
        world_from_rig: Axes x forward, y left, z up.
        size: (height, width) of the picture.
        reach_m: From the middle to the nearer edges.
    """
    rig_from_world = np.linalg.inv(world_from_rig)
    pixels_per_m = min(size) / 2 / reach_m

    def look(points: Float[np.ndarray, "point 3"]) -> Seen:
        points_rig = moved(rig_from_world, points)
        pixels = np.array([size[1], size[0]]) / 2 - points_rig[:, 1::-1] * pixels_per_m
        return Seen(pixels, -points_rig[:, 2], np.ones(len(points), dtype=np.bool_))

    return look


def moved(
    target_from_source: Float64[np.ndarray, "4 4"], points: Float[np.ndarray, "point 3"]
) -> Float64[np.ndarray, "point 3"]:
    """Move points from one frame to another."""
    return points @ target_from_source[:3, :3].T + target_from_source[:3, 3]


def box_edges(
    world_from_box: Float64[np.ndarray, "4 4"], size: Float[np.ndarray, "3"]
) -> list[Float64[np.ndarray, "2 3"]]:
    """Return the twelve edges of a box, and a cross on its front."""
    corners = moved(world_from_box, _SIGNS * size)
    return [corners[[i, j]] for i, j in _EDGES]


def draw_points(
    picture: Image.Image,
    look: Look,
    points: Float[np.ndarray, "point 3"],
    colours: UInt8[np.ndarray, "point 3"],
    *,
    radius: float,
) -> None:
    """Draw dots, near ones over far ones."""
    seen = look(points)
    ends = np.array([picture.width, picture.height])
    visible = seen.visible & ((seen.pixels >= 0) & (seen.pixels < ends)).all(axis=1)
    draw = ImageDraw.Draw(picture)
    for index in np.flatnonzero(visible)[np.argsort(-seen.distance[visible])]:
        u, v = seen.pixels[index]
        colour = tuple(int(part) for part in colours[index])
        draw.ellipse((u - radius, v - radius, u + radius, v + radius), fill=colour)


def draw_lines(
    picture: Image.Image,
    look: Look,
    lines: Iterable[Float[np.ndarray, "point 3"]],
    colour: Colour,
    *,
    width: int,
    reach_m: float = np.inf,
) -> None:
    """Draw polylines of the world, where visible and within a distance."""
    draw = ImageDraw.Draw(picture)
    for line in lines:
        seen = look(_dense(line))
        visible = seen.visible & (np.abs(seen.distance) < reach_m)
        for start, stop in _runs(visible):
            draw.line([(float(u), float(v)) for u, v in seen.pixels[start:stop]], colour, width)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font of so many pixels."""
    return ImageFont.load_default(size)


def _dense(line: Float[np.ndarray, "point 3"]) -> Float64[np.ndarray, "dense 3"]:
    """Put points along a line, so that it is cut off close to where it leaves sight."""
    length = np.linalg.norm(np.diff(line, axis=0), axis=1)
    steps = np.maximum(np.ceil(length / _STEP_M), 1).astype(np.int64)
    places = np.concatenate([[0.0], np.repeat(1 / steps, steps).cumsum()])
    places[-1] = len(steps)
    return np.stack(
        [np.interp(places, np.arange(len(line)), line[:, axis]) for axis in range(3)], axis=1
    )


def _runs(visible: Bool[np.ndarray, " point"]) -> list[tuple[int, int]]:
    """Return the ends of each unbroken run of two or more."""
    changes = np.diff(np.concatenate([[0], visible.astype(np.int8), [0]]))
    ends = zip(np.flatnonzero(changes > 0), np.flatnonzero(changes < 0), strict=True)
    return [(int(start), int(stop)) for start, stop in ends if stop - start > 1]
