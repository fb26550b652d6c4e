"""Mask3D as the loop sees it: what it trains on and how it is judged and drawn."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Generator, Tensor, nn

from geomim_data.dataset import RgbdBatch
from trainer.config import Mask3DConfig
from trainer.methods.colour import normalise_rgb
from trainer.methods.evaluation import evaluating
from trainer.methods.mask3d.baselines import nearest_visible, visible_mean
from trainer.methods.mask3d.drawing import draw
from trainer.methods.mask3d.frames import MaskedFrames, mask_fixed, mask_randomly
from trainer.methods.mask3d.loss import (
    Standardised,
    frame_losses,
    mean_over_frames,
    standardise_patches,
)
from trainer.methods.mask3d.model import Mask3DModel, Reconstruction
from trainer.methods.method import BackboneExport, DataConstants, Losses
from trainer.methods.vit import export_backbone, load_backbone
from trainer.metrics import depth_error_sums, depth_metrics

Rule = Callable[..., Float[Tensor, "batch h w"]]
_RULES: dict[str, Rule] = {"visible_mean": visible_mean, "nearest_visible": nearest_visible}


class _FrameLosses(NamedTuple):
    depth: Float[Tensor, " batch"]
    selected: Bool[Tensor, "batch h w"]
    rgb: Float[Tensor, " batch"]


@final
class Mask3D:
    """Pre-train by rebuilding dense depth from masked colour and masked depth."""

    needs_depth = True

    def __init__(self, config: Mask3DConfig, constants: DataConstants):
        self.config, self.constants = config.model, constants
        self.image_size = config.data.image_size

    def build(self) -> Mask3DModel:
        """Draw a model's weights, then load those of its encoder if ``model.init`` names some."""
        model = Mask3DModel(self.config, self.image_size, self.constants)
        if self.config.init is not None:
            load_backbone(model.encoder.vit, self.config.init)
        return model

    def loss(self, model: nn.Module, batch: RgbdBatch, generator: Generator) -> Losses:
        """Compare rebuilt with measured depth on valid pixels, by default the hidden ones."""
        frames = mask_randomly(batch, self.config, generator=generator)
        losses = self._losses(frames.through(model), frames)
        depth = mean_over_frames(losses.depth, losses.selected)
        weight = self.config.rgb_target_weight
        if weight == 0:
            return Losses(depth)
        rgb = losses.rgb.mean()
        return Losses(depth + weight * rgb, {"loss_depth": depth, "loss_rgb": rgb})

    def evaluate(self, model: nn.Module, batches: Iterable[RgbdBatch]) -> dict[str, float]:
        """Return the loss, and depth metrics pooled over the hidden valid pixels.

        With ``norm_target: patch`` there are no depth metrics: to undo it takes the hidden depth.
        """
        losses, sums = list[_FrameLosses](), list[Tensor]()
        with evaluating(model):
            for batch in batches:
                frames = mask_fixed(batch, self.config)
                output = frames.through(model)
                losses.append(self._losses(output, frames))
                sums.append(_error_sums(output.scale.metres(output.depth), frames))
        depth, selected, rgb = (torch.cat(part) for part in zip(*losses, strict=True))
        loss = mean_over_frames(depth, selected) + self.config.rgb_target_weight * rgb.mean()
        metrics = _pooled(sums) if self.config.norm_target == "none" else {}
        return {"loss": float(loss), **metrics}

    def baselines(self, batches: Iterable[RgbdBatch]) -> dict[str, dict[str, float]]:
        """Judge two rules as ``evaluate`` judges the model, on the same visible depth.

        Returns:
            Metrics of ``visible_mean``, the mean of the frame's visible depth, and of
            ``nearest_visible``, the depth of the nearest visible pixel. Frames without visible
            depth get the training split's mean from both.
        """
        fallback_m = self.constants.depth_mean_m
        sums: dict[str, list[Tensor]] = {name: [] for name in _RULES}
        for batch in batches:
            frames = mask_fixed(batch, self.config)
            for name, rule in _RULES.items():
                guess = rule(frames.depth, frames.visible, fallback_m=fallback_m)
                sums[name].append(_error_sums(guess, frames))
        return {name: _pooled(parts) for name, parts in sums.items()}

    def picture(self, model: nn.Module, batch: RgbdBatch) -> UInt8[np.ndarray, "height width 3"]:
        """Draw each frame's colour seen, depth seen, depth rebuilt, depth measured and error."""
        identities = zip(batch.scene, batch.frame, strict=True)
        names = [f"{scene}, frame {frame}" for scene, frame in identities]
        frames, rebuilt = self.reconstruct(model, batch)
        return draw(frames, rebuilt, names=names, assisted=self.config.norm_target == "patch")

    def reconstruct(
        self, model: nn.Module, batch: RgbdBatch
    ) -> tuple[MaskedFrames, Float[Tensor, "batch h w"]]:
        """Rebuild depth in metres under ``evaluate``'s masks.

        With ``norm_target: patch`` the statistics of the measured patches undo it: that result
        shows the shape inside patches and must not be measured.
        """
        frames = mask_fixed(batch, self.config)
        with evaluating(model):
            output = frames.through(model)
        if self.config.norm_target == "none":
            return frames, output.scale.metres(output.depth)
        patches = self._standardised(output, frames)
        return frames, output.scale.metres(output.depth * patches.std + patches.mean)

    def backbone(self, model: nn.Module) -> BackboneExport:
        """Return the colour encoder; the depth encoder and the decoder are dropped."""
        if not isinstance(model, Mask3DModel):
            raise TypeError(f"model must be what build returned, got {type(model).__name__}")
        return export_backbone(model.encoder, self.config.encoder, self.image_size)

    def _losses(self, output: Reconstruction, frames: MaskedFrames) -> _FrameLosses:
        target, usable = output.scale.normalise(frames.depth), frames.valid
        if self.config.norm_target == "patch":
            target, usable, _, _ = self._standardised(output, frames)
        selected = usable & frames.hidden_depth if self.config.loss_on == "masked" else usable
        depth = frame_losses(output.depth, target, selected, kind=self.config.loss)
        if output.rgb is None:
            return _FrameLosses(depth, selected, torch.zeros_like(depth))
        colour = normalise_rgb(frames.rgb, self.config)
        hidden = frames.hidden_rgb.unsqueeze(1).expand_as(colour)
        return _FrameLosses(depth, selected, frame_losses(output.rgb, colour, hidden, kind="l2"))

    def _standardised(self, output: Reconstruction, frames: MaskedFrames) -> Standardised:
        return standardise_patches(
            output.scale.normalise(frames.depth),
            frames.valid,
            patch=frames.patch,
            min_valid=self.config.norm_target_min_valid,
        )


def _error_sums(
    guess: Float[Tensor, "batch h w"], frames: MaskedFrames
) -> Float64[Tensor, " sums"]:
    return depth_error_sums(guess, frames.depth, frames.judged)


def _pooled(sums: list[Tensor]) -> dict[str, float]:
    return depth_metrics(torch.stack(sums).sum(dim=0))
