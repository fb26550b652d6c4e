import pytest
import torch
from hypothesis import given
from torch.autograd import gradcheck

from geomim.proposals import anneal_weights, blur_weights, interlevel_loss, proposal_samples
from geomim.sampling import importance_samples
from tests.geomim.strategies import batches, normal, seeds


def _histogram(*batch, intervals, seed):
    edges = normal(*batch, intervals + 1, seed=seed).abs().cumsum(dim=-1)
    return edges, normal(*batch, intervals, seed=seed + 1).softmax(dim=-1)


def test_blurred_weights_worked_by_hand():
    found = blur_weights(torch.tensor([0.0, 0.0, 1.0, 0.5]), padding=0.25)
    assert found.tolist() == [0.25, 0.75, 1.25, 1.0]
    assert blur_weights(torch.tensor([[2.0]]), padding=0.5).tolist() == [[2.5]]


def test_annealing_goes_from_even_weights_to_their_own():
    weights = torch.tensor([0.0, 0.25, 1.0])
    assert anneal_weights(weights, progress=0.0).tolist() == [1.0, 1.0, 1.0]
    assert anneal_weights(weights, progress=1.0).tolist() == [0.0, 0.25, 1.0]
    # 10 * 0.1 / (9 * 0.1 + 1) = 1 / 1.9.
    torch.testing.assert_close(
        anneal_weights(weights, progress=0.1), torch.tensor([0.0, 0.25 ** (1 / 1.9), 1.0])
    )


@pytest.mark.parametrize("progress", [-0.5, 1.5])
def test_progress_beyond_its_range_is_refused(progress):
    with pytest.raises(ValueError, match=f"progress must be from 0 to 1, got {progress}"):
        anneal_weights(torch.ones(3), progress=progress)


def test_proposals_are_annealed_then_blurred_then_sampled():
    edges, weights = _histogram(2, 3, intervals=9, seed=0)
    weights.requires_grad_()
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    found = proposal_samples(
        edges, weights, count=20, progress=0.3, padding=0.02, generator=generators[0]
    )
    wide = blur_weights(anneal_weights(weights, progress=0.3), padding=0.02)
    expected = importance_samples(edges, wide, count=20, generator=generators[1])
    assert torch.equal(found.distances, expected.distances)
    assert not found.distances.requires_grad
    none = proposal_samples(edges, weights, count=20, valid=torch.zeros(2, 3, dtype=torch.bool))
    assert not none.valid.any()


def test_the_interlevel_loss_worked_by_hand():
    edges, weights = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.5, 0.5, 0.0])
    # The first interval is within one of the proposal's, the second touches two.
    proposal_edges, proposal = torch.tensor([0.0, 1.5, 3.0]), torch.tensor([0.25, 0.125])
    found = interlevel_loss(edges, weights, proposal_edges, proposal)
    assert found.item() == pytest.approx(0.25**2 / 0.5 + 0.125**2 / 0.5)


def _loss(edges, weights, proposal_edges, proposal):
    """Equations 12 and 13, pair by pair."""
    total = torch.zeros(())
    for i, weight in enumerate(weights):
        first, last = edges[i], edges[i + 1]
        touching = (proposal_edges[:-1] < last) & (proposal_edges[1:] > first)
        total = total + (weight - proposal[touching].sum()).relu() ** 2 / weight
    return total


@given(batch=batches, seed=seeds)
def test_the_interlevel_loss_is_that_of_all_pairs(batch, seed):
    edges, weights = _histogram(*batch, intervals=7, seed=seed)
    lines, proposal = _histogram(*batch, intervals=5, seed=seed + 2)
    # Both cover the ray from 0 to 1.
    edges, lines = ((x - x[..., :1]) / (x[..., -1:] - x[..., :1]) for x in (edges, lines))
    found = interlevel_loss(edges, weights, lines, proposal)
    flat = (x.reshape(-1, x.shape[-1]) for x in (edges, weights, lines, proposal))
    expected = torch.stack([_loss(*ray) for ray in zip(*flat, strict=True)])
    torch.testing.assert_close(found.reshape(-1), expected, check_dtype=False)


def test_a_proposal_that_covers_everything_costs_nothing():
    edges, weights = _histogram(4, intervals=7, seed=0)
    assert (interlevel_loss(edges, weights, edges, weights).abs() < 1e-12).all()
    loose = interlevel_loss(edges, weights, edges[..., ::7], torch.ones(4, 1).double())
    assert (loose == 0).all()


def test_only_the_proposal_is_pulled():
    edges, weights = _histogram(3, intervals=7, seed=0)
    lines, proposal = edges + 0.1, (0.3 * weights.flip(-1)).requires_grad_()
    tensors = edges.requires_grad_(), weights.requires_grad_(), lines.requires_grad_()
    loss = interlevel_loss(*tensors, proposal).sum()
    slopes = torch.autograd.grad(loss, (*tensors, proposal), allow_unused=True)
    assert [slope is None for slope in slopes] == [True, True, True, False]
    assert gradcheck(lambda x: interlevel_loss(*tensors, x), proposal)
