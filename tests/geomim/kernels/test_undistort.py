import math

import pytest
import torch
from hypothesis import given, settings

from geomim.kernels.selection import use_kernels
from geomim.kernels.undistort import reference
from geomim.kernels.undistort.op import distortion_reach, undistort
from tests.geomim.strategies import normal, seeds

OPERATORS = torch.ops.geomim
# Radial, also tangential, all of OpenCV's, Kannala and Brandt's, none, and two that fold.
LENSES = [
    (-0.28, 0.09, 0, 0, -0.01, 0, 0, 0, 0, 0, 0, 0, 0),
    (-0.28, 0.07, 2e-3, -1e-3, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    (0.3, 0.1, 1e-3, -2e-3, 0.02, 0.5, 0.05, 0.01, 1e-3, -1e-3, 5e-4, 2e-4, 0),
    (-0.02, 0.005, 0, 0, -0.002, 0, 0, 0, 0, 0, 0, 0, 1e-4),
    (0.0,) * 13,
    (-0.3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    (0.1, -0.2, 0.01, 0.02, 0, 0, 0, 0, 0, 0, 0, 0, 0),
]


def lenses(dtype=torch.float64):
    return torch.tensor(LENSES, dtype=dtype)


def scattered(*shape, scale=0.5, seed=0):
    return normal(*shape, 2, seed=seed).clamp(-2, 2) * scale


def undo(distorted, coefficients):
    return undistort(distorted, coefficients, distortion_reach(coefficients))


@settings(max_examples=20)
@given(seed=seeds)
def test_undistorting_undoes_distortion(seed):
    k = lenses()
    points = scattered(len(k), 40, scale=0.3, seed=seed)
    undistorted, known = undo(reference.distort(points, k[:, None]), k)
    assert known.all()
    torch.testing.assert_close(undistorted, points, atol=1e-12, rtol=1e-12)


@settings(max_examples=20)
@given(seed=seeds)
def test_the_kernel_finds_what_the_reference_finds(seed):
    k = lenses()
    distorted = scattered(len(k), 60, scale=1.5, seed=seed)
    undistorted, known = undo(distorted, k)
    with use_kernels("reference"):
        expected, expected_known = undo(distorted, k)
    assert torch.equal(known, expected_known)
    assert not known.all()
    torch.testing.assert_close(undistorted, expected, atol=1e-9, rtol=1e-9)
    assert not undistorted[~known].any()


def test_what_is_known_is_distorted_to_where_it_was():
    k, distorted = lenses(), scattered(len(LENSES), 500, scale=1.5)
    undistorted, known = undo(distorted, k)
    missed = reference.distort(undistorted, k[:, None]) - distorted
    assert missed[known].abs().max() < 1e-10
    assert reference.is_regular(undistorted, k[:, None], distortion_reach(k)[:, None])[known].all()


def test_single_precision_is_double_precision_rounded():
    k, distorted = lenses(torch.float32), scattered(len(LENSES), 50).float()
    undistorted, known = undo(distorted, k)
    exact, exactly_known = undistort(distorted.double(), k.double(), distortion_reach(k).double())
    assert undistorted.dtype == torch.float32
    assert torch.equal(known, exactly_known)
    assert torch.equal(undistorted, exact.float())


@pytest.mark.parametrize(
    ("coefficients", "reach"),
    [
        ({}, math.inf),
        ({0: 0.3}, math.inf),
        ({0: -0.3}, 1 / math.sqrt(0.9)),
        ({5: -1.0}, 1.0),  # a pole
        ({5: 1.0}, 1.0),  # r / (1 + r**2) turns at 1
        ({0: -1 / 3, 12: 0.0}, 1.0),
        ({12: -1 / 9}, 1.0),
        ({4: -1 / 7}, 1.0),
        ({0: math.nan}, math.inf),
    ],
)
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_reaches_by_hand(coefficients, reach, kernels):
    row = torch.tensor([[coefficients.get(i, 0.0) for i in range(13)]], dtype=torch.float64)
    with use_kernels(kernels):
        assert distortion_reach(row).item() == pytest.approx(reach, rel=1e-12)


@pytest.mark.parametrize("scale", [0.01, 0.3, 10.0])
def test_the_reach_is_that_of_the_companion_matrix(scale):
    k = normal(400, 13, seed=0) * scale
    torch.testing.assert_close(
        distortion_reach(k), reference.distortion_reach(k), rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_what_is_not_finite_is_unknown_with_zero_gradient(kernels, bad):
    k = lenses().requires_grad_()
    distorted = scattered(len(LENSES), 3, scale=0.2)
    distorted[:, 1, 0] = bad
    distorted.requires_grad_()
    with use_kernels(kernels):
        undistorted, known = undo(distorted, k)
        undistorted.sum().backward()
        alone = lenses().requires_grad_()
        undo(distorted.detach()[:, ::2], alone)[0].sum().backward()
    rest = torch.tensor([True, False, True])
    assert torch.equal(known[:4], rest.expand(4, 3)) or bad == 1e200
    assert known[:, ::2].all()
    assert not undistorted[~known].any()
    assert not distorted.grad[~known].any()
    assert distorted.grad.isfinite().all()
    if bad != 1e200:
        torch.testing.assert_close(k.grad, alone.grad)


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_gradients_are_those_of_finite_differences(kernels):
    k = lenses()[[2, 5]].requires_grad_()
    distorted = scattered(2, 1, scale=0.2).requires_grad_()
    reach = distortion_reach(k)

    def solve(distorted, k):
        return undistort(distorted, k, reach)[0]

    with use_kernels(kernels):
        assert torch.autograd.gradcheck(solve, (distorted, k))
        assert torch.autograd.gradgradcheck(
            lambda d, k: undistort(d, k, reach[:1])[0], (distorted[:1], k[:1])
        )


def test_the_kernels_gradients_are_the_references():
    k, distorted = lenses(), scattered(len(LENSES), 300)
    undistorted, known = undo(distorted, k)
    grad = scattered(len(LENSES), 300, seed=1)
    ours = OPERATORS.undistort_backward(grad, undistorted, known, k)
    torch.testing.assert_close(ours, reference.undistort_backward(grad, undistorted, known, k))


def test_results_do_not_depend_on_threads():
    before = torch.get_num_threads()
    k, distorted = lenses(), scattered(len(LENSES), 1000)
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            undistorted, known = undo(distorted, k)
            grads = OPERATORS.undistort_backward(distorted, undistorted, known, k)
            results.append((undistorted, known, *grads))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


# torch's own check reads the gradients of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_keep_torchs_contracts(dtype):
    k, distorted = lenses(dtype), scattered(len(LENSES), 4, scale=0.2).to(dtype)
    reach = distortion_reach(k)
    undistorted, known = undistort(distorted, k, reach)
    torch.library.opcheck(OPERATORS.distortion_reach.default, (k,))
    inputs = (distorted.requires_grad_(), k.requires_grad_())
    torch.library.opcheck(OPERATORS.undistort.default, (*inputs, reach))
    numbers = (distorted.detach(), undistorted, known, k.detach())
    torch.library.opcheck(OPERATORS.undistort_backward.default, numbers)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_no_cameras_and_no_points_are_fine(shape):
    k = torch.zeros(shape[0], 13, requires_grad=True)
    distorted = torch.zeros(*shape, 2, requires_grad=True)
    for kernels in ("compiled", "reference"):
        with use_kernels(kernels):
            undistorted, known = undo(distorted, k)
            undistorted.sum().backward()
        assert undistorted.shape == (*shape, 2)
        assert known.shape == shape
    assert not k.grad.any()


def test_strided_and_expanded_inputs_give_the_same():
    k = lenses()[1].expand(3, 13)
    distorted = scattered(20, 3).transpose(0, 1)
    expected = undo(distorted.contiguous(), k.contiguous())
    torch.testing.assert_close(undo(distorted, k), expected)
    once = scattered(1, 20).expand(3, 20, 2)
    torch.testing.assert_close(undo(once, k), undo(once.contiguous(), k))


def test_shapes_that_do_not_fit_are_refused():
    k, reach = torch.zeros(3, 13), torch.zeros(3)
    with pytest.raises(ValueError, match=r"distorted must be camera by point by 2, got \(3, 2\)"):
        undistort(torch.zeros(3, 2), k, reach)
    with pytest.raises(ValueError, match=r"coefficients must be 4 by 13, got \(3, 13\)"):
        undistort(torch.zeros(4, 5, 2), k, reach)
    with pytest.raises(ValueError, match=r"reach must be one torch.float32 a camera, 3, got .*2,"):
        undistort(torch.zeros(3, 5, 2), k, torch.zeros(2))
    with pytest.raises(ValueError, match=r"coefficients must be camera by 13, got \(3, 12\)"):
        distortion_reach(torch.zeros(3, 12))


@pytest.mark.parametrize("dtypes", [(torch.float16,) * 2, (torch.float32, torch.float64)])
def test_other_precisions_are_refused(dtypes):
    distorted, k = torch.zeros(3, 5, 2, dtype=dtypes[0]), torch.zeros(3, 13, dtype=dtypes[1])
    with pytest.raises(TypeError, match=r"must both be float32 or float64, got torch.float"):
        undistort(distorted, k, torch.zeros(3, dtype=dtypes[1]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_finds_what_the_cpu_finds(dtype):
    k, distorted = lenses(dtype), scattered(len(LENSES), 1000, scale=1.0).to(dtype)
    reach = distortion_reach(k)
    torch.testing.assert_close(distortion_reach(k.cuda()).cpu(), reach)
    undistorted, known = undistort(distorted, k, reach)
    theirs, theirs_known = undistort(distorted.cuda(), k.cuda(), reach.cuda())
    assert torch.equal(theirs_known.cpu(), known)
    torch.testing.assert_close(theirs.cpu(), undistorted)
    grads = OPERATORS.undistort_backward(distorted, undistorted, known, k)
    on_device = [t.cuda() for t in (distorted, undistorted, known, k)]
    for ours, on_cuda in zip(grads, OPERATORS.undistort_backward(*on_device), strict=True):
        torch.testing.assert_close(on_cuda.cpu(), ours, rtol=1e-4, atol=1e-4)
