from dataclasses import replace

import numpy as np
import pytest
import torch

from geomim.transforms import RigidTransform
from tests.trainer.methods.mim4d.clips import lose, tiny_clips, tiny_config
from trainer.methods.mim4d.drawing import copy_views, draw, render_views
from trainer.methods.mim4d.model import Mim4dModel
from trainer.methods.mim4d.planning import plan_key_frame
from trainer.pictures import UNMEASURED
from trainer.seeding import seed_everything

CONFIG = tiny_config(**{"model.render.picture_stride": 8})


@pytest.fixture(scope="module")
def model():
    seed_everything(0)
    return Mim4dModel(CONFIG).eval()


def at_rest(batch):
    """Return clips whose moments all are the key frame."""
    poses, times = batch.world_from_cam, batch.valid.shape[1]
    return replace(
        batch,
        images=batch.images[:, :1].expand(-1, times, -1, -1, -1, -1),
        world_from_cam=RigidTransform(
            poses.rotation[:, :1].expand(-1, times, -1, -1, -1),
            poses.translation[:, :1].expand(-1, times, -1, -1),
        ),
    )


def test_a_copy_of_a_frame_from_where_it_was_seen_is_the_frame(model):
    batch = at_rest(tiny_clips(CONFIG))
    cells = torch.full((6, 4, 6), 7.0)
    copied = copy_views(model, batch, plan_key_frame(model, batch), cells)
    torch.testing.assert_close(copied, batch.images[:, 0, ..., 4::8, 4::8], atol=1e-4, rtol=0)


def test_a_frame_without_another_is_neither_rebuilt_nor_copied(model):
    batch = tiny_clips(CONFIG)
    alone = lose(batch, torch.tensor([True, False])[None, :, None])
    plan = plan_key_frame(model, alone)
    rendered = render_views(model, alone, plan)
    assert rendered["direct"].valid.any()
    assert not rendered["rebuilt"].valid.any()
    assert not rendered["rebuilt"].rgb.any()
    assert not copy_views(model, alone, plan, torch.full((6, 4, 6), 7.0)).any()
    assert render_views(model, batch, plan)["rebuilt"].valid.any()


def test_padding_is_cut_off_and_views_that_are_missing_have_no_row(model):
    batch = tiny_clips(CONFIG)
    plan = plan_key_frame(model, batch)
    rendered = render_views(model, batch, plan)

    def size(drawn):
        return np.array(draw(model, drawn, plan, rendered, cameras=()).shape[:2])

    whole = size(batch)
    # 64 by 96 pixels in strides of 8, enlarged by 21; one row and two columns less.
    smaller = replace(batch, unpadded=torch.tensor([56, 80]).expand(1, 2, 6, 2))
    factor = round(256 / 10)
    assert (size(smaller) - whole).tolist() == [6 * (7 * factor - 8 * 21), 7 * (10 * factor - 252)]
    fewer = lose(batch, torch.arange(6) > 0)
    assert (size(fewer) - whole).tolist() == [-(20 + 8 * 21 + 6), 0]


def test_lidar_beyond_the_volume_is_grey(model):
    batch = tiny_clips(CONFIG)
    plan = plan_key_frame(model, batch)

    def lidar_tiles(drawn):
        picture = draw(model, drawn, plan, {}, cameras=())
        return picture[:, 16 + 2 * (252 + 6) : 16 + 2 * (252 + 6) + 252]

    far = replace(batch, lidar=replace(batch.lidar, points=batch.lidar.points * 100))
    grey = [(lidar_tiles(each) == UNMEASURED).all(axis=2).sum() for each in (batch, far)]
    assert grey[0] < 6 * 8 * 12 * 21**2 <= grey[1]
