"""What broke others: nothing, everything, infinity, far away, half precision."""

import math

import pytest
import torch

from geomim.kernels.selection import use_kernels
from geomim.rendering import mean_distance, render_alpha, render_density, render_packed_alpha
from tests.geomim.ray_samples import ray_samples

KERNELS = pytest.mark.parametrize("kernels", ["compiled", "reference"])


@KERNELS
@pytest.mark.parametrize("far", [1e4, 1e6])
def test_far_away_rays_keep_their_digits(kernels, far):
    densities, starts, ends, values = ray_samples(50, 40, dtype=torch.float32)
    starts, ends = (starts * 8).round() / 8 + far, (ends * 8).round() / 8 + far
    with use_kernels(kernels):
        seen = render_density(densities, starts, ends, values)
    exact = render_density(*(x.double() for x in (densities, starts, ends, values)))
    torch.testing.assert_close(seen.weights.double(), exact.weights, atol=3e-7, rtol=0)
    torch.testing.assert_close(seen.distance.double(), exact.distance, rtol=1e-6, atol=0)


@KERNELS
@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0), (0,), (2, 0, 3)])
@pytest.mark.parametrize("channels", [0, 3])
def test_nothing_to_render_is_rendered(kernels, shape, channels):
    *samples, values = (x.requires_grad_() for x in ray_samples(*shape, channels=channels))
    with use_kernels(kernels):
        for seen in (render_density(*samples, values), render_alpha(*samples[:2], values)):
            assert seen.weights.shape == shape
            assert seen.values.shape == (*shape[:-1], channels)
            assert (seen.transmittance == 1).all()
            assert (seen.opacity == 0).all()
            assert (seen.distance == 0).all()
            assert seen.valid.all()
            slopes = torch.autograd.grad(
                seen.weights.sum() + seen.values.sum() + seen.distance.sum(), [*samples[:2], values]
            )
            assert all((slope == 0).all() for slope in slopes)


@KERNELS
def test_empty_rays_see_nothing(kernels):
    offsets = torch.tensor([0, 0, 2, 2, 3, 3], dtype=torch.int32)
    alphas = torch.tensor([0.5, 1.0, 0.25])
    with use_kernels(kernels):
        seen = render_packed_alpha(alphas, torch.ones(3), offsets=offsets)
    assert seen.transmittance.tolist() == [1.0, 0.0, 1.0, 0.75, 1.0]
    assert seen.opacity.tolist() == [0.0, 1.0, 0.0, 0.25, 0.0]
    assert seen.weights.tolist() == [0.5, 0.5, 0.25]
    assert seen.valid.all()
    assert mean_distance(seen).tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]


def test_no_offsets_at_all_are_refused():
    none = torch.zeros(0)
    with pytest.raises(ValueError, match="offsets must hold one more than there are rays, got non"):
        render_packed_alpha(none, none, offsets=torch.zeros(0, dtype=torch.int64))


@KERNELS
def test_no_density_anywhere_is_transparent_with_a_gradient(kernels):
    densities = torch.zeros(2, 4, requires_grad=True)
    starts = torch.arange(4.0).expand(2, 4)
    with use_kernels(kernels):
        seen = render_density(densities, starts, starts + 0.5, torch.ones(2, 4, 1))
        (slope,) = torch.autograd.grad(seen.values.sum(), densities)
    assert (seen.weights == 0).all()
    assert (seen.transmittance == 1).all()
    assert (slope == 0.5).all()


@KERNELS
def test_infinite_density_is_opaque_and_nothing_infinitely_dense_is_nothing(kernels):
    densities = torch.tensor([0.0, torch.inf, torch.inf, 1.0], requires_grad=True)
    starts, ends = torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 2.0, 3.0])
    with use_kernels(kernels):
        seen = render_density(densities, starts, ends)
        (slope,) = torch.autograd.grad(seen.distance, densities)
    assert seen.weights.tolist() == [0.0, 0.0, 1.0, 0.0]
    assert seen.distance.item() == 1.5
    assert seen.valid
    assert slope.isfinite().all()


@KERNELS
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("where", ["density", "interval", "value"])
@pytest.mark.parametrize("twice", [False, True])
def test_a_ray_that_is_not_finite_is_not_valid_and_harms_no_other(kernels, where, bad, twice):
    densities, starts, ends, values = ray_samples(3, 8, dtype=torch.float32)
    spoilt = {"density": densities, "interval": ends, "value": values}[where]
    clean = [x.clone() for x in (densities, starts, ends, values)]
    spoilt[1, 4] = bad
    tensors = [x.requires_grad_() for x in (densities, starts, ends, values)]
    with use_kernels(kernels):
        seen, expected = render_density(*tensors), render_density(*clean)
        loss = sum(x.square().sum() for x in seen[:5])
        slopes = torch.autograd.grad(loss, tensors, create_graph=twice)
        if twice:
            slopes += torch.autograd.grad(sum(x.square().sum() for x in slopes), tensors)
    assert seen.valid.tolist() == [True, False, True]
    for result, right in zip(seen[:5], expected[:5], strict=True):
        assert (result[1] == 0).all()
        torch.testing.assert_close(result[::2], right[::2])
    for slope in slopes:
        assert slope.isfinite().all()
        assert (slope[1] == 0).all()


@KERNELS
def test_a_gradient_is_not_harmed_by_what_is_left_out(kernels):
    densities, starts, ends, values = ray_samples(3, 8, dtype=torch.float32)
    valid = torch.ones(3, 1, dtype=torch.bool)
    valid[1] = False
    for tensor in (densities, starts, ends, values):
        tensor[1] = math.nan
    tensors = [x.requires_grad_() for x in (densities, starts, ends, values)]
    with use_kernels(kernels):
        seen = render_density(*tensors, valid=valid)
        slopes = torch.autograd.grad(seen.values.sum(), tensors, create_graph=True)
        second = torch.autograd.grad(slopes[0].square().sum(), tensors)
    assert seen.valid.all()
    assert seen.transmittance[1] == 1
    for slope in (*slopes, *second):
        assert slope.isfinite().all()
        assert (slope[1] == 0).all()


@KERNELS
def test_any_memory_layout_gives_the_same(kernels):
    densities, starts, ends, values = ray_samples(6, 10, channels=4)
    densities[:] = densities[:1]
    expected = render_density(densities, starts, ends, values)
    strided = [
        densities[:1].expand(6, 10),
        starts.T.contiguous().T,
        torch.stack([ends, ends])[1],
        values.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    ]
    tensors = [x.detach().requires_grad_() for x in strided]
    with use_kernels(kernels):
        seen = render_density(*tensors)
        assert torch.autograd.grad(seen.values.sum(), tensors)[3].shape == values.shape
    torch.testing.assert_close(tuple(seen), tuple(expected))


@KERNELS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single_also_under_autocast(kernels, dtype):
    densities, starts, ends, values = ray_samples(5, 12, dtype=torch.float32)
    values = values.to(dtype)
    expected = render_density(densities, starts, ends, values.float())
    half = values.detach().requires_grad_()
    with use_kernels(kernels), torch.autocast("cpu", dtype=dtype):
        seen = render_density(densities, starts, ends, half)
    assert seen.values.dtype == torch.float32
    torch.testing.assert_close(tuple(seen), tuple(expected), atol=1e-6, rtol=1e-5)
    (slope,) = torch.autograd.grad(seen.values.sum(), half)
    assert slope.dtype == dtype
    torch.testing.assert_close(slope, seen.weights[..., None].expand(5, 12, 3).to(dtype))


@KERNELS
@pytest.mark.parametrize("twice", [False, True])
def test_gradients_of_half_precision_are_those_of_single_rounded_once(kernels, twice):
    half = [x.half().requires_grad_() for x in ray_samples(5, 12, dtype=torch.float32)]
    single = [x.detach().float().requires_grad_() for x in half]
    with use_kernels(kernels):
        slopes = [
            torch.autograd.grad(render_density(*x).values.sum(), x, create_graph=twice)
            for x in (half, single)
        ]
    for found, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(found, expected.half(), rtol=2**-10, atol=1e-6)
