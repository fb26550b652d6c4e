import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from geomim.rendering import mean_distance, render_alpha, render_density
from geomim.surfaces import alpha_between, neus_alpha, volsdf_density
from tests.geomim.strategies import batches, normal, seeds


def _double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


@given(before=st.floats(-2, 2), behind=st.floats(-2, 2), inv_s=st.floats(0.1, 10))
def test_alpha_is_equation_13_of_neus(before, behind, inv_s):
    found = alpha_between(_double(before), _double(behind), inv_s=inv_s).item()
    front, back = _sigmoid(before * inv_s), _sigmoid(behind * inv_s)
    assert found == pytest.approx(max((front - back) / front, 0.0), abs=1e-12)


def test_alpha_across_the_surface_worked_by_hand():
    # Head-on at the surface, from 0.1 outside to 0.1 inside: 1 - Phi(-1) / Phi(1) at s = 10.
    found = neus_alpha(
        _double(0.0),
        _double(0.0, 0.0, -1.0)[None],
        _double(0.0, 0.0, 1.0)[None],
        _double(0.9),
        _double(1.1),
        inv_s=10.0,
    )
    assert found.item() == pytest.approx(1 - _sigmoid(-1) / _sigmoid(1))
    assert found.item() == pytest.approx(1 - math.exp(-1))


@pytest.mark.parametrize(("anneal", "approach"), [(1.0, 0.0), (0.0, 0.25), (0.5, 0.125)])
def test_annealing_lets_samples_be_opaque_from_behind(anneal, approach):
    # The cosine between ray and gradient is 1/2, so the ray leaves the surface.
    gradient, direction = _double(0.0, 0.0, 0.5)[None], _double(0.0, 0.0, 1.0)[None]
    found = neus_alpha(
        _double(0.0), gradient, direction, _double(0.0), _double(1.0),
        inv_s=8.0, cos_anneal=anneal,
    )  # fmt: skip
    expected = alpha_between(_double(approach / 2), _double(-approach / 2), inv_s=8.0)
    torch.testing.assert_close(found, expected)


@given(batch=batches, seed=seeds, inv_s=st.sampled_from([1e-3, 1.0, 64.0, 1e6]))
def test_alphas_are_finite_and_within_0_and_1_with_finite_gradients(batch, seed, inv_s):
    sdf = (10 * normal(*batch, 9, seed=seed)).float().requires_grad_()
    gradients = normal(*batch, 9, 3, seed=seed + 1).float().requires_grad_()
    directions = normal(*batch, 1, 3, seed=seed + 2).float()
    starts = torch.arange(9.0).expand(*batch, 9)
    alphas = neus_alpha(sdf, gradients, directions, starts, starts + 1, inv_s=inv_s)
    assert ((alphas >= 0) & (alphas <= 1)).all()
    slopes = torch.autograd.grad(alphas.sum(), (sdf, gradients))
    assert all(slope.isfinite().all() for slope in slopes)


def test_a_wall_met_at_a_slant_is_rendered_where_it_is():
    # A plane at z = 3, seen along a ray 60 degrees off its normal: it is met at distance 6.
    edges = torch.linspace(4, 8, 401, dtype=torch.float64)
    starts, ends = edges[:-1], edges[1:]
    directions = _double(math.sqrt(0.75), 0.0, 0.5).expand(400, 3)
    middles = (starts + ends) / 2
    sdf, gradients = 3 - middles * 0.5, _double(0.0, 0.0, -1.0).expand(400, 3)
    alphas = neus_alpha(sdf, gradients, directions, starts, ends, inv_s=200.0)
    seen = render_alpha(alphas, middles)
    assert seen.opacity.item() == pytest.approx(1, abs=1e-9)
    # The light that is left is Phi(sdf) over its first value: as likely in front as behind.
    assert mean_distance(seen).item() == pytest.approx(6, abs=1e-3)
    density = volsdf_density(sdf, beta=0.001)
    assert mean_distance(render_density(density, starts, ends)).item() == pytest.approx(6, abs=0.02)


@pytest.mark.parametrize("anneal", [0.0, 0.3, 1.0])
def test_the_way_from_distance_to_colour_can_be_differentiated_twice(anneal):
    sdf = normal(2, 5, seed=1).requires_grad_()
    gradients = normal(2, 5, 3, seed=2).requires_grad_()
    values = normal(2, 5, 3, seed=3).requires_grad_()
    inv_s = _double(3.0)[0].requires_grad_()
    directions = normal(2, 1, 3, seed=4)
    starts = torch.arange(5.0).double().expand(2, 5)

    def colour(sdf, gradients, values, inv_s):
        alphas = neus_alpha(
            sdf, gradients, directions, starts, starts + 1, inv_s=inv_s, cos_anneal=anneal
        )
        return render_alpha(alphas, starts + 0.5, values)[:5]

    assert gradcheck(colour, (sdf, gradients, values, inv_s), fast_mode=True)
    assert gradgradcheck(colour, (sdf, gradients, values, inv_s), fast_mode=True)


@pytest.mark.parametrize("anneal", [-0.1, 1.5, math.nan])
def test_annealing_beyond_its_range_is_refused(anneal):
    one, vectors = torch.ones(1), torch.ones(1, 3)
    with pytest.raises(ValueError, match="cos_anneal must be from 0 to 1, got"):
        neus_alpha(one, vectors, vectors, one, one, inv_s=1.0, cos_anneal=anneal)


def test_volsdf_density_worked_by_hand():
    sdf = _double(-1.0, 0.0, 1.0, 30.0)
    expected = [(1 - math.exp(-2) / 2) / 0.5, 1.0, math.exp(-2) / 2 / 0.5, math.exp(-60) / 2 / 0.5]
    torch.testing.assert_close(volsdf_density(sdf, beta=0.5), _double(*expected))


def test_volsdf_density_falls_smoothly_through_the_surface():
    sdf = _double(-0.2, 0.0, 0.3).requires_grad_()
    beta = _double(0.1)[0].requires_grad_()
    (slope,) = torch.autograd.grad(volsdf_density(sdf, beta=beta).sum(), sdf, create_graph=True)
    # Of exp(-sdf / beta) / (2 beta) on the surface.
    assert slope[1].item() == pytest.approx(-1 / (2 * 0.1**2))
    assert gradcheck(lambda x, y: volsdf_density(x, beta=y), (_double(-0.2, 0.3), beta), atol=1e-5)


@pytest.mark.parametrize("sdf", [-1e30, 1e30, -100.0, 100.0])
def test_volsdf_density_far_away_has_a_finite_gradient(sdf):
    sdf = torch.tensor([sdf], requires_grad=True)
    density = volsdf_density(sdf, beta=0.01)
    (slope,) = torch.autograd.grad(density, sdf)
    assert density.item() == (100.0 if sdf.item() < 0 else 0.0)
    assert slope.item() == 0
