import pytest
import torch
from numba import njit
from torch.autograd import gradcheck, gradgradcheck

from geomim.kernels import nvrtc
from geomim.kernels.rendering import on_cuda, op
from geomim.kernels.rendering.cpu import exponential
from geomim.kernels.selection import use_kernels

RAYS, COUNT = 7, 13
OFFSETS = torch.tensor([0, 5, 5, 6, 30, 41, 90, 91])


def _samples(kind, *, channels=3, layout="padded", dtype=torch.float64):
    """Samples of 7 rays: what the operator takes, and how they are laid out."""
    generator = torch.Generator().manual_seed(4)

    def draw(*shape):
        return torch.rand(RAYS * COUNT, *shape, generator=generator, dtype=torch.float64)

    starts = draw().cumsum(dim=0)
    inputs = (2 * draw(), starts, starts + draw()) if kind == "density" else (draw(), starts)
    valid = draw() > 0.3 if layout == "masked" else None
    offsets = OFFSETS if layout == "packed" else None
    values = 2 * draw(channels) - 1
    tensors = [x.to(dtype).requires_grad_() for x in (*inputs, values)]
    return tensors, {"valid": valid, "offsets": offsets, "rays": RAYS}


def _render(kind):
    return op.render_density if kind == "density" else op.render_alpha


def _mixed(results):
    """A loss to which every result contributes otherwise."""
    return sum((i + 1) * (x * (1 + x)).sum() for i, x in enumerate(results[:5]))


def _cases():
    kinds, layouts = ("density", "alpha"), ("padded", "masked", "packed")
    return [(kind, layout) for kind in kinds for layout in layouts]


@pytest.mark.parametrize(("kind", "layout"), _cases())
@pytest.mark.parametrize("channels", [0, 1, 3, 5])
@pytest.mark.parametrize(("threads", "dtype"), [(1, torch.float32), (2, torch.float64)])
def test_the_kernels_equal_the_reference(kind, layout, channels, threads, dtype):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    results = {}
    for kernels in ("compiled", "reference"):
        samples, rest = _samples(kind, channels=channels, layout=layout, dtype=dtype)
        with use_kernels(kernels):
            rendered = _render(kind)(*samples, **rest)
        slopes = torch.autograd.grad(_mixed(rendered), samples)
        results[kernels] = (*rendered, *slopes)
    torch.set_num_threads(before)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-10
    for found, expected in zip(results["compiled"], results["reference"], strict=True):
        scale = max(1.0, expected.double().abs().max().item()) if expected.numel() else 1.0
        torch.testing.assert_close(found, expected, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize(("kind", "layout"), _cases())
@pytest.mark.parametrize("channels", [0, 2, 3])
def test_gradients_are_right_once_and_twice(kind, layout, channels):
    samples, rest = _samples(kind, channels=channels, layout=layout)

    def render(*tensors):
        return _render(kind)(*tensors, **rest)[:5]

    assert gradcheck(render, samples, fast_mode=True)
    assert gradgradcheck(render, samples, fast_mode=True)


@pytest.mark.parametrize("kind", ["density", "alpha"])
def test_a_gradient_of_one_result_alone_is_right(kind):
    samples, rest = _samples(kind)
    for index in range(5):
        assert gradcheck(lambda *x, i=index: _render(kind)(*x, **rest)[i], samples, fast_mode=True)


@pytest.mark.parametrize("kind", ["density", "alpha"])
def test_a_gradient_to_be_differentiated_again_is_the_same(kind):
    samples, rest = _samples(kind, layout="masked", dtype=torch.float32)
    loss = _mixed(_render(kind)(*samples, **rest))
    plain = torch.autograd.grad(loss, samples, retain_graph=True)
    again = torch.autograd.grad(loss, samples, create_graph=True)
    torch.testing.assert_close(plain, tuple(x.detach() for x in again), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("kind", ["density", "alpha"])
def test_gradients_are_exact_where_a_sample_is_opaque(kind, twice, kernels):
    alphas = torch.tensor([0.5, 1.0, 0.25], dtype=torch.float64, requires_grad=True)
    first = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    values = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    rest = {"valid": None, "offsets": None, "rays": 1}
    with use_kernels(kernels):
        if kind == "alpha":
            rendered = op.render_alpha(alphas, first, values, **rest)[4]
            # d/da of a1 v1 + (1 - a1) (a2 v2 + (1 - a2) a3 v3), by hand at a2 = 1.
            expected = [1.0 - 2.0, 0.5 * (2.0 - 0.25 * 4.0), 0.0]
            (slopes,) = torch.autograd.grad(rendered.sum(), alphas, create_graph=twice)
            assert slopes.tolist() == expected
        else:
            densities = torch.tensor([0.5, torch.inf, 0.25], dtype=torch.float64)
            densities.requires_grad_()
            rendered = op.render_density(densities, first, first + 1, values, **rest)[4]
            (slopes,) = torch.autograd.grad(rendered.sum(), densities, create_graph=twice)
            torch.testing.assert_close(
                rendered.item(),
                2 - torch.exp(alphas[0].neg()).item() * 0 - (1 - torch.exp(-alphas[0]).item()),
            )
            torch.testing.assert_close(
                slopes, torch.tensor([-torch.exp(-alphas[0]).item(), 0.0, 0.0]).double()
            )


def test_second_derivatives_where_a_sample_is_opaque_are_those_of_the_product():
    alphas = torch.tensor([0.5, 1.0, 0.25, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    distances = torch.arange(5.0, dtype=torch.float64, requires_grad=True)
    values = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def render(*tensors):
        return op.render_alpha(*tensors, valid=None, offsets=None, rays=1)[:5]

    assert gradcheck(render, (alphas, distances, values))
    assert gradgradcheck(render, (alphas, distances, values))


# torch's own check reads the gradients of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("layout", ["padded", "masked", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operators_keep_torchs_rules(layout, dtype):
    operators = torch.ops.geomim
    for kind in ("density", "alpha"):
        samples, rest = _samples(kind, layout=layout, dtype=dtype)
        layouts = rest["valid"], rest["offsets"]
        forward = getattr(operators, f"render_{kind}")
        backward = getattr(operators, f"render_{kind}_backward")
        torch.library.opcheck(forward, (*samples, *layouts, RAYS))
        weights, _, left, _, rendered, known = forward(*samples, *layouts, RAYS)
        state = weights.detach(), left.detach(), known
        grads = [torch.randn_like(left) for _ in range(3)] + [torch.randn_like(rendered)]
        if kind == "alpha":
            grads = [x.requires_grad_() for x in grads]
        for by_weights in (None, torch.randn_like(weights)):
            arguments = (*samples, *layouts, *state, by_weights, *grads)
            detached = [x.detach() if torch.is_tensor(x) else x for x in arguments]
            inputs = arguments if kind == "alpha" else detached
            torch.library.opcheck(backward, (*inputs, True, True))
            torch.library.opcheck(backward, (*detached, False, False))
            if kind == "alpha":
                along = [torch.randn_like(x) for x in detached[:3]]
                torch.library.opcheck(operators.render_alpha_double_backward, (*detached, *along))


@pytest.mark.parametrize(
    "offsets", [[1, 91], [0, 90], [0, 50, 40, 91]], ids=["start", "end", "falling"]
)
@pytest.mark.parametrize("masked", [False, True])
def test_offsets_that_lead_out_of_the_samples_are_refused(offsets, masked):
    samples, rest = _samples("alpha", layout="masked" if masked else "padded")
    offsets = torch.tensor(offsets)
    with pytest.raises(ValueError, match="offsets must rise from 0 to the number of samples 91"):
        op.render_alpha(*samples, valid=rest["valid"], offsets=offsets, rays=offsets.shape[0] - 1)


def test_the_polynomial_exponential_is_good_to_single_precision():
    x = torch.linspace(-87.3, 88.3, 40001).numpy()

    @njit
    def both(x, first, second):
        for i in range(x.shape[0]):
            first[i], second[i] = exponential.exp_and_expm1(x[i])

    first, second = torch.empty(40001).numpy(), torch.empty(40001).numpy()
    both(x, first, second)
    exact = torch.from_numpy(x).double()
    torch.testing.assert_close(torch.from_numpy(first).double(), exact.exp(), rtol=3e-7, atol=0)
    torch.testing.assert_close(torch.from_numpy(second).double(), exact.expm1(), rtol=3e-7, atol=0)


@pytest.mark.parametrize("kernel", ["render", "render_backward"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("density", [False, True])
def test_every_instance_that_may_be_launched_is_listed(kernel, dtype, density):
    listed = nvrtc.entry_points(nvrtc.load_source("rendering"))
    assert on_cuda.instance(kernel, dtype, density=density) in listed


@pytest.mark.parametrize(
    ("count", "packed", "lanes"),
    [(0, False, 1), (1, False, 1), (3, False, 4), (32, False, 32), (96, False, 32), (3, True, 32)],
)
def test_the_lanes_of_a_ray_are_a_power_of_two_within_a_warp(count, packed, lanes):
    assert on_cuda.lanes(count, packed=packed) == lanes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kind", "layout"), _cases())
@pytest.mark.parametrize("channels", [0, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_cuda_kernels_equal_the_cpus(kind, layout, channels, dtype):
    results = {}
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    for device in ("cpu", "cuda"):
        samples, rest = _samples(kind, channels=channels, layout=layout, dtype=compute)
        samples[-1] = samples[-1].to(dtype)
        samples = [x.detach().to(device).requires_grad_() for x in samples]
        rest = {k: x.to(device) if torch.is_tensor(x) else x for k, x in rest.items()}
        rendered = _render(kind)(*samples, **rest)
        slopes = torch.autograd.grad(_mixed(rendered), samples, create_graph=True)
        plain = torch.autograd.grad(_mixed(rendered), samples, retain_graph=True)
        second = torch.autograd.grad(slopes[0].double().square().sum(), samples)
        results[device] = [x.cpu() for x in (*rendered, *slopes, *plain, *second)]
    loose = {torch.float16: 1e-2, torch.bfloat16: 1e-1, torch.float32: 1e-3, torch.float64: 1e-9}
    for here, there in zip(results["cpu"], results["cuda"], strict=True):
        scale = max(1.0, here.double().abs().max().item()) if here.numel() else 1.0
        torch.testing.assert_close(there, here, atol=loose[dtype] * scale, rtol=0)
