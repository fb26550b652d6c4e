import math

import pytest
import torch

from geomim.kernels.selection import use_kernels
from geomim.kernels.unproject import cuda, reference
from geomim.kernels.unproject.op import unproject
from tests.geomim.strategies import normal

OPERATORS = torch.ops.geomim
NEAREST = 1e-6
# One more and one less than what fills a vector; and single rows, columns and pixels.
SIZES = [(5, 33), (4, 8), (1, 7), (6, 1), (1, 1)]
HOLES = (0.0, -1.0, math.nan, math.inf, -math.inf, NEAREST)


def problem(images=2, size=(5, 33), *, seed=0, dtype=torch.float64):
    """Depth with holes, focal (one mirrored), centre, rotation, translation."""
    depth = normal(images, *size, seed=seed).abs() + 0.5
    holes = torch.tensor(HOLES, dtype=torch.float64)
    flat = depth.flatten(1)
    flat[:, 1 : 1 + len(HOLES)] = holes[: flat[:, 1 : 1 + len(HOLES)].shape[1]]
    focal = normal(images, 2, seed=seed + 1).abs() + torch.tensor([7.0, 8.0])
    focal[1:, 0] *= -1
    centre = normal(images, 2, seed=seed + 2) + torch.tensor([size[1] / 2, size[0] / 2])
    rotation = torch.linalg.qr(normal(images, 3, 3, seed=seed + 3)).Q
    translation = normal(images, 3, seed=seed + 4)
    parts = (depth, focal, centre, rotation, translation)
    return tuple(part.to(dtype) for part in parts)


@pytest.mark.parametrize("along_ray", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_the_kernel_is_the_reference(size, dtype, along_ray):
    inputs = problem(size=size, dtype=dtype)
    grad = normal(2, *size, 3, seed=9).to(dtype)
    results = []
    for kernels in ("compiled", "reference"):
        depth = inputs[0].clone().requires_grad_()
        with use_kernels(kernels):
            points, valid = unproject(depth, *inputs[1:], along_ray=along_ray, nearest=NEAREST)
        (for_depth,) = torch.autograd.grad(points, depth, grad)
        results.append((points.detach(), valid, for_depth))
    torch.testing.assert_close(*results)
    points, valid, for_depth = results[0]
    assert torch.equal(valid, inputs[0].isfinite() & (inputs[0] > NEAREST))
    assert not points[~valid].any()
    assert not for_depth[~valid].any()


def test_points_by_hand():
    # A pixel centre 4 right of and 3 above the principal point, at focal length 2: (2, -1.5, 1).
    inputs = (
        torch.tensor([[[6.0]]]),
        torch.tensor([[2.0, 2.0]]),
        torch.tensor([[-3.5, 3.5]]),
        torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]),
        torch.tensor([[10.0, 20.0, 30.0]]),
    )
    points, _ = unproject(*inputs, along_ray=False, nearest=NEAREST)
    assert points.tolist() == [[[[19.0, 32.0, 36.0]]]]
    length = math.sqrt(2**2 + 1.5**2 + 1)
    inputs = (torch.tensor([[[2 * length]]]), *inputs[1:])
    points, _ = unproject(*inputs, along_ray=True, nearest=NEAREST)
    torch.testing.assert_close(points, torch.tensor([[[[13.0, 24.0, 32.0]]]]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_intrinsics_that_are_none_leave_no_points(kernels, bad):
    depth, focal, centre, *pose = problem(size=(3, 9))
    depth = depth.abs().nan_to_num(1.0, 1.0, 1.0).requires_grad_()
    focal[0, 0] = bad
    with use_kernels(kernels):
        points, valid = unproject(depth, focal, centre, *pose, along_ray=False, nearest=NEAREST)
    points.sum().backward()
    assert points.isfinite().all()
    assert depth.grad.isfinite().all()
    assert not depth.grad[~valid].any()
    if bad != math.inf:
        assert not valid[0].any()


def test_a_point_too_far_to_be_written_down_is_invalid():
    depth, focal, centre, *pose = problem(1, (1, 2), dtype=torch.float32)
    depth[:] = 3e38
    points, valid = unproject(depth, focal / 100, centre, *pose, along_ray=False, nearest=NEAREST)
    assert not valid.any()
    assert not points.any()


@pytest.mark.parametrize("along_ray", [False, True])
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_gradients_are_those_of_finite_differences(kernels, along_ray):
    depth, *parameters = problem(2, (2, 4))

    def points(depth, *parameters):
        return unproject(depth, *parameters, along_ray=along_ray, nearest=NEAREST)[0]

    # Away from where points come and go.
    depth = depth.nan_to_num(1.0, 1.0, -1.0)
    depth = torch.where(depth.abs() < 0.1, -1.0, depth).requires_grad_()
    with use_kernels(kernels):
        assert torch.autograd.gradcheck(points, (depth, *parameters))
        assert torch.autograd.gradgradcheck(points, (depth, *parameters))
        learnt = [part.requires_grad_() for part in parameters]
        assert torch.autograd.gradcheck(points, (depth, *learnt))


def test_parameters_feel_no_invalid_point():
    depth, *parameters = problem(2, (2, 9))
    learnt = [part.requires_grad_() for part in parameters]
    points, valid = unproject(depth, *learnt, along_ray=False, nearest=NEAREST)
    nothing = torch.autograd.grad(points[~valid].sum(), learnt, retain_graph=True)
    assert not any(gradient.any() for gradient in nothing)
    everything = torch.autograd.grad(points.sum(), learnt)
    assert all(gradient.isfinite().all() for gradient in everything)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_depth_is_widened(dtype):
    depth, *parameters = problem(dtype=torch.float32)
    half = depth.to(dtype).requires_grad_()
    points, valid = unproject(half, *parameters, along_ray=False, nearest=NEAREST)
    expected = unproject(half.detach().float(), *parameters, along_ray=False, nearest=NEAREST)
    assert points.dtype == torch.float32
    assert torch.equal(points, expected[0])
    assert torch.equal(valid, expected[1])
    points.sum().backward()
    assert half.grad.dtype == dtype


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_maps_of_no_pixels_are_fine(shape):
    depth = torch.zeros(shape, requires_grad=True)
    parameters = [part.float() for part in problem(shape[0])[1:]]
    points, valid = unproject(depth, *parameters, along_ray=False, nearest=NEAREST)
    points.sum().backward()
    assert points.shape == (*shape, 3)
    assert valid.shape == shape
    assert depth.grad.shape == shape


def test_strided_and_expanded_inputs_give_the_same():
    depth, *parameters = problem(2, (5, 33))
    expected = unproject(depth, *parameters, along_ray=False, nearest=NEAREST)
    turned = depth.mT.contiguous().mT
    torch.testing.assert_close(
        unproject(turned, *parameters, along_ray=False, nearest=NEAREST), expected, rtol=0, atol=0
    )
    one = [part[:1].expand(3, *part.shape[1:]) for part in (depth, *parameters)]
    many = unproject(*one, along_ray=False, nearest=NEAREST)
    assert torch.equal(many[0][2], expected[0][0])
    # A sum's gradient is one number, expanded.
    depth = depth.clone().requires_grad_()
    unproject(depth, *parameters, along_ray=False, nearest=NEAREST)[0].sum().backward()
    assert depth.grad.any()


def test_results_do_not_depend_on_threads():
    before = torch.get_num_threads()
    inputs, results = problem(3, (16, 20)), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            depth = inputs[0].clone().requires_grad_()
            points, valid = unproject(depth, *inputs[1:], along_ray=True, nearest=NEAREST)
            points.square().sum().backward()
            results.append((points, valid, depth.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


# torch's own check reads the gradients of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_keep_torchs_contracts(dtype):
    depth, *parameters = problem(2, (2, 4), dtype=dtype)
    depth.requires_grad_()
    torch.library.opcheck(
        OPERATORS.unproject.default, (depth, *parameters, False, NEAREST), atol=1e-5, rtol=1e-4
    )
    _, valid = unproject(depth, *parameters, along_ray=True, nearest=NEAREST)
    grad = normal(2, 2, 4, 3, seed=1).to(dtype).requires_grad_()
    numbers = (grad, valid, *parameters[:3], True)
    torch.library.opcheck(OPERATORS.unproject_backward.default, numbers, atol=1e-5, rtol=1e-4)


def test_shapes_and_dtypes_that_do_not_fit_are_refused():
    depth, *parameters = problem()
    options = {"along_ray": False, "nearest": NEAREST}
    with pytest.raises(
        ValueError, match=r"depth must be floating, image by row by column, got torch.float64 \(33,"
    ):
        unproject(depth[0, 0], *parameters, **options)
    with pytest.raises(ValueError, match=r"depth must be floating, .* got torch.int64"):
        unproject(depth.nan_to_num().long(), *parameters, **options)
    with pytest.raises(ValueError, match=r"translation must be 1 by 2, 2, 3 by 3 and 3, got \[\(2"):
        unproject(depth[:1], *parameters, **options)
    mixed = [parameters[0].float(), *parameters[1:]]
    with pytest.raises(TypeError, match=r"translation must all be float32 or all float64, got"):
        unproject(depth, *mixed, **options)


def test_packs_fill_sixteen_bytes_where_rows_and_addresses_allow():
    aligned = torch.zeros(2, 3, 8)
    assert cuda.pack_width((aligned,)) == 4
    assert cuda.pack_width((aligned.double(),)) == 2
    assert cuda.pack_width((aligned.half(),)) == 4
    assert cuda.pack_width((torch.zeros(2, 3, 6),)) == 1
    assert cuda.pack_width((aligned.flatten()[1:41].reshape(1, 5, 8),)) == 1
    assert cuda.instance("unproject", torch.float16, 4) == "unproject<__half, float, 4>"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("along_ray", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_cuda_finds_what_the_cpu_finds(size, dtype, along_ray):
    real = torch.float64 if dtype == torch.float64 else torch.float32
    depth, *parameters = problem(size=size, dtype=real)
    results = []
    for device in ("cpu", "cuda"):
        lengths = depth.to(device, dtype).requires_grad_()
        on_device = [part.to(device) for part in parameters]
        points, valid = unproject(lengths, *on_device, along_ray=along_ray, nearest=NEAREST)
        points.square().sum().backward()
        results.append((points.detach().cpu(), valid.cpu(), lengths.grad.cpu()))
    torch.testing.assert_close(*results, rtol=1e-3 if dtype == torch.float16 else 1e-5, atol=1e-5)


def test_directions_are_what_points_move_by():
    depth, *parameters = problem()
    for along_ray in (False, True):
        options = {"along_ray": along_ray, "nearest": NEAREST}
        points, valid = unproject(depth, *parameters, **options)
        further, _ = unproject(depth + valid.double(), *parameters, **options)
        rays = reference.directions(valid, *parameters[:3], along_ray=along_ray)
        torch.testing.assert_close(further[valid] - points[valid], rays[valid])
