from dataclasses import replace

import torch

from tests.trainer.methods.mim4d.clips import lose, tiny_clips, tiny_config
from trainer.methods.mim4d.baselines import CELL_PIXELS, copy_nearest, depth_at, mean_depth
from trainer.methods.mim4d.planning import fixed_targets
from trainer.methods.mim4d.rigs import rig_motion

CONFIG = tiny_config()


def test_the_mean_depth_of_a_cell_is_that_of_its_points():
    batch = tiny_clips(CONFIG)
    render = CONFIG.model.render
    cells = mean_depth([batch, batch], render)
    assert cells is not None
    assert cells.shape == (6, 64 // CELL_PIXELS, 96 // CELL_PIXELS)
    torch.testing.assert_close(cells, mean_depth([batch], render))
    assert ((cells > 1) & (cells < 45)).all()


def test_a_camera_without_points_has_the_mean_of_all():
    batch = tiny_clips(CONFIG)
    valid = batch.valid.clone()
    valid[:, :, 2] = False
    cells = mean_depth([lose(batch, valid)], CONFIG.model.render)
    assert (cells[2] == cells[2, 0, 0]).all()
    assert cells[0].min() < cells[2, 0, 0] < cells[0].max() + 5


def test_without_lidar_there_is_no_mean_depth():
    batch = replace(tiny_clips(CONFIG), lidar=None)
    assert mean_depth([batch], CONFIG.model.render) is None
    assert mean_depth([], CONFIG.model.render) is None


def test_a_rig_at_rest_copies_its_own_colours():
    batch = tiny_clips(CONFIG)
    still = batch.world_from_cam[:, :1]
    still = type(still)(
        still.rotation.expand_as(batch.world_from_cam.rotation).contiguous(),
        still.translation.expand_as(batch.world_from_cam.translation).contiguous(),
    )
    # Both moments see one smooth picture, so that reading between pixels tells nothing new.
    ramp = torch.linspace(0, 1, 96).expand(1, 2, 6, 3, 64, 96).contiguous()
    batch = replace(batch, world_from_cam=still, images=ramp)
    frames, targets = fixed_targets(CONFIG.model, batch, key=0)
    depth = torch.full_like(targets.distance, 20.0)
    copied = copy_nearest(batch, rig_motion(batch, key=0), frames, targets, depth)
    error = (copied - targets.rgb).abs()[targets.rays.valid]
    assert error.max() < 0.02


def test_depth_is_read_in_the_cell_of_a_pixel():
    batch = tiny_clips(CONFIG)
    _, targets = fixed_targets(CONFIG.model, batch, key=0)
    cells = torch.arange(6 * 4 * 6, dtype=torch.float32).view(6, 4, 6)
    read = depth_at(cells, targets)
    u, v = targets.pixels[0, 0, 5].tolist()
    row, column = int(v // CELL_PIXELS), int(u // CELL_PIXELS)
    assert read[0, 0, 5] == cells[targets.view[5], row, column]
