"""The RGB-only masked autoencoder as the loop sees it."""

import math
from collections.abc import Iterable
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor, nn

from geomim_data.dataset import RgbdBatch
from trainer.config import MaeConfig
from trainer.methods.colour import normalise_rgb, restore_rgb
from trainer.methods.evaluation import VALIDATION_SEED, evaluating
from trainer.methods.mae.drawing import draw
from trainer.methods.mae.model import MaeModel
from trainer.methods.masking import PatchMask, concatenate, frame_generator, hide, random_ranks
from trainer.methods.method import BackboneExport, DataConstants, Losses
from trainer.methods.patches import patch_grid, patchify, spread, unpatchify
from trainer.methods.vit import export_backbone, load_backbone


class _Target(NamedTuple):
    values: Float[Tensor, "batch token value"]
    mean: Float[Tensor, "batch token 1"]
    std: Float[Tensor, "batch token 1"]


@final
class Mae:
    """Pre-train by rebuilding hidden colour patches from visible ones."""

    needs_depth = False

    def __init__(self, config: MaeConfig, _constants: DataConstants):
        self.config, self.image_size = config.model, config.data.image_size
        self.patch = config.model.encoder.patch_size
        self.grid = patch_grid(self.image_size, self.patch)

    def build(self) -> MaeModel:
        """Draw a model's weights, then load those of its encoder if ``model.init`` names some."""
        model = MaeModel(self.config, self.image_size)
        if self.config.init is not None:
            load_backbone(model.encoder.vit, self.config.init)
        return model

    def loss(self, model: nn.Module, batch: RgbdBatch, generator: Generator) -> Losses:
        """Average the squared error over the hidden patches."""
        mask = self._draw(len(batch.rgb), generator, batch.rgb.device)
        return Losses(self._errors(model(batch.rgb, mask), batch, mask).mean())

    def evaluate(self, model: nn.Module, batches: Iterable[RgbdBatch]) -> dict[str, float]:
        """Return the loss and the ``psnr`` (dB) of colour on hidden pixels.

        With ``norm_target: patch`` the target's patch statistics undo the normalisation, so
        ``psnr`` judges the texture inside patches alone; compare it between such runs only.
        """
        losses, squares = list[Tensor](), list[Tensor]()
        with evaluating(model):
            for batch in batches:
                mask = self._fixed(batch)
                output = model(batch.rgb, mask)
                losses.append(self._errors(output, batch, mask))
                error = (self._rebuild(output, batch) - batch.rgb).square().mean(dim=1)
                hidden = spread(mask.hidden, self.grid, self.patch)
                squares.append(error[hidden].double())
        mean_square = float(torch.cat(squares).mean())
        psnr = math.inf if mean_square == 0 else -10 * math.log10(mean_square)
        return {"loss": float(torch.cat(losses).mean()), "psnr": psnr}

    def baselines(self, _batches: Iterable[RgbdBatch]) -> dict[str, dict[str, float]]:
        """Return nothing: colour has no rule to beat here."""
        return {}

    def picture(self, model: nn.Module, batch: RgbdBatch) -> UInt8[np.ndarray, "height width 3"]:
        """Draw each frame's colour seen, rebuilt, both together, the target and the error."""
        mask = self._fixed(batch)
        with evaluating(model):
            rebuilt = self._rebuild(model(batch.rgb, mask), batch)
        return draw(
            batch,
            rebuilt,
            spread(mask.hidden, self.grid, self.patch),
            assisted=self.config.norm_target == "patch",
        )

    def backbone(self, model: nn.Module) -> BackboneExport:
        """Return the encoder; the decoder is dropped."""
        if not isinstance(model, MaeModel):
            raise TypeError(f"model must be what build returned, got {type(model).__name__}")
        return export_backbone(model.encoder, self.config.encoder, self.image_size)

    def _draw(self, batch: int, generator: Generator, device: torch.device) -> PatchMask:
        token = self.grid[0] * self.grid[1]
        ranks = random_ranks(batch, token, generator=generator, device=device)
        return hide(ranks, ratio=self.config.mask_ratio)

    def _fixed(self, batch: RgbdBatch) -> PatchMask:
        drawn = [
            self._draw(1, frame_generator(VALIDATION_SEED, scene, frame), batch.rgb.device)
            for scene, frame in zip(batch.scene, batch.frame, strict=True)
        ]
        return concatenate(drawn)

    def _target(self, batch: RgbdBatch) -> _Target:
        values = patchify(normalise_rgb(batch.rgb, self.config), self.patch)
        mean, std = values.mean(dim=2, keepdim=True), values.var(dim=2, keepdim=True)
        if self.config.norm_target == "none":
            return _Target(values, torch.zeros_like(mean), torch.ones_like(std))
        # The variance and the constant of He et al. 2022's code.
        std = (std + 1e-6).sqrt()
        return _Target((values - mean) / std, mean, std)

    def _errors(
        self, output: Float[Tensor, "batch token value"], batch: RgbdBatch, mask: PatchMask
    ) -> Float[Tensor, " batch"]:
        error = (output - self._target(batch).values).square().mean(dim=2)
        return torch.where(mask.hidden, error, 0.0).sum(dim=1) / mask.hidden.sum(dim=1)

    def _rebuild(
        self, output: Float[Tensor, "batch token value"], batch: RgbdBatch
    ) -> Float[Tensor, "batch 3 h w"]:
        target = self._target(batch)
        image = unpatchify(output * target.std + target.mean, self.grid, self.patch)
        return restore_rgb(image, self.config).clamp(0, 1)
