"""Pictures of what MIM4D renders, beside the truth: a row a view."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from geomim.cameras import PinholeCamera
from geomim.pixel_choice import stride_grid
from geomim.rays import rays_of_pixels
from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipBatch
from trainer.methods.mim4d.baselines import copy_nearest, depth_at
from trainer.methods.mim4d.model import Mim4dModel, StepPlan
from trainer.methods.mim4d.planning import Views, has_others, is_inside, views_of
from trainer.methods.mim4d.rays import TargetRays, lidar_pixels
from trainer.methods.mim4d.rendering import RenderedImage, render_image
from trainer.methods.mim4d.rigs import rig_motion
from trainer.methods.mim4d.visibility import hidden_at
from trainer.pictures import Bar, Row, cover, depth_range, depth_to_rgb, image_to_rgb, panel

_FOOTER = (
    "nearest frame: fetched through the mean depth image and the rig's motion   "
    "grey: not measured within the volume, or seen through it; depth along the optical axis"
)
_OPAQUE = 0.5


def render_views(model: Mim4dModel, batch: ClipBatch, plan: StepPlan) -> dict[str, RenderedImage]:
    """Render all views of the plan's first frame, from its own volume and from the rebuilt one.

    A frame without any other is not rebuilt: it is black, and nowhere valid.
    """
    views = views_of(batch, plan.frames[:, :1])
    scenes = model.scenes(batch, plan)
    camera = PinholeCamera(
        views.camera.focal[:, 0], views.camera.principal_point[:, 0], views.camera.size
    )

    def render(volume: Float[Tensor, "batch frame c z y x"]) -> RenderedImage:
        return render_image(
            model.field,
            volume[:, 0],
            camera=camera,
            rig_from_cam=_rig_from_cam(batch, plan, views, model.key),
            plan=model.samples,
            stride=model.config.render.picture_stride,
        )

    if scenes.rebuilt is None:
        return {"direct": render(scenes.direct)}
    rebuilt, known = render(scenes.rebuilt), scenes.has_others[:, :1, None, None]
    return {
        "direct": render(scenes.direct),
        "rebuilt": rebuilt._replace(
            rgb=rebuilt.rgb * known[..., None], valid=rebuilt.valid & known
        ),
    }


def copy_views(
    model: Mim4dModel, batch: ClipBatch, plan: StepPlan, cells: Float[Tensor, "view down across"]
) -> Float[Tensor, "batch view 3 h w"]:
    """Copy all views of the plan's first frame from the frame nearest in time, as the rule does.

    Args:
        model: For the stride of the pictures.
        batch: Clips.
        plan: Whose first frame is drawn.
        cells: The mean depth image.
    """
    frames, size = plan.frames[:, :1], batch.camera.size
    stride, views = model.config.render.picture_stride, views_of(batch, frames)
    grid = stride_grid(size, stride=stride, device=batch.images.device).pixels
    pixels = grid.expand(*views.valid.shape, *grid.shape)
    rays = rays_of_pixels(views.camera, pixels)
    slant = rays.directions[..., 2].flatten(2)
    rays = rays.transform(_rig_from_cam(batch, plan, views, model.key)[:, None])
    unknown = torch.zeros_like(slant)
    targets = TargetRays(
        rays=rays.reshape(*slant.shape),
        rgb=unknown[..., None].expand(*slant.shape, 3),
        distance=unknown,
        measured=unknown > 0,
        slant=slant,
        pixels=pixels.flatten(2, 3),
        view=torch.arange(pixels.shape[2], device=grid.device).repeat_interleave(len(grid)),
    )
    motion = rig_motion(batch, key=model.key)
    colour = copy_nearest(batch, motion, frames, targets, depth_at(cells, targets))
    rows, columns = (len(range(stride // 2, side, stride)) for side in size)
    colour = colour * has_others(motion.valid, frames)[..., None, None]
    return colour[:, 0].unflatten(1, (-1, rows, columns)).movedim(-1, 2)


def draw(
    model: Mim4dModel,
    batch: ClipBatch,
    plan: StepPlan,
    rendered: dict[str, RenderedImage],
    *,
    cameras: Sequence[str],
    copied: Float[Tensor, "batch view 3 h w"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the truth, what is seen of it, each rendering's colour and depth, and lidar depth.

    Args:
        model: For the stride of the pictures, and which lidar points count.
        batch: Clips.
        plan: Whose first frame is drawn.
        rendered: All views of it, by the name of the volume.
        cameras: Names of the views.
        copied: The nearest frame instead, if clips have one.
    """
    stride, views = model.config.render.picture_stride, views_of(batch, plan.frames[:, :1])
    size = tuple(-(-int(side) // stride) for side in views.unpadded.flatten(0, 2).amax(dim=0))
    truth = _array(_thinned(views.images[:, 0], stride), size)
    hidden = _array(_thinned(_covered(batch, plan), stride), size) > 0
    depth, measured = (_array(part, size) for part in _lidar(model, batch, plan, views))
    parts = [
        (_array(part.rgb, size), _array(part.depth, size), _array(_is_seen(part), size) > 0)
        for part in rendered.values()
    ]
    headers = ["truth", "seen by the backbone"]
    headers += [f"{name}: {kind}" for name in rendered for kind in ("colour", "depth")]
    headers += ["lidar depth"] if copied is None else ["nearest frame", "lidar depth"]
    rows = list[Row]()
    for clip, view in np.argwhere(views.valid[:, 0].cpu().numpy()).tolist():
        points = measured[clip, view] > 0
        near, far = depth_range(depth[clip, view], points)
        image = image_to_rgb(truth[clip, view])
        tiles = [image, cover(image, hidden[clip, view])]
        for colours, depths, seen in parts:
            found, there = depths[clip, view], seen[clip, view]
            if not points.any():
                near, far = depth_range(found, there)
            tiles.append(image_to_rgb(colours[clip, view]))
            tiles.append(depth_to_rgb(found, there, near=near, far=far))
        if copied is not None:
            tiles.append(image_to_rgb(_array(copied[clip, view], size)))
        tiles.append(depth_to_rgb(depth[clip, view], points, near=near, far=far))
        label = f"{batch.scene[clip]}, sample {batch.sample[clip]}, {_name(cameras, view)}"
        rows.append(Row(label, tiles, [Bar("depth", f"{near:.1f} m", f"{far:.1f} m")]))
    return panel(headers, rows or [_nothing(len(headers))], footer=_FOOTER)


def _rig_from_cam(batch: ClipBatch, plan: StepPlan, views: Views, key: int) -> RigidTransform:
    """Return the poses of the views of the plan's first frame, in the rig's frame then."""
    items = torch.arange(len(plan.frames), device=plan.frames.device)
    world_from_rig = rig_motion(batch, key=key).world_from_rig[items, plan.frames[:, 0]]
    return world_from_rig.inverse()[:, None] @ views.world_from_cam[:, 0]


def _covered(batch: ClipBatch, plan: StepPlan) -> Bool[Tensor, "batch view h w"]:
    """Return which pixels of the drawn views were hidden."""
    height, width = batch.camera.size
    if plan.hidden is None:
        shape = (len(batch.scene), batch.valid.shape[2], height, width)
        return torch.zeros(shape, dtype=torch.bool, device=batch.images.device)
    cells = hidden_at(plan.hidden, (height, width)).unflatten(0, batch.valid.shape)
    items = torch.arange(len(plan.frames), device=plan.frames.device)
    return cells[items, plan.frames[:, 0]]


def _lidar(
    model: Mim4dModel, batch: ClipBatch, plan: StepPlan, views: Views
) -> tuple[Float[Tensor, "batch view h w"], Bool[Tensor, "batch view h w"]]:
    """Draw lidar into images of the pictures' size, so that points are not lost between rays."""
    height, width = batch.camera.size
    render = model.config.render
    stride = render.picture_stride
    size = (len(range(stride // 2, height, stride)), len(range(stride // 2, width, stride)))
    if batch.lidar is None:
        empty = torch.zeros(*views.valid.shape, *size)[:, 0]
        return empty, empty > 0
    camera = views.camera.resize(*size)
    found = lidar_pixels(
        batch.lidar,
        camera,
        world_from_cam=views.world_from_cam,
        timestamp_us=views.timestamp_us,
        valid=views.valid,
        near_m=render.lidar_near_m,
        far_m=render.lidar_far_m,
    )
    points, _ = camera.unproject(found.pixels.flatten(3, 4), found.depth.flatten(3, 4))
    poses = _rig_from_cam(batch, plan, views, model.key)[:, None]
    inside = is_inside(model.grid, poses.apply(points)).unflatten(3, size)
    return found.depth[:, 0], (found.valid & inside)[:, 0]


def _is_seen(part: RenderedImage) -> Bool[Tensor, "batch view h w"]:
    return part.valid & (part.opacity > _OPAQUE)


def _array(images: Tensor, size: tuple[int, ...]) -> np.ndarray:
    """Cut the padding off."""
    return images[..., : size[0], : size[1]].float().cpu().numpy()


def _thinned(images: Tensor, stride: int) -> Tensor:
    """Take the pixels that rays of pictures go through."""
    return images[..., stride // 2 :: stride, stride // 2 :: stride]


def _name(cameras: Sequence[str], view: int) -> str:
    return cameras[view] if view < len(cameras) else f"view {view}"


def _nothing(tiles: int) -> Row:
    return Row("no image", [np.zeros((8, 8, 3), dtype=np.uint8)] * tiles)
