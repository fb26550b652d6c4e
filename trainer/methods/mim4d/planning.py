"""Draw what a step hides, drops and renders; or fix it, to judge and to draw pictures."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from geomim.cameras import PinholeCamera
from geomim.grids import VoxelGrid
from geomim.rays import Rays
from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipBatch, ClipLidar
from trainer.config_mim4d_model import Mim4dModelConfig, RenderConfig
from trainer.methods.evaluation import VALIDATION_SEED
from trainer.methods.masking import frame_generator, hide, random_ranks
from trainer.methods.mim4d.model import Mim4dModel, StepPlan, others_of
from trainer.methods.mim4d.parts import make_grid
from trainer.methods.mim4d.rays import LidarPixels, RayPlan, TargetRays, choose_rays, lidar_pixels
from trainer.methods.mim4d.rigs import rig_motion
from trainer.methods.mim4d.visibility import CELL, draw_paths


class PlannedStep(NamedTuple):
    """A plan, and what its rays should see."""

    plan: StepPlan
    targets: TargetRays


class Views(NamedTuple):
    """The views of some moments of each clip, with the batch ``(batch, frame, view)``."""

    images: Tensor
    unpadded: Tensor
    camera: PinholeCamera
    world_from_cam: RigidTransform
    timestamp_us: Tensor
    valid: Bool[Tensor, "batch frame view"]


@torch.no_grad()
def plan_randomly(model: Mim4dModel, batch: ClipBatch, generator: Generator) -> PlannedStep:
    """Draw what a training step does, from a generator on the CPU."""
    config, device = model.config, batch.images.device
    frames = _random_frames(config, batch.valid.any(dim=-1), model.key, generator)
    count = batch.valid.numel()
    hidden = _random_cells(config, count, batch.camera.size, generator)
    rates = model.backbone.path_rates
    paths = draw_paths(rates, count, generator=generator, device=device) if any(rates) else None
    # Pixels are chosen, and samples moved, where the images are.
    seed = int(torch.randint(2**62, (), generator=generator))
    local = Generator(device).manual_seed(seed)
    targets = choose_targets(config, batch, frames, local, key=model.key)
    plan = StepPlan(_moved(hidden, device), paths, frames, targets.rays, local)
    return PlannedStep(plan, targets)


@torch.no_grad()
def plan_fixed(model: Mim4dModel, batch: ClipBatch) -> PlannedStep:
    """Return what a clip is judged on: masks, frames and rays of its own, always the same."""
    frames, targets = fixed_targets(model.config, batch, key=model.key)
    plan = StepPlan(fixed_cells(model.config, batch), None, frames, targets.rays)
    return PlannedStep(plan, targets)


@torch.no_grad()
def plan_key_frame(model: Mim4dModel, batch: ClipBatch) -> StepPlan:
    """Return how the key frames are seen where they are drawn, without rays."""
    frames = torch.full((len(batch.scene), 1), model.key, device=batch.images.device)
    nothing = batch.images.new_zeros(len(frames), 1, 0, 3)
    none = torch.zeros(len(frames), 1, 0, dtype=torch.bool, device=nothing.device)
    rays = Rays(nothing, nothing, none)
    return StepPlan(fixed_cells(model.config, batch), None, frames, rays)


@torch.no_grad()
def fixed_targets(
    config: Mim4dModelConfig, batch: ClipBatch, *, key: int
) -> tuple[Int[Tensor, "batch frame"], TargetRays]:
    """Return the frames and the rays that a clip is judged on.

    Of several clips the rays follow from the first's identity: judge them one by one.
    """
    frames = _fixed_frames(config, batch.valid.any(dim=-1), key)
    seed = frame_generator(VALIDATION_SEED, batch.scene[0], batch.sample[0]).initial_seed()
    local = Generator(batch.images.device).manual_seed(seed)
    return frames, choose_targets(config, batch, frames, local, key=key)


def fixed_cells(
    config: Mim4dModelConfig, batch: ClipBatch
) -> Bool[Tensor, "image down across"] | None:
    """Return the cells that are hidden of each clip when it is judged."""
    count = batch.valid[0].numel()
    drawn = [
        _random_cells(
            config, count, batch.camera.size, frame_generator(VALIDATION_SEED, scene, sample)
        )
        for scene, sample in zip(batch.scene, batch.sample, strict=True)
    ]
    cells = [each for each in drawn if each is not None]
    return _moved(torch.cat(cells), batch.images.device) if cells else None


def choose_targets(
    config: Mim4dModelConfig,
    batch: ClipBatch,
    frames: Int[Tensor, "batch frame"],
    generator: Generator,
    *,
    key: int,
) -> TargetRays:
    """Choose rays of some moments; the generator is on the images' device.

    A point beyond the volume's box, where a ray ends, is no measurement of what is in it.
    """
    render, views = config.render, views_of(batch, frames)
    motion = rig_motion(batch, key=key)
    items = torch.arange(len(frames), device=frames.device)[:, None]
    rig_from_world = motion.world_from_rig[items, frames].inverse()
    there = RigidTransform(
        rig_from_world.rotation[:, :, None], rig_from_world.translation[:, :, None]
    )
    lidar = None
    if batch.lidar is not None:
        lidar = lidar_of(render, batch.lidar, views)
    targets = choose_rays(
        views.images,
        views.camera,
        rig_from_cam=there @ views.world_from_cam,
        unpadded=views.unpadded,
        valid=views.valid & motion.valid[items, frames][..., None],
        plan=RayPlan(
            count=render.rays, lidar=render.lidar_rays, stride=render.stride, sky=render.sky
        ),
        generator=generator,
        lidar=lidar,
    )
    inside = is_inside(make_grid(config), targets.rays.points_at(targets.distance))
    known = targets.measured & inside
    return targets._replace(measured=known, distance=torch.where(known, targets.distance, 0.0))


def is_inside(grid: VoxelGrid, points: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
    """Tell which points are in the grid's box."""
    lower, upper = points.new_tensor(grid.lower), points.new_tensor(grid.upper)
    return ((lower < points) & (points < upper)).all(dim=-1)


def views_of(batch: ClipBatch, frames: Int[Tensor, "batch frame"]) -> Views:
    """Return the views of some moments of each clip."""
    at = (torch.arange(len(frames), device=frames.device)[:, None], frames)
    camera = batch.camera
    return Views(
        images=batch.images[at],
        unpadded=batch.unpadded[at],
        camera=PinholeCamera(camera.focal[at], camera.principal_point[at], camera.size),
        world_from_cam=batch.world_from_cam[at],
        timestamp_us=batch.timestamp_us[at],
        valid=batch.valid[at],
    )


def lidar_of(render: RenderConfig, lidar: ClipLidar, views: Views) -> LidarPixels:
    """Return the lidar points in the views that a run counts."""
    return lidar_pixels(
        lidar,
        views.camera,
        world_from_cam=views.world_from_cam,
        timestamp_us=views.timestamp_us,
        valid=views.valid,
        near_m=render.lidar_near_m,
        far_m=render.lidar_far_m,
    )


def has_others(
    there: Bool[Tensor, "batch time"], frames: Int[Tensor, "batch frame"]
) -> Bool[Tensor, "batch frame"]:
    """Tell which frames can be rebuilt from another that is there."""
    return others_of(there, frames).any(dim=-1)


def _random_frames(
    config: Mim4dModelConfig,
    there: Bool[Tensor, "batch time"],
    key: int,
    generator: Generator,
) -> Int[Tensor, "batch frame"]:
    """Choose the key frame, a random other, or both; an other that is there, if any is."""
    noise = torch.rand(there.shape, generator=generator).to(there.device)
    return _frames(config, noise, there, key)


def _fixed_frames(
    config: Mim4dModelConfig, there: Bool[Tensor, "batch time"], key: int
) -> Int[Tensor, "batch frame"]:
    """Choose as training does, but of the others the first that is there."""
    falling = torch.arange(there.shape[1], 0, -1, device=there.device)
    return _frames(config, falling.expand(there.shape), there, key)


def _frames(
    config: Mim4dModelConfig, rank: Tensor, there: Bool[Tensor, "batch time"], key: int
) -> Int[Tensor, "batch frame"]:
    keys = torch.full_like(there[:, :1], key, dtype=torch.int64)
    if config.supervise == "key":
        return keys
    rank = torch.where(there, rank, rank - 2 * rank.abs().amax() - 1)
    rank = torch.where(torch.arange(there.shape[1], device=there.device) == key, -torch.inf, rank)
    others = rank.argmax(dim=1, keepdim=True)
    return others if config.supervise == "other" else torch.cat([keys, others], dim=1)


def _random_cells(
    config: Mim4dModelConfig, count: int, size: tuple[int, int], generator: Generator
) -> Bool[Tensor, "image down across"] | None:
    down, across = size[0] // CELL, size[1] // CELL
    if not round(config.mask_ratio * down * across):
        return None
    ranks = random_ranks(count, down * across, generator=generator)
    return hide(ranks, ratio=config.mask_ratio).hidden.unflatten(1, (down, across))


def _moved(hidden: Tensor | None, device: torch.device) -> Tensor | None:
    return None if hidden is None else hidden.to(device)
