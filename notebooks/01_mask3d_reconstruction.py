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
# # Mask3D: dense depth from a fifth of the colour and a fifth of the depth
#
# Mask3D (Hou et al., CVPR 2023) hides most patches of an RGB-D frame and asks for the whole depth
# map. To answer, the colour encoder must know something of rooms; that encoder is what pre-training
# is for.
#
# Here it learns from procedural rooms for about half a minute, and answers for a room it never saw.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rich.console import Console

from geomim.depth import unproject_depth
from geomim_data.convert import convert
from geomim_data.sources.scannet import ScanNetSource
from geomim_data.sources.synthetic import synthesize_scannet
from trainer.checkpoint import model_weights, newest_checkpoint
from trainer.config_file import load_config
from trainer.data import open_data
from trainer.methods import make_method
from trainer.pretraining import pretrain

# %% [markdown]
# ## Rooms
#
# Three furnished rooms with a camera walking through each, written as ScanNet writes its scans and
# converted to a store. Their depth is exact. The last room is held out.

# %%
folder = tempfile.TemporaryDirectory()
root = Path(folder.name)
size = (64, 96)
synthesize_scannet(root / "scannet", scenes=3, frames=20, seed=1, colour_size=size, depth_size=size)
convert(ScanNetSource(root / "scannet"), root / "shards")

# %% [markdown]
# ## Training
#
# The packaged demo, shortened: a ViT of four blocks on 8-pixel patches.

# %%
config = load_config(
    "mask3d-demo.yaml",
    {
        "out": root / "run",
        "data.path": root / "shards",
        "data.val": "scenes:1",
        "data.workers": 0,
        "optim.steps": 150,
        "log.every": 25,
        "log.val_every": 150,
        "log.pictures_every": 150,
        "checkpoint.every": 150,
    },
)
result = pretrain(config, console=Console(quiet=True))

# %% [markdown]
# ## What was learnt
#
# Depth errors on the **hidden** pixels of the held-out room. `visible_mean` gives each hidden pixel
# the mean of the depth that the frame shows, `nearest_visible` that of the nearest pixel shown. All
# rows see the same patches.

# %%
for name, metrics in result.report.rows.items():
    print(f"{name:16} abs_rel {metrics['abs_rel']:.3f}   delta1 {metrics['delta1']:.3f}")

# %%
rows = result.report.rows
assert rows["trained"]["abs_rel"] < rows["untrained"]["abs_rel"]
assert rows["trained"]["abs_rel"] < rows["visible_mean"]["abs_rel"]

# %% [markdown]
# ## Input, masks, reconstruction, target, error
#
# Each row is a frame of the held-out room. The masks of a frame are always the same.

# %%
data = open_data(config, pin_memory=False)
method = make_method(config, data.constants)
model = method.build()
checkpoint, _ = newest_checkpoint(result.out / "checkpoints")
model.load_state_dict(model_weights(checkpoint.folder))
data.train.close()

# %%
picture = method.picture(model, data.pictured)
figure = plt.figure(figsize=(16, 16 * picture.shape[0] / picture.shape[1]))
plt.imshow(picture)
plt.axis("off")
plt.tight_layout()

# %% [markdown]
# ## In space
#
# The measured and the rebuilt depth of the last frame, back-projected through its camera and
# coloured by the image. Where depth was shown, both are the measured one.

# %%
frames, rebuilt = method.reconstruct(model, data.pictured)
pasted = torch.where(frames.hidden_depth, rebuilt, frames.depth)
colours = frames.rgb[-1].permute(1, 2, 0).reshape(-1, 3).numpy()
camera = data.pictured.camera
figure = plt.figure(figsize=(14, 6))
for place, (title, depth) in enumerate((("measured", frames.depth), ("rebuilt", pasted)), start=1):
    points, valid = unproject_depth(depth, camera)
    seen = valid[-1].flatten()
    x, y, z = points[-1].reshape(-1, 3)[seen].T
    axes = figure.add_subplot(1, 2, place, projection="3d")
    axes.scatter(x, z, -y, c=colours[seen.numpy()], s=4)
    axes.set(title=title, xlabel="right (m)", ylabel="forward (m)", zlabel="up (m)")
    axes.set_box_aspect((1, 1, 0.7))
    axes.view_init(elev=20, azim=-80)

# %% [markdown]
# The mean error of the hidden pixels:

# %%
error = (rebuilt - frames.depth).abs()[frames.judged]
print(f"{error.mean():.3f} m over {error.numel()} hidden pixels")
assert torch.isfinite(error).all()
folder.cleanup()
