import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomim.rendering import mean_distance, render_density
from geomim.sampling import (
    even_samples,
    importance_samples,
    inverse_cdf,
    merge_samples,
    neus_samples,
    neus_upsample,
    stratified_samples,
)
from tests.geomim.strategies import batches, normal, seeds

SPACINGS = pytest.mark.parametrize("spacing", ["distance", "disparity"])


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _stretch(*batch, seed=0):
    near, length = normal(*batch, 2, seed=seed).abs().unbind(dim=-1)
    return near + 0.1, near + length + 0.2


def _assert_tiles(samples, near, far):
    """What samples stand for fills the ray, and holds them."""
    assert torch.equal(samples.starts[..., 0], near)
    assert torch.equal(samples.ends[..., -1], far)
    assert torch.equal(samples.starts[..., 1:], samples.ends[..., :-1])
    assert (samples.starts <= samples.distances).all()
    assert (samples.distances <= samples.ends).all()


def test_even_samples_are_in_the_middle_of_equal_parts():
    samples = even_samples(torch.tensor(2.0), torch.tensor(6.0), count=4)
    assert samples.distances.tolist() == [2.5, 3.5, 4.5, 5.5]
    assert samples.starts.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert samples.ends.tolist() == [3.0, 4.0, 5.0, 6.0]


def test_even_disparities_are_dense_nearby():
    samples = even_samples(torch.tensor(1.0), torch.tensor(5.0), count=2, spacing="disparity")
    # Disparities from 1 to 0.2: the middles of the halves are 0.8 and 0.4.
    torch.testing.assert_close(samples.distances, torch.tensor([1.25, 2.5]))


@SPACINGS
@given(batch=batches, seed=seeds, count=st.integers(1, 30))
@pytest.mark.parametrize("jitter", ["sample", "ray"])
def test_stratified_samples_are_one_in_each_part(spacing, jitter, batch, seed, count):
    near, far = _stretch(*batch, seed=seed)
    samples = stratified_samples(
        near, far, count=count, generator=_generator(seed), spacing=spacing, jitter=jitter
    )
    _assert_tiles(samples, near, far)
    assert samples.valid.all()
    near, far, t = near[..., None], far[..., None], samples.distances
    share = (t - near) / (far - near)
    if spacing == "disparity":
        share = (1 / near - 1 / t) / (1 / near - 1 / far)
    part = share * count - torch.arange(count)
    assert ((part > -1e-6) & (part < 1 + 1e-6)).all()
    if jitter == "ray":
        torch.testing.assert_close(part, part[..., :1].expand(part.shape))


def test_stratified_samples_repeat_with_their_generator():
    near, far = _stretch(5)
    one, other, new = (
        stratified_samples(near, far, count=7, generator=_generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.distances, other.distances)
    assert not torch.equal(one.distances, new.distances)


@SPACINGS
@pytest.mark.parametrize(
    ("near", "far"), [(2.0, 1.0), (1.0, 1.0), (math.nan, 2.0), (1.0, math.inf), (-math.inf, 1.0)]
)
def test_rays_that_miss_are_told_and_hold_zeros(spacing, near, far):
    nears, fars = torch.tensor([1.0, near]).requires_grad_(), torch.tensor([3.0, far])
    samples = even_samples(nears, fars, count=3, spacing=spacing)
    assert samples.valid.tolist() == [True, False]
    assert all((x[1] == 0).all() for x in samples[:3])
    (slope,) = torch.autograd.grad(sum(x.sum() for x in samples[:3]), nears)
    assert slope.isfinite().all()
    assert slope[1] == 0


def test_rays_left_out_are_left_out_and_disparity_needs_something_in_front():
    near, far = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([2.0, 2.0, 2.0])
    keep = torch.tensor([True, False, True])
    samples = even_samples(near, far, count=2, spacing="disparity", valid=keep)
    assert samples.valid.tolist() == [True, False, False]
    assert even_samples(near, far, count=2, valid=keep).valid.tolist() == [True, False, True]


@SPACINGS
def test_samples_far_away_stay_between_near_and_far(spacing):
    near = torch.full((50,), 1e6)
    far = near + torch.arange(1.0, 51.0) / 4
    samples = stratified_samples(near, far, count=200, generator=_generator(), spacing=spacing)
    _assert_tiles(samples, near, far)


@pytest.mark.parametrize("count", [0, -1])
def test_no_samples_at_all_are_refused(count):
    near, far = _stretch(2)
    edges = torch.stack([near, far], dim=-1)
    for sample in (
        lambda: even_samples(near, far, count=count),
        lambda: stratified_samples(near, far, count=count, generator=_generator()),
        lambda: importance_samples(edges, edges[:, :1], count=count),
    ):
        with pytest.raises(ValueError, match=f"count must be at least 1, got {count}"):
            sample()


def _histogram(*batch, intervals=12, seed=0):
    edges = normal(*batch, intervals + 1, seed=seed).abs().cumsum(dim=-1)
    return edges, normal(*batch, intervals, seed=seed + 1).relu()


@given(batch=batches, seed=seeds, count=st.integers(1, 40), drawn=st.booleans())
def test_importance_samples_are_one_in_each_equal_share(batch, seed, count, drawn):
    edges, weights = _histogram(*batch, seed=seed)
    generator = _generator(seed) if drawn else None
    samples = importance_samples(edges, weights, count=count, generator=generator)
    _assert_tiles(samples, edges[..., 0], edges[..., -1])
    shares = torch.arange(count + 1, dtype=torch.float64) / count
    bounds = inverse_cdf(edges, weights, shares.expand(*batch, -1))
    assert (samples.distances >= bounds[..., :-1] - 1e-9).all()
    assert (samples.distances <= bounds[..., 1:] + 1e-9).all()


@pytest.mark.parametrize("jitter", ["sample", "ray"])
def test_the_histogram_of_importance_samples_is_the_density(jitter):
    edges, weights = _histogram(intervals=8, seed=3)
    rays = (400,)
    samples = importance_samples(
        edges.expand(*rays, -1),
        weights.expand(*rays, -1),
        count=50,
        generator=_generator(),
        jitter=jitter,
    )
    found = torch.histogram(samples.distances.flatten(), edges).hist / (400 * 50)
    torch.testing.assert_close(found, weights / weights.sum(), atol=2e-3, rtol=0)


def test_no_sample_lies_where_there_is_no_weight():
    edges = torch.arange(5.0)
    samples = importance_samples(edges, torch.tensor([0.0, 1.0, 0.0, 1.0]), count=8)
    torch.testing.assert_close(
        samples.distances, torch.tensor([1.125, 1.375, 1.625, 1.875, 3.125, 3.375, 3.625, 3.875])
    )


def test_without_weight_samples_are_even_and_what_is_not_finite_is_not_valid():
    edges = torch.arange(5.0).expand(4, 5).clone().requires_grad_()
    weights = torch.ones(4, 4)
    weights[0], weights[1, 2] = 0, torch.nan
    with torch.no_grad():
        edges[2, 4] = torch.inf
    keep = torch.tensor([True, True, True, False])
    samples = importance_samples(edges, weights, count=4, valid=keep)
    assert samples.distances[0].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert samples.valid.tolist() == [True, False, False, False]
    assert all((x[1:] == 0).all() for x in samples[:3])
    assert not samples.distances.requires_grad


def test_importance_samples_repeat_with_their_generator():
    edges, weights = _histogram(5)
    one, other = (
        importance_samples(edges, weights, count=7, generator=_generator(1)) for _ in range(2)
    )
    assert torch.equal(one.distances, other.distances)


def test_fractions_0_and_1_are_the_ends():
    edges, weights = _histogram(3, 2, seed=5)
    weights = weights + 0.1
    ends = inverse_cdf(edges, weights, torch.tensor([0.0, 1.0]).double().expand(3, 2, 2))
    assert torch.equal(ends, torch.stack([edges[..., 0], edges[..., -1]], dim=-1))


@pytest.mark.parametrize("intervals", [0, 3, 5])
def test_weights_that_do_not_fit_their_edges_are_refused(intervals):
    with pytest.raises(ValueError, match="weights must be one between any two edges, got"):
        importance_samples(torch.zeros(2, 5), torch.zeros(2, intervals), count=3)


def _sphere(distances):
    """Signed distance of a unit sphere 3 in front, met a third of its radius off the middle."""
    return ((distances - 3).square() + 1 / 9).sqrt() - 1


HIT = 3 - math.sqrt(8 / 9)


def test_upsampling_finds_the_surface_that_is_met_first():
    samples = even_samples(torch.tensor([0.5]).double(), torch.tensor([6.0]).double(), count=16)
    new = neus_upsample(samples.distances, _sphere(samples.distances), count=8, inv_s=64.0)
    assert (new.diff() >= 0).all()
    assert ((new - HIT).abs() < 0.35).all()


def test_each_step_of_upsampling_comes_closer():
    samples = even_samples(torch.tensor([0.5]).double(), torch.tensor([6.0]).double(), count=32)
    fine = neus_samples(samples, _sphere, count=16, steps=4)
    assert fine.distances.shape == (1, 96)
    _assert_tiles(fine, samples.starts[:, 0], samples.ends[:, -1])
    near = [((fine.distances - HIT).abs() < width).sum().item() for width in (0.1, 0.02)]
    assert near[0] > 40
    assert near[1] > 16
    edge = torch.sigmoid(-_sphere(fine.distances) * 400) * 400
    seen = render_density(edge, fine.starts, fine.ends)
    assert mean_distance(seen).item() == pytest.approx(HIT, abs=0.02)


def test_the_sharpness_doubles_with_each_step():
    near, far = torch.tensor([0.5]).double(), torch.tensor([6.0]).double()
    samples = even_samples(near, far, count=32)
    by_hand = samples
    for inv_s in (64.0, 128.0):
        sdf = _sphere(by_hand.distances)
        new = neus_upsample(by_hand.distances, sdf, count=4, inv_s=inv_s)
        by_hand = merge_samples(by_hand, new).samples
    found = neus_samples(samples, _sphere, count=4, steps=2, inv_s=64.0)
    torch.testing.assert_close(tuple(found), tuple(by_hand))


@pytest.mark.parametrize("distance", [0.0, math.nan, 1e30])
def test_signed_distances_of_rays_that_miss_may_be_anything(distance):
    far = torch.tensor([6.0, -1.0])
    samples = even_samples(torch.ones(2), far, count=8)

    def measure(distances):
        return torch.where(torch.tensor([[True], [False]]), _sphere(distances), distance)

    fine = neus_samples(samples, measure, count=4, steps=2, generator=_generator())
    assert fine.valid.tolist() == [True, False]
    assert fine.distances.isfinite().all()
    assert (fine.distances[1] == 0).all()


def test_samples_at_one_place_can_be_upsampled():
    distances = torch.tensor([[1.0, 2.0, 2.0, 3.0]])
    new = neus_upsample(distances, torch.tensor([[1.0, 0.5, -0.5, -1.0]]), count=5, inv_s=10.0)
    assert ((new >= 1) & (new <= 3)).all()


def test_a_single_sample_cannot_be_upsampled():
    one = torch.ones(3, 1)
    with pytest.raises(ValueError, match="distances must be at least two a ray, got 1"):
        neus_upsample(one, one, count=2, inv_s=1.0)


@given(batch=batches, seed=seeds)
def test_merging_sorts_and_tells_the_order(batch, seed):
    near, far = _stretch(*batch, seed=seed)
    samples = even_samples(near, far, count=6)
    more = near[..., None] + (far - near)[..., None] * torch.rand(5, generator=_generator(seed))
    merged, order = merge_samples(samples, more)
    _assert_tiles(merged, near, far)
    both = torch.cat([samples.distances, more], dim=-1)
    assert torch.equal(both.gather(-1, order), merged.distances)
    assert (merged.distances.diff() >= 0).all()
