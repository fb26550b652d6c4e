import math

import pytest
import torch
from torch.autograd import gradcheck

from geomim.kernels import nvrtc
from geomim.kernels.clipping import cuda
from geomim.kernels.clipping.op import clip_rays
from geomim.kernels.selection import use_kernels
from tests.geomim.strategies import normal

LIMITS = {"near": 0.25, "far": 3.0}


def problem(count=400, shared=False, dtype=torch.float64):
    """Rays and boxes of all kinds: parallel, on faces, not finite, inside out."""
    origins, directions = normal(count, 3, seed=1), normal(count, 3, seed=2)
    lower = normal(1 if shared else count, 3, seed=3) / 2 - 1
    upper = lower + 2 + normal(*lower.shape, seed=4) / 4
    directions[::4, 1] = 0
    directions[1::4, 0] = -0.0
    directions[2::16, 2] = 1e-320
    origins[::6, 1] = lower[:: 1 if shared else 6, 1]
    if count > 20:
        origins[7, 0], directions[11, 1] = math.nan, math.inf
        if not shared:
            lower[13, 2], upper[17, 2], upper[18, 0] = math.nan, math.inf, -9
    valid = torch.arange(count) % 10 != 3
    return *(part.to(dtype) for part in (origins, directions, lower, upper)), valid


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("limits", [LIMITS, {"near": -math.inf, "far": math.inf}])
def test_the_kernel_equals_the_reference_and_so_does_its_gradient(shared, dtype, threads, limits):
    before, results = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    for kernels in ("compiled", "reference"):
        *parts, valid = problem(shared=shared, dtype=dtype)
        leaves = [part.requires_grad_() for part in parts]
        with use_kernels(kernels):
            first, last, hits = clip_rays(*leaves, valid, **limits)
        loss = (first.sin() + 2 * last.cos()).sum()
        results.append((first, last, hits, *torch.autograd.grad(loss, leaves)))
    torch.set_num_threads(before)
    assert 20 < results[0][2].sum() < 380
    assert all(part.isfinite().all() for part in results[0])
    for found, expected in zip(*[r[:3] for r in results], strict=True):
        assert torch.equal(found, expected)
    torch.testing.assert_close(results[0][3:], results[1][3:])


@pytest.mark.parametrize("shared", [True, False])
def test_gradients_are_right(shared):
    generator = torch.Generator().manual_seed(5)
    targets = torch.rand(9, 3, generator=generator).double() * 0.9 + 0.05
    origins = normal(9, 3, seed=6) * 2
    corners = [torch.full((1 if shared else 9, 3), at).double() for at in (0.0, 1.0)]
    leaves = [part.requires_grad_() for part in (origins, targets - origins, *corners)]

    def spans(*parts):
        return clip_rays(*parts, torch.ones(9, dtype=torch.bool), near=0.0, far=9.0)[:2]

    first, last = spans(*leaves)
    assert (last > first).sum() > 3
    assert gradcheck(spans, leaves)


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("shared", [True, False])
def test_no_rays_have_no_spans(kernels, shared):
    *parts, valid = problem(0, shared)
    leaves = [part.requires_grad_() for part in parts]
    with use_kernels(kernels):
        first, last, hits = clip_rays(*leaves, valid, **LIMITS)
    assert first.shape == last.shape == hits.shape == (0,)
    gradients = torch.autograd.grad((first + last).sum(), leaves)
    assert [g.shape for g in gradients] == [leaf.shape for leaf in leaves]


def test_views_and_expansions_are_as_good_as_copies():
    origins, directions, lower, upper, valid = problem()
    views = (
        origins.mT.contiguous().mT,
        directions[:1].expand(400, 3),
        lower[:1].expand(400, 3),
        upper[:1].expand(400, 3),
        valid[:1].expand(400),
    )
    found = clip_rays(*views, **LIMITS)
    plain = clip_rays(*[view.clone() for view in views], **LIMITS)
    one = clip_rays(*views[:2], lower[:1], upper[:1], views[4], **LIMITS)
    for a, b, c in zip(found, plain, one, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


# torch's own check reads the gradients of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("shared", [True, False])
def test_the_operator_keeps_torchs_rules(shared):
    *parts, valid = problem(20, shared)
    leaves = [part.requires_grad_() for part in parts]
    torch.library.opcheck(torch.ops.geomim.clip_rays, (*leaves, valid, 0.1, 5.0))


def test_what_does_not_fit_is_refused():
    *parts, valid = problem(5)
    with pytest.raises(TypeError, match=r"rays must be float32 or float64, got torch\.float16"):
        clip_rays(*[part.half() for part in parts], valid, **LIMITS)
    with pytest.raises(TypeError, match=r"boxes must be torch\.float64 like the rays, got torch"):
        clip_rays(*parts[:2], *[part.float() for part in parts[2:]], valid, **LIMITS)
    with pytest.raises(ValueError, match=r"one for all or for each of 5 rays, got \[\(4, 3\), \(4"):
        clip_rays(*parts[:2], parts[2][:4], parts[3][:4], valid, **LIMITS)


@pytest.mark.parametrize("kernel", ["clip_rays", "clip_rays_backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instance_that_may_be_launched_is_listed(kernel, dtype):
    assert cuda.instance(kernel, dtype) in nvrtc.entry_points(nvrtc.load_source("clipping"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [True, False])
def test_the_cuda_kernel_equals_the_cpus(dtype, shared):
    results = {}
    for device in ("cpu", "cuda"):
        *parts, valid = (part.to(device) for part in problem(shared=shared, dtype=dtype))
        leaves = [part.requires_grad_() for part in parts]
        first, last, hits = clip_rays(*leaves, valid, **LIMITS)
        gradients = torch.autograd.grad((first.sin() + 2 * last.cos()).sum(), leaves)
        results[device] = [part.cpu() for part in (first, last, hits, *gradients)]
    torch.testing.assert_close(results["cuda"], results["cpu"])
