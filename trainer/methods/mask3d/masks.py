"""Which colour and which depth patches Mask3D hides."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from trainer.config import Mask3DModelConfig
from trainer.methods.masking import PatchMask, concatenate, frame_generator, hide, random_ranks
from trainer.methods.patches import patchify


class Masks(NamedTuple):
    """One mask a modality."""

    rgb: PatchMask
    depth: PatchMask


def draw_masks(
    depth_valid: Bool[Tensor, "batch h w"],
    config: Mask3DModelConfig,
    *,
    generator: torch.Generator,
) -> Masks:
    """Hide random patches, on the device of ``depth_valid``.

    Colour and depth are drawn apart, or once under ``shared_mask``. Under ``prefer_valid_depth`` a
    depth patch without a valid pixel is shown only where no other is left.
    """
    empty = ~patchify(depth_valid.unsqueeze(1), config.encoder.patch_size).any(dim=2)
    # The noise goes to the device, not the validity to the CPU: that would wait for the device.
    queue = partial(random_ranks, *empty.shape, generator=generator, device=depth_valid.device)
    depth = queue(last=empty if config.prefer_valid_depth else None)
    rgb = depth if config.shared_mask else queue()
    return Masks(
        hide(rgb, ratio=config.mask_ratio_rgb),
        hide(depth, ratio=config.mask_ratio_depth, least_visible=0),
    )


def fixed_masks(
    depth_valid: Bool[Tensor, "batch h w"],
    frames: Sequence[tuple[str, int]],
    config: Mask3DModelConfig,
    *,
    seed: int,
) -> Masks:
    """Draw each frame's masks from its scene and number: the same in any batch."""
    drawn = [
        draw_masks(valid[None], config, generator=frame_generator(seed, scene, frame))
        for valid, (scene, frame) in zip(depth_valid, frames, strict=True)
    ]
    return Masks(
        concatenate([masks.rgb for masks in drawn]), concatenate([masks.depth for masks in drawn])
    )
