import multiprocessing
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from geomim.kernels.injected_mlp import op, reference
from geomim.kernels.selection import use_kernels
from tests.geomim.strategies import normal

# Channels, width, layers, outputs, points: below, at and beyond a register and a block.
SIZES = [
    (5, 6, 3, 3, 150),
    (32, 16, 6, 17, 200),
    (54, 16, 4, 3, 64),
    (1, 1, 1, 1, 1),
    (33, 20, 2, 1, 65),
    (16, 40, 1, 18, 3),
]


def weights_of(channels, width, layers, outs, *, seed=0):
    """Matrices and biases that neither let values die out nor explode."""
    parts = []
    for number, (out, ins) in enumerate(reference.sizes(channels, width, layers, outs)):
        parts += [
            normal(out, ins, seed=seed + number) / ins**0.5,
            normal(out, seed=99 + number) / 3,
        ]
    return torch.cat([part.flatten() for part in parts])


def make(channels, width, layers, outs, points, *, dtype=torch.float64, sharpness=100.0):
    """Return what an operator takes: positions, inputs, weights; and sizes, by name."""
    tensors = (
        normal(points, 3, seed=1) / 2,
        normal(points, channels, seed=2) / 2,
        weights_of(channels, width, layers, outs),
    )
    sizes = {"width": width, "layers": layers, "outs": outs, "sharpness": sharpness}
    return [x.to(dtype).requires_grad_() for x in tensors], sizes


def values_and_gradients(evaluate, tensors, sizes):
    """Evaluate, and differentiate the results against fixed directions."""
    results = evaluate(*tensors, **sizes)
    results = (results,) if isinstance(results, torch.Tensor) else results
    along = (normal(*x.shape, seed=3 + i).to(x.dtype) for i, x in enumerate(results))
    loss = sum((x * y).sum() for x, y in zip(results, along, strict=True))
    gradients = torch.autograd.grad(loss, tensors, materialize_grads=True)
    return *(x.detach() for x in results), *gradients


def in_double(evaluate, tensors, sizes):
    with use_kernels("reference"):
        exact = [x.detach().double().requires_grad_() for x in tensors]
        return values_and_gradients(evaluate, exact, sizes)


def assert_near(found, exact, tolerance):
    """Compare with the largest entry of each tensor."""
    for x, y in zip(found, exact, strict=True):
        difference = (x - y).abs().max() if x.numel() else torch.zeros(())
        assert difference <= tolerance * max(y.abs().max().item() if y.numel() else 0, 1e-6)


EVALUATIONS = pytest.mark.parametrize("evaluate", [op.evaluate, op.evaluate_with_slopes])
SHARPNESS = pytest.mark.parametrize("sharpness", [100.0, 0.0])


@EVALUATIONS
@SHARPNESS
@pytest.mark.parametrize(
    ("threads", "dtype"), [(1, torch.float32), (2, torch.float32), (1, torch.float64)]
)
@pytest.mark.parametrize("shape", SIZES)
def test_the_kernels_equal_the_reference(evaluate, sharpness, threads, dtype, shape):
    tensors, sizes = make(*shape, dtype=dtype, sharpness=sharpness)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = values_and_gradients(evaluate, tensors, sizes)
    torch.set_num_threads(before)
    # Torch's softplus is the identity from 20 / sharpness on, 2e-11 beside it.
    tolerance = 3e-5 if dtype == torch.float32 else 1e-8
    assert_near(found, in_double(evaluate, tensors, sizes), tolerance)


@EVALUATIONS
@pytest.mark.parametrize("sharpness", [4.0, 0.0])
@pytest.mark.parametrize("layers", [1, 3])
def test_gradients_are_those_of_differences(evaluate, sharpness, layers):
    tensors, sizes = make(4, 3, layers, 2, 5, sharpness=sharpness)
    assert gradcheck(partial(evaluate, **sizes), tensors)


@EVALUATIONS
def test_a_second_differentiation_goes_by_the_reference(evaluate):
    tensors, sizes = make(2, 3, 2, 2, 3, sharpness=4.0)
    assert gradgradcheck(partial(evaluate, **sizes), tensors)


def test_a_third_differentiation_is_refused():
    (position, inputs, weights), sizes = make(2, 3, 2, 2, 3)
    outputs = op.evaluate(position, inputs, weights, **sizes)
    (once,) = torch.autograd.grad(outputs.sum(), position, create_graph=True)
    with pytest.raises(NotImplementedError, match="must be differentiated at most twice"):
        torch.autograd.grad(once.square().sum(), position, create_graph=True)


def test_what_one_input_was_made_of_is_not_counted_twice():
    (position, inputs, weights), sizes = make(3, 4, 2, 1, 6, sharpness=4.0)
    found = []
    for twice in (False, True):
        outputs = op.evaluate(position, inputs + position, weights, **sizes)
        found.append(torch.autograd.grad(outputs.sum(), position, create_graph=twice)[0])
    torch.testing.assert_close(*found)


@EVALUATIONS
def test_a_gradient_by_one_result_alone_is_that_of_the_reference(evaluate):
    tensors, sizes = make(4, 3, 2, 2, 5)
    results = evaluate(*tensors, **sizes)
    for number in range(len(results) if isinstance(results, tuple) else 1):

        def gradients(number=number):
            results = evaluate(*tensors, **sizes)
            result = results[number] if isinstance(results, tuple) else results
            return torch.autograd.grad(result.sum(), tensors, materialize_grads=True)

        with use_kernels("reference"):
            exact = gradients()
        assert_near(gradients(), exact, 1e-8)


@EVALUATIONS
def test_only_what_needs_a_gradient_gets_one(evaluate):
    (position, inputs, weights), sizes = make(4, 3, 2, 2, 5)
    whole = values_and_gradients(evaluate, [position, inputs, weights], sizes)
    alone = values_and_gradients(
        lambda x, **sizes: evaluate(position.detach(), inputs.detach(), x, **sizes),
        [weights],
        sizes,
    )
    torch.testing.assert_close(alone[-1], whole[-1])
    with torch.no_grad():
        results = evaluate(position, inputs, weights, **sizes)
    assert not any(x.requires_grad for x in (results if isinstance(results, tuple) else [results]))


def test_a_rectifier_is_flat_at_its_bend():
    tensors = torch.zeros(1, 3), torch.zeros(1, 1), torch.ones(4 + 2 * 4)
    position, inputs, weights = (x.double().requires_grad_() for x in tensors)
    with torch.no_grad():
        # All biases are 0, and so is what the activation is given.
        weights[[3, 5, 7, 9, 11]] = 0
    sizes = {"width": 1, "layers": 2, "outs": 1, "sharpness": 0.0}
    outputs, by_position, _ = op.evaluate_with_slopes(position, inputs, weights, **sizes)
    assert outputs.item() == 0
    assert by_position.tolist() == [[0, 0, 0]]
    (gradient,) = torch.autograd.grad(outputs.sum(), position)
    assert gradient.tolist() == [[0, 0, 0]]


@EVALUATIONS
@SHARPNESS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_values_neither_overflow_nor_lose_their_gradient(evaluate, sharpness, dtype):
    (position, inputs, weights), sizes = make(5, 6, 3, 3, 70, dtype=dtype, sharpness=sharpness)
    tensors = [(1e6 * position).detach().requires_grad_(), inputs, weights]
    found = values_and_gradients(evaluate, tensors, sizes)
    assert all(x.isfinite().all() for x in found)
    assert_near(found, in_double(evaluate, tensors, sizes), 3e-5)


@EVALUATIONS
@SHARPNESS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_point_that_is_not_finite_spoils_no_other(evaluate, sharpness, dtype, bad):
    (position, inputs, weights), sizes = make(5, 6, 3, 3, 70, dtype=dtype, sharpness=sharpness)
    right = values_and_gradients(evaluate, [position, inputs, weights], sizes)
    with torch.no_grad():
        inputs[7, 2] = bad
    found = values_and_gradients(evaluate, [position, inputs, weights], sizes)
    others = torch.arange(70) != 7
    for x, y in zip(found[:-1], right[:-1], strict=True):
        torch.testing.assert_close(x[others], y[others], rtol=0, atol=0)
    assert found[0][7].isnan().any() or found[0][7].isinf().any()


@EVALUATIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_points_have_no_results_and_no_gradient(evaluate, dtype):
    tensors, sizes = make(5, 6, 3, 3, 0, dtype=dtype)
    *results, by_weights = values_and_gradients(evaluate, tensors, sizes)
    assert all(len(x) == 0 for x in results)
    assert by_weights.shape == tensors[2].shape
    assert (by_weights == 0).all()


@EVALUATIONS
def test_inputs_need_not_lie_together_in_memory(evaluate):
    (_, _, weights), sizes = make(5, 6, 3, 3, 1, dtype=torch.float32)
    position = normal(3, 70, seed=1).float().mT.requires_grad_()
    inputs = normal(1, 5, seed=2).float().requires_grad_()
    spread = [position, inputs.expand(70, 5), weights]
    together = [position.contiguous(), inputs.expand(70, 5).contiguous(), weights]
    found, right = (values_and_gradients(evaluate, x, sizes) for x in (spread, together))
    torch.testing.assert_close(found, right, rtol=0, atol=0)


@EVALUATIONS
def test_nothing_depends_on_the_number_of_threads(evaluate):
    tensors, sizes = make(5, 6, 3, 3, 9000, dtype=torch.float32)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(values_and_gradients(evaluate, tensors, sizes))
    torch.set_num_threads(before)
    assert all(
        torch.equal(x, y) for other in found[1:] for x, y in zip(found[0], other, strict=True)
    )


def worker(queue):
    tensors, sizes = make(5, 6, 3, 3, 150, dtype=torch.float32)
    torch.set_num_threads(2)
    results = values_and_gradients(op.evaluate_with_slopes, tensors, sizes)
    queue.put([x.numpy() for x in results])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_workers_run_them_after_their_parent_did():
    tensors, sizes = make(5, 6, 3, 3, 150, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    expected = values_and_gradients(op.evaluate_with_slopes, tensors, sizes)
    torch.set_num_threads(before)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=worker, args=(queue,))
    child.start()
    found = queue.get(timeout=120)
    child.join(timeout=120)
    assert child.exitcode == 0
    assert all(torch.equal(torch.from_numpy(x), y) for x, y in zip(found, expected, strict=True))


# torch's own check reads the gradients of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_operators_keep_torchs_rules():
    operators = torch.ops.geomim
    tensors, sizes = make(4, 3, 2, 2, 5, sharpness=4.0)
    arguments = (*tensors, *sizes.values())
    torch.library.opcheck(operators.injected_mlp, arguments)
    torch.library.opcheck(operators.injected_mlp_slopes, arguments)
    given = [x.detach() for x in (*tensors, normal(5, 2, seed=3), normal(5, 3, seed=4))]
    for along in ((None, None), (given[4], given[1])):
        torch.library.opcheck(
            operators.injected_mlp_backward,
            (*given[:3], *sizes.values(), given[3], *along, True, True),
        )


@pytest.mark.parametrize("slopes", [False, True])
def test_what_runs_on_cuda_has_the_same_gradients(slopes):
    tensors, sizes = make(4, 3, 2, 2, 5)
    position, inputs, weights = (x.detach() for x in tensors)
    along = (normal(5, 3, seed=4), normal(5, 4, seed=5)) if slopes else (None, None)
    arguments = (position, inputs, weights, *sizes.values(), normal(5, 2, seed=3), *along)
    found = op._differentiate_on_cuda(*arguments, True, False)
    expected = torch.ops.geomim.injected_mlp_backward(*arguments, True, False)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
