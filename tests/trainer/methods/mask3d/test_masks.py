import torch

from trainer.config import Mask3DModelConfig
from trainer.config_run import EncoderConfig
from trainer.methods.mask3d.masks import draw_masks, fixed_masks

CONFIG = Mask3DModelConfig(encoder=EncoderConfig(patch_size=4, dim=16, depth=1, heads=2))
VALID = torch.ones(3, 16, 20, dtype=torch.bool)


def draw(valid=VALID, **changes):
    config = CONFIG.model_copy(update=changes)
    return draw_masks(valid, config, generator=torch.Generator().manual_seed(0))


def test_colour_and_depth_are_hidden_apart():
    masks = draw()
    assert (
        masks.rgb.hidden.sum(dim=1).tolist() == masks.depth.hidden.sum(dim=1).tolist() == [16] * 3
    )
    assert not torch.equal(masks.rgb.hidden, masks.depth.hidden)


def test_a_shared_mask_hides_the_same_places():
    masks = draw(shared_mask=True)
    assert torch.equal(masks.rgb.hidden, masks.depth.hidden)


def test_depth_may_be_hidden_altogether():
    assert draw(mask_ratio_depth=1.0).depth.hidden.all()


def test_patches_without_depth_are_not_shown_unless_too_few_remain():
    valid = VALID.clone()
    valid[0, :, :12] = False
    valid[1] = False
    valid[1, 0, 0] = True
    masks = draw(valid)
    # Columns 3 and 4 of five hold depth: eight patches for four places.
    assert (masks.depth.visible[0] % 5 >= 3).all()
    assert 0 in masks.depth.visible[1]
    assert masks.depth.visible[1].numel() == 4


def test_the_preference_can_be_switched_off():
    valid = VALID.clone()
    valid[:, :, 4:] = False
    shown = draw(valid, prefer_valid_depth=False).depth.visible
    assert not torch.equal(shown, draw(valid).depth.visible)


def test_a_frames_masks_do_not_depend_on_its_batch():
    frames = [("a", 1), ("a", 2), ("b", 1)]
    together = fixed_masks(VALID, frames, CONFIG, seed=0)
    reverse = fixed_masks(VALID, frames[::-1], CONFIG, seed=0)
    alone = fixed_masks(VALID[:1], frames[1:2], CONFIG, seed=0)
    for whole, flipped, single in zip(together, reverse, alone, strict=True):
        assert torch.equal(whole.hidden, flipped.hidden.flip(0))
        assert torch.equal(whole.hidden[1], single.hidden[0])
    other = fixed_masks(VALID, frames, CONFIG, seed=1)
    assert not torch.equal(other.rgb.hidden, together.rgb.hidden)
