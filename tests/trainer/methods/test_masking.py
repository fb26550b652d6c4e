import pytest
import torch

from trainer.methods.masking import (
    PatchMask,
    concatenate,
    frame_generator,
    hide,
    random_ranks,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*, batch=4, token=300, ratio=0.8, **arguments):
    ranks = random_ranks(batch, token, generator=generator(), **arguments)
    return hide(ranks, ratio=ratio, least_visible=0)


def test_the_hidden_count_is_rounded_not_truncated():
    # int(300 * (1 - 0.8)) is 59: the float trap of published code.
    assert int(300 * (1 - 0.8)) == 59
    assert draw(ratio=0.8).hidden.sum(dim=1).tolist() == [240] * 4
    assert draw(token=196, ratio=0.8).hidden.sum(dim=1).tolist() == [157] * 4


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.75, 0.9, 1.0])
def test_visible_indices_are_the_places_not_hidden_in_order(ratio):
    mask = draw(ratio=ratio)
    assert mask.visible.shape == (4, 300 - round(300 * ratio))
    for hidden, visible in zip(mask.hidden, mask.visible, strict=True):
        assert visible.tolist() == (~hidden).nonzero()[:, 0].tolist()


def test_items_are_masked_independently_and_evenly():
    hidden = draw(batch=2000, token=10, ratio=0.5).hidden
    assert hidden[0].tolist() != hidden[1].tolist()
    torch.testing.assert_close(
        hidden.double().mean(dim=0), torch.full((10,), 0.5).double(), atol=0.05, rtol=0
    )


def test_the_generator_alone_decides():
    first, second = (random_ranks(3, 12, generator=generator(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, random_ranks(3, 12, generator=generator(6)))


def test_masks_of_one_draw_nest():
    ranks = random_ranks(4, 50, generator=generator())
    fewer, more = hide(ranks, ratio=0.4).hidden, hide(ranks, ratio=0.8).hidden
    assert (more | ~fewer).all()


def test_patches_queued_last_are_shown_only_where_too_few_remain():
    last = torch.zeros(2, 10, dtype=torch.bool)
    last[0, :7], last[1, :9] = True, True
    mask = draw(batch=2, token=10, ratio=0.8, last=last)
    assert not last[0, mask.visible[0]].any()
    # Item 1 has one good patch for two places.
    assert last[1, mask.visible[1]].sum() == 1


@pytest.mark.parametrize("ratio", [1.0, 0.999, 1.5, -0.1, float("nan")])
def test_a_ratio_that_hides_too_much_is_refused(ratio):
    ranks = random_ranks(1, 20, generator=generator())
    with pytest.raises(ValueError, match=f"ratio must hide 0 to 19 of 20 patches, got {ratio}"):
        hide(ranks, ratio=ratio)


def test_all_may_be_hidden_where_none_need_be_visible():
    mask = draw(token=20, ratio=1.0)
    assert mask.hidden.all()
    assert mask.visible.shape == (4, 0)


def test_scattering_gathered_tokens_fills_the_hidden_places():
    mask, tokens, filler = draw(token=20), torch.rand(4, 20, 3), torch.full((3,), -1.0)
    restored = mask.scatter(mask.gather(tokens), filler=filler)
    assert torch.equal(restored[~mask.hidden], tokens[~mask.hidden])
    assert (restored[mask.hidden] == -1).all()


def test_a_mask_from_booleans_is_the_mask_drawn():
    mask = draw()
    again = PatchMask.from_hidden(mask.hidden)
    assert torch.equal(again.visible, mask.visible)


def test_items_that_hide_more_are_filled_up_with_what_is_not_attended_to():
    hidden = torch.tensor([[True, True, False], [False, True, False], [True, True, True]])
    mask = PatchMask.from_hidden(hidden)
    assert mask.visible[:2].tolist() == [[2, 0], [0, 2]]
    # An item without any attends to one, as attention to nothing would be NaN.
    assert mask.attended.tolist() == [[True, False], [True, True], [True, False]]


def test_concatenated_masks_are_those_of_the_parts():
    mask = draw()
    parts = [PatchMask(mask.hidden[k : k + 1], mask.visible[k : k + 1]) for k in range(4)]
    assert torch.equal(concatenate(parts).visible, mask.visible)


def test_a_frames_generator_depends_on_seed_scene_and_frame():
    keys = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1)]
    draws = [tuple(torch.rand(3, generator=frame_generator(*key)).tolist()) for key in keys]
    assert len(set(draws)) == 4
    again = torch.rand(3, generator=frame_generator(*keys[0]))
    assert tuple(again.tolist()) == draws[0]
