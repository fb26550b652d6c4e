"""Materials drawn at random, as square pictures that tile.

Nothing here knows what a material is for: any class of thing may wear any of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, final

import numpy as np
from jaxtyping import Float, Float32
from numpy.random import Generator

SIDE = 256
"""Texels along each side of a material's picture."""

Family = Literal[
    "paint",
    "whitewash",
    "wood",
    "planks",
    "fabric",
    "carpet",
    "tiles",
    "bricks",
    "stripes",
    "dots",
    "stone",
    "metal",
    "spines",
    "painting",
    "view",
    "screen",
]
Picture = Float32[np.ndarray, "256 256 3"]
Colour = Float32[np.ndarray, "3"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """A picture of linear reflectance in 0..1 that repeats every ``repeat_m``.

    With ``fits`` the picture covers each face once instead. With ``upright`` it repeats from the
    lower left corner of each face and is never turned. ``gloss`` is the share of light that it
    mirrors, seen head-on.
    """

    picture: Picture
    repeat_m: float
    fits: bool = False
    upright: bool = False
    gloss: float = 0.0


def draw_material(family: Family, rng: Generator) -> Material:
    """Draw a material of one family, its colours at random."""
    picture, least_m, most_m = _PICTURES[family]
    repeat_m = rng.uniform(least_m, most_m)
    return Material(picture(rng), repeat_m, fits=family in _FITTING)


def draw_colour(rng: Generator) -> Colour:
    """Draw a colour of the sort that rooms hold: greys and creams, browns, some strong hues."""
    value = rng.uniform(0.12, 0.85)
    match rng.choice(3, p=(0.45, 0.27, 0.28)):
        case 0:
            hue, saturation = rng.uniform(0, 1), rng.uniform(0.0, 0.18)
        case 1:
            hue, saturation = rng.uniform(0.03, 0.12), rng.uniform(0.25, 0.65)
        case _:
            hue, saturation = rng.uniform(0, 1), rng.uniform(0.25, 0.75)
    return _from_hsv(hue, saturation, value) ** 1.6


def cloud_cover(rng: Generator, overcast: float) -> Float32[np.ndarray, "256 256"]:
    """Draw where clouds hide the sky: 0 not at all, 0.9 nearly; it tiles."""
    return np.clip(0.4 * _clouds(rng) + 1.1 * overcast - 0.1, 0, 0.9).astype(np.float32)


def noise(rng: Generator) -> Float32[np.ndarray, "256 256"]:
    """Draw smooth noise of mean 0 and deviation 1 that tiles."""
    return _clouds(rng)


def _from_hsv(hue: float, saturation: float, value: float) -> Colour:
    ramp = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return (value * (1 - saturation + saturation * np.clip(ramp, 0, 1))).astype(np.float32)


@lru_cache(maxsize=1)
def _noise_bank() -> tuple[Float32[np.ndarray, "8 256 256"], Float32[np.ndarray, "8 256 256"]]:
    """Tiling noise of mean 0 and deviation 1: alike in every direction, and drawn out along u."""
    rng = np.random.default_rng(0)
    v, u = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE), indexing="ij")
    clouds = [_filtered(rng, np.hypot(u, v), slope) for slope in np.linspace(0.8, 1.8, 8)]
    grain = [_filtered(rng, np.hypot(12 * u, v), slope) for slope in np.linspace(0.9, 1.5, 8)]
    return np.stack(clouds), np.stack(grain)


def _filtered(
    rng: Generator, frequency: Float[np.ndarray, "h w"], slope: float
) -> Float32[np.ndarray, "h w"]:
    gain = 1 / np.maximum(frequency, 1 / SIDE) ** slope
    gain[0, 0] = 0
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal(frequency.shape)) * gain).real
    return (noise / noise.std()).astype(np.float32)


def _clouds(rng: Generator) -> Float32[np.ndarray, "256 256"]:
    picked = _noise_bank()[0][rng.integers(8)]
    return np.roll(picked, rng.integers(0, SIDE, 2), axis=(0, 1))


def _grain(rng: Generator) -> Float32[np.ndarray, "256 256"]:
    picked = _noise_bank()[1][rng.integers(8)]
    return np.roll(picked, rng.integers(0, SIDE, 2), axis=(0, 1))


def _texels() -> tuple[Float32[np.ndarray, "256 256"], Float32[np.ndarray, "256 256"]]:
    """Return u (to the right) and v (down) of every texel, in 0..1."""
    middle = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    v, u = np.meshgrid(middle, middle, indexing="ij")
    return u, v


def _blend(first: Colour, second: Colour, weight: Float[np.ndarray, "256 256"]) -> Picture:
    share = np.clip(weight, 0, 1)[..., None].astype(np.float32)
    return np.clip(first * (1 - share) + second * share, 0.01, 0.95).astype(np.float32)


def _shaded(picture: Picture, shade: Float[np.ndarray, "256 256"]) -> Picture:
    return np.clip(picture * (1 + shade[..., None]), 0.01, 0.95).astype(np.float32)


def _flat(colour: Colour) -> Picture:
    return np.broadcast_to(colour, (SIDE, SIDE, 3)).astype(np.float32)


def _paint(rng: Generator) -> Picture:
    return _shaded(_flat(draw_colour(rng)), rng.uniform(0.01, 0.05) * _clouds(rng))


def _whitewash(rng: Generator) -> Picture:
    return 0.7 + 0.15 * _paint(rng)


def _wood(rng: Generator) -> Picture:
    light = draw_colour(rng)
    dark = light * rng.uniform(0.35, 0.75)
    rings = np.sin((_texels()[1] * rng.integers(3, 9) + 0.25 * _grain(rng)) * 2 * np.pi)
    return _blend(light, dark, 0.5 + 0.22 * rings + 0.25 * _grain(rng))


def _planks(rng: Generator) -> Picture:
    rows = int(rng.choice((4, 8, 16)))
    u, v = _texels()
    row = np.floor(v * rows).astype(int)
    seam = np.abs((u - rng.uniform(0, 1, rows).astype(np.float32)[row]) * SIDE) < 1
    gap = (v * rows) % 1 < 0.06
    tone = rng.normal(0, 0.12, rows).astype(np.float32)[row]
    return _shaded(_wood(rng), np.where(seam | gap, -0.5, tone))


def _fabric(rng: Generator) -> Picture:
    u, v = _texels()
    threads = int(rng.choice((32, 64)))
    weave = np.sin(u * threads * 2 * np.pi) * np.sin(v * threads * 2 * np.pi)
    shade = rng.uniform(0.05, 0.2) * weave + 0.06 * _clouds(rng)
    base = _stripes(rng) if rng.random() < 0.25 else _flat(draw_colour(rng))
    return _shaded(base, shade.astype(np.float32))


def _mottled(rng: Generator) -> Picture:
    first, second = draw_colour(rng), draw_colour(rng)
    spread = rng.uniform(0.1, 0.45)
    picture = _blend(first, 0.5 * (first + second), 0.5 + spread * _clouds(rng))
    specks = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    return _shaded(picture, rng.uniform(0.03, 0.15) * specks)


def _tiles(rng: Generator) -> Picture:
    count = int(rng.choice((2, 4, 8)))
    u, v = _texels()
    first = draw_colour(rng)
    second = draw_colour(rng) if rng.random() < 0.6 else first
    odd = (np.floor(u * count) + np.floor(v * count)) % 2
    joint = np.minimum((u * count) % 1, (v * count) % 1) < 0.02 * count / 2
    shade = np.where(joint, rng.uniform(-0.5, 0.3), 0.05 * _clouds(rng))
    return _shaded(_blend(first, second, odd), shade.astype(np.float32))


def _bricks(rng: Generator) -> Picture:
    rows, columns = 10, 4
    u, v = _texels()
    row = np.floor(v * rows).astype(int)
    along = u * columns + 0.5 * (row % 2)
    joint = (along % 1 < 0.05) | ((v * rows) % 1 < 0.12)
    tones = rng.normal(0, 0.15, (rows, columns)).astype(np.float32)
    shade = tones[row, np.floor(along).astype(int) % columns] + 0.06 * _clouds(rng)
    return np.where(joint[..., None], draw_colour(rng), _shaded(_flat(draw_colour(rng)), shade))


def _stripes(rng: Generator) -> Picture:
    colours = np.stack([draw_colour(rng) for _ in range(3)])
    edges = np.sort(rng.integers(0, SIDE, int(rng.integers(4, 12))))
    band = np.searchsorted(edges, np.arange(SIDE)) % len(edges) % 3
    return np.broadcast_to(colours[band], (SIDE, SIDE, 3)).astype(np.float32)


def _dots(rng: Generator) -> Picture:
    count = int(rng.choice((4, 6, 8)))
    u, v = _texels()
    row = np.floor(v * count)
    across, down = (u * count + 0.5 * (row % 2)) % 1 - 0.5, (v * count) % 1 - 0.5
    power = rng.choice((0.7, 1.0, 2.0, 6.0))
    distance = np.abs(across) ** power + np.abs(down) ** power
    inside = distance < rng.uniform(0.15, 0.38) ** power
    picture = _blend(draw_colour(rng), draw_colour(rng), inside.astype(np.float32))
    return _shaded(picture, 0.04 * _clouds(rng))


def _spines(rng: Generator) -> Picture:
    """Upright backs of books side by side, with a title band each."""
    edges = np.cumsum(rng.uniform(0.02, 0.06, 60))
    edges = np.append(edges[edges < 0.99], 1.0)
    u, v = _texels()
    book = np.searchsorted(edges, u[0])
    colours = np.stack([draw_colour(rng) for _ in edges])
    titles = np.stack([draw_colour(rng) for _ in edges])
    place = rng.uniform(0.15, 0.6, len(edges)).astype(np.float32)[book]
    band = (v > place) & (v < place + 0.2)
    picture = np.where(band[..., None], titles[book], colours[book])
    seam = np.diff(book, append=book[:1]) != 0
    return _shaded(picture, np.where(seam, -0.6, 0.0).astype(np.float32) + np.zeros_like(v))


def _painting(rng: Generator) -> Picture:
    u, v = _texels()
    picture = _blend(draw_colour(rng), draw_colour(rng), v + 0.2 * _clouds(rng))
    for _ in range(int(rng.integers(4, 10))):
        x, y, width, height = rng.uniform(0, 1), rng.uniform(0, 1), *rng.uniform(0.05, 0.35, 2)
        if rng.random() < 0.5:
            inside = (np.abs(u - x) < width) & (np.abs(v - y) < height)
        else:
            inside = ((u - x) / width) ** 2 + ((v - y) / height) ** 2 < 1
        picture = np.where(inside[..., None], draw_colour(rng), picture)
    return _shaded(picture, 0.08 * _clouds(rng))


def _view(rng: Generator) -> Picture:
    """Sky over a skyline of trees and houses, out of focus."""
    _, v = _texels()
    sky = _blend(
        np.array([0.35, 0.55, 0.9], np.float32),
        np.array([0.85, 0.9, 0.95], np.float32),
        v * 1.2 + 0.15 * _clouds(rng),
    )
    roofs = np.repeat(rng.uniform(0.45, 0.8, 16), SIDE // 16).astype(np.float32)
    skyline = np.where(roofs > 0.65, roofs, 0.7 + 0.04 * _clouds(rng)[0])
    return np.where(
        (v > skyline)[..., None], _shaded(_flat(draw_colour(rng)), 0.2 * _clouds(rng)), sky
    )


def _screen(rng: Generator) -> Picture:
    u, v = _texels()
    picture = _flat(draw_colour(rng) * 0.3)
    for _ in range(int(rng.integers(1, 5))):
        left, top = rng.uniform(0, 0.7, 2)
        inside = (u > left) & (u < left + 0.4) & (v > top) & (v < top + 0.3)
        picture = np.where(inside[..., None], draw_colour(rng), picture)
    return picture.astype(np.float32)


# What draws a family's picture, and the least and largest size of one repeat in metres.
_PICTURES: dict[Family, tuple[Callable[[Generator], Picture], float, float]] = {
    "paint": (_paint, 0.8, 1.2),
    "whitewash": (_whitewash, 0.8, 1.2),
    "metal": (_paint, 0.8, 1.2),
    "wood": (_wood, 0.7, 1.4),
    "planks": (_planks, 1.2, 1.8),
    "fabric": (_fabric, 0.25, 0.5),
    "carpet": (_mottled, 0.6, 1.4),
    "stone": (_mottled, 0.6, 1.4),
    "tiles": (_tiles, 0.8, 2.0),
    "bricks": (_bricks, 0.9, 1.5),
    "stripes": (_stripes, 0.3, 0.9),
    "dots": (_dots, 0.3, 0.9),
    "spines": (_spines, 0.6, 1.0),
    "painting": (_painting, 1.0, 1.0),
    "view": (_view, 1.0, 1.0),
    "screen": (_screen, 1.0, 1.0),
}
_FITTING: frozenset[Family] = frozenset({"painting", "view", "screen"})
