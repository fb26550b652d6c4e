import pytest
import torch

from geomim.kernels import nvrtc
from geomim.kernels.selection import use_kernels
from geomim.kernels.traversal import cuda
from geomim.kernels.traversal.op import traverse

LOWER, CELL, SHAPE = (-3.0, 1.0, 0.25), (0.7, 0.5, 1.25), (7, 6, 4)
GRID = (LOWER, CELL, SHAPE)
NUMBERS = [*LOWER, *CELL, *map(float, SHAPE)]
STEPS = (0.0, 0.4)


def problem(count=600, items=2, share=0.4, dtype=torch.float64):
    """Rays of all kinds: along axes and diagonals, on planes and corners, not finite, missing."""
    generator = torch.Generator().manual_seed(7)
    lower, cell, size = (torch.tensor(part).double() for part in GRID)
    origins, targets = (
        lower + cell * size * (torch.rand(count, 3, generator=generator).double() * k - k / 2 + 0.5)
        for k in (3.0, 1.2)
    )
    origins[::4] = lower + cell * ((origins[::4] - lower) / cell).round()
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    directions[1::5, 0] = 0
    directions[2::5, 1] = -0.0
    directions[4::8] = (cell * directions[4::8].sign()) / cell.norm()
    directions[5::50, 2] = 1e-310
    origins[3::40, 1] = torch.nan
    directions[7::40, 2] = torch.inf
    near = torch.rand(count, generator=generator).double() * 2 - 1
    far = near + torch.rand(count, generator=generator).double() * 20
    far[::2] = torch.inf
    near[9::60], far[19::60] = torch.nan, -torch.inf
    occupied = torch.rand(items, *SHAPE[::-1], generator=generator) < share
    return origins.to(dtype), directions.to(dtype), near, far, occupied


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("most", [None, 3])
@pytest.mark.parametrize("everywhere", [False, True])
def test_the_kernels_equal_the_reference_to_the_bit(dtype, threads, step, most, everywhere):
    *rays, occupied = problem(dtype=dtype)
    before, results = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    for kernels in ("compiled", "reference"):
        with use_kernels(kernels):
            cells = None if everywhere else occupied
            results.append(traverse(*rays, cells, GRID, step=step, most=most))
    torch.set_num_threads(before)
    assert len(results[0].ray) > 300
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("far_away", [1e7, 1e12])
def test_kernels_and_reference_agree_where_numbers_have_few_digits_left(step, far_away):
    origins, directions, near, far, occupied = problem()
    grid = (tuple(low + far_away for low in LOWER), CELL, SHAPE)
    results = []
    for kernels in ("compiled", "reference"):
        with use_kernels(kernels):
            results.append(
                traverse(origins + far_away, directions, near, far, occupied, grid, step=step)
            )
    assert len(results[0].ray) > 100
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 1), (40, 1, 2)])
@pytest.mark.parametrize("step", STEPS)
def test_grids_one_cell_thin_are_no_exception(shape, step):
    *rays, _ = problem()
    occupied = torch.rand(2, *shape[::-1], generator=torch.Generator().manual_seed(1)) < 0.7
    occupied[:, 0, 0, 0] = True
    results = []
    for kernels in ("compiled", "reference"):
        with use_kernels(kernels):
            results.append(traverse(*rays, occupied, (LOWER, CELL, shape), step=step))
    assert len(results[0].ray) > 10
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize(("count", "items"), [(0, 1), (0, 0), (0, 3)])
@pytest.mark.parametrize("step", STEPS)
def test_no_rays_yield_nothing(kernels, count, items, step):
    *rays, occupied = problem(count, items)
    with use_kernels(kernels):
        found = traverse(*rays, occupied, GRID, step=step)
    assert found.offsets.tolist() == [0]
    assert not any(len(part) for part in found[1:])


@pytest.mark.parametrize("step", STEPS)
def test_views_and_expansions_are_as_good_as_copies(step):
    origins, directions, near, far, occupied = problem()
    views = (
        origins.T.contiguous().T,
        directions[:1].expand(600, 3),
        near.expand(2, 600)[0],
        far[:1].expand(600),
        occupied.mT.contiguous().mT,
    )
    found = traverse(*views, GRID, step=step)
    plain = traverse(*[view.clone() for view in views], GRID, step=step)
    assert len(found.ray) > 30
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("everywhere", [False, True])
def test_the_operators_keep_torchs_rules(step, everywhere):
    *rays, occupied = problem(30)
    inputs = (*rays, None if everywhere else occupied, NUMBERS, step)
    torch.library.opcheck(torch.ops.geomim.count_traversal, inputs)
    counts = torch.ops.geomim.count_traversal(*inputs)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    total = int(offsets[-1])
    torch.library.opcheck(torch.ops.geomim.fill_traversal, (*inputs, offsets, total))


def test_what_does_not_fit_is_refused():
    *rays, occupied = problem(3)
    with pytest.raises(ValueError, match="rays must be as many for each of 2 items, got 3"):
        traverse(*rays, occupied, GRID)
    with pytest.raises(ValueError, match="rays must be as many for each of 0 items, got 3"):
        traverse(*rays, occupied[:0], GRID)
    with pytest.raises(TypeError, match=r"occupied must be bool, got torch\.uint8"):
        traverse(*rays, occupied[:1].byte(), GRID)


@pytest.mark.parametrize("kernel", ["count_traversal", "fill_traversal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instance_that_may_be_launched_is_listed(kernel, dtype):
    assert cuda.instance(kernel, dtype) in nvrtc.entry_points(nvrtc.load_source("traversal"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("most", [None, 3])
@pytest.mark.parametrize("everywhere", [False, True])
def test_the_cuda_kernels_equal_the_cpus(dtype, step, most, everywhere):
    *rays, occupied = problem(dtype=dtype)
    inputs = (*rays, None if everywhere else occupied)
    on_cuda = [None if part is None else part.cuda() for part in inputs]
    found = traverse(*on_cuda, GRID, step=step, most=most)
    expected = traverse(*inputs, GRID, step=step, most=most)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
