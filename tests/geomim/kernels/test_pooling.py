import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from geomim.kernels import nvrtc
from geomim.kernels.pooling import cuda
from geomim.kernels.pooling.op import frustum_cells, pool
from geomim.kernels.selection import use_kernels
from tests.geomim.strategies import normal

CELLS = 7


def problem(views=2, bins=5, pixels=9, channels=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    # Some bins fall before the first cell, some behind the last.
    cell = torch.randint(-2, CELLS + 2, (views, bins, pixels), generator=generator)
    features = normal(views, pixels, channels, seed=1).to(dtype).requires_grad_()
    return features, normal(views, bins, pixels, seed=2).to(dtype).requires_grad_(), cell


def test_pooling_is_a_loop_over_pixels_and_bins():
    features, weights, cell = problem()
    expected = torch.zeros(CELLS, 3, dtype=torch.float64)
    for v, d, p in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(9)):
        if 0 <= cell[v, d, p] < CELLS:
            expected[cell[v, d, p]] += weights[v, d, p] * features[v, p]
    torch.testing.assert_close(pool(features, weights, cell, cells=CELLS), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 16, 35])
def test_the_kernels_equal_the_reference(dtype, channels):
    results = []
    for kernels in ("compiled", "reference"):
        features, weights, cell = problem(3, 6, 70, channels, dtype)
        with use_kernels(kernels):
            pooled = pool(features, weights, cell, cells=CELLS)
        slopes = torch.autograd.grad(pooled.sin().sum(), (features, weights))
        results.append((pooled, *slopes))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(*results, atol=tolerance, rtol=tolerance)


def test_gradients_are_right_once_and_twice():
    features, weights, cell = problem(pixels=3, channels=2)

    def pooled(features: Tensor, weights: Tensor) -> Tensor:
        return pool(features, weights, cell, cells=CELLS)

    assert gradcheck(pooled, (features, weights))
    assert gradgradcheck(pooled, (features, weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_half_precision_is_summed_in_single(dtype, kernels):
    features, weights, cell = problem(2, 50, 200, 4, dtype)
    with use_kernels(kernels):
        pooled = pool(features, weights, cell, cells=CELLS)
        slopes = torch.autograd.grad(pooled.float().sum(), (features, weights))
    single = [t.detach().float().requires_grad_() for t in (features, weights)]
    expected = pool(*single, cell, cells=CELLS)
    e_slopes = torch.autograd.grad(expected.sum(), single)
    assert pooled.dtype == slopes[0].dtype == slopes[1].dtype == dtype
    for found, right in zip((pooled, *slopes), (expected, *e_slopes), strict=True):
        torch.testing.assert_close(found, right.to(dtype), rtol=2**-7, atol=1e-4)


def test_the_sums_do_not_depend_on_the_number_of_threads():
    features, weights, cell = problem(3, 20, 100, 5, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            pooled = pool(features, weights, cell, cells=CELLS)
            slopes = torch.autograd.grad(pooled.square().sum(), (features, weights))
            results.append((pooled, *slopes))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("sizes", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)], ids=str)
def test_nothing_yields_nothing(kernels, sizes):
    features, weights, cell = problem(*sizes)
    with use_kernels(kernels):
        pooled = pool(features, weights, cell, cells=CELLS)
        slopes = torch.autograd.grad(pooled.sum(), (features, weights))
        assert pool(features, weights, cell, cells=0).shape == (0, sizes[3])
    assert pooled.shape == (CELLS, sizes[3])
    assert pooled.count_nonzero() == slopes[0].count_nonzero() == slopes[1].count_nonzero() == 0


def test_views_and_expansions_are_as_good_as_copies():
    features, weights, cell = problem(pixels=5)
    views = (
        features.detach().mT.contiguous().mT,
        weights.detach()[:, :1].expand(-1, 5, -1),
        cell.mT.contiguous().mT,
    )
    expected = pool(*(t.contiguous() for t in views), cells=CELLS)
    assert torch.equal(pool(*views, cells=CELLS), expected)


# torch's own check reads the gradients of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operators_keep_torchs_rules(dtype):
    features, weights, cell = problem(dtype=dtype)
    grad = normal(CELLS, 3, seed=3).to(dtype).requires_grad_()
    torch.library.opcheck(torch.ops.geomim.pool, (features, weights, cell, CELLS))
    torch.library.opcheck(torch.ops.geomim.pool_backward, (grad, features, weights, cell))
    torch.library.opcheck(torch.ops.geomim.frustum_cells, (*frustum(dtype=dtype), 2, 5, 4, 3))


def test_what_does_not_fit_is_refused():
    features, weights, cell = problem()
    with pytest.raises(ValueError, match="features must be floating, view by pixel by channel"):
        pool(features[0], weights, cell, cells=CELLS)
    with pytest.raises(ValueError, match=r"weights and cell must be 2 by bin by 9, got \(2, 5, 8"):
        pool(features, weights[..., 1:], cell, cells=CELLS)
    with pytest.raises(TypeError, match=r"must be torch.float64 and cell torch.int64, got .*int32"):
        pool(features, weights, cell.int(), cells=CELLS)


def frustum(views=4, pixels=30, bins=6, dtype=torch.float64):
    start, step = normal(views, 3, seed=4) + 2, normal(views, pixels, 3, seed=5)
    depths = torch.linspace(0.3, 4.0, bins, dtype=torch.float64)
    frame = torch.tensor([[-0.5, 0.1, 0.2], [0.9, 1.1, 1.3]], dtype=torch.float64)
    return start.to(dtype), step.to(dtype), depths.to(dtype), frame.to(dtype)


def test_points_of_a_frustum_fall_into_cells_by_hand():
    # Two items of one view each. At depth 2 a point is at (3, 5, 1) metres from the corner of 4 by
    # 3 by 2 cells of 2 metres: in the cell (1, 2, 0). Of the others one is nowhere, one outside.
    frame = torch.tensor([[-1.0, -1.0, -1.0], [2.0, 2.0, 2.0]])
    start = torch.zeros(2, 3)
    step = torch.tensor([[1.0, 2.0, 0.0], [torch.nan, 0.0, 0.0], [-1.0, 0.0, 0.0]]).expand(2, 3, 3)
    depths = torch.tensor([2.0, torch.nan])
    cell = frustum_cells(start, step, depths, frame, views=1, shape=(4, 3, 2))
    assert cell.tolist() == [
        [[1 + 4 * 2, -1, -1], [-1, -1, -1]],
        [[24 + 1 + 4 * 2, -1, -1], [-1, -1, -1]],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("views", [1, 2, 4])
def test_cells_are_those_of_the_reference(dtype, views):
    found = frustum_cells(*frustum(dtype=dtype), views=views, shape=(5, 4, 3))
    with use_kernels("reference"):
        expected = frustum_cells(*frustum(dtype=dtype), views=views, shape=(5, 4, 3))
    assert torch.equal(found, expected)
    assert 0.1 < (found < 0).double().mean() < 0.9
    assert found.amax(dim=(1, 2)).max() < 4 // views * 60


@pytest.mark.parametrize("sizes", [(0, 3, 2), (2, 0, 2), (2, 3, 0)], ids=str)
def test_no_frustum_hits_nothing(sizes):
    for kernels in ("compiled", "reference"):
        with use_kernels(kernels):
            cell = frustum_cells(*frustum(*sizes), views=1, shape=(5, 4, 3))
        assert cell.shape == (sizes[0], sizes[2], sizes[1])


def test_frustums_that_do_not_fit_are_refused():
    start, step, depths, frame = frustum()
    with pytest.raises(ValueError, match=r"start and step must be view by 3 and .* got \(3, 3\)"):
        frustum_cells(start[1:], step, depths, frame, views=1, shape=(5, 4, 3))
    with pytest.raises(
        ValueError, match=r"depths must be one a bin, frame 2 by 3 and views a divisor of 4"
    ):
        frustum_cells(start, step, depths, frame, views=3, shape=(5, 4, 3))
    with pytest.raises(TypeError, match=r"must all be float32 or float64, got \['torch.float32'"):
        frustum_cells(start.float(), step, depths, frame, views=1, shape=(5, 4, 3))


@pytest.mark.parametrize("kernel", ["pool", "pool_backward", "frustum_cells"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instance_that_may_be_launched_is_listed(kernel, dtype):
    assert cuda.instance(kernel, dtype) in nvrtc.entry_points(nvrtc.load_source("pooling"))


@pytest.mark.parametrize(("channels", "lanes"), [(0, 1), (1, 1), (3, 4), (32, 32), (512, 32)])
def test_the_lanes_of_a_pixel_are_a_power_of_two_within_a_warp(channels, lanes):
    assert cuda.lanes(channels) == lanes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3, 32, 70])
def test_the_cuda_kernels_equal_the_cpus(dtype, channels):
    results = []
    for device in ("cpu", "cuda"):
        inputs = [t.detach().to(device) for t in problem(2, 6, 300, channels, dtype)]
        leaves = [t.requires_grad_() for t in inputs[:2]]
        pooled = pool(*leaves, inputs[2], cells=CELLS)
        slopes = torch.autograd.grad(pooled.double().sin().sum(), leaves)
        results.append([t.cpu() for t in (pooled, *slopes)])
        if dtype != torch.float16:
            rays = [t.to(device) for t in frustum(dtype=dtype)]
            results[-1].append(frustum_cells(*rays, views=2, shape=(5, 4, 3)).cpu())
    tolerance = {torch.float16: 2e-2, torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    torch.testing.assert_close(*results, atol=tolerance, rtol=tolerance)
