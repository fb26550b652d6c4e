"""The parts of a model of MIM4D, made as the configuration says."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from geomim.grids import VoxelGrid
from trainer.config_mim4d import Mim4dConfig
from trainer.config_mim4d_model import BranchConfig, Mim4dModelConfig
from trainer.methods.mim4d.backbone import Backbone, make_backbone
from trainer.methods.mim4d.depth_net import DepthNet
from trainer.methods.mim4d.field import SdfField
from trainer.methods.mim4d.neck import FeaturePyramid
from trainer.methods.mim4d.rendering import SamplePlan
from trainer.methods.mim4d.scene_flow import VelocityField
from trainer.methods.mim4d.temporal import Branch, TemporalDecoder
from trainer.methods.mim4d.volumes import LiftedVolumes


def make_image_backbone(config: Mim4dConfig) -> Backbone:
    """Build the backbone, with random weights."""
    backbone = config.model.backbone
    return make_backbone(
        backbone.name,
        strides=backbone.strides,
        drop_path=backbone.drop_path,
        output_norm=backbone.output_norm,
        vit=backbone.vit,
        image_size=config.data.image_size,
    )


def make_neck(model: Mim4dModelConfig, channels: Mapping[int, int]) -> FeaturePyramid:
    """Build the neck over maps of these widths, by stride."""
    return FeaturePyramid(channels, dim=model.neck.dim, strides=model.neck.strides)


def make_depth_net(model: Mim4dModelConfig) -> DepthNet:
    """Build the depth net."""
    depth = model.depth_net
    return DepthNet(
        model.neck.dim,
        depth.bins,
        kind=depth.kind,
        norm=depth.norm,
        pyramid_dim=depth.pyramid_dim,
        dropout=depth.dropout,
    )


def depth_edges(model: Mim4dModelConfig, device: torch.device) -> Float[Tensor, " edge"]:
    """Return the edges of the depth bins, in metres."""
    depth = model.depth_net
    far = depth.near_m + depth.bins * depth.step_m
    return torch.linspace(depth.near_m, far, depth.bins + 1, device=device)


def make_grid(model: Mim4dModelConfig) -> VoxelGrid:
    """Return the cells of all volumes, in the rig's frame."""
    return VoxelGrid(model.volume.lower_m, model.volume.cell_m, model.volume.shape)


def make_lifting(model: Mim4dModelConfig) -> LiftedVolumes:
    """Build what lifts maps to volumes."""
    volume = model.volume
    return LiftedVolumes(
        model.neck.dim,
        volume.channels,
        lifting=volume.lifting,
        norm=volume.norm,
        groups=volume.groups,
    )


def make_decoder(model: Mim4dModelConfig) -> TemporalDecoder | None:
    """Build the decoder of missing moments, if there is to be one."""
    temporal, volume = model.temporal, model.volume
    if temporal.kind == "scene_flow":
        return None
    x, y, z = volume.shape
    return TemporalDecoder(
        volume.channels,
        (z, y, x),
        dim=temporal.dim,
        short=None if temporal.branches == "long" else _branch(temporal.short),
        long=None if temporal.branches == "short" else _branch(temporal.long),
        queries=temporal.queries,
        decodes=temporal.decodes,
    )


def make_velocity(model: Mim4dModelConfig) -> VelocityField | None:
    """Build the field of scene flow, if there is to be one."""
    flow = model.temporal.flow
    if model.temporal.kind == "deformable":
        return None
    return VelocityField(
        model.volume.channels,
        hidden=flow.hidden,
        layers=flow.layers,
        largest_mps=flow.largest_mps,
    )


def make_field(model: Mim4dModelConfig) -> SdfField:
    """Build what gives volumes their surfaces and colours."""
    field = model.field
    return SdfField(
        model.volume.channels,
        make_grid(model),
        width=field.width,
        geometry=field.geometry,
        sdf_layers=field.sdf_layers,
        colour_layers=field.colour_layers,
        inv_s=field.inv_s,
        ground_m=model.volume.ground_m,
    )


def make_samples(model: Mim4dModelConfig) -> SamplePlan:
    """Say where rays are looked at."""
    render = model.render
    return SamplePlan(
        samples=render.samples,
        importance=render.importance,
        inv_s=render.importance_inv_s,
        near_m=render.near_m,
    )


def _branch(branch: BranchConfig) -> Branch:
    return Branch(
        frames=branch.frames,
        dim=branch.dim,
        heads=branch.heads,
        layers=branch.layers,
        points=branch.points,
        hidden=branch.ffn,
    )
