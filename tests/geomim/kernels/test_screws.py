import pytest
import torch
from torch.autograd import gradcheck

from geomim.kernels import nvrtc
from geomim.kernels.screws import cuda
from geomim.kernels.screws.op import Screws, find_boxes, move_by_screws
from geomim.kernels.screws.reference import NEVER_US, knot_at
from geomim.kernels.selection import use_kernels
from geomim.transforms import RigidTransform
from tests.geomim.strategies import normal

START_US = 1531883530449377


def screws(bodies=3, knots=4, dtype=torch.float64, turn=1.0, inverse=False):
    """Bodies of as many knots as their number leaves, padded at the end."""
    times = START_US + torch.arange(knots).expand(bodies, -1) * 500_000
    times = times + torch.arange(bodies)[:, None] * 7
    known = torch.tensor([knots - body % knots for body in range(bodies)])[:, None]
    padding = torch.arange(knots) >= known
    begin, end = times[:, 0], times.gather(1, known - 1)[:, 0]
    pose = RigidTransform.exp(normal(bodies, knots, 6, seed=1))
    pose = pose.inverse() if inverse else pose
    return Screws(
        times.masked_fill(padding, NEVER_US),
        begin - 100,
        end + 100,
        pose.matrix()[..., :3, :].contiguous().to(dtype),
        (normal(bodies, knots, 6, seed=2) * turn).to(dtype),
    )


def points(count=40, bodies=3, dtype=torch.float64):
    times = START_US - 400 + torch.arange(count) * 1_600_000 // count
    return normal(count, 3, seed=3).to(dtype), times, torch.arange(count) % (bodies + 3) - 2


def by_hand(p, time, body, tables, inverse):
    """One point at a time, by RigidTransform."""
    if body == -1:
        return p
    reached = [k for k, t in enumerate(tables.times_us[body].tolist()) if t <= time]
    knot = reached[-1] if reached else 0
    seconds = (time - tables.times_us[body, knot].item()) * 1e-6
    m = tables.matrix[body, knot]
    pose = RigidTransform(m[:, :3], m[:, 3])
    step = RigidTransform.exp(tables.twist[body, knot] * seconds)
    return (step.inverse() @ pose if inverse else pose @ step).apply(p)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("turn", [0.0, 1e-5, 1.0, 9.0])
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_points_follow_rigid_transforms(kernels, turn, inverse):
    tables, (p, times, body) = screws(turn=turn, inverse=inverse), points()
    with use_kernels(kernels):
        moved, valid = move_by_screws(p, times, body, tables, inverse=inverse)
    for n, number in enumerate(body.tolist()):
        exists = number == -1 or (
            0 <= number < 3 and tables.begin_us[number] <= times[n] <= tables.end_us[number]
        )
        assert valid[n] == exists
        expected = by_hand(p[n], times[n].item(), number, tables, inverse) if exists else 0 * p[n]
        torch.testing.assert_close(moved[n], expected)
    assert 5 < valid.sum() < 35


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_kernel_equals_the_reference_and_so_do_its_gradients(dtype, inverse, threads):
    before, results = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    for kernels in ("compiled", "reference"):
        tables, (p, times, body) = screws(dtype=dtype), points(300, dtype=dtype)
        p[3, 0] = torch.nan
        leaves = [t.requires_grad_() for t in (p, tables.matrix, tables.twist)]
        with use_kernels(kernels):
            moved, valid = move_by_screws(p, times, body, tables, inverse=inverse)
            gradients = torch.autograd.grad(moved.sin().sum(), leaves)
        assert not gradients[0][~valid].any()
        results.append((moved, valid, *gradients))
    torch.set_num_threads(before)
    loose = 1e-3 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(results[0], results[1], rtol=loose, atol=loose)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("turn", [0.0, 0.1, 6.0])
def test_gradients_are_right(inverse, turn):
    tables, (p, times, body) = screws(2, 2, turn=turn), points(6, 2)
    leaves = [t.requires_grad_() for t in (p, tables.matrix, tables.twist)]

    def moved(p, matrix, twist):
        given = tables._replace(matrix=matrix, twist=twist)
        return move_by_screws(p, times, body, given, inverse=inverse)[0]

    assert gradcheck(moved, leaves)


def test_going_there_and_back_is_staying():
    forward = screws()
    m = forward.matrix
    inverse = RigidTransform(m[..., :3], m[..., 3]).inverse().matrix()[..., :3, :].contiguous()
    p, times, body = points()
    moved, valid = move_by_screws(p, times, body, forward, inverse=False)
    back, _ = move_by_screws(moved, times, body, forward._replace(matrix=inverse), inverse=True)
    torch.testing.assert_close(back[valid], p[valid])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_box_that_holds_a_point_is_found(dtype, threads):
    before, results = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    tables, (p, times, _) = screws(5, 6, dtype=dtype, inverse=True), points(900, dtype=dtype)
    p[5, 1] = torch.nan
    half = (normal(5, 3, seed=5).abs() + 0.3).to(dtype)
    for kernels in ("compiled", "reference"):
        with use_kernels(kernels):
            results.append(find_boxes(p, times, tables, half))
    torch.set_num_threads(before)
    assert torch.equal(*results)
    assert set(results[0].tolist()) == {-1, 0, 1, 2, 3, 4}
    assert results[0][5] == -1


def test_a_fast_box_is_found_where_it_has_got_to():
    # 100 m/s along x: after half a second it is 50 m on.
    tables = Screws(
        torch.tensor([[0, 1_000_000]]),
        torch.tensor([0]),
        torch.tensor([1_000_000]),
        torch.stack([torch.eye(3, 4), torch.eye(3, 4)])[None],
        torch.tensor([[[100.0, 0, 0, 0, 0, 0]] * 2]),
    )
    p = torch.tensor([[0.0, 0, 0], [50, 0, 0], [51.5, 0, 0], [48.5, 0.4, 0], [50, 0.6, 0]])
    times = torch.full((5,), 500_000)
    half = torch.tensor([[2.0, 0.5, 0.5]])
    assert find_boxes(p, times, tables, half).tolist() == [-1, 0, 0, 0, -1]


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_a_box_holds_its_surface_and_exists_at_its_first_and_last_instant(kernels):
    tables = Screws(
        torch.tensor([[10, 20]]),
        torch.tensor([10]),
        torch.tensor([20]),
        torch.eye(3, 4).expand(1, 2, 3, 4),
        torch.zeros(1, 2, 6),
    )
    outside = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()
    p = torch.tensor([[1.0, -2, 3], [1, 2, 3], [outside, 0, 0], [0, 0, 0], [0, 0, 0]])
    times = torch.tensor([10, 20, 15, 9, 21])
    with use_kernels(kernels):
        found = find_boxes(p, times, tables, torch.tensor([[1.0, 2, 3]]))
    assert found.tolist() == [0, 0, -1, -1, -1]


def test_views_and_expansions_are_as_good_as_copies():
    tables, (p, times, body) = screws(), points()
    wide = torch.cat([p, p], dim=1)[:, :3]
    late = times[:1].expand(len(times))
    spread = tables._replace(
        matrix=tables.matrix.mT.contiguous().mT, twist=tables.twist[:1].expand(3, -1, -1)
    )
    for given, when in ((wide, times), (p.mT.contiguous().mT, late)):
        copies = Screws(*(table.clone() for table in spread))
        moved = move_by_screws(given, when, body, spread, inverse=True)
        plain = move_by_screws(given.clone(), when.clone(), body, copies, inverse=True)
        assert all(torch.equal(a, b) for a, b in zip(moved, plain, strict=True))


def test_gradients_do_not_depend_on_the_number_of_threads():
    before, gradients = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        tables, (p, times, body) = screws(dtype=torch.float32), points(3000, dtype=torch.float32)
        leaves = [t.requires_grad_() for t in (p, tables.matrix, tables.twist)]
        moved, _ = move_by_screws(p, times, body, tables, inverse=False)
        gradients.append(torch.autograd.grad(moved.square().sum(), leaves))
    torch.set_num_threads(before)
    for others in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], others, strict=True))


def test_the_knot_is_the_last_one_reached():
    knots = torch.tensor([[0, 10, 20, NEVER_US, NEVER_US], [5, NEVER_US] + [NEVER_US] * 3])
    times = torch.tensor([-3, 0, 9, 10, 20, NEVER_US, 4, 6])
    row = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    assert knot_at(times, row, knots).tolist() == [0, 0, 0, 1, 2, 2, 0, 0]


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize(("count", "bodies"), [(0, 2), (4, 0), (0, 0)])
def test_nothing_yields_nothing(kernels, count, bodies):
    tables, (p, times, _) = screws(bodies), points(count)
    body = torch.full((count,), -1)
    with use_kernels(kernels):
        moved, valid = move_by_screws(p, times, body, tables, inverse=False)
        found = find_boxes(p, times, tables, torch.ones(bodies, 3).double())
        lost = move_by_screws(p, times, body - 1, tables, inverse=False)[1]
    assert torch.equal(moved, p)
    assert valid.tolist() == [True] * count
    assert lost.tolist() == [False] * count
    assert found.tolist() == [-1] * count


# torch's own check reads the gradients of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("inverse", [False, True])
def test_the_operators_keep_torchs_rules(inverse):
    tables, (p, times, body) = screws(), points(9)
    leaves = [t.requires_grad_() for t in (p, tables.matrix, tables.twist)]
    given = (leaves[0], times, body, *tables[:3], *leaves[1:], inverse)
    torch.library.opcheck(torch.ops.geomim.move_by_screws, given)
    torch.library.opcheck(
        torch.ops.geomim.find_boxes,
        (leaves[0], times, *tables[:3], *leaves[1:], torch.ones(3, 3).double()),
    )


def test_what_does_not_fit_is_refused():
    tables, (p, times, body) = screws(), points(4)
    knotless = Screws(*(t[:, :0] if t.ndim > 1 else t for t in tables))
    with pytest.raises(TypeError, match=r"points must be float32 or float64, got torch.bfloat16"):
        move_by_screws(p.bfloat16(), times, body, tables, inverse=False)
    with pytest.raises(TypeError, match=r"matrix and twist must be torch.float32 on cpu like"):
        move_by_screws(p.float(), times, body, tables, inverse=False)
    with pytest.raises(
        ValueError, match=r"points and times_us must be \(point, 3\) and \(point,\)"
    ):
        move_by_screws(p, times[1:], body, tables, inverse=False)
    with pytest.raises(ValueError, match=r"body must hold 4 numbers, got \(3,\)"):
        move_by_screws(p, times, body[1:], tables, inverse=False)
    with pytest.raises(
        ValueError, match=r"half_size must be \(3, 3\) in .*, got \(2, 3\) in torch"
    ):
        find_boxes(p, times, tables, torch.ones(2, 3).double())
    with pytest.raises(TypeError, match=r"times must be torch.int64 on cpu like the points, got"):
        move_by_screws(p, times.double(), body, tables, inverse=False)
    with pytest.raises(ValueError, match="screws must be tables of body by at least one knot, got"):
        move_by_screws(p, times, body, tables._replace(begin_us=times), inverse=False)
    with pytest.raises(ValueError, match="screws must be tables of body by at least one knot, got"):
        move_by_screws(p, times, body, knotless, inverse=False)


@pytest.mark.parametrize("kernel", ["find_boxes", "move_by_screws", "move_by_screws_backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instance_that_may_be_launched_is_listed(kernel, dtype):
    assert cuda.instance(kernel, dtype) in nvrtc.entry_points(nvrtc.load_source("screws"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inverse", [False, True])
def test_the_cuda_kernels_equal_the_cpus(dtype, inverse):
    results = {}
    for device in ("cpu", "cuda"):
        tables = Screws(*[t.to(device) for t in screws(dtype=dtype)])
        p, times, body = (t.to(device) for t in points(700, dtype=dtype))
        found = find_boxes(p, times, tables, torch.ones(3, 3, dtype=dtype, device=device))
        leaves = [t.requires_grad_() for t in (p, tables.matrix, tables.twist)]
        moved, valid = move_by_screws(p, times, body, tables, inverse=inverse)
        gradients = torch.autograd.grad(moved.sin().sum(), leaves)
        results[device] = [t.cpu() for t in (found, moved, valid, *gradients)]
    loose = 1e-3 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(results["cuda"], results["cpu"], rtol=loose, atol=loose)
