"""What is seen where there is no solid: sky, clouds, and the haze in front of far things."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Float32
from numpy.random import Generator

from geomim_data.sources.synthetic.atlas import Atlas, make_atlas
from geomim_data.sources.synthetic.textures import Colour, Material, cloud_cover

_CLOUD = np.array([0.95, 0.96, 1.0], np.float32)
# Clouds fade out towards the horizon, where they would only flicker.
_CLOUD_FOOT = 0.12


@final
@dataclass(frozen=True, slots=True, eq=False)
class Sky:
    """A dome of light, blue above and pale at the horizon, with clouds.

    Air takes on the colour of the horizon: of a thing ``haze_m`` away, 63 % is hidden by it.
    """

    zenith: Colour
    horizon: Colour
    cover: Atlas
    haze_m: float

    def light(self, directions: Float[np.ndarray, "ray 3"]) -> Float32[np.ndarray, "ray 3"]:
        """Return the light that comes from directions of unit length; below, the horizon's."""
        up = np.clip(directions[:, 2], 0, 1).astype(np.float32)
        share = (1 - up) ** 4
        clear = self.zenith + share[:, None] * (self.horizon - self.zenith)
        far = (directions[:, :2] / np.maximum(up, _CLOUD_FOOT / 2)[:, None]).astype(np.float32)
        footprint = np.full(len(up), 1 / 128, np.float32)
        cover = self.cover.sample(np.zeros(len(up), np.int64), 0.05 * far, footprint)[:, :1]
        return clear + np.clip(up / _CLOUD_FOOT - 1, 0, 1)[:, None] * cover * (_CLOUD - clear)

    def veil(
        self,
        light: Float32[np.ndarray, "point 3"],
        distance: Float[np.ndarray, " point"],
    ) -> Float32[np.ndarray, "point 3"]:
        """Return what is left of light that comes through air, and the air's own."""
        left = np.exp(distance / -self.haze_m).astype(np.float32)[:, None]
        return left * light + (1 - left) * self.horizon


def draw_sky(rng: Generator, *, overcast: float) -> Sky:
    """Draw a sky: ``overcast`` 0 is blue with a few clouds, 1 is grey all over."""
    blue, grey = np.array([0.16, 0.34, 0.78], np.float32), np.array([0.62, 0.66, 0.7], np.float32)
    pale = np.array([0.72, 0.82, 0.95], np.float32)
    zenith = blue * np.float32(rng.uniform(0.8, 1.2))
    picture = np.repeat(cloud_cover(rng, overcast)[..., None], 3, axis=2)
    return Sky(
        zenith=zenith + np.float32(overcast) * (grey - zenith),
        horizon=pale + np.float32(overcast) * (0.9 * grey - pale),
        cover=make_atlas([Material(picture, 1.0)]),
        haze_m=float(rng.uniform(500, 1500) * (1 - 0.6 * overcast)),
    )
