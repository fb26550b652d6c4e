import math

import pytest
import torch
from torch import nn

from trainer.methods.mim4d.temporal import (
    Branch,
    CellQueries,
    TemporalDecoder,
    copy_nearest_seen,
    nearest_in_time,
)
from trainer.methods.mim4d.volumes import Volumes

SHORT = Branch(frames=1, dim=16, heads=4, layers=2, points=2, hidden=16)
LONG = Branch(frames=None, dim=8, heads=2, layers=2, points=2, hidden=16)
BRANCHES = [(SHORT, LONG), (SHORT, None), (None, LONG)]
TIMES = torch.tensor([[-0.25, -0.0833, 0.0833], [0.0, -0.35, -0.1]])
TARGET = torch.tensor([0.0, -0.2])
VALID = torch.ones(2, 3, dtype=torch.bool)


def make_decoder(short=SHORT, long=LONG, **changes):
    torch.manual_seed(0)
    options = {"dim": 16, "queries": "separable"} | changes
    decoder = TemporalDecoder(3, (2, 5, 6), short=short, long=long, **options)
    for part in decoder.modules():
        # At first, places and weights do not depend on the query, and all is 0; here not.
        if isinstance(part, nn.Linear | nn.Conv2d) and not part.weight.any():
            nn.init.normal_(part.weight, std=0.3)
    return decoder


def make_volumes():
    return torch.randn(2, 3, 3, 2, 5, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("decodes", ["correction", "volume"])
@pytest.mark.parametrize("queries", ["separable", "full"])
@pytest.mark.parametrize(("short", "long"), BRANCHES)
def test_a_volume_like_those_of_the_sources_comes_out(short, long, queries, decodes):
    decoder = make_decoder(short, long, queries=queries, decodes=decodes)
    result = decoder(make_volumes(), TIMES, TARGET, VALID)
    assert result.shape == (2, 3, 2, 5, 6)
    assert result.isfinite().all()
    result.square().sum().backward()
    assert {n for n, p in decoder.named_parameters() if p.grad is None} == set()


@pytest.mark.parametrize(("short", "long"), BRANCHES)
def test_a_missing_frame_is_as_if_it_were_not_there(short, long):
    decoder, volumes, times = make_decoder(short, long), make_volumes(), TIMES.clone()
    valid = torch.tensor([[True, False, True], [False, True, True]])
    kept = torch.tensor([[0, 2], [1, 2]])
    rows = torch.arange(2)[:, None]
    volumes[~valid], times[~valid] = torch.nan, torch.nan
    result = decoder(volumes, times, TARGET, valid)
    expected = decoder(volumes[rows, kept], times[rows, kept], TARGET, valid[rows, kept])
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("short", "long"), BRANCHES)
def test_without_any_frame_the_result_depends_on_no_volume(short, long):
    decoder, nothing = make_decoder(short, long), torch.zeros_like(VALID)
    result = decoder(make_volumes(), TIMES, TARGET, nothing)
    assert result.isfinite().all()
    assert torch.equal(result, decoder(-make_volumes(), TIMES + 1, TARGET, nothing))


@pytest.mark.parametrize(("short", "long"), BRANCHES)
def test_the_order_of_the_frames_does_not_matter(short, long):
    decoder, volumes = make_decoder(short, long), make_volumes()
    order = [2, 0, 1]
    result = decoder(volumes[:, order], TIMES[:, order], TARGET, VALID)
    expected = decoder(volumes, TIMES, TARGET, VALID)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("short", "long"), BRANCHES)
def test_items_of_a_batch_do_not_influence_each_other(short, long):
    decoder, volumes = make_decoder(short, long), make_volumes()
    whole = decoder(volumes, TIMES, TARGET, VALID)
    for item in (slice(0, 1), slice(1, 2)):
        alone = decoder(volumes[item], TIMES[item], TARGET[item], VALID[item])
        torch.testing.assert_close(whole[item], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("short", "long"), BRANCHES)
def test_it_is_told_when_the_missing_instant_was_and_not_what_the_clock_said(short, long):
    decoder, volumes = make_decoder(short, long), make_volumes()
    result = decoder(volumes, TIMES, TARGET, VALID)
    other = decoder(volumes, TIMES, TARGET - 0.02, VALID)
    assert (result - other).abs().max() > 1e-3
    noon = 1.5e9
    shifted = decoder(volumes, TIMES.double() + noon, TARGET.double() + noon, VALID)
    torch.testing.assert_close(result, shifted, rtol=1e-3, atol=1e-4)


def test_where_a_frame_is_read_depends_on_its_time():
    decoder, volumes = make_decoder(None, LONG), make_volumes()
    swapped = decoder(volumes, TIMES[:, [1, 0, 2]], TARGET, VALID)
    assert (decoder(volumes, TIMES, TARGET, VALID) - swapped).abs().max() > 1e-3


def test_the_short_branch_sees_the_nearest_valid_frames_alone():
    decoder, volumes = make_decoder(SHORT, None), make_volumes().requires_grad_()
    valid = torch.tensor([[True, False, True], [True, True, True]])
    decoder(volumes, TIMES, TARGET, valid).square().sum().backward()
    seen = volumes.grad.abs().amax(dim=(2, 3, 4, 5)) > 0
    assert seen.tolist() == [[False, False, True], [False, False, True]]


def test_of_frames_as_near_the_earlier_comes_first():
    offsets = torch.tensor([[0.5, -0.5, 0.25, -1.0], [0.5, 0.25, -0.5, -0.25]])
    valid = torch.tensor([[True, True, False, True], [True, True, True, True]])
    assert nearest_in_time(offsets, valid, count=3).tolist() == [[1, 0, 3], [3, 1, 2]]


def test_a_cell_is_copied_from_the_nearest_frame_that_saw_it():
    features = torch.tensor([1.0, 2.0, 3.0, torch.nan]).view(1, 4, 1, 1, 1, 1)
    features = features.expand(1, 4, 2, 1, 1, 4)
    # Farthest, nearest, nearer and missing frame; which of them saw each of four cells.
    seen = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    copied = copy_nearest_seen(
        Volumes(features, seen.view(1, 4, 1, 1, 4)),
        torch.tensor([[-0.3, 0.1, -0.2, torch.nan]]),
        torch.tensor([0.0]),
        torch.tensor([[True, True, True, False]]),
    )
    assert copied.shape == (1, 2, 1, 1, 4)
    assert copied[0, :, 0, 0].tolist() == [[2.0, 3.0, 1.0, 0.0]] * 2


def test_a_correction_is_nothing_at_first():
    torch.manual_seed(0)
    decoder = TemporalDecoder(
        3, (2, 5, 6), dim=16, short=SHORT, long=LONG, queries="separable", decodes="correction"
    )
    assert (decoder(make_volumes(), TIMES, TARGET, VALID) == 0).all()


def waves(times, generator, *, batch=4, channels=4, cells=(2, 12, 12)):
    """Draw smooth volumes that move as a whole, up to a cell a frame, and see them at times."""
    z, y, x = (torch.arange(float(count)) for count in cells)
    shape = (batch, 1, channels, 1, 1, 1)

    def draw(low, high):
        return low + (high - low) * torch.rand(shape, generator=generator)

    speed_x, speed_y = (2 * torch.rand(2, batch, 1, 1, 1, 1, 1, generator=generator) - 1).unbind()
    time = torch.tensor(times).view(1, -1, 1, 1, 1, 1)
    along_x, along_y = x - speed_x * time, y[:, None] - speed_y * time
    total = torch.zeros(())
    for _ in range(3):
        turn, pace = draw(0, 2 * math.pi), 2 * math.pi / draw(8, 16)
        place = turn.cos() * along_x + turn.sin() * along_y + 0.3 * z[:, None, None]
        total = total + (pace * place + draw(0, 2 * math.pi)).sin()
    return total.relu()


def rebuilt(decoder, volumes):
    """Rebuild the last of some frames from the others; return its error and that of a copy."""
    sources, truth = volumes[:, :-1], volumes[:, -1]
    times = torch.arange(-1.0, -volumes.shape[1], -1) / 12
    times, zero = times.expand(len(volumes), -1), torch.zeros(len(volumes))
    valid = torch.ones(times.shape, dtype=torch.bool)
    everywhere = torch.ones_like(sources[:, :, 0], dtype=torch.bool)
    start = copy_nearest_seen(Volumes(sources, everywhere), times, zero, valid)
    result = start + decoder(sources, times, zero, valid)
    return tuple((each - truth).square().mean() for each in (result, start))


def test_what_is_rebuilt_is_the_copy_at_first_and_soon_better():
    torch.manual_seed(0)
    decoder = TemporalDecoder(4, (2, 12, 12), dim=16, short=SHORT, long=LONG, queries="separable")
    held_out = waves((-1.0, -2.0, -3.0, 0.0), torch.Generator().manual_seed(1), batch=32)
    result, copy = rebuilt(decoder, held_out)
    assert torch.equal(result, copy)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        error, _ = rebuilt(decoder, waves((-1.0, -2.0, -3.0, 0.0), generator))
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    with torch.no_grad():
        result, copy = rebuilt(decoder, held_out)
    assert result < 0.9 * copy


def test_separable_queries_are_few_and_differ_from_cell_to_cell():
    few, many = (CellQueries((5, 6), 8, kind=kind) for kind in ("separable", "full"))
    assert sum(parameter.numel() for parameter in few.parameters()) == (5 + 6) * 8
    assert sum(parameter.numel() for parameter in many.parameters()) == 5 * 6 * 8
    for queries in (few, many):
        rows = queries().flatten(0, 1)
        assert rows.shape == (30, 8)
        assert torch.cdist(rows, rows).fill_diagonal_(1).min() > 0


def test_there_must_be_a_branch():
    with pytest.raises(ValueError, match="short or long must be a branch, got None for both"):
        make_decoder(None, None)


def test_under_autocast_places_stay_precise():
    decoder, volumes = make_decoder(), make_volumes()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = decoder(volumes, TIMES, TARGET, VALID)
    error = (result.float() - decoder(volumes, TIMES, TARGET, VALID)).abs()
    assert error.mean() < 0.1
