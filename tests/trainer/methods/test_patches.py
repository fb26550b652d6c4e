import pytest
import torch

from trainer.methods.patches import patch_grid, patchify, spread, unpatchify


def test_unpatchify_undoes_patchify():
    image = torch.rand(2, 3, 8, 12)
    torch.testing.assert_close(unpatchify(patchify(image, 4), (2, 3), 4), image, rtol=0, atol=0)


def test_a_token_holds_its_patch_by_row_then_column_then_channel():
    image = torch.arange(2 * 4 * 6).view(1, 2, 4, 6)
    # The second patch: rows 0 and 1, columns 2 and 3; the second channel is 24 further.
    assert patchify(image, 2)[0, 1].tolist() == [2, 26, 3, 27, 8, 32, 9, 33]


def test_patches_run_in_reading_order():
    hidden = torch.zeros(1, 6, dtype=torch.bool)
    hidden[0, 4] = True
    pixels = spread(hidden, (2, 3), 2)
    assert pixels.sum() == 4
    assert pixels[0, 2:, 2:4].all()


def test_a_patch_must_divide_the_image():
    assert patch_grid((240, 320), 16) == (15, 20)
    with pytest.raises(
        ValueError, match="image_size must be a multiple of the patch, 16, got 240x330"
    ):
        patch_grid((240, 330), 16)
