import pytest
import torch

from trainer.methods.mask3d.loss import frame_losses, mean_over_frames, standardise_patches

PREDICTION = torch.tensor([[[1.0, 2.0, 5.0]], [[0.0, 0.0, 0.0]]])
TARGET = torch.tensor([[[0.0, 4.0, 5.0]], [[1.0, 1.0, 1.0]]])
SELECTED = torch.tensor([[[True, True, False]], [[True, False, False]]])


def losses(kind, selected=SELECTED, prediction=PREDICTION):
    return frame_losses(prediction, TARGET, selected, kind=kind)


def test_each_frame_is_averaged_over_its_own_pixels():
    assert losses("l2").tolist() == [2.5, 1]
    assert losses("l1").tolist() == [1.5, 1]


def test_berhu_is_linear_below_a_fifth_of_the_largest_error_and_quadratic_above():
    # Errors 1, 2, 0: the bend is 0.4; (1 + 0.16) / 0.8 and (4 + 0.16) / 0.8.
    everything = torch.ones_like(SELECTED)
    expected = (1.16 / 0.8 + 4.16 / 0.8) / 3
    assert losses("berhu", everything)[0].item() == pytest.approx(expected)
    # Errors 0.1, 0, 1: the bend is 0.2; 0.1 and (1 + 0.04) / 0.4.
    small = torch.tensor([[[0.1, 4.0, 4.0]], [[1.0, 1.0, 1.0]]])
    assert losses("berhu", everything, small)[0].item() == pytest.approx((0.1 + 2.6) / 3)
    assert losses("berhu", everything, TARGET).tolist() == [0, 0]


def test_frames_weigh_the_same_whatever_their_holes():
    assert mean_over_frames(losses("l2"), SELECTED).item() == 1.75


def test_frames_without_a_selected_pixel_are_left_out():
    selected = SELECTED.clone()
    selected[0] = False
    assert mean_over_frames(losses("l2", selected), selected).item() == 1


@pytest.mark.parametrize("kind", ["l2", "l1", "berhu"])
def test_nothing_selected_is_zero_with_zero_gradient(kind):
    prediction = PREDICTION.clone().requires_grad_()
    nothing = torch.zeros_like(SELECTED)
    loss = mean_over_frames(losses(kind, nothing, prediction), nothing)
    loss.backward()
    assert loss.item() == 0
    assert (prediction.grad == 0).all()


@pytest.mark.parametrize("kind", ["l2", "l1", "berhu"])
def test_unselected_pixels_get_exactly_no_gradient(kind):
    prediction = PREDICTION.clone()
    prediction[0, 0, 2] = torch.inf
    prediction.requires_grad_()
    mean_over_frames(losses(kind, SELECTED, prediction), SELECTED).backward()
    assert torch.equal(prediction.grad != 0, SELECTED)


def test_a_standardised_patch_has_mean_zero_and_deviation_one_over_its_valid_pixels():
    target = torch.rand(2, 8, 8) * 3
    valid = torch.rand(2, 8, 8) < 0.7
    found = standardise_patches(target, valid, patch=4, min_valid=0.1)
    inside = found.target[0, :4, :4][valid[0, :4, :4]]
    assert inside.mean().item() == pytest.approx(0, abs=1e-5)
    assert inside.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert torch.equal(found.usable, valid)
    torch.testing.assert_close(
        (found.target * found.std + found.mean)[valid], target[valid], atol=1e-6, rtol=1e-5
    )


def test_a_patch_with_few_valid_pixels_is_not_usable():
    valid = torch.zeros(1, 4, 8, dtype=torch.bool)
    valid[0, 0, 0] = True
    valid[0, :2, 4:6] = True
    # One of 16 is below a tenth, four of 16 are not.
    found = standardise_patches(torch.rand(1, 4, 8), valid, patch=4, min_valid=0.1)
    assert found.usable.sum() == 4
    assert found.usable[0, :, 4:].sum() == 4
    assert found.target.isfinite().all()


def test_a_flat_patch_stays_finite():
    flat = torch.full((1, 4, 4), 2.0)
    found = standardise_patches(flat, flat > 0, patch=4, min_valid=0.1)
    assert (found.target == 0).all()
