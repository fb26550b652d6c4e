"""The materials of a scene in one array, with all their halvings, to sample from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from geomim_data.sources.synthetic.textures import SIDE, Material

_LEVELS = SIDE.bit_length()
_LEVEL_START = np.cumsum([0] + [(SIDE >> level) ** 2 for level in range(_LEVELS)], dtype=np.int32)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """Materials with all their halvings, as square roots of reflectance in one flat array."""

    texels: UInt8[np.ndarray, " texel c"]
    repeat_m: Float32[np.ndarray, " material"]
    fits: Bool[np.ndarray, " material"]
    upright: Bool[np.ndarray, " material"]
    gloss: Float32[np.ndarray, " material"]

    def sample(
        self,
        material: Int[np.ndarray, " point"],
        uv: Float32[np.ndarray, "point 2"],
        footprint: Float32[np.ndarray, " point"],
    ) -> Float32[np.ndarray, "point 3"]:
        """Sample linear reflectance at ``uv`` in repeats, averaged over about ``footprint`` of one.

        Bilinear in the nearest level of the pyramid, so that far patterns blur instead of flicker.
        """
        level = np.log2(np.maximum(footprint * SIDE, 1)).round().astype(np.int32)
        level = np.minimum(level, _LEVELS - 1)
        size = SIDE >> level
        place = uv * size[:, None].astype(np.float32) - np.float32(0.5)
        first = np.floor(place)
        beyond = place - first
        start = material.astype(np.int32) * _LEVEL_START[-1] + _LEVEL_START[level]
        colour = np.zeros((len(uv), 3), np.float32)
        # Sizes are powers of two: a bitwise and wraps.
        column, row = (first.astype(np.int32)[:, axis] for axis in (0, 1))
        for down, share_v in ((0, 1 - beyond[:, 1]), (1, beyond[:, 1])):
            line = start + ((row + down) & (size - 1)) * size
            for right, share_u in ((0, 1 - beyond[:, 0]), (1, beyond[:, 0])):
                texel = self.texels[line + ((column + right) & (size - 1))]
                colour += (share_u * share_v)[:, None] * texel
        return np.square(colour / 255)


def make_atlas(materials: Sequence[Material]) -> Atlas:
    """Put materials into one array, each halved down to a single texel."""
    rows: list[UInt8[np.ndarray, " texel c"]] = []
    for material in materials:
        picture = material.picture
        while True:
            rows.append(np.rint(255 * np.sqrt(picture)).astype(np.uint8).reshape(-1, 3))
            half = len(picture) // 2
            if half == 0:
                break
            rows_pair = picture[0::2] + picture[1::2]
            picture = (rows_pair[:, 0::2] + rows_pair[:, 1::2]) / 4
    return Atlas(
        texels=np.concatenate(rows),
        repeat_m=np.array([material.repeat_m for material in materials], np.float32),
        fits=np.array([material.fits for material in materials]),
        upright=np.array([material.upright for material in materials]),
        gloss=np.array([material.gloss for material in materials], np.float32),
    )
