import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from geomim.kernels import nvrtc
from geomim.kernels.selection import use_kernels
from geomim.kernels.trilinear import cuda
from geomim.kernels.trilinear.op import gradient_mix, trilinear

SHAPE = (3, 4, 5)


def _volume(*batch: int, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*batch, *SHAPE, channels, generator=generator, dtype=torch.float64).to(dtype)


def _points(
    batch: int, count: int, *, margin: float = 0.9, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Points in and around the volume, none near a kink."""
    generator = torch.Generator().manual_seed(2)
    share = torch.rand(batch, count, 3, generator=generator, dtype=torch.float64)
    sizes = torch.tensor(SHAPE[::-1], dtype=torch.float64)
    points = share * (sizes + 2 * margin) - margin
    from_centre = (points - 0.5) - (points - 0.5).floor()
    return (points - from_centre + from_centre.clamp(0.01, 0.99)).to(dtype)


def _grid_sample(volume: Tensor, points: Tensor, padding: str) -> Tensor:
    """Torch's own, which has our pixel convention where ``align_corners`` is False."""
    sizes = points.new_tensor(SHAPE[::-1])
    return torch.nn.functional.grid_sample(
        volume.movedim(-1, 1),
        (points / sizes * 2 - 1)[:, :, None, None],
        padding_mode=padding,
        align_corners=False,
    )[..., 0, 0].mT


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("border", [False, True])
def test_values_are_those_of_grid_sample(kernels, border):
    volume, points = _volume(2), _points(2, 200)
    with use_kernels(kernels):
        values, _ = trilinear(volume, points, border=border)
    expected = _grid_sample(volume, points, "border" if border else "zeros")
    torch.testing.assert_close(values[:, :, 0], expected)


@pytest.mark.parametrize("channels", [1, 2, 16, 35])
@pytest.mark.parametrize(
    ("threads", "dtype"), [(1, torch.float32), (2, torch.float32), (1, torch.float64)]
)
@pytest.mark.parametrize("border", [False, True])
def test_the_kernels_equal_the_reference(channels, threads, dtype, border):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    results = {}
    for kernels in ("compiled", "reference"):
        volume = _volume(2, channels=channels, dtype=dtype).requires_grad_()
        points = _points(2, 300, dtype=dtype).requires_grad_()
        mix = torch.linspace(-1, 1, 2 * 300 * 2 * 8, dtype=dtype)
        mix = mix.reshape(2, 300, 2, 8).sin().requires_grad_()
        with use_kernels(kernels):
            values, known = trilinear(volume, points, mix, border=border)
        results[kernels] = (
            values,
            known,
            *torch.autograd.grad(values.sin().sum(), (volume, points, mix)),
        )
    torch.set_num_threads(before)
    atol = 1e-3 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(results["compiled"], results["reference"], atol=atol, rtol=1e-4)


def test_the_centre_of_a_cell_has_its_value():
    volume = _volume(1)
    z, y, x = torch.meshgrid(*[torch.arange(s) for s in SHAPE], indexing="ij")
    centres = torch.stack([x, y, z], dim=-1).reshape(1, -1, 3) + 0.5
    values, known = trilinear(volume, centres.double())
    assert known.all()
    torch.testing.assert_close(values[:, :, 0], volume.flatten(1, 3))


def test_derivatives_of_a_trilinear_function_are_exact():
    z, y, x = torch.meshgrid(*[torch.arange(s).double() + 0.5 for s in SHAPE], indexing="ij")
    volume = (x * y * z)[None, ..., None]
    points = torch.tensor([[[1.7, 2.1, 1.3]]], dtype=torch.float64)
    eye = torch.eye(8, dtype=torch.float64)[None, None]
    values, _ = trilinear(volume, points, eye)
    x, y, z = points[0, 0].tolist()
    expected = [x * y * z, y * z, x * z, x * y, x, y, z, 1.0]
    torch.testing.assert_close(values.flatten(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_are_right_once_and_twice(border, mixed):
    volume = _volume(1, channels=2).requires_grad_()
    points = _points(1, 6).requires_grad_()
    arguments = [volume, points]
    if mixed:
        arguments.append(torch.randn(1, 6, 2, 8, dtype=torch.float64).requires_grad_())

    def values(*tensors: Tensor) -> Tensor:
        return trilinear(*tensors, border=border)[0]

    assert gradcheck(values, arguments)
    assert gradgradcheck(values, arguments)


def test_the_gradient_combination_can_be_differentiated_twice():
    volume, points = _volume(1, channels=1).requires_grad_(), _points(1, 4).requires_grad_()

    def values(volume: Tensor, points: Tensor) -> Tensor:
        return trilinear(volume, points, gradient_mix(points))[0]

    assert gradcheck(values, (volume, points))
    assert gradgradcheck(values, (volume, points))


@pytest.mark.parametrize("route", ["autograd", "combination"])
def test_an_eikonal_loss_has_the_gradients_of_the_reference(route):
    gradients = {}
    for kernels in ("compiled", "reference"):
        volume = _volume(1, channels=1).requires_grad_()
        points = _points(1, 50, margin=-0.6).requires_grad_()
        with use_kernels(kernels):
            if route == "autograd":
                values, _ = trilinear(volume, points)
                (slopes,) = torch.autograd.grad(values.sum(), points, create_graph=True)
            else:
                slopes = trilinear(volume, points, gradient_mix(points))[0][:, :, 1:, 0]
            loss = (slopes.norm(dim=-1) - 1).square().mean()
            gradients[kernels] = torch.autograd.grad(loss, (volume, points))
    torch.testing.assert_close(gradients["compiled"], gradients["reference"])
    assert gradients["compiled"][1].abs().max() > 0


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_a_point_that_is_nowhere_has_no_value_and_no_gradient(kernels, border, bad):
    volume = _volume(1).requires_grad_()
    points = torch.tensor([[[bad, 1.0, 1.0], [1.0, 1.0, bad]]], dtype=torch.float64)
    points.requires_grad_()
    with use_kernels(kernels):
        values, known = trilinear(volume, points, border=border)
    by_volume, by_points = torch.autograd.grad(values.sum(), (volume, points))
    # Far away is somewhere, where the border goes on for ever.
    somewhere = border and bad == 1e30
    assert known.tolist() == [[somewhere, somewhere]]
    assert by_points.isfinite().all()
    if not somewhere:
        assert values.count_nonzero() == by_volume.count_nonzero() == by_points.count_nonzero() == 0


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_without_border_a_point_is_known_up_to_half_a_cell_outside(kernels):
    x = torch.tensor([-0.51, -0.49, 0.0, 5.0, 5.49, 5.51], dtype=torch.float64)
    points = torch.stack([x, torch.ones_like(x), torch.ones_like(x)], dim=-1)[None]
    with use_kernels(kernels):
        assert trilinear(_volume(1), points)[1].tolist() == [[False, True, True, True, True, False]]


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("border", [False, True])
def test_one_cell_is_enough(kernels, border):
    volume = torch.full((1, 1, 1, 1, 2), 3.0)
    points = torch.tensor([[[0.5, 0.5, 0.5], [0.75, 0.5, 0.5]]])
    with use_kernels(kernels):
        values, _ = trilinear(volume, points, border=border)
    assert values[0, :, 0, 0].tolist() == [3.0, 3.0 if border else 2.25]


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize(("batch", "count", "channels"), [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_nothing_yields_nothing(kernels, batch, count, channels):
    volume = _volume(batch, channels=channels).requires_grad_()
    points = _points(batch, count).requires_grad_()
    with use_kernels(kernels):
        values, known = trilinear(volume, points)
    assert values.shape == (batch, count, 1, channels)
    assert known.shape == (batch, count)
    gradients = torch.autograd.grad(values.sum(), (volume, points))
    assert gradients[0].count_nonzero() == gradients[1].count_nonzero() == 0


def test_views_and_expansions_are_as_good_as_copies():
    volume = _volume(1).movedim(-1, 1).contiguous().movedim(1, -1).expand(2, -1, -1, -1, -1)
    points = _points(1, 20).expand(2, -1, -1)
    values, _ = trilinear(volume, points)
    plain, _ = trilinear(volume.contiguous(), points.contiguous())
    assert torch.equal(values, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_half_precision_volumes_are_summed_in_single(dtype, kernels):
    volume = _volume(1, dtype=dtype).requires_grad_()
    points = _points(1, 5000, margin=0.0, dtype=torch.float32).requires_grad_()
    with use_kernels(kernels):
        values, _ = trilinear(volume, points)
        by_volume, by_points = torch.autograd.grad(values.float().sum(), (volume, points))
    single = volume.detach().float().requires_grad_()
    expected, _ = trilinear(single, points)
    e_volume, e_points = torch.autograd.grad(expected.sum(), (single, points))
    assert values.dtype == by_volume.dtype == dtype
    # One rounding at the end, not one an addend: 5000 points fall on 60 cells.
    torch.testing.assert_close(values, expected.to(dtype), rtol=2**-7, atol=1e-5)
    torch.testing.assert_close(by_volume, e_volume.to(dtype), rtol=2**-7, atol=1e-5)
    torch.testing.assert_close(by_points, e_points, rtol=1e-4, atol=1e-4)


def test_the_sum_over_points_does_not_depend_on_the_number_of_threads():
    before, gradients = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        volume = _volume(1, channels=20, dtype=torch.float32).requires_grad_()
        values, _ = trilinear(volume, _points(1, 3000, dtype=torch.float32))
        gradients += torch.autograd.grad(values.square().sum(), volume)
    torch.set_num_threads(before)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


# torch's own check reads the gradients of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operators_keep_torchs_rules(mixed, dtype):
    volume = _volume(2, dtype=dtype).requires_grad_()
    points = _points(2, 7, dtype=dtype).requires_grad_()
    kinds = 3 if mixed else 1
    mix = torch.randn(2, 7, kinds, 8, dtype=dtype).requires_grad_() if mixed else None
    grad = torch.randn(2, 7, kinds, 3, dtype=dtype).requires_grad_()
    operators = torch.ops.geomim
    torch.library.opcheck(operators.trilinear, (volume, points, mix, False))
    torch.library.opcheck(operators.trilinear_scatter, (grad, points, mix, *SHAPE, False))
    torch.library.opcheck(operators.trilinear_dots, (volume, points, grad, False))


def test_what_does_not_fit_is_refused():
    volume, points = _volume(1), _points(1, 4)
    with pytest.raises(
        ValueError, match="volume must be floating, batch by z by y by x by channel"
    ):
        trilinear(volume[0], points)
    with pytest.raises(ValueError, match="with at least one cell, got"):
        trilinear(volume[:, :0], points)
    with pytest.raises(ValueError, match=r"points must be 1 by point by 3, got \(2, 4, 3\)"):
        trilinear(volume, points.expand(2, -1, -1))
    with pytest.raises(TypeError, match=r"points must be torch.float64 on cpu for a torch.float64"):
        trilinear(volume, points.float())
    with pytest.raises(ValueError, match="mix must be 1 or 1 by 4 or 1 by combination by 8"):
        trilinear(volume, points, torch.ones(1, 3, 1, 8, dtype=torch.float64))


@pytest.mark.parametrize("kernel", ["gather", "scatter", "dots"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_instance_that_may_be_launched_is_listed(kernel, dtype):
    listed = nvrtc.entry_points(nvrtc.load_source("trilinear"))
    rows = torch.zeros(9, dtype=dtype)
    widths = {cuda.vector_width((rows[:8],)), cuda.vector_width((rows[1:],)), 1}
    assert len(widths) == 2
    assert all(cuda.instance(kernel, dtype, width) in listed for width in widths)


@pytest.mark.parametrize(
    ("channels", "width", "lanes"), [(0, 1, 1), (1, 1, 1), (32, 4, 8), (20, 4, 8), (512, 4, 32)]
)
def test_the_lanes_of_a_point_are_a_power_of_two_within_a_warp(channels, width, lanes):
    assert cuda.lanes(channels, width) == lanes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3, 32, 200])
@pytest.mark.parametrize("border", [False, True])
def test_the_cuda_kernels_equal_the_cpus(dtype, channels, border):
    results = {}
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    for device in ("cpu", "cuda"):
        volume = _volume(2, channels=channels, dtype=dtype).to(device).requires_grad_()
        points = _points(2, 300, dtype=compute).to(device).requires_grad_()
        mix = torch.linspace(-1, 1, 2 * 300 * 2 * 8, dtype=compute).sin()
        mix = mix.reshape(2, 300, 2, 8).to(device).requires_grad_()
        values, known = trilinear(volume, points, mix, border=border)
        inputs = (volume, points, mix)
        slopes = torch.autograd.grad(values.double().sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(slopes[1].double().square().sum(), inputs)
        results[device] = [t.cpu() for t in (values, known, *slopes, *second)]
    loose = {torch.float16: 1e-2, torch.bfloat16: 1e-1, torch.float32: 1e-3, torch.float64: 1e-9}
    for here, there in zip(results["cpu"], results["cuda"], strict=True):
        scale = max(1.0, here.abs().max().item())
        torch.testing.assert_close(there, here, atol=loose[dtype] * scale, rtol=0)
