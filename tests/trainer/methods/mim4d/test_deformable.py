import pytest
import torch
from torch import nn

from trainer.methods.mim4d.deformable import DeformableAttention, read_places


def make_attention(offset=(0.0, 0.0)):
    """Read one place, moved by (column, row) cells, and pass it on as it is."""
    attention = DeformableAttention(4, heads=2, points=1)
    with torch.no_grad():
        attention.value.weight.copy_(torch.eye(4))
        attention.out.weight.copy_(torch.eye(4))
        attention.offset.bias.copy_(torch.tensor(offset).repeat(2))
        for part in (attention.value, attention.out):
            nn.init.zeros_(part.bias)
    return attention


def make_frames(source=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, source, 5, 6, 4, generator=generator)


def make_queries(source=3):
    return torch.randn(2, source, 5, 6, 4, generator=torch.Generator().manual_seed(1))


def test_a_cell_that_looks_at_itself_reads_the_mean_of_the_valid_frames():
    frames = make_frames()
    valid = torch.tensor([[True, False, True], [False, False, False]])
    result = make_attention()(make_queries(), frames, valid)
    torch.testing.assert_close(result[0], (frames[0, 0] + frames[0, 2]) / 2)
    assert (result[1] == 0).all()


def test_offsets_are_cells_first_along_columns_and_off_the_grid_is_zero():
    frames, valid = make_frames(1), torch.ones(2, 1, dtype=torch.bool)
    result = make_attention((1.0, -2.0))(make_queries(1), frames, valid)
    torch.testing.assert_close(result[:, 2:, :-1], frames[:, 0, :-2, 1:])
    assert (result[:, :2] == 0).all()
    assert (result[:, :, -1] == 0).all()


def test_between_cells_it_interpolates():
    values = torch.tensor([[[1.0, 3.0], [5.0, 7.0]]])[..., None]
    places = torch.tensor([[[[1.0, 1.0], [0.5, 1.25]], [[0.5, 0.5], [9.0, 9.0]]]])
    weights = torch.tensor([[[1.0, 0.0], [0.25, 0.75]]])
    torch.testing.assert_close(
        read_places(values, places, weights), torch.tensor([[[4.0], [0.25]]])
    )
    first = read_places(values, places, 1 - weights)[0, 0, 0]
    assert first.item() == pytest.approx(1 + 0.75 * 4)


def test_each_head_reads_in_a_direction_of_its_own_at_first():
    attention = DeformableAttention(8, heads=4, points=2)
    offsets = attention.offset.bias.detach().view(4, 2, 2)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(offsets[:, 0], expected)
    torch.testing.assert_close(offsets[:, 1], 2 * expected)


def test_places_are_read_as_grid_sample_reads_them():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 4, 5, 3, generator=generator)
    places = -1 + 7 * torch.rand(2, 6, 3, 2, generator=generator)
    weights = torch.rand(2, 6, 3, generator=generator)
    grid = 2 * places / torch.tensor([5.0, 4.0]) - 1
    found = nn.functional.grid_sample(values.permute(0, 3, 1, 2), grid, align_corners=False)
    expected = (found * weights[:, None]).sum(dim=-1).mT
    torch.testing.assert_close(read_places(values, places, weights), expected)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    values = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    places = -1 + 6 * torch.rand(2, 6, 3, 2, dtype=torch.float64)
    weights = torch.rand(2, 6, 3, dtype=torch.float64)
    arguments = [part.requires_grad_() for part in (values, places, weights)]
    assert torch.autograd.gradcheck(read_places, arguments)


def test_heads_share_the_width():
    with pytest.raises(ValueError, match="dim must be divisible by heads, got 6 and 4"):
        DeformableAttention(6, heads=4, points=1)
