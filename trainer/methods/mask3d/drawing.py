"""Pictures of Mask3D's reconstructions."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from trainer.methods.mask3d.frames import MaskedFrames
from trainer.metrics import depth_error_sums, depth_metrics
from trainer.pictures import (
    Bar,
    Row,
    cover,
    depth_range,
    depth_to_rgb,
    error_to_rgb,
    image_to_rgb,
    panel,
)


def draw(
    frames: MaskedFrames,
    rebuilt: Float[Tensor, "batch h w"],
    *,
    names: Sequence[str],
    assisted: bool,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw a row a frame: colour seen, depth seen, rebuilt, measured, and error.

    Args:
        frames: What was given and hidden.
        rebuilt: Metres.
        names: What each row is called.
        assisted: Whether the target's patch statistics went into ``rebuilt``; the picture says so.
    """
    headers = ("colour seen", "depth seen", "reconstruction", "measured depth", "absolute error")
    footer = (
        "light grey: hidden; dark grey: not measured; seen depth is pasted into what was rebuilt"
    )
    if assisted:
        footer += "; each patch rebuilt with the mean and deviation of the measured patch"
    rows = [
        _row(frames, rebuilt, index, name=name, assisted=assisted)
        for index, name in enumerate(names)
    ]
    return panel(headers, rows, footer=footer)


def _row(
    frames: MaskedFrames,
    rebuilt: Float[Tensor, "batch h w"],
    index: int,
    *,
    name: str,
    assisted: bool,
) -> Row:
    depth, guess, valid, hidden_rgb, hidden_depth = (
        part[index].cpu().numpy()
        for part in (frames.depth, rebuilt, frames.valid, frames.hidden_rgb, frames.hidden_depth)
    )
    near, far = depth_range(depth, valid)
    # An error of a quarter of the range is as wrong as a picture needs to tell.
    largest = (far - near) / 4
    measured = depth_to_rgb(depth, valid, near=near, far=far)
    # By default nothing teaches the model to repeat what it sees, so there it answers noise.
    pasted = np.where(hidden_depth, guess, depth)
    tiles = (
        cover(image_to_rgb(frames.rgb[index].cpu().numpy()), hidden_rgb),
        cover(measured, hidden_depth),
        depth_to_rgb(pasted, valid | hidden_depth, near=near, far=far),
        measured,
        error_to_rgb(np.abs(pasted - depth), valid, largest=largest),
    )
    bars = (
        Bar("depth", f"{near:.1f} m", f"{far:.1f} m"),
        Bar("error", "0", f"{largest:.2f} m"),
    )
    if assisted:
        return Row(name, tiles, bars)
    part = slice(index, index + 1)
    sums = depth_error_sums(rebuilt[part], frames.depth[part], frames.judged[part])
    return Row(f"{name}   abs_rel {depth_metrics(sums)['abs_rel']:.3f} where hidden", tiles, bars)
