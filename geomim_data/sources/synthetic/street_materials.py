"""The materials of a street, as pictures that tile: walls with windows, paint, leaves, paving."""

from dataclasses import dataclass, field
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Float32
from numpy.random import Generator

from geomim_data.sources.synthetic.atlas import Atlas, make_atlas
from geomim_data.sources.synthetic.textures import SIDE, Colour, Material, Picture, noise

_CELLS = 4
"""Windows across, and storeys up, in the picture of a wall."""

_PAINTS: tuple[tuple[float, float, float], ...] = (
    (0.75, 0.76, 0.76),
    (0.42, 0.44, 0.46),
    (0.14, 0.15, 0.16),
    (0.035, 0.035, 0.04),
    (0.45, 0.03, 0.03),
    (0.04, 0.1, 0.34),
    (0.07, 0.2, 0.14),
    (0.55, 0.5, 0.38),
)
_WALLS: tuple[tuple[float, float, float], ...] = (
    (0.62, 0.55, 0.44),
    (0.7, 0.68, 0.62),
    (0.42, 0.2, 0.14),
    (0.5, 0.3, 0.2),
    (0.45, 0.46, 0.48),
    (0.66, 0.5, 0.3),
    (0.3, 0.34, 0.38),
    (0.55, 0.6, 0.58),
)


@final
@dataclass(slots=True, eq=False)
class Materials:
    """Materials under numbers, in the order in which they were made."""

    rng: Generator
    made: list[Material] = field(default_factory=list[Material])

    def add(self, material: Material) -> int:
        """Keep a material and return its number."""
        self.made.append(material)
        return len(self.made) - 1

    def plain(self, colour: tuple[float, float, float], *, gloss: float = 0.0) -> int:
        """Make something of one colour, slightly uneven."""
        picture = _uneven(np.array(colour, np.float32), 0.04 * noise(self.rng))
        return self.add(Material(picture, 1.5, gloss=gloss))

    def atlas(self) -> Atlas:
        """Return everything that was made."""
        return make_atlas(self.made)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Wardrobe:
    """The materials that the things of one street share, by number."""

    paints: tuple[int, ...]
    facades: tuple[int, ...]
    facade_cells_m: tuple[float, ...]
    shops: tuple[int, ...]
    trims: tuple[int, ...]
    clothes: tuple[int, ...]
    leaves: tuple[int, ...]
    bark: int
    glass: int
    rubber: int
    chrome: int
    plate: int
    white_light: int
    red_light: int
    steel: int
    signs: tuple[int, ...]
    skin: int
    concrete: int


def make_wardrobe(materials: Materials) -> Wardrobe:
    """Draw what the things of a street wear."""
    rng = materials.rng
    cells = tuple(float(value) for value in rng.uniform(2.8, 3.5, 6))
    walls = rng.permutation(len(_WALLS))[:6]
    return Wardrobe(
        paints=tuple(materials.plain(paint, gloss=0.06) for paint in _PAINTS),
        facades=tuple(
            materials.add(Material(_facade(rng, _WALLS[wall]), _CELLS * cell, upright=True))
            for wall, cell in zip(walls, cells, strict=True)
        ),
        facade_cells_m=cells,
        shops=tuple(
            materials.add(Material(_shop(rng), rng.uniform(5, 8), upright=True)) for _ in range(3)
        ),
        trims=tuple(materials.plain(colour) for colour in ((0.6, 0.58, 0.54), (0.2, 0.2, 0.21))),
        clothes=tuple(materials.plain(tuple(rng.uniform(0.03, 0.6, 3).tolist())) for _ in range(6)),
        leaves=tuple(materials.add(Material(_leaves(rng), 2.2)) for _ in range(2)),
        bark=materials.plain((0.13, 0.1, 0.07)),
        glass=materials.plain((0.03, 0.035, 0.04), gloss=0.14),
        rubber=materials.plain((0.025, 0.025, 0.025)),
        chrome=materials.plain((0.3, 0.3, 0.31), gloss=0.2),
        plate=materials.plain((0.8, 0.8, 0.75)),
        white_light=materials.plain((0.85, 0.85, 0.8), gloss=0.1),
        red_light=materials.plain((0.55, 0.02, 0.02), gloss=0.1),
        steel=materials.plain((0.28, 0.3, 0.31)),
        signs=tuple(
            materials.plain(colour)
            for colour in ((0.6, 0.02, 0.02), (0.02, 0.1, 0.5), (0.75, 0.5, 0.02), (0.8, 0.8, 0.8))
        ),
        skin=materials.plain((0.5, 0.33, 0.24)),
        concrete=materials.plain((0.42, 0.41, 0.39)),
    )


def asphalt(rng: Generator) -> Material:
    """Draw the surface of a road: grey grit, darker where it was mended."""
    grey = rng.uniform(0.07, 0.14)
    shade = 0.1 * noise(rng) + 0.14 * rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    return Material(_uneven(np.array((grey, grey, 1.04 * grey), np.float32), shade), 4.0)


def slabs(rng: Generator) -> Material:
    """Draw the surface of a pavement: concrete slabs with joints."""
    count = int(rng.choice((2, 4)))
    place = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE * count % 1
    joint = np.minimum(place[:, None], place[None, :]) < 0.012 * count
    tint = np.array((1.0, 0.97, 0.92), np.float32) * np.float32(rng.uniform(0.28, 0.45))
    grit = 0.05 * rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    return Material(_uneven(tint, np.where(joint, -0.45, 0.06 * noise(rng) + grit)), 2.4)


def grass(rng: Generator) -> Material:
    """Draw a lawn."""
    green = np.array((0.1, 0.17, 0.045), np.float32) * np.float32(rng.uniform(0.8, 1.4))
    blades = 0.3 * rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    return Material(_uneven(green, blades + 0.25 * noise(rng)), 3.0)


def _uneven(colour: Colour, shade: Float[np.ndarray, "256 256"]) -> Picture:
    return np.clip(colour * (1 + shade[..., None]), 0.005, 0.95).astype(np.float32)


def _leaves(rng: Generator) -> Picture:
    green = np.array((0.1, 0.19, 0.04), np.float32) * rng.uniform(0.6, 1.3, 3).astype(np.float32)
    clumps = np.where(noise(rng) > 0, 0.25, -0.45)
    return _uneven(green, clumps + 0.35 * rng.standard_normal((SIDE, SIDE)))


def _facade(rng: Generator, wall: tuple[float, float, float]) -> Picture:
    """A wall of four storeys with four windows each, of glass that mirrors a little sky."""
    u, v = _texels()
    tint = np.array(wall, np.float32) * rng.uniform(0.85, 1.05, 3).astype(np.float32)
    courses = 0.1 * (np.floor(v * _CELLS * 12) % 2) if rng.random() < 0.5 else np.zeros_like(v)
    picture = _uneven(tint, 0.05 * noise(rng) - courses)
    across, up = rng.uniform(0.18, 0.3), rng.uniform(0.22, 0.3)
    inside, frame = _window(u * _CELLS % 1, v * _CELLS % 1, across, up)
    number = (np.floor(v * _CELLS) * _CELLS + np.floor(u * _CELLS)).astype(int)
    ledge = (np.abs(v * _CELLS % 1 - (0.5 + up + 0.05)) < 0.025) & (
        np.abs(u * _CELLS % 1 - 0.5) < across + 0.06
    )
    picture[frame | ledge] = tint * 0.4 + 0.4 * float(rng.random() < 0.7)
    picture[inside] = _panes(rng, _CELLS**2)[number[inside]]
    picture[inside] *= (1.5 - 0.8 * (v * _CELLS % 1))[inside, None]
    return np.clip(picture, 0.005, 0.95)


def _shop(rng: Generator) -> Picture:
    """Two shop windows under signs."""
    u, v = _texels()
    frame = np.array(rng.uniform(0.05, 0.5, 3), np.float32)
    picture = _uneven(frame, 0.04 * noise(rng))
    inside, _ = _window(u * 2 % 1, v * 1.0, 0.42, 0.3)
    number = np.floor(u * 2).astype(int)
    picture[inside] = _panes(rng, 2)[number[inside]]
    sign = (np.abs(v - 0.1) < 0.055) & (np.abs(u * 2 % 1 - 0.5) < 0.4)
    picture[sign] = rng.uniform(0.1, 0.8, (2, 3))[number[sign]]
    return picture


def _texels() -> tuple[Float32[np.ndarray, "256 256"], Float32[np.ndarray, "256 256"]]:
    middle = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    v, u = np.meshgrid(middle, middle, indexing="ij")
    return u, v


def _window(
    u: Float32[np.ndarray, "256 256"],
    v: Float32[np.ndarray, "256 256"],
    across: float,
    up: float,
) -> tuple[Bool[np.ndarray, "256 256"], Bool[np.ndarray, "256 256"]]:
    """Return where there is glass, and where there is the frame, of windows in cells."""
    whole = (np.abs(u - 0.5) < across) & (np.abs(v - 0.5) < up)
    bars = (np.abs(u - 0.5) < 0.015) | (np.abs(v - 0.5) > up - 0.025)
    bars |= np.abs(u - 0.5) > across - 0.025
    return whole & ~bars, whole & bars


def _panes(rng: Generator, count: int) -> Float32[np.ndarray, "pane 3"]:
    """Return a colour for each window: dark rooms, some with the sky or a curtain in them."""
    dark = np.array((0.06, 0.075, 0.09)) * rng.uniform(0.5, 1.8, (count, 1))
    curtain = rng.random((count, 1)) < 0.2
    pale = rng.uniform(0.25, 0.5, (count, 1)) * np.array((1.0, 0.95, 0.85))
    return np.where(curtain, pale, dark).astype(np.float32)
