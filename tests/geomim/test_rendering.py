import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomim.kernels.selection import use_kernels
from geomim.rendering import (
    distortion_loss,
    mean_distance,
    mean_normals,
    median_distance,
    packed_distortion_loss,
    packed_offsets,
    render_alpha,
    render_density,
    render_packed_alpha,
    render_packed_density,
)
from tests.geomim.ray_samples import draw, ray_samples
from tests.geomim.strategies import batches, seeds

KERNELS = pytest.mark.parametrize("kernels", ["compiled", "reference"])


def _alphas(*shape, seed=0, dtype=torch.float64):
    alphas, starts, _, values = ray_samples(*shape, seed=seed, dtype=dtype)
    return alphas / 3, starts, values


@KERNELS
def test_two_samples_worked_by_hand(kernels):
    # Of the light, 1/2 goes in the first sample, 3/4 of the rest in the second.
    densities = torch.tensor([math.log(2), math.log(4) / 2], dtype=torch.float64)
    starts, ends = torch.tensor([1.0, 2.0]).double(), torch.tensor([2.0, 4.0]).double()
    with use_kernels(kernels):
        seen = render_density(densities, starts, ends, torch.tensor([[1.0], [2.0]]).double())
    torch.testing.assert_close(seen.weights, torch.tensor([0.5, 0.375]).double())
    torch.testing.assert_close(seen.opacity.item(), 0.875)
    torch.testing.assert_close(seen.transmittance.item(), 0.125)
    torch.testing.assert_close(seen.distance.item(), 0.5 * 1.5 + 0.375 * 3.0)
    torch.testing.assert_close(seen.values, torch.tensor([0.5 + 0.75]).double())
    assert seen.valid
    torch.testing.assert_close(mean_distance(seen).item(), (0.75 + 1.125) / 0.875)


@KERNELS
@given(batch=batches, seed=seeds, count=st.integers(0, 130), opaque=st.booleans())
def test_weights_and_transmittance_add_up_to_one(kernels, batch, seed, count, opaque):
    densities, starts, ends, values = ray_samples(*batch, count, seed=seed, dtype=torch.float32)
    alphas = densities / 3
    if opaque and count:
        densities[..., count // 2], alphas[..., count // 2] = math.inf, 1.0
    with use_kernels(kernels):
        seen = render_density(densities, starts, ends, values), render_alpha(alphas, starts)
    for rendering in seen:
        one = torch.ones(batch)
        assert rendering.valid.all()
        assert rendering.weights.shape == (*batch, count)
        torch.testing.assert_close(rendering.weights.sum(dim=-1), rendering.opacity)
        torch.testing.assert_close(rendering.opacity + rendering.transmittance, one)
        if opaque and count:
            assert (rendering.weights[..., count // 2 + 1 :] == 0).all()
            assert (rendering.transmittance == 0).all()


@given(seed=seeds, counts=st.lists(st.integers(0, 40), max_size=9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_packed_and_padded_rays_are_identical_to_the_last_bit(dtype, seed, counts):
    rays, longest = len(counts), max(counts, default=0)
    padded = ray_samples(rays, longest, seed=seed, dtype=dtype)
    # What is there lies scattered, so that nothing may depend on where.
    place = draw(rays, longest, seed=seed + 3).argsort(dim=-1)
    there = place < torch.tensor(counts, dtype=torch.int64)[:, None]
    for tensor in padded:
        tensor[~there] = math.nan
    offsets = torch.tensor([0, *counts], dtype=torch.int64).cumsum(dim=0)
    packed = [tensor[there] for tensor in padded]
    found = render_density(*padded, valid=there), render_alpha(*_as_alpha(padded), valid=there)
    expected = (
        render_packed_density(*packed, offsets=offsets),
        render_packed_alpha(*_as_alpha(packed), offsets=offsets),
    )
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.weights[there], other.weights)
        assert (one.weights[~there] == 0).all()
        assert all(torch.equal(x, y) for x, y in zip(one[1:], other[1:], strict=True))


def _as_alpha(samples):
    densities, starts, _, values = samples
    return densities / 3, starts, values


@given(seed=seeds)
def test_gradients_of_packed_and_padded_rays_are_identical_to_the_last_bit(seed):
    padded = ray_samples(5, 30, seed=seed, dtype=torch.float32)
    there = draw(5, 30, seed=seed + 3) > 0.4
    for tensor in padded:
        tensor[~there] = math.nan
    packed = [tensor[there].requires_grad_() for tensor in padded]
    padded = [tensor.requires_grad_() for tensor in padded]
    offsets = torch.nn.functional.pad(there.sum(dim=1).cumsum(dim=0), (1, 0))
    seen = render_density(*padded, valid=there), render_packed_density(*packed, offsets=offsets)
    one, other = (
        torch.autograd.grad(sum(x.sin().sum() for x in rendering[1:5]), tensors)
        for rendering, tensors in zip(seen, (padded, packed), strict=True)
    )
    for x, y in zip(one, other, strict=True):
        assert torch.equal(x[there], y)
        assert (x[~there] == 0).all()


@given(seed=seeds)
def test_permuting_rays_permutes_results(seed):
    samples = ray_samples(9, 17, seed=seed, dtype=torch.float32)
    order = draw(9, seed=seed + 5).argsort()
    seen = render_density(*samples)
    moved = render_density(*(tensor[order] for tensor in samples))
    assert all(torch.equal(x[order], y) for x, y in zip(seen, moved, strict=True))


@given(batch=batches, seed=seeds)
def test_splitting_a_sample_in_two_changes_nothing_but_its_middle(batch, seed):
    densities, starts, ends, values = ray_samples(*batch, 6, seed=seed)
    middles = (starts + ends) / 2
    halves = [
        torch.stack(pair, dim=-1).flatten(-2)
        for pair in ((densities, densities), (starts, middles), (middles, ends))
    ]
    seen = render_density(densities, starts, ends, values)
    split = render_density(*halves, values.repeat_interleave(2, dim=-2))
    torch.testing.assert_close(split.weights.unflatten(-1, (6, 2)).sum(dim=-1), seen.weights)
    torch.testing.assert_close(split.transmittance, seen.transmittance)
    torch.testing.assert_close(split.values, seen.values)


@given(batch=batches, seed=seeds)
def test_density_and_the_alpha_it_makes_render_alike(batch, seed):
    densities, starts, ends, values = ray_samples(*batch, 11, seed=seed)
    alphas = -torch.expm1(-densities * (ends - starts))
    torch.testing.assert_close(
        tuple(render_alpha(alphas, (starts + ends) / 2, values)),
        tuple(render_density(densities, starts, ends, values)),
    )


def _samples_of_depth(depth):
    """96 samples a ray, each of about this optical depth."""
    densities, starts, ends, values = ray_samples(300, 96, dtype=torch.float32)
    lengths = (ends - starts).double()
    return (densities.double() / 1.5 * depth / lengths).float(), starts, ends, values


@pytest.mark.parametrize(
    ("depth", "tolerance"), [(0.01, 1e-8), (0.1, 6e-8), (1.0, 3e-7), (10.0, 1.5e-6)]
)
def test_single_precision_is_near_double(depth, tolerance):
    samples = _samples_of_depth(depth)
    seen = render_density(*samples)
    exact = render_density(*(x.double() for x in samples))
    off = (seen.weights - exact.weights).abs().max().item()
    assert off < tolerance


@pytest.mark.parametrize("depth", [0.01, 1.0])
def test_gradients_in_single_precision_are_near_double(depth):
    slopes = []
    for dtype in (torch.float32, torch.float64):
        samples = [x.to(dtype).requires_grad_() for x in _samples_of_depth(depth)]
        seen = render_density(*samples)
        loss = seen.values.sum() + seen.distance.sum() + seen.opacity.sum()
        slopes.append(torch.autograd.grad(loss, samples))
    for found, exact in zip(*slopes, strict=True):
        scale = exact.abs().max().item()
        torch.testing.assert_close(found.double(), exact, atol=5e-6 * scale, rtol=0)


def test_the_ray_of_each_sample_gives_the_offsets():
    ray = torch.tensor([0, 0, 2, 2, 2, 4])
    assert packed_offsets(ray, rays=6).tolist() == [0, 2, 2, 5, 5, 6, 6]


def test_where_a_ray_sees_nothing_its_mean_distance_is_zero_without_gradient():
    alphas = torch.zeros(2, 3, requires_grad=True)
    mean = mean_distance(render_alpha(alphas, torch.ones(2, 3)))
    assert mean.tolist() == [0.0, 0.0]
    (slope,) = torch.autograd.grad(mean.sum(), alphas)
    assert (slope == 0).all()


def test_half_of_what_is_seen_lies_in_front_of_the_median():
    weights = torch.tensor([[0.1, 0.2, 0.1], [0.0, 0.0, 0.0], [0.0, 0.0, 0.6]])
    starts, ends = torch.arange(3.0).expand(3, 3), torch.arange(1.0, 4.0).expand(3, 3)
    found = median_distance(weights, starts, ends)
    torch.testing.assert_close(found, torch.tensor([1.5, 0.0, 2.5]))
    assert median_distance(weights[:, :0], starts[:, :0], ends[:, :0]).tolist() == [0.0] * 3


def test_normals_point_where_the_gradients_do():
    gradients = torch.tensor([[0.0, 0.0, 5.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    weights = torch.tensor([[0.3, 0.3, 0.4], [0.0, 0.0, 1.0]])
    gradients = gradients.expand(2, 3, 3).clone().requires_grad_()
    normals = mean_normals(weights, gradients)
    torch.testing.assert_close(normals[0], torch.tensor([0.0, 1.0, 1.0]) / math.sqrt(2))
    assert normals[1].tolist() == [0.0, 0.0, 0.0]
    (slope,) = torch.autograd.grad(normals.square().sum(), gradients)
    assert slope.isfinite().all()


def _distortion(weights, starts, ends):
    """Equation 15, pair by pair."""
    middles = (starts + ends) / 2
    apart = (middles[..., :, None] - middles[..., None, :]).abs()
    pairs = weights[..., :, None] * weights[..., None, :] * apart
    return pairs.sum(dim=(-2, -1)) + (weights.square() * (ends - starts)).sum(dim=-1) / 3


@given(batch=batches, seed=seeds, count=st.integers(0, 20))
def test_distortion_is_the_sum_over_all_pairs(batch, seed, count):
    weights, starts, ends, _ = ray_samples(*batch, count, seed=seed)
    torch.testing.assert_close(
        distortion_loss(weights, starts, ends), _distortion(weights, starts, ends)
    )


@given(seed=seeds, counts=st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_packed_distortion_is_that_of_each_ray(seed, counts):
    weights, starts, ends, _ = ray_samples(sum(counts), seed=seed)
    offsets = torch.tensor([0, *counts]).cumsum(dim=0)
    found = packed_distortion_loss(weights, starts, ends, offsets=offsets)
    rays = zip(*(x.split(counts) for x in (weights, starts, ends)), strict=True)
    expected = torch.stack([_distortion(*ray) for ray in rays])
    torch.testing.assert_close(found, expected)


def test_distortion_far_away_is_that_of_nearby():
    weights, starts, ends, _ = ray_samples(4, 64)
    starts, ends = (starts * 8).round() / 8, (ends * 8).round() / 8
    near = distortion_loss(weights, starts, ends)
    far = distortion_loss(weights.float(), starts.float() + 1e6, ends.float() + 1e6)
    torch.testing.assert_close(far.double(), near, rtol=1e-5, atol=0)


def test_distortion_can_be_differentiated():
    weights, starts, ends, _ = ray_samples(2, 5)
    tensors = [x.requires_grad_() for x in (weights, starts, ends)]
    offsets = torch.tensor([0, 3, 3, 5])
    assert torch.autograd.gradcheck(distortion_loss, tensors)
    assert torch.autograd.gradcheck(
        lambda *x: packed_distortion_loss(*x, offsets=offsets), [x[0] for x in tensors]
    )
