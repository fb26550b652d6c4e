"""Masked video of a rig in; volumes of its moments, and what rays see in them, out."""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from geomim.rays import Rays
from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipBatch
from trainer.config_mim4d import Mim4dConfig
from trainer.methods.mim4d.backbone import in_chunks
from trainer.methods.mim4d.parts import (
    depth_edges,
    make_decoder,
    make_depth_net,
    make_field,
    make_grid,
    make_image_backbone,
    make_lifting,
    make_neck,
    make_samples,
    make_velocity,
)
from trainer.methods.mim4d.rendering import RenderedRays, render_rays
from trainer.methods.mim4d.rigs import RigMotion, rig_motion
from trainer.methods.mim4d.scene_flow import VelocityField, carry
from trainer.methods.mim4d.temporal import copy_nearest_seen
from trainer.methods.mim4d.visibility import hide_padding
from trainer.methods.mim4d.volumes import Volumes, align, pick


@final
@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """What is hidden, dropped and rendered of a batch.

    ``frames`` are the moments of each clip that are rendered, each from its own volume and from
    one rebuilt without it. ``generator``, on the model's device, moves the samples along rays;
    without, they are even. Images are counted through batch, time and view.
    """

    hidden: Bool[Tensor, "image down across"] | None
    paths: Float[Tensor, "image block"] | None
    frames: Int[Tensor, "batch frame"]
    rays: Rays
    """In the rig's frame of their moment, with the batch ``(batch, frame, ray)``."""
    generator: Generator | None = None


class Rendering(NamedTuple):
    """What rays see; batch items are all frames of the first clip, of the second and so on."""

    direct: RenderedRays
    rebuilt: RenderedRays | None
    """None where clips have one moment. Rays of frames without any other are not valid."""
    velocity: Float[Tensor, "batch frame 3 z y x"] | None
    """Of rebuilt volumes, in m/s along the axes of their rig's frame; None without scene flow."""
    depth: tuple[Float[Tensor, "batch frame view bin _h _w"], ...]
    """How likely the planned frames' places lie in each depth bin, a level each."""


class Scenes(NamedTuple):
    """Volumes of some moments of each clip, in the rig's frame of each."""

    direct: Float[Tensor, "batch frame c z y x"]
    rebuilt: Float[Tensor, "batch frame c z y x"] | None
    velocity: Float[Tensor, "batch frame 3 z y x"] | None
    has_others: Bool[Tensor, "batch frame"]
    depth: tuple[Float[Tensor, "batch frame view bin _h _w"], ...]


class Encoded(NamedTuple):
    """Volumes of all moments, and the depth distributions that they were lifted by."""

    volumes: Volumes
    depth: tuple[Float[Tensor, "batch time view bin _h _w"], ...]


class Rebuilt(NamedTuple):
    """One moment's volumes, made without it, and the velocities that they were carried by."""

    features: Float[Tensor, "batch c z y x"]
    velocity: Float[Tensor, "batch 3 z y x"] | None


class Mim4dModel(nn.Module):
    """Backbone, neck and depth net, which are kept, and all that trains them."""

    def __init__(self, config: Mim4dConfig):
        super().__init__()
        model = config.model
        self.config, self.chunk = model, config.speed.backbone_chunk
        self.key = config.data.offsets.index(0)
        self.moments = len(config.data.offsets)
        self.grid, self.samples = make_grid(model), make_samples(model)
        self.backbone = make_image_backbone(config)
        self.neck = make_neck(model, self.backbone.channels)
        self.depth_net = make_depth_net(model)
        self.lifted = make_lifting(model)
        self.decoder = make_decoder(model) if self.moments > 1 else None
        self.velocity = make_velocity(model) if self.moments > 1 else None
        self.field = make_field(model)

    def compile(self, *args: object, **kwargs: object) -> None:
        """Compile the backbone; much of the rest is kernels of our own and draws."""
        self.backbone.compile(*args, **kwargs)

    def forward(self, batch: ClipBatch, plan: StepPlan) -> Rendering:
        """Render the planned frames, from their own volumes and from rebuilt ones."""
        scenes = self.scenes(batch, plan)
        rays = plan.rays
        flat = rays.reshape(-1, rays.shape[-1])
        direct = self._render(scenes.direct, flat, plan)
        if scenes.rebuilt is None:
            return Rendering(direct, None, None, scenes.depth)
        known = rays.valid & scenes.has_others[..., None]
        others = Rays(rays.origins, rays.directions, known).reshape(-1, rays.shape[-1])
        rebuilt = self._render(scenes.rebuilt, others, plan)
        return Rendering(direct, rebuilt, scenes.velocity, scenes.depth)

    def scenes(self, batch: ClipBatch, plan: StepPlan) -> Scenes:
        """Return the volumes of the planned frames, their own and rebuilt ones."""
        motion = rig_motion(batch, key=self.key)
        volumes, distributions = self.encode(batch, motion, plan)
        items = torch.arange(len(plan.frames), device=plan.frames.device)[:, None]
        depth = tuple(each[items, plan.frames] for each in distributions)
        direct = pick(volumes, plan.frames).features
        if self.moments == 1:
            alone = torch.zeros_like(plan.frames, dtype=torch.bool)
            return Scenes(direct, None, None, alone, depth)
        others = others_of(motion.valid, plan.frames)
        rebuilt = [
            self.rebuild(volumes, motion, frame, known)
            for frame, known in zip(plan.frames.unbind(1), others.unbind(1), strict=True)
        ]
        features = torch.stack([each.features for each in rebuilt], dim=1)
        flows = [each.velocity for each in rebuilt if each.velocity is not None]
        velocity = torch.stack(flows, dim=1) if flows else None
        return Scenes(direct, features, velocity, others.any(dim=-1), depth)

    def encode(self, batch: ClipBatch, motion: RigMotion, plan: StepPlan) -> Encoded:
        """Encode all images and lift them, each moment in the rig's frame of its own."""
        images = self._normalised(batch).flatten(0, 2)
        hidden = hide_padding(plan.hidden, batch.unpadded.flatten(0, 2), batch.camera.size)
        maps = self.neck(in_chunks(self.backbone, images, hidden, self.chunk, paths=plan.paths))
        world_from_rig = motion.world_from_rig
        rigs = RigidTransform(
            world_from_rig.rotation[:, :, None], world_from_rig.translation[:, :, None]
        )
        levels = [maps[stride] for stride in self.config.neck.strides]
        shape = batch.valid.shape
        depth = [self.depth_net(level).unflatten(0, shape) for level in levels]
        volumes = self.lifted(
            [level.float().unflatten(0, shape) for level in levels],
            depth,
            depth_edges(self.config, images.device),
            camera=batch.camera,
            rig_from_cam=rigs.inverse() @ batch.world_from_cam,
            valid=batch.valid & motion.valid[..., None],
            grid=self.grid,
        )
        return Encoded(volumes, tuple(depth))

    def rebuild(
        self,
        volumes: Volumes,
        motion: RigMotion,
        frame: Int[Tensor, " batch"],
        known: Bool[Tensor, "batch time"],
    ) -> Rebuilt:
        """Return one moment's volume of each clip, from the known others."""
        items, at = torch.arange(len(frame), device=frame.device)[:, None], frame[:, None]
        others = torch.arange(known.shape[1] - 1, device=frame.device).expand(len(frame), -1)
        others = others + (others >= at)
        there = motion.world_from_rig[items, at].inverse() @ motion.world_from_rig[items, others]
        aligned = align(pick(volumes, others), self.grid, target_from_source=there)
        target_s = motion.seconds[items, at].squeeze(1)
        moments = (motion.seconds[items, others], target_s, known[items, others])
        if self.velocity is None:
            start = Rebuilt(copy_nearest_seen(aligned, *moments), None)
        else:
            start = self._carry(self.velocity, aligned, *moments)
        if self.decoder is None:
            return start
        decoded = self.decoder(aligned.features, *moments).float()
        if self.config.temporal.decodes == "correction":
            decoded = start.features + decoded
        elif self.velocity is not None:
            decoded = (start.features + decoded) / 2
        return Rebuilt(decoded, start.velocity)

    def _normalised(self, batch: ClipBatch) -> Float[Tensor, "batch time view 3 h w"]:
        """Return colour as the backbone takes it."""
        mean, std = (
            batch.images.new_tensor(colour).view(3, 1, 1)
            for colour in (self.config.rgb_mean, self.config.rgb_std)
        )
        return (batch.images - mean) / std

    def _carry(
        self,
        field: VelocityField,
        aligned: Volumes,
        times_s: Float[Tensor, "batch time"],
        target_time_s: Float[Tensor, " batch"],
        known: Bool[Tensor, "batch time"],
    ) -> Rebuilt:
        flow = self.config.temporal.flow
        motion = field(aligned, times_s, target_time_s, known)
        carried = carry(
            aligned,
            motion,
            times_s=times_s,
            target_time_s=target_time_s,
            known=known,
            grid=self.grid,
            steps=flow.steps,
            integrator=flow.integrator,
        )
        return Rebuilt(carried.features, motion.velocity.float())

    def _render(
        self, volumes: Float[Tensor, "batch frame c z y x"], rays: Rays, plan: StepPlan
    ) -> RenderedRays:
        return render_rays(
            self.field, volumes.flatten(0, 1), rays, plan=self.samples, generator=plan.generator
        )


def others_of(
    there: Bool[Tensor, "batch time"], frames: Int[Tensor, "batch frame"]
) -> Bool[Tensor, "batch frame time"]:
    """Tell which moments a frame is rebuilt from: all others that are there."""
    moments = torch.arange(there.shape[1], device=frames.device)
    return there[:, None] & (moments != frames[..., None])
