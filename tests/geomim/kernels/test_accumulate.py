import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from geomim.kernels import nvrtc
from geomim.kernels.accumulate import cuda
from geomim.kernels.accumulate.op import UNKNOWN, accumulate
from geomim.kernels.selection import use_kernels
from geomim.transforms import RigidTransform
from tests.geomim.strategies import normal


def matrices(*batch, seed, spread=1.0):
    twist = normal(*batch, 6, seed=seed) * torch.tensor([3, 3, 3, 1, 1, 1]) * spread
    return RigidTransform.exp(twist).matrix()[..., :3, :]


def inputs(lengths=(7, 0, 5), boxes=3, dtype=torch.float64, scale=1.0, box=None):
    """Points around boxes that overlap, so that which one wins matters."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    sweeps, count = len(lengths), int(offsets[-1])
    points = normal(count, 3, seed=1) * 3 * scale
    tables = (
        matrices(sweeps, seed=2),
        matrices(sweeps, boxes, seed=3, spread=0.3),
        normal(boxes, 3, seed=4).abs() + 1.5,
        matrices(sweeps, boxes, seed=5),
        normal(sweeps, seed=6),
    )
    return points.to(dtype), offsets, box, *[table.to(dtype) for table in tables]


def both(arguments, threads=1):
    before, results = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    for kernels in ("compiled", "reference"):
        with use_kernels(kernels):
            results.append(accumulate(*arguments))
    torch.set_num_threads(before)
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("lengths", "threads"), [((7, 0, 5), 1), ((1000, 3, 0, 700), 2)])
@pytest.mark.parametrize("boxes", [0, 3])
@pytest.mark.parametrize("told", [False, True])
def test_the_kernel_equals_the_reference(dtype, lengths, threads, boxes, told):
    box = torch.arange(sum(lengths)) % (boxes + 3) - 2 if told else None
    arguments = inputs(lengths, boxes, dtype, box=box)
    compiled, reference = both(arguments, threads)
    torch.testing.assert_close(compiled, reference)
    if boxes:
        assert set(compiled[3].tolist()) >= {-1, 0, 1, 2}


def test_a_point_moves_with_its_sweep_or_with_the_first_box_that_holds_it():
    identity = torch.eye(3, 4)
    lifted = identity + torch.tensor([0.0, 0, 0, 1])[None] * torch.tensor([0.0, 0, 1])[:, None]
    sweep_poses = torch.stack([identity, lifted])
    carried = torch.stack([lifted + lifted - identity, identity])[None].repeat(2, 1, 1, 1)
    moved, seconds, sweep, box = accumulate(
        torch.tensor([[5.0, 0, 0], [1.0, 0, 0], [5.0, 0, 0], [1.5, 0, 0]]),
        torch.tensor([0, 2, 4]),
        None,
        sweep_poses,
        identity.expand(2, 2, 3, 4),
        torch.tensor([[1.0, 1, 1], [2.0, 2, 2]]),
        carried,
        torch.tensor([-0.5, 0.0]),
    )
    assert sweep.tolist() == [0, 0, 1, 1]
    assert seconds.tolist() == [-0.5, -0.5, 0, 0]
    assert box.tolist() == [-1, 0, -1, 1]  # the surface belongs to the box
    assert moved.tolist() == [[5, 0, 0], [1, 0, 2], [5, 0, 1], [1.5, 0, 0]]


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_what_leads_nowhere_is_zero_without_gradient(kernels):
    points, offsets, _, poses, into, half, by_box, seconds = inputs((4, 4))
    points[0, 1] = torch.nan
    points[1, 0] = torch.inf
    points[2, 2] = 1e308
    half = half * 0
    poses[1] = torch.nan
    leaves = [t.requires_grad_() for t in (points, poses, by_box)]
    with use_kernels(kernels):
        moved, _, _, box = accumulate(
            points, offsets, None, 10 * poses, into, half, by_box, seconds
        )
    known = (moved.detach() != 0).any(dim=-1)
    assert (box == UNKNOWN).tolist() == (~known).tolist()
    assert known.tolist() == [False, False, False, True] + [False] * 4
    by_points, by_poses, _ = torch.autograd.grad(moved.sum(), leaves)
    assert by_points.isfinite().all()
    assert not by_points[~known].any()
    assert by_points[known].all()
    assert by_poses[0].isfinite().all()
    assert not by_poses[1].nan_to_num(0).any()


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_a_box_that_is_not_there_holds_nothing(kernels):
    points, offsets, _, poses, into, half, by_box, seconds = inputs((5,), boxes=1)
    into = torch.full_like(into, torch.nan)
    with use_kernels(kernels):
        box = accumulate(points, offsets, None, poses, into, half, by_box, seconds)[3]
    assert box.tolist() == [-1] * 5


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("offsets", [[0, 0], [2, 4], [0, 2]])
def test_a_point_of_no_sweep_has_no_place(kernels, offsets):
    points, _, _, *tables = inputs((5,), boxes=0)
    with use_kernels(kernels):
        moved, seconds, sweep, box = accumulate(points, torch.tensor(offsets), None, *tables)
    belongs = [offsets[0] <= n < offsets[1] for n in range(5)]
    assert (sweep == 0).tolist() == belongs
    assert (box == UNKNOWN).tolist() == [not b for b in belongs]
    assert not moved[~torch.tensor(belongs)].any()
    assert not seconds[~torch.tensor(belongs)].any()


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_gradients_are_right_once_and_twice(kernels):
    points, offsets, _, poses, into, half, by_box, seconds = inputs((3, 0, 3))
    leaves = [t.requires_grad_() for t in (points, poses, by_box)]

    def moved(points, poses, by_box):
        return accumulate(points, offsets, None, poses, into, half, by_box, seconds)[0]

    with use_kernels(kernels):
        assert gradcheck(moved, leaves)
        assert gradgradcheck(moved, leaves)


def test_gradients_do_not_depend_on_the_number_of_threads():
    before, gradients = torch.get_num_threads(), []
    points, offsets, _, poses, into, half, by_box, seconds = inputs(
        (2000, 999), dtype=torch.float32
    )
    leaves = [t.requires_grad_() for t in (points, poses, by_box)]
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        moved = accumulate(points, offsets, None, poses, into, half, by_box, seconds)[0]
        gradients.append(torch.autograd.grad(moved.square().sum(), leaves))
    torch.set_num_threads(before)
    for others in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], others, strict=True))


def test_columns_of_a_wider_table_are_read_where_they_are():
    wide = normal(12, 5, seed=7)
    _, *others = inputs()
    for view in (wide[:, :3], wide[:, 2:], wide.T[:3].T, wide[:1, :3].expand(12, 3)):
        moved = accumulate(view, *others)[0]
        assert torch.equal(moved, accumulate(view.clone(), *others)[0])


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize(("lengths", "boxes"), [((), 2), ((0,), 2), ((0, 0), 0)])
def test_nothing_yields_nothing(kernels, lengths, boxes):
    arguments = inputs(lengths, boxes)
    arguments[0].requires_grad_()
    with use_kernels(kernels):
        moved, seconds, sweep, box = accumulate(*arguments)
    assert moved.shape == (0, 3)
    assert seconds.shape == sweep.shape == box.shape == (0,)
    assert torch.autograd.grad(moved.sum(), arguments[0])[0].shape == (0, 3)


# torch's own check reads the gradients of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("told", [False, True])
def test_the_operators_keep_torchs_rules(told):
    box = torch.zeros(12, dtype=torch.int32) if told else None
    points, offsets, box, poses, into, half, by_box, seconds = inputs(box=box)
    leaves = [t.requires_grad_() for t in (points, poses, by_box)]
    arguments = (leaves[0], offsets, box, leaves[1], into, half, leaves[2], seconds)
    torch.library.opcheck(torch.ops.geomim.accumulate, arguments)
    _, _, sweep, found = accumulate(*arguments)
    grad = normal(12, 3, seed=8).requires_grad_()
    torch.library.opcheck(
        torch.ops.geomim.accumulate_backward, (grad, leaves[0], sweep, found, *leaves[1:])
    )


def test_what_does_not_fit_is_refused():
    points, offsets, _, *tables = inputs()
    with pytest.raises(TypeError, match=r"points must be float32 or float64, got torch.float16"):
        accumulate(points.half(), offsets, None, *tables)
    with pytest.raises(TypeError, match=r"matrices must be torch.float32 on cpu like the points"):
        accumulate(points.float(), offsets, None, *tables)
    with pytest.raises(TypeError, match="offsets and box must be on cpu like the points, got"):
        accumulate(points, offsets.to("meta"), None, *tables)
    with pytest.raises(ValueError, match="matrices must be of 2 sweeps and 3 boxes, got"):
        accumulate(points, offsets[1:], None, *tables)
    with pytest.raises(ValueError, match=r"box must hold 12 numbers, got \(3,\)"):
        accumulate(points, offsets, torch.zeros(3), *tables)


@pytest.mark.parametrize("kernel", ["accumulate", "accumulate_backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instance_that_may_be_launched_is_listed(kernel, dtype):
    assert cuda.instance(kernel, dtype) in nvrtc.entry_points(nvrtc.load_source("accumulate"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("told", [False, True])
def test_the_cuda_kernels_equal_the_cpus(dtype, told):
    results = {}
    for device in ("cpu", "cuda"):
        box = torch.arange(1703) % 5 - 1 if told else None
        arguments = inputs((1000, 3, 0, 700), 3, dtype, box=box)
        arguments = [a if a is None else a.to(device) for a in arguments]
        leaves = [arguments[k].requires_grad_() for k in (0, 3, 6)]
        out = accumulate(*arguments)
        gradients = torch.autograd.grad(out[0].square().sum(), leaves)
        results[device] = [t.cpu() for t in (*out, *gradients)]
    loose = 1e-3 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(results["cuda"], results["cpu"], rtol=loose, atol=loose)
