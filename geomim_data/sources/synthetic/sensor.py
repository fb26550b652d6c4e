"""What a depth sensor makes of exact depth: whole millimetres, and holes if asked for."""

import numpy as np
from jaxtyping import Bool, Float64, UInt16
from numpy.random import Generator
from PIL import Image

from geomim_data.sources.synthetic.rendering import DepthView

_FARTHEST_M = 8.0
_FACING = 0.12
_JUMP_M = 0.12
_BLOB_PIXELS = 9


def depth_in_mm(
    view: DepthView, *, hole_fraction: float, rng: Generator
) -> UInt16[np.ndarray, "h w"]:
    """Round depth to millimetres, 0 where there is none.

    With a positive ``hole_fraction`` the sensor also misses what a structured-light one misses:
    surfaces seen edge-on, beyond 8 m, or beside an edge in the shadow of its projector; and blobs
    that cover about that share of the image.
    """
    counts = np.rint(1000 * view.depth_m)
    missed = counts > np.iinfo(np.uint16).max
    if hole_fraction > 0:
        missed |= (view.depth_m > _FARTHEST_M) | (view.facing < _FACING)
        missed |= _in_projector_shadow(view.depth_m) | _blobs(missed.shape, hole_fraction, rng)
    return np.where(missed, 0, counts).astype(np.uint16)


def _in_projector_shadow(depth_m: Float64[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Find the two pixels to the left of something nearer: the projector stands to the right."""
    shadow = np.zeros(depth_m.shape, dtype=np.bool_)
    for step in (1, 2):
        shadow[:, :-step] |= depth_m[:, :-step] - depth_m[:, step:] > _JUMP_M
    return shadow


def _blobs(size: tuple[int, ...], fraction: float, rng: Generator) -> Bool[np.ndarray, "h w"]:
    height, width = size
    coarse = rng.standard_normal((height // _BLOB_PIXELS + 2, width // _BLOB_PIXELS + 2))
    smooth = Image.fromarray(coarse.astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    heights = np.asarray(smooth)
    return heights > np.quantile(heights, 1 - fraction)
