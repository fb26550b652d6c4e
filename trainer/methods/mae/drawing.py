"""Pictures of the masked autoencoder's reconstructions."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from geomim_data.dataset import RgbdBatch
from trainer.pictures import Bar, Row, cover, error_to_rgb, image_to_rgb, panel

_LARGEST = 0.25


def draw(
    batch: RgbdBatch,
    rebuilt: Float[Tensor, "batch 3 h w"],
    hidden: Bool[Tensor, "batch h w"],
    *,
    assisted: bool,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw a row a frame: colour seen, rebuilt, both together, the target, and error.

    Args:
        batch: The frames.
        rebuilt: Colour in 0..1.
        hidden: Which pixels were not seen.
        assisted: Whether the target's patch statistics went into ``rebuilt``; the picture says so.
    """
    headers = ("colour seen", "reconstruction", "with what was seen", "target", "absolute error")
    footer = "light grey: hidden"
    if assisted:
        footer += "; each patch rebuilt with the mean and deviation of the target's patch"
    rows = [
        Row(
            f"{scene}, frame {frame}",
            _tiles(*(part[index].cpu().numpy() for part in (batch.rgb, rebuilt, hidden))),
            (Bar("error", "0", f"{_LARGEST}"),),
        )
        for index, (scene, frame) in enumerate(zip(batch.scene, batch.frame, strict=True))
    ]
    return panel(headers, rows, footer=footer)


def _tiles(
    target: Float[np.ndarray, "3 h w"],
    rebuilt: Float[np.ndarray, "3 h w"],
    hidden: Bool[np.ndarray, "h w"],
) -> tuple[UInt8[np.ndarray, "h w 3"], ...]:
    error = np.abs(rebuilt - target).mean(axis=0)
    return (
        cover(image_to_rgb(target), hidden),
        image_to_rgb(rebuilt),
        image_to_rgb(np.where(hidden, rebuilt, target)),
        image_to_rgb(target),
        error_to_rgb(error, np.ones_like(hidden), largest=_LARGEST),
    )
