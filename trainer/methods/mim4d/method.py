"""MIM4D as the loop sees it: what it trains on and how it is judged and drawn."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor, nn

from geomim.grids import VoxelGrid
from geomim_data.clip_batch import ClipBatch
from trainer.config_mim4d import Mim4dConfig
from trainer.config_mim4d_model import LossConfig
from trainer.methods.evaluation import evaluating
from trainer.methods.method import BackboneExport, ClipConstants, Losses
from trainer.methods.mim4d.backbone import MaskedViT, initialise_backbone
from trainer.methods.mim4d.baselines import copy_nearest, depth_at, mean_depth
from trainer.methods.mim4d.convnext import MaskedConvNeXt
from trainer.methods.mim4d.depth_losses import depth_bin_loss
from trainer.methods.mim4d.drawing import copy_views, draw, render_views
from trainer.methods.mim4d.flow_losses import flow_losses
from trainer.methods.mim4d.losses import RayLossWeights, ray_losses
from trainer.methods.mim4d.mmdet_names import mmdet_state
from trainer.methods.mim4d.model import Mim4dModel, Rendering
from trainer.methods.mim4d.parts import depth_edges
from trainer.methods.mim4d.planning import (
    PlannedStep,
    fixed_targets,
    has_others,
    lidar_of,
    plan_fixed,
    plan_key_frame,
    plan_randomly,
    views_of,
)
from trainer.methods.mim4d.rays import TargetRays
from trainer.methods.mim4d.rendering import RenderedRays
from trainer.methods.mim4d.rigs import rig_motion
from trainer.methods.vit import export_backbone
from trainer.metrics import depth_error_sums, depth_metrics

DIRECT, REBUILT = "", "_rebuilt"
"""What the names of metrics end with."""


class _Sums(NamedTuple):
    """What metrics of a volume are made of, added up over rays."""

    depth: Float[Tensor, " sums"]
    square: Float[Tensor, ""]
    rays: Float[Tensor, ""]


@final
class Mim4d:
    """Pre-train by rendering masked and dropped frames of a rig's video."""

    needs_depth = False

    def __init__(self, config: Mim4dConfig, constants: ClipConstants):
        self.config, self.constants = config, constants
        self._mean_depth: Float[Tensor, "view h w"] | None = None

    def build(self) -> Mim4dModel:
        """Draw a model's weights, then load those of its backbone if ``model.init`` names some."""
        model, backbone = Mim4dModel(self.config), self.config.model.backbone
        initialise_backbone(
            model.backbone,
            self.config.model.init,
            frozen_stages=backbone.frozen_stages,
            freeze_statistics=backbone.freeze_statistics,
        )
        return model

    def loss(self, model: nn.Module, batch: ClipBatch, generator: Generator) -> Losses:
        """Compare what rays should see with what they see in both kinds of volumes."""
        planned = plan_randomly(_ours(model), batch, generator)
        return self._losses(model(batch, planned.plan), planned, batch, _ours(model).grid)

    def evaluate(self, model: nn.Module, batches: Iterable[ClipBatch]) -> dict[str, float]:
        """Return the loss, and the errors of both kinds of volumes on fixed rays of each clip.

        ``psnr`` (dB) is over all rays, ``depth_abs_rel`` and the other metrics of depth over those
        through lidar points; names end with ``_rebuilt`` where the volume was rebuilt without its
        own frame. Clips come one by one: their masks and rays are their own.
        """
        losses, direct, rebuilt = list[Tensor](), list[_Sums](), list[_Sums]()
        with evaluating(model):
            for batch in batches:
                planned = plan_fixed(_ours(model), batch)
                rendering = model(batch, planned.plan)
                terms = self._losses(rendering, planned, batch, _ours(model).grid)
                losses.append(terms.total)
                direct.append(_rendered_sums(rendering.direct, planned.targets))
                if rendering.rebuilt is not None:
                    rebuilt.append(_rendered_sums(rendering.rebuilt, planned.targets))
        metrics = {"loss": float(torch.stack(losses).mean()), **_pooled(direct, DIRECT)}
        return metrics | (_pooled(rebuilt, REBUILT) if rebuilt else {})

    def baselines(self, batches: Iterable[ClipBatch]) -> dict[str, dict[str, float]]:
        """Judge rules that learn nothing on the rays that ``evaluate`` judges the model on.

        Returns:
            Metrics of depth of ``mean_depth``, each camera's mean lidar depth over training clips,
            and the ``psnr_rebuilt`` of ``copy_nearest``, the colour of the frame nearest in time,
            fetched through that mean depth and the rig's motion. Nothing without lidar.
        """
        key, depth, copied = self.config.data.offsets.index(0), list[_Sums](), list[_Sums]()
        for batch in batches:
            cells = self._depth_image()
            if cells is None:
                return {}
            frames, targets = fixed_targets(self.config.model, batch, key=key)
            guess = depth_at(cells.to(batch.images.device), targets)
            # Only depth is read of these, whose colour is the truth.
            depth.append(_sums(targets.rgb, guess, targets, valid=targets.rays.valid))
            motion = rig_motion(batch, key=key)
            colour = copy_nearest(batch, motion, frames, targets, guess)
            others = has_others(motion.valid, frames)[..., None]
            copied.append(_sums(colour, guess, targets, valid=targets.rays.valid & others))
        if not depth:
            return {}
        found = _depth_only(_pooled(depth, DIRECT))
        if len(self.config.data.offsets) == 1:
            return {"mean_depth": found}
        again = _depth_only(_pooled(copied, REBUILT))
        psnr = {f"psnr{REBUILT}": _pooled(copied, REBUILT)[f"psnr{REBUILT}"]}
        return {"mean_depth": found | again, "copy_nearest": psnr}

    def picture(self, model: nn.Module, batch: ClipBatch) -> UInt8[np.ndarray, "height width 3"]:
        """Draw each camera's key frame: truth, what is seen, both renderings, and a copy of it."""
        ours, cells = _ours(model), self._depth_image()
        plan = plan_key_frame(ours, batch)
        copied = None
        with evaluating(model):
            rendered = render_views(ours, batch, plan)
            if cells is not None and "rebuilt" in rendered:
                copied = copy_views(ours, batch, plan, cells.to(batch.images.device))
        return draw(ours, batch, plan, rendered, cameras=self.constants.cameras, copied=copied)

    def backbone(self, model: nn.Module) -> BackboneExport:
        """Return the backbone; the neck and the depth net are among the others."""
        ours = _ours(model)
        others = {
            "neck": _copied(ours.neck.state_dict()),
            "depth_net": _copied(ours.depth_net.state_dict()),
        }
        config, size = self.config.model.backbone, self.config.data.image_size
        if isinstance(ours.backbone, MaskedViT):
            export = export_backbone(ours.backbone.encoder, config.vit, size)
            return replace(export, others=others)
        if isinstance(ours.backbone, MaskedConvNeXt) and config.output_norm:
            others["output_norms"] = _copied(ours.backbone.norms.state_dict())
        return BackboneExport(
            _copied(ours.backbone.net.state_dict()),
            {"model_name": config.name, "num_classes": 0},
            maker="create_model",
            others=others,
            mmdet=_copied(mmdet_state(ours.backbone, ours.neck, ours.depth_net)),
        )

    def _losses(
        self, rendering: Rendering, planned: PlannedStep, batch: ClipBatch, grid: VoxelGrid
    ) -> Losses:
        weights, targets = self.config.model.loss, planned.targets
        terms = _terms(rendering.direct, targets, weights, rgb=weights.rgb, depth=weights.depth)
        if rendering.rebuilt is not None:
            rebuilt = _terms(
                rendering.rebuilt,
                targets,
                weights,
                rgb=weights.rgb_rebuilt,
                depth=weights.depth_rebuilt,
            )
            terms |= {f"{name}{REBUILT}": value for name, value in rebuilt.items()}
        if rendering.velocity is not None:
            terms |= flow_losses(
                rendering.velocity,
                batch,
                rig_motion(batch, key=self.config.data.offsets.index(0)),
                planned.plan.frames,
                grid=grid,
                weights=weights,
                ground_m=self.config.model.volume.ground_m,
            )
        if weights.depth_bins and batch.lidar is not None:
            model, frames = self.config.model, planned.plan.frames
            edges = depth_edges(model, frames.device)
            lidar = lidar_of(model.render, batch.lidar, views_of(batch, frames))
            loss = depth_bin_loss(rendering.depth, edges, lidar)
            terms["depth_bins"] = weights.depth_bins * loss
        zero = rendering.direct.rgb.sum() * 0
        total = torch.stack([zero, *terms.values()]).sum()
        return Losses(total, {f"loss_{name}": value for name, value in terms.items()})

    def _depth_image(self) -> Float[Tensor, "view h w"] | None:
        """Measure the mean depth images once."""
        if self._mean_depth is None:
            batches = self.constants.sample()
            self._mean_depth = mean_depth(batches, self.config.model.render)
        return self._mean_depth


def _terms(
    rendered: RenderedRays, targets: TargetRays, weights: LossConfig, *, rgb: float, depth: float
) -> dict[str, Float[Tensor, ""]]:
    chosen = RayLossWeights(
        rgb=rgb,
        depth=depth,
        eikonal=weights.eikonal,
        free_space=weights.free_space,
        truncation=weights.truncation,
        truncation_m=weights.truncation_m,
    )
    return ray_losses(rendered, targets, chosen)


def _rendered_sums(rendered: RenderedRays, targets: TargetRays) -> _Sums:
    shape = targets.measured.shape
    depth = rendered.distance.unflatten(0, shape[:2]) * targets.slant
    return _sums(
        rendered.rgb.unflatten(0, shape[:2]),
        depth,
        targets,
        valid=rendered.valid.unflatten(0, shape[:2]),
    )


def _sums(
    rgb: Float[Tensor, "batch frame ray 3"],
    depth: Float[Tensor, "batch frame ray"],
    targets: TargetRays,
    *,
    valid: Bool[Tensor, "batch frame ray"],
) -> _Sums:
    """Add up the errors of colour on valid rays, and of depth on those that are measured."""
    square = (rgb - targets.rgb).square().mean(dim=-1).double()
    truth = targets.distance * targets.slant
    return _Sums(
        depth_error_sums(depth, truth, targets.measured & valid & (truth > 0)),
        torch.where(valid, square, 0.0).sum(),
        valid.sum().double(),
    )


def _pooled(sums: list[_Sums], ending: str) -> dict[str, float]:
    depth, square, rays = (torch.stack(part).sum(dim=0) for part in zip(*sums, strict=True))
    mean = float(square / rays) if rays else math.nan
    psnr = math.inf if mean == 0 else -10 * math.log10(mean) if mean > 0 else math.nan
    found = {f"depth_{name}": value for name, value in depth_metrics(depth).items()}
    return {f"{name}{ending}": value for name, value in {"psnr": psnr, **found}.items()}


def _depth_only(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("psnr")}


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy weights to the CPU."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}


def _ours(model: nn.Module) -> Mim4dModel:
    if not isinstance(model, Mim4dModel):
        raise TypeError(f"model must be what build returned, got {type(model).__name__}")
    return model
