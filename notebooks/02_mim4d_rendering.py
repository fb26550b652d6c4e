# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # MIM4D: a street rendered from masked video
#
# MIM4D (Zou et al., IJCV 2025) hides parts of six cameras' video, lifts what the backbone makes of
# the rest to a volume of features around the car, and renders colour and depth from it. One moment
# is left out altogether and rebuilt from the others. To answer, the backbone must know where things
# are and how they move; it is what pre-training is for.
#
# Here a small model fits the video of **one** procedural street, so that there is something to see
# after a minute or two. It is shown what it was trained on: this is about the mechanism, not about
# how well it does elsewhere.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LogNorm
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from rich.console import Console

from geomim.rays import clip_rays_to_box, rays_of_pixels
from geomim.sceneflow import flow_from_boxes
from geomim.transforms import RigidTransform
from geomim_data.convert import convert
from geomim_data.sources.nuscenes import NuScenesSource
from geomim_data.sources.synthetic import synthesize_nuscenes
from trainer.checkpoint import model_weights, newest_checkpoint
from trainer.clip_data import open_clips
from trainer.config_file import load_config
from trainer.methods import make_clip_method
from trainer.methods.evaluation import evaluating
from trainer.methods.mim4d.baselines import mean_depth
from trainer.methods.mim4d.drawing import copy_views, render_views
from trainer.methods.mim4d.planning import plan_key_frame, views_of
from trainer.methods.mim4d.rays import lidar_pixels
from trainer.methods.mim4d.rigs import rig_motion
from trainer.methods.mim4d.visibility import hidden_at
from trainer.pretraining import pretrain

# %% [markdown]
# ## A street
#
# One second of traffic: six cameras at 12 Hz and a lidar at 20 Hz, written as nuScenes writes its
# drives and converted to a store. To look at your own, name a store of `geomim-data convert
# nuscenes`, and set `data.scale` and `data.image_size` below to what it holds.

# %%
store_of_mine = os.environ.get("GEOMIM_NOTEBOOK_STORE")
folder = tempfile.TemporaryDirectory()
root = Path(folder.name)
if store_of_mine is None:
    synthesize_nuscenes(root / "street", scenes=1, seconds=1.0, seed=4, image_scale=0.1)
    convert(NuScenesSource(root / "street", version="v1.0-mini"), root / "shards", workers=1)
path = Path(store_of_mine or root / "shards")

# %% [markdown]
# ## Training
#
# The packaged demo, shortened. A clip has three moments, a quarter of a second apart; the one in
# the middle is left out and rebuilt. `scene_flow` carries features from their own time to the
# missing one by a field of velocities. It learns from rendering, and, as a minute is short, from
# the velocities of the boxes too.

# %%
config = load_config(
    "mim4d-demo.yaml",
    {
        "out": root / "run",
        "data.path": path,
        "data.offsets": [0, -0.25, 0.25],
        "data.scale": 1.0,
        "data.val": "train",
        "data.workers": 0,
        "model.temporal.kind": "scene_flow",
        "model.supervise": "key",
        "model.loss.flow_boxes": 1.0,
        "model.render.picture_stride": 2,
        "optim.steps": 100,
        "log": {"every": 25, "val_every": 100, "pictures_every": None},
        "checkpoint.every": 100,
    },
)
result = pretrain(config, console=Console(quiet=True))

# %% [markdown]
# `mean_depth` gives every camera its mean depth image, `copy_nearest` is explained below. Names
# that end with `rebuilt` are of the moment that was left out.

# %%
shown = ("depth_abs_rel", "psnr", "depth_abs_rel_rebuilt", "psnr_rebuilt")
print(" " * 12, *(f"{key:>22}" for key in shown))
for name, metrics in result.report.rows.items():
    print(f"{name:12}", *(f"{metrics.get(key, float('nan')):22.3f}" for key in shown))

# %%
rows = result.report.rows
assert rows["trained"]["depth_abs_rel"] < rows["untrained"]["depth_abs_rel"]
assert rows["trained"]["psnr"] > rows["untrained"]["psnr"]

# %% [markdown]
# ## What it was given, and what it answers
#
# `batch` is the clip in the middle of the drive, `plan` says what is hidden of it, and `rendered`
# holds colour and depth of every other pixel both ways: `direct` from the volume of the moment
# itself, `rebuilt` from the moments before and after it alone.

# %%
data = open_clips(config, pin_memory=False)
method = make_clip_method(config, data.constants)
model = method.build()
checkpoint, _ = newest_checkpoint(result.out / "checkpoints")
model.load_state_dict(model_weights(checkpoint.folder))
data.train.close()

# %%
batch, cameras = data.pictured, data.constants.cameras
plan = plan_key_frame(model, batch)
cells = mean_depth(data.constants.sample(), config.model.render)
with evaluating(model):
    rendered = render_views(model, batch, plan)
    velocity = model.scenes(batch, plan).velocity[0, 0].norm(dim=0)
copied = copy_views(model, batch, plan, cells)

# %%
views, key = views_of(batch, plan.frames), model.key
height, width = (int(side) for side in views.unpadded[0, 0].amax(dim=0))
truth = views.images[0, 0, :, :, :height, :width].movedim(1, -1)
hidden = hidden_at(plan.hidden, batch.camera.size).unflatten(0, batch.valid.shape)
hidden = hidden[0, key, :, :height, :width]
seen = torch.where(hidden[..., None], torch.tensor(0.88), truth)

stride = config.model.render.picture_stride
thinned = truth[:, stride // 2 :: stride, stride // 2 :: stride]
down, across = thinned.shape[1:3]
frame = {"extent": (0, width, height, 0)}

# %% [markdown]
# ## Masked images
#
# Above the truth, below what the backbone sees: three in ten cells of 32 pixels are gone from every
# image of every moment, elsewhere in each.

# %%
figure, axes = plt.subplots(2, len(cameras), figsize=(3 * len(cameras), 4.2))
for view, name in enumerate(cameras):
    axes[0, view].imshow(truth[view])
    axes[1, view].imshow(seen[view])
    axes[0, view].set_title(name, fontsize=12)
for each, label in zip(axes[:, 0], ("truth", "seen"), strict=True):
    each.set_ylabel(label, fontsize=12)
for each in axes.flat:
    each.set(xticks=[], yticks=[])
plt.tight_layout()

# %% [markdown]
# ## The rig in space
#
# Everything is in the rig's frame at the key frame, in metres: x ahead, y to the left, z up, the
# origin amid the cameras. Each camera has its colour. Its frustum is drawn 6 m deep; four of its
# rays are drawn to where they leave the volume of features, the grey box. Along such rays colour
# and depth are gathered. Lidar is dark where it is low; the colour of a ray and, where lidar hit
# something, its depth are all that the model is told.

# %%
motion = rig_motion(batch, key=key)
rig_from_world = motion.world_from_rig[0, key].inverse()
rig_from_cam = rig_from_world[None] @ views.world_from_cam[0, 0]
rig_from_lidar = rig_from_world @ batch.lidar.world_from_lidar[0, 0]
lidar = rig_from_lidar.apply(batch.lidar.of(0))
lower, upper = torch.tensor(model.grid.lower), torch.tensor(model.grid.upper)
lidar = lidar[((lidar > lower) & (lidar < upper)).all(dim=1)]

# %%
focal, centre = views.camera.focal[0, 0], views.camera.principal_point[0, 0]
rim = torch.tensor([[0, 0], [width, 0], [width, height], [0, height]])
slopes = torch.cat([(rim - centre[:, None]) / focal[:, None], torch.ones(len(cameras), 4, 1)], -1)
rims = rig_from_cam.apply(6 * slopes)
inner = torch.tensor([[0.2, 0.6], [0.4, 0.8], [0.6, 0.6], [0.8, 0.8]]) * torch.tensor(
    [width, height]
)
rays = rays_of_pixels(
    type(views.camera)(focal, centre, views.camera.size),
    inner.expand(len(cameras), 4, 2),
    world_from_cam=rig_from_cam,
)
_, leaves, _ = clip_rays_to_box(rays, model.grid.lower, model.grid.upper)
ends = rays.points_at(leaves)

# %%
bounds = torch.stack([lower, upper], dim=1)
box = torch.cartesian_prod(*bounds)
edges = [(i, j) for i in range(8) for j in range(i) if (i ^ j) in (1, 2, 4)]
figure = plt.figure(figsize=(14, 8.5))
axes = figure.add_axes((0, 0, 0.84, 1), projection="3d", computed_zorder=False)
axes.add_collection3d(Line3DCollection([box[[i, j]].numpy() for i, j in edges], colors="0.55"))
dots = axes.scatter(*lidar.T, c=lidar[:, 2], s=0.6, alpha=0.8, cmap="viridis", zorder=1)
for view, name in enumerate(cameras):
    colour, apex = f"C{view}", rig_from_cam.translation[view]
    sides = [torch.stack([apex, corner]).numpy() for corner in rims[view]]
    rim = torch.cat([rims[view], rims[view, :1]]).numpy()
    lines = torch.stack([rays.origins[view], ends[view]], dim=1).numpy()
    style = {"colors": colour, "zorder": 2}
    axes.add_collection3d(Line3DCollection([*sides, rim], linewidths=2.2, **style))
    axes.add_collection3d(Line3DCollection(lines, linewidths=1.1, linestyles="--", **style))
    axes.plot([], [], [], color=colour, label=name)
axes.set_xlabel("x, ahead (m)", fontsize=12)
axes.set_ylabel("y, left (m)", fontsize=12)
axes.set(zlabel="z (m)", zticks=[-3, 0, 3])
axes.set(**dict(zip(("xlim", "ylim", "zlim"), bounds.tolist(), strict=True)))
axes.set_box_aspect((bounds[:, 1] - bounds[:, 0]).tolist(), zoom=1.1)
axes.view_init(elev=48, azim=-140)
figure.legend(loc="upper right", bbox_to_anchor=(0.99, 0.98), fontsize=12)
bar = figure.colorbar(dots, cax=figure.add_axes((0.87, 0.15, 0.015, 0.5)))
bar.set_label("height of lidar points (m)", fontsize=12)
bar.solids.set_alpha(1)

# %% [markdown]
# ## Rendered depth and colour
#
# From the volume of the moment itself. The rays of a camera pass a signed distance field that is
# decoded from the volume; where its sign changes is a surface, whose colour is decoded as well.
# Both depths have one scale; white is where rays meet nothing. Where lidar measures nothing depth
# is told by colour alone, and means little after so short a time. Colour is the last to become
# sharp.

# %%
points = lidar_pixels(
    batch.lidar,
    views.camera,
    world_from_cam=views.world_from_cam,
    timestamp_us=views.timestamp_us,
    valid=views.valid,
    near_m=config.model.render.lidar_near_m,
    far_m=config.model.render.lidar_far_m,
)
scale = {"cmap": "turbo_r", "norm": LogNorm(2, 30)}
figure, axes = plt.subplots(3, 4, figsize=(16, 7.6), constrained_layout=True)
for row, view in zip(axes, (0, 1, 3), strict=True):
    direct = rendered["direct"]
    there = points.valid[0, 0, view]
    depth = torch.where(direct.opacity[0, view] > 0.5, direct.depth[0, view], torch.nan)
    row[0].imshow(truth[view], **frame)
    row[1].imshow(truth[view].mean(dim=-1), cmap="gray", vmin=-1, vmax=1, **frame)
    row[1].scatter(
        *(points.pixels[0, 0, view][there].T), c=points.depth[0, 0, view][there], s=5, **scale
    )
    image = row[2].imshow(depth[:down, :across], **frame, **scale)
    row[3].imshow(direct.rgb[0, view, :, :down, :across].movedim(0, -1).clamp(0, 1), **frame)
    row[0].set_ylabel(cameras[view], fontsize=12)
for each, title in zip(
    axes[0], ("truth", "lidar depth", "rendered depth", "rendered colour"), strict=True
):
    each.set_title(title, fontsize=13)
for each in axes.flat:
    each.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
bar = figure.colorbar(image, ax=axes, label="depth along the optical axis (m)", shrink=0.8)
bar.set_ticks([2, 5, 10, 20, 30], labels=["2", "5", "10", "20", "30"], minor=False)
bar.ax.minorticks_off()

# %% [markdown]
# ## A moment rebuilt from those around it
#
# The volume of the key frame, made from those a quarter of a second before and after, warped by the
# rig's motion and carried along by the flow, and rendered the same way. Beside it what costs
# nothing: the nearest frame, fetched through each camera's mean depth. It is sharp, and wrong
# wherever the depth is not the mean, so that edges are doubled or displaced.

# %%
rebuilt = rendered["rebuilt"].rgb[0].movedim(1, -1)[:, :down, :across].clamp(0, 1)
copy = copied[0].movedim(1, -1)[:, :down, :across]
figure, axes = plt.subplots(3, 4, figsize=(16, 7.6), constrained_layout=True)
for row, view in zip(axes, (0, 1, 3), strict=True):
    part = rendered["rebuilt"]
    depth = torch.where(part.opacity[0, view] > 0.5, part.depth[0, view], torch.nan)
    row[0].imshow(truth[view], **frame)
    row[1].imshow(copy[view], **frame)
    row[2].imshow(rebuilt[view], **frame)
    image = row[3].imshow(depth[:down, :across], **frame, **scale)
    row[0].set_ylabel(cameras[view], fontsize=12)
titles = ("the missing moment", "copy of the nearest", "rebuilt colour", "rebuilt depth")
for each, title in zip(axes[0], titles, strict=True):
    each.set_title(title, fontsize=13)
for each in axes.flat:
    each.set(xticks=[], yticks=[])
bar = figure.colorbar(image, ax=axes, label="depth along the optical axis (m)", shrink=0.8)
bar.set_ticks([2, 5, 10, 20, 30], labels=["2", "5", "10", "20", "30"], minor=False)
bar.ax.minorticks_off()

# %%
for name, images in (("copy of the nearest", copy), ("rebuilt", rebuilt)):
    error = (images - thinned).square().mean()
    print(f"{name:20} {-10 * error.log10():.1f} dB over all pixels")

# %% [markdown]
# ## What moves
#
# From above, ahead is up, in metres. Each arrow is the way of a lidar point in a third of a second;
# the ground is left out. On the left as the car sees it: all streams towards it, since it drives.
# On the right its own motion is taken out, which is what warping volumes by metres does. What
# remains are the things that move by themselves, here by the velocities of their boxes. To find
# this remainder is the task of the learned field of velocities, for which a notebook is too short.

# %%
boxes, later = batch.boxes, motion.world_from_rig[0, 2]
seconds = motion.seconds[0, 2]
there = boxes.world_from_box.translation + seconds * torch.nan_to_num(boxes.velocity)
points_world = rig_from_world.inverse().apply(lidar[lidar[:, 2] > -1][::12])
flow = flow_from_boxes(
    points_world,
    world_from_box_source=boxes.world_from_box,
    world_from_box_target=RigidTransform(boxes.world_from_box.rotation, there),
    size=boxes.size,
).flow
start = rig_from_world.apply(points_world)
apparent = (later.inverse().apply(points_world + flow) - start) / seconds
remaining = rig_from_world.rotate(flow) / seconds

# %%
rig_from_box = rig_from_world[None] @ boxes.world_from_box
signs = torch.tensor([[1, 1, 0], [1, -1, 0], [-1, -1, 0], [-1, 1, 0], [1, 1, 0]]) / 2
outlines = rig_from_box.apply(signs * boxes.size[:, None])
figure, axes = plt.subplots(1, 2, figsize=(16, 7.4), layout="constrained")
arrows = {"angles": "xy", "scale_units": "xy", "scale": 3, "cmap": "plasma", "clim": (0, 12)}
titles = ("seen from the car", "its own motion taken out")
for each, title, way in zip(axes, titles, (apparent, remaining), strict=True):
    each.scatter(-lidar[:, 1], lidar[:, 0], s=0.3, color="0.8")
    for outline in outlines:
        each.plot(-outline[:, 1], outline[:, 0], color="0.2", linewidth=1)
    speed = way.norm(dim=1)
    moves = speed > 0.3
    x, y = start[moves][:, :2].T
    drawn = each.quiver(-y, x, -way[moves, 1], way[moves, 0], speed[moves], width=0.003, **arrows)
    each.set(aspect="equal", xlim=(-25.6, 25.6), ylim=(-25.6, 25.6))
    each.set_xlabel("right (m)", fontsize=12)
    each.set_ylabel("ahead (m)", fontsize=12)
    each.set_title(title, fontsize=13)
figure.colorbar(drawn, ax=axes, label="speed (m/s)", shrink=0.85)
# %%
fastest = torch.nan_to_num(boxes.velocity).norm(dim=1).max()
print(
    f"fastest box: {fastest:.1f} m/s; fastest cell of the learned field: {velocity.max():.1f} m/s"
)
assert torch.isfinite(velocity).all()
folder.cleanup()
