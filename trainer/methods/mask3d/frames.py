"""A batch as Mask3D takes it: colour, depth, and which patches of each are hidden."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geomim_data.dataset import RgbdBatch
from trainer.config import Mask3DModelConfig
from trainer.methods.evaluation import VALIDATION_SEED
from trainer.methods.mask3d.masks import Masks, draw_masks, fixed_masks
from trainer.methods.mask3d.model import Reconstruction
from trainer.methods.patches import patch_grid, spread


@final
@dataclass(frozen=True, slots=True, eq=False)
class MaskedFrames:
    """Colour in 0..1 and depth in metres under masks.

    ``valid`` is False where depth was not measured or lies beyond ``max_depth_m``.
    """

    rgb: Float[Tensor, "batch 3 h w"]
    depth: Float[Tensor, "batch h w"]
    valid: Bool[Tensor, "batch h w"]
    masks: Masks
    patch: int

    @property
    def hidden_rgb(self) -> Bool[Tensor, "batch h w"]:
        """Pixels of the hidden colour patches."""
        return spread(self.masks.rgb.hidden, self._grid, self.patch)

    @property
    def hidden_depth(self) -> Bool[Tensor, "batch h w"]:
        """Pixels of the hidden depth patches."""
        return spread(self.masks.depth.hidden, self._grid, self.patch)

    @property
    def visible(self) -> Bool[Tensor, "batch h w"]:
        """Pixels whose depth is given: valid and not hidden."""
        return self.valid & ~self.hidden_depth

    @property
    def judged(self) -> Bool[Tensor, "batch h w"]:
        """Pixels that metrics count: valid and hidden."""
        return self.valid & self.hidden_depth

    def through(self, model: nn.Module) -> Reconstruction:
        """Run a model."""
        return model(self.rgb, self.depth, self.valid, *self.masks)

    @property
    def _grid(self) -> tuple[int, int]:
        height, width = self.depth.shape[1:]
        return patch_grid((height, width), self.patch)


def mask_randomly(
    batch: RgbdBatch, config: Mask3DModelConfig, *, generator: torch.Generator
) -> MaskedFrames:
    """Draw new masks."""
    valid = _usable(batch, config)
    masks = draw_masks(valid, config, generator=generator)
    return MaskedFrames(batch.rgb, batch.depth, valid, masks, config.encoder.patch_size)


def mask_fixed(batch: RgbdBatch, config: Mask3DModelConfig) -> MaskedFrames:
    """Draw the masks that these frames always get in validation."""
    valid = _usable(batch, config)
    identities = list(zip(batch.scene, batch.frame, strict=True))
    masks = fixed_masks(valid, identities, config, seed=VALIDATION_SEED)
    return MaskedFrames(batch.rgb, batch.depth, valid, masks, config.encoder.patch_size)


def _usable(batch: RgbdBatch, config: Mask3DModelConfig) -> Bool[Tensor, "batch h w"]:
    return batch.depth_valid & (batch.depth <= config.max_depth_m)
