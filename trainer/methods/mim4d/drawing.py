"""Pictures of what MIM4D renders, beside the truth: a row a view."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipBatch
from trainer.config_mim4d_model import RenderConfig
from trainer.methods.mim4d.model import Mim4dModel, StepPlan
from trainer.methods.mim4d.planning import Views, views_of
from trainer.methods.mim4d.rays import lidar_pixels
from trainer.methods.mim4d.rendering import RenderedImage, render_image
from trainer.methods.mim4d.rigs import rig_motion
from trainer.methods.mim4d.visibility import spread_cells
from trainer.pictures import Bar, Row, cover, depth_range, depth_to_rgb, image_to_rgb, panel

_SEEN = ("truth", "seen")
_DEPTH = ("lidar depth",)


def render_views(model: Mim4dModel, batch: ClipBatch, plan: StepPlan) -> dict[str, RenderedImage]:
    """Render all views of the plan's first frame, from its own volume and from the rebuilt one."""
    views, motion = views_of(batch, plan.frames[:, :1]), rig_motion(batch, key=model.key)
    items = torch.arange(len(plan.frames), device=plan.frames.device)
    rig_from_world = motion.world_from_rig[items, plan.frames[:, 0]].inverse()
    rigs = RigidTransform(rig_from_world.rotation[:, None], rig_from_world.translation[:, None])
    scenes = model.scenes(batch, plan)
    volumes = {"direct": scenes.direct}
    if scenes.rebuilt is not None:
        volumes["rebuilt"] = scenes.rebuilt
    return {
        name: render_image(
            model.field,
            volume[:, 0],
            camera=PinholeCamera(
                views.camera.focal[:, 0], views.camera.principal_point[:, 0], views.camera.size
            ),
            rig_from_cam=rigs @ views.world_from_cam[:, 0],
            plan=model.samples,
            stride=model.config.render.picture_stride,
        )
        for name, volume in volumes.items()
    }


def draw(
    batch: ClipBatch,
    plan: StepPlan,
    rendered: dict[str, RenderedImage],
    *,
    cameras: Sequence[str],
    render: RenderConfig,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the truth, what is seen of it, each rendering's colour and depth, and lidar depth.

    Args:
        batch: Clips.
        plan: Whose first frame is drawn.
        rendered: All views of it, by the name of the volume.
        cameras: Names of the views.
        render: For the stride of the pictures, and which lidar points count.
    """
    stride, views = render.picture_stride, views_of(batch, plan.frames[:, :1])
    truth = _thinned(views.images[:, 0], stride)
    masked = _covered(batch, plan)
    depth, measured = _lidar(batch, views, render)
    rows = list[Row]()
    for clip, view in np.ndindex(*truth.shape[:2]):
        if not views.valid[clip, 0, view]:
            continue
        image = image_to_rgb(truth[clip, view].cpu().numpy())
        covered = _thinned(masked[clip, view], stride).cpu().numpy()
        seen, points = depth[clip, view].cpu().numpy(), measured[clip, view].cpu().numpy()
        near, far = depth_range(seen, points)
        tiles = [image, cover(image, covered)]
        for part in rendered.values():
            there = part.valid[clip, view].cpu().numpy()
            if not points.any():
                near, far = depth_range(part.depth[clip, view].cpu().numpy(), there)
            tiles.append(image_to_rgb(part.rgb[clip, view].float().cpu().numpy()))
            tiles.append(
                depth_to_rgb(
                    part.depth[clip, view].float().cpu().numpy(), there, near=near, far=far
                )
            )
        tiles.append(depth_to_rgb(seen, points, near=near, far=far))
        label = f"{batch.scene[clip]}, sample {batch.sample[clip]}, {_name(cameras, view)}"
        rows.append(Row(label, tiles, [Bar("depth", f"{near:.1f} m", f"{far:.1f} m")]))
    headers = [f"{name} {kind}" for name in rendered for kind in ("colour", "depth")]
    footer = "grey: not measured, or no ray through the volume; depth along the optical axis"
    return panel([*_SEEN, *headers, *_DEPTH], rows or [_nothing(len(headers) + 3)], footer=footer)


def _covered(batch: ClipBatch, plan: StepPlan) -> Bool[Tensor, "batch view h w"]:
    """Return which pixels of the drawn views were hidden."""
    height, width = batch.camera.size
    if plan.hidden is None:
        shape = (len(batch.scene), batch.valid.shape[2], height, width)
        return torch.zeros(shape, dtype=torch.bool, device=batch.images.device)
    cells = spread_cells(plan.hidden, (height, width)).squeeze(1).unflatten(0, batch.valid.shape)
    items = torch.arange(len(plan.frames), device=plan.frames.device)
    return cells[items, plan.frames[:, 0]]


def _lidar(
    batch: ClipBatch, views: Views, render: RenderConfig
) -> tuple[Float[Tensor, "batch view h w"], Bool[Tensor, "batch view h w"]]:
    """Draw lidar into images of the pictures' size, so that points are not lost between rays."""
    height, width = batch.camera.size
    stride = render.picture_stride
    size = (len(range(stride // 2, height, stride)), len(range(stride // 2, width, stride)))
    if batch.lidar is None:
        empty = torch.zeros(*views.valid.shape, *size)[:, 0]
        return empty, empty > 0
    found = lidar_pixels(
        batch.lidar,
        views.camera.resize(*size),
        world_from_cam=views.world_from_cam,
        timestamp_us=views.timestamp_us,
        valid=views.valid,
        near_m=render.lidar_near_m,
        far_m=render.lidar_far_m,
    )
    return found.depth[:, 0], found.valid[:, 0]


def _thinned(images: Tensor, stride: int) -> Tensor:
    """Take the pixels that rays of pictures go through."""
    return images[..., stride // 2 :: stride, stride // 2 :: stride]


def _name(cameras: Sequence[str], view: int) -> str:
    return cameras[view] if view < len(cameras) else f"view {view}"


def _nothing(tiles: int) -> Row:
    return Row("no image", [np.zeros((8, 8, 3), dtype=np.uint8)] * tiles)
