from dataclasses import replace

import torch

from tests.trainer.methods.mim4d.clips import lose, tiny_clips, tiny_config
from trainer.methods.mim4d.model import Mim4dModel
from trainer.methods.mim4d.planning import fixed_cells, plan_fixed, plan_randomly

MOMENTS = {"data.offsets": [0, -1, -2]}


def drawn(seed: int, **overrides: object):
    config = tiny_config(**MOMENTS, **overrides)
    torch.manual_seed(0)
    batch = tiny_clips(config)
    return plan_randomly(Mim4dModel(config), batch, torch.Generator().manual_seed(seed))


def test_the_same_generator_plans_the_same():
    one, again, other = drawn(3), drawn(3), drawn(4)
    assert torch.equal(one.plan.rays.directions, again.plan.rays.directions)
    assert torch.equal(one.plan.hidden, again.plan.hidden)
    assert not torch.equal(one.plan.hidden, other.plan.hidden)


def test_the_key_frame_and_a_random_other_are_supervised():
    frames = {tuple(drawn(seed).plan.frames[0].tolist()) for seed in range(12)}
    assert frames == {(0, 1), (0, 2)}


def test_other_frames_alone_can_be_supervised():
    frames = {
        tuple(drawn(s, **{"model.supervise": "other"}).plan.frames[0].tolist()) for s in range(12)
    }
    assert frames == {(1,), (2,)}


def test_the_other_frame_is_one_that_is_there():
    config = tiny_config(**MOMENTS)
    model, batch = Mim4dModel(config), tiny_clips(config)
    valid = batch.valid.clone()
    valid[:, 1] = False
    lost = lose(batch, valid)
    seen = {
        tuple(plan_randomly(model, lost, torch.Generator().manual_seed(s)).plan.frames[0].tolist())
        for s in range(8)
    }
    assert seen == {(0, 2)}


def test_a_share_of_the_cells_is_hidden_in_every_image():
    hidden = drawn(0).plan.hidden
    assert hidden.shape == (18, 2, 3)
    assert (hidden.sum(dim=(1, 2)) == 2).all()
    assert drawn(0, **{"model.mask_ratio": 0}).plan.hidden is None


def test_a_clip_is_always_judged_on_the_same():
    config = tiny_config(**MOMENTS)
    model, batch = Mim4dModel(config), tiny_clips(config)
    one, again = plan_fixed(model, batch), plan_fixed(model, batch)
    assert torch.equal(one.plan.rays.directions, again.plan.rays.directions)
    other = plan_fixed(model, replace(batch, sample=(7,)))
    assert not torch.equal(one.plan.hidden, other.plan.hidden)


def test_masks_of_a_clip_do_not_depend_on_its_batch():
    config = tiny_config()
    both = tiny_clips(config, batch=2)
    alone = tiny_clips(config, batch=1)
    cells = fixed_cells(config.model, both)
    assert torch.equal(cells[: len(cells) // 2], fixed_cells(config.model, alone))


def test_rays_through_lidar_points_are_measured():
    targets = drawn(0).targets
    assert targets.measured.any()
    assert (targets.distance[targets.measured] > 0).all()


def test_points_beyond_the_volume_are_not_measured():
    whole = drawn(0).targets
    volume = {"cell_m": [2.0, 2.0, 2.0], "lower_m": [-16.0, -16.0, -4.0]}
    half = drawn(0, **{f"model.volume.{key}": value for key, value in volume.items()}).targets
    ends = whole.rays.points_at(whole.distance)
    far = (ends[..., :2].abs() > 16).any(dim=-1)
    assert (whole.measured & far).any()
    assert torch.equal(half.measured, whole.measured & ~far)
    assert (half.distance[far] == 0).all()
