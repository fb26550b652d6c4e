import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomim.kernels import nvrtc
from geomim.kernels.resampling import cuda
from geomim.kernels.resampling.op import invert_cdf
from geomim.kernels.selection import use_kernels
from tests.geomim.strategies import seeds

KERNELS = pytest.mark.parametrize("kernels", ["compiled", "reference"])


def _rows(rows, intervals, samples, *, seed=0, dtype=torch.float64):
    """Edges that rise, weights of which a third are 0, fractions that rise from 0 to 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    edges = draw(rows, intervals + 1).cumsum(dim=1) - 5
    weights = (draw(rows, intervals) - 1 / 3).relu()
    fractions = draw(rows, samples).sort(dim=1).values
    fractions[:, :1], fractions[:, -1:] = 0, 1
    return [x.to(dtype) for x in (edges, weights, fractions)]


@pytest.mark.parametrize(("threads", "dtype"), [(1, torch.float64), (2, torch.float32)])
@pytest.mark.parametrize("intervals", [1, 2, 97])
def test_the_kernel_equals_the_reference(threads, dtype, intervals):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    edges, weights, fractions = _rows(301, intervals, 64, dtype=dtype)
    weights[7], weights[11, 0] = 0, torch.nan
    found = invert_cdf(edges, weights, fractions)
    torch.set_num_threads(before)
    with use_kernels("reference"):
        expected = invert_cdf(edges, weights, fractions)
    tolerance = 2e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0, equal_nan=True)
    assert found[1].tolist() == [row != 11 for row in range(301)]
    assert (found[0][11] == 0).all()


@KERNELS
@given(seed=seeds, intervals=st.integers(1, 40))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_places_rise_within_weighted_intervals_and_meet_the_ends(kernels, dtype, seed, intervals):
    edges, weights, fractions = _rows(5, intervals, 50, seed=seed, dtype=dtype)
    with use_kernels(kernels):
        places, known = invert_cdf(edges, weights, fractions)
    assert known.all()
    assert (places.diff(dim=1) >= 0).all()
    for edge, weight, place in zip(edges, weights, places, strict=True):
        if not weight.any():
            weight = torch.ones_like(weight)
        seen = weight.nonzero()[:, 0]
        assert place[0] == edge[seen[0]]
        assert place[-1] == edge[seen[-1] + 1]
        inside = (place[:, None] >= edge[seen]) & (place[:, None] <= edge[seen + 1])
        assert inside.any(dim=1).all()


@KERNELS
def test_numbers_worked_by_hand(kernels):
    edges = torch.tensor([[0.0, 1.0, 2.0, 4.0, 5.0]])
    weights = torch.tensor([[0.0, 1.0, 3.0, 0.0]])
    fractions = torch.tensor([[0.0, 0.125, 0.25, 0.625, 1.0]])
    with use_kernels(kernels):
        places, _ = invert_cdf(edges, weights, fractions)
        assert places.tolist() == [[1.0, 1.5, 2.0, 3.0, 4.0]]
        even, known = invert_cdf(edges, torch.zeros(1, 4), fractions)
        assert even.tolist() == [[0.0, 0.625, 1.25, 3.125, 5.0]]
        nowhere, _ = invert_cdf(torch.full((1, 5), 3.0), torch.zeros(1, 4), fractions)
        assert nowhere.tolist() == [[3.0] * 5]
    assert known.all()


def test_fractions_need_not_rise():
    edges, weights, fractions = _rows(20, 30, 40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    places, _ = invert_cdf(edges, weights, fractions)
    assert torch.equal(invert_cdf(edges, weights, fractions[:, order])[0], places[:, order])


@KERNELS
def test_one_row_of_fractions_serves_all(kernels):
    edges, weights, fractions = _rows(20, 30, 40)
    with use_kernels(kernels):
        shared = invert_cdf(edges, weights, fractions[:1])
        each = invert_cdf(edges, weights, fractions[:1].expand(20, -1))
    assert torch.equal(shared[0], each[0])


@KERNELS
@pytest.mark.parametrize(("rows", "samples"), [(0, 4), (3, 0), (0, 0)])
def test_nothing_to_place_is_placed(kernels, rows, samples):
    edges, weights, fractions = _rows(rows, 2, samples)
    with use_kernels(kernels):
        places, known = invert_cdf(edges, weights, fractions)
    assert places.shape == (rows, samples)
    assert known.shape == (rows,)


@KERNELS
def test_layout_and_precision_do_not_matter_and_nothing_is_differentiated(kernels):
    edges, weights, fractions = _rows(6, 9, 5)
    expected, _ = invert_cdf(edges, weights, fractions)
    strided = edges.T.contiguous().T.requires_grad_(), torch.stack([weights, weights])[1]
    with use_kernels(kernels):
        found, _ = invert_cdf(*strided, fractions)
        half, _ = invert_cdf(edges.half(), weights.half(), fractions.half())
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert half.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [False, True])
def test_the_operator_keeps_torchs_rules(dtype, shared):
    edges, weights, fractions = _rows(4, 6, 5, dtype=dtype)
    arguments = edges, weights, fractions[:1] if shared else fractions
    torch.library.opcheck(torch.ops.geomim.invert_cdf, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instance_that_may_be_launched_is_listed(dtype):
    assert cuda.instance(dtype) in nvrtc.entry_points(nvrtc.load_source("resampling"))


@pytest.mark.parametrize(("intervals", "nbytes"), [(96, 8 * 97 * 4), (1535, 49152), (1536, 0)])
def test_sums_that_are_too_many_for_shared_memory_are_kept_elsewhere(intervals, nbytes):
    assert cuda.shared_bytes(torch.empty(3, intervals + 1)) == nbytes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("intervals", [1, 97, 3000])
def test_the_cuda_kernel_equals_the_cpus(dtype, intervals):
    edges, weights, fractions = _rows(301, intervals, 64, dtype=dtype)
    weights[7], weights[11, 0] = 0, torch.nan
    expected, known = invert_cdf(edges, weights, fractions)
    found, there = invert_cdf(edges.cuda(), weights.cuda(), fractions.cuda())
    assert (found.diff(dim=1) >= 0).all()
    assert torch.equal(there.cpu(), known)
    scale = edges.abs().max().item()
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(found.cpu(), expected, atol=tolerance * scale, rtol=0)
