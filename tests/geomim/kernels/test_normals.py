import math

import pytest
import torch

from geomim.kernels.normals import cuda
from geomim.kernels.normals.op import normals
from geomim.kernels.selection import use_kernels
from tests.geomim.strategies import normal

OPERATORS = torch.ops.geomim
NEAREST = 1e-6
# Beside odd sizes, one that spans several tiles of a row; then single rows, columns and pixels.
SIZES = [(7, 33), (3, 3), (4, 600), (1, 7), (6, 1), (2, 2), (1, 1)]
HOLES = (0.0, -1.0, math.nan, math.inf, -math.inf, NEAREST)


def problem(images=2, size=(7, 33), *, seed=0, dtype=torch.float64):
    """Depth with holes, focal (one mirrored) and centre."""
    depth = normal(images, *size, seed=seed).abs() / 5 + 2
    for place, hole in enumerate(HOLES):
        if size[1] > 5 * place + 2 and size[0] > 3:
            depth[:, 2, 5 * place + 2] = hole
    focal = normal(images, 2, seed=seed + 1).abs() + torch.tensor([7.0, 8.0])
    focal[1:, 0] *= -1
    centre = normal(images, 2, seed=seed + 2) + torch.tensor([size[1] / 2, size[0] / 2])
    return tuple(part.to(dtype) for part in (depth, focal, centre))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_the_kernel_is_the_reference(size, dtype):
    depth, *intrinsics = problem(size=size, dtype=dtype)
    grad = normal(2, *size, 3, seed=9).to(dtype)
    results = []
    for kernels in ("compiled", "reference"):
        learnt = depth.clone().requires_grad_()
        with use_kernels(kernels):
            values, valid = normals(learnt, *intrinsics, nearest=NEAREST)
        (for_depth,) = torch.autograd.grad(values, learnt, grad)
        results.append((values.detach(), valid, for_depth))
    values, valid, for_depth = results[0]
    steepest = for_depth.abs().max().item()
    rounding = 2e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(values, results[1][0], rtol=0, atol=rounding)
    torch.testing.assert_close(for_depth, results[1][2], rtol=0, atol=rounding * steepest)
    assert torch.equal(valid, results[1][1])
    assert valid.any() == (min(size) > 2)
    assert not values[~valid].any()
    known = depth.isfinite() & (depth > NEAREST)
    assert not for_depth[~known].any()
    torch.testing.assert_close(values[valid].norm(dim=-1), torch.ones_like(values[valid][:, 0]))


def test_jobs_and_tiles_meet_without_seams():
    depth, *intrinsics = problem(1, (200, 515))
    grad = normal(1, 200, 515, 3, seed=3)
    results = []
    for kernels in ("compiled", "reference"):
        learnt = depth.clone().requires_grad_()
        with use_kernels(kernels):
            values, _ = normals(learnt, *intrinsics, nearest=NEAREST)
        results.append((values.detach(), torch.autograd.grad(values, learnt, grad)[0]))
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("bad", [math.nan, 0.0])
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_intrinsics_that_are_none_leave_no_normals(kernels, bad):
    depth, focal, centre = problem()
    focal[0, 0] = bad
    depth = depth.requires_grad_()
    with use_kernels(kernels):
        values, valid = normals(depth, focal, centre, nearest=NEAREST)
    values.sum().backward()
    assert not valid[0].any()
    assert valid[1].any()
    assert not values[0].any()
    assert not depth.grad[0].any()
    assert depth.grad.isfinite().all()


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_gradients_are_those_of_finite_differences(kernels):
    depth, *intrinsics = problem(2, (4, 5))
    depth = depth.abs().nan_to_num(2.0, 2.0, 2.0).clamp(min=1.5).requires_grad_()

    def values(depth, focal, centre):
        return normals(depth, focal, centre, nearest=NEAREST)[0]

    with use_kernels(kernels):
        assert torch.autograd.gradcheck(values, (depth, *intrinsics))
        assert torch.autograd.gradgradcheck(values, (depth, *intrinsics), fast_mode=True)
        learnt = [part.requires_grad_() for part in intrinsics]
        assert torch.autograd.gradcheck(values, (depth, *learnt))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_depth_is_widened(dtype):
    depth, *intrinsics = problem(dtype=torch.float32)
    half = depth.to(dtype).requires_grad_()
    values, valid = normals(half, *intrinsics, nearest=NEAREST)
    expected, expected_valid = normals(half.detach().float(), *intrinsics, nearest=NEAREST)
    assert values.dtype == torch.float32
    assert torch.equal(values, expected)
    assert torch.equal(valid, expected_valid)
    values.square().sum().backward()
    assert half.grad.dtype == dtype


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_maps_of_no_pixels_are_fine(shape):
    depth = torch.zeros(shape, requires_grad=True)
    intrinsics = [part.float() for part in problem(shape[0])[1:]]
    values, valid = normals(depth, *intrinsics, nearest=NEAREST)
    values.sum().backward()
    assert values.shape == (*shape, 3)
    assert valid.shape == depth.grad.shape == shape


def test_strided_and_expanded_inputs_give_the_same():
    depth, *intrinsics = problem()
    expected = normals(depth, *intrinsics, nearest=NEAREST)
    turned = normals(depth.mT.contiguous().mT, *intrinsics, nearest=NEAREST)
    torch.testing.assert_close(turned, expected, rtol=0, atol=0)
    one = [part[:1].expand(3, *part.shape[1:]) for part in (depth, *intrinsics)]
    assert torch.equal(normals(*one, nearest=NEAREST)[0][2], expected[0][0])
    # A sum's gradient is one number, expanded.
    learnt = depth.clone().requires_grad_()
    normals(learnt, *intrinsics, nearest=NEAREST)[0].sum().backward()
    assert learnt.grad.any()


def test_results_do_not_depend_on_threads():
    before = torch.get_num_threads()
    inputs, results = problem(3, (16, 20)), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            depth = inputs[0].clone().requires_grad_()
            values, valid = normals(depth, *inputs[1:], nearest=NEAREST)
            (values * torch.arange(3.0)).sum().backward()
            results.append((values, valid, depth.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


# torch's own check reads the gradients of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_keep_torchs_contracts(dtype):
    depth, *intrinsics = problem(2, (4, 5), dtype=dtype)
    depth = depth.abs().nan_to_num(2.0, 2.0, 2.0).clamp(min=1.5).requires_grad_()
    torch.library.opcheck(OPERATORS.normals.default, (depth, *intrinsics, NEAREST))
    grad = normal(2, 4, 5, 3, seed=1).to(dtype).requires_grad_()
    torch.library.opcheck(OPERATORS.normals_backward.default, (grad, depth, *intrinsics, NEAREST))


def test_shapes_and_dtypes_that_do_not_fit_are_refused():
    depth, focal, centre = problem()
    with pytest.raises(ValueError, match=r"depth must be floating, image by row by column, got"):
        normals(depth[0], focal, centre, nearest=NEAREST)
    with pytest.raises(ValueError, match=r"focal and centre must be 1 by 2, got \[\(2, 2\), \(2,"):
        normals(depth[:1], focal, centre, nearest=NEAREST)
    with pytest.raises(TypeError, match=r"focal and centre must both be float32 or float64, got"):
        normals(depth, focal.float(), centre, nearest=NEAREST)
    assert cuda.instance("normals", torch.float16) == "normals<__half, float>"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_cuda_finds_what_the_cpu_finds(size, dtype):
    real = torch.float64 if dtype == torch.float64 else torch.float32
    depth, *intrinsics = problem(size=size, dtype=real)
    grad = normal(2, *size, 3, seed=9).to(real)
    results = []
    for device in ("cpu", "cuda"):
        lengths = depth.to(device, dtype).requires_grad_()
        on_device = [part.to(device) for part in intrinsics]
        values, valid = normals(lengths, *on_device, nearest=NEAREST)
        (for_depth,) = torch.autograd.grad(values, lengths, grad.to(device))
        results.append((values.detach().cpu(), valid.cpu(), for_depth.cpu()))
    torch.testing.assert_close(*results, rtol=1e-2, atol=1e-3)
