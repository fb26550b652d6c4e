"""Take lens distortion out of points as torch operators, with implicit gradients.

``reference.py`` defines ``undistort`` and ``distortion_reach`` and has the distortion itself, which
is plain torch everywhere. Results, gradients included, do not depend on the number of threads.
"""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels import nvrtc
from geomim.kernels.autograd import register_autograd
from geomim.kernels.selection import selected_kernels
from geomim.kernels.undistort import reference

COEFFICIENTS = 13
_OPERATORS = torch.ops.geomim
_CUDA_BLOCK = 128


def undistort(distorted: Tensor, coefficients: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Return the regular points that are distorted to the given ones, and where they are known.

    Computed in double precision. Gradients of points and coefficients are those of the implicit
    function theorem, 0 where no point is known; the reach has none.

    Args:
        distorted: Camera by point by 2, of the plane on which the lens acts.
        coefficients: Camera by 13, in the order of :mod:`geomim.kernels.undistort.reference`.
        reach: The radius up to which each camera's points are sought.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If not all are float32, or all float64.
    """
    _check(distorted, coefficients)
    if tuple(reach.shape) != (coefficients.shape[0],) or reach.dtype != coefficients.dtype:
        raise ValueError(
            f"reach must be one {coefficients.dtype} a camera, {coefficients.shape[0]}, got "
            f"{reach.dtype} {tuple(reach.shape)}"
        )
    if selected_kernels() == "reference":
        return reference.undistort(distorted, coefficients, reach.detach())
    return _OPERATORS.undistort(distorted, coefficients, reach.detach())


def distortion_reach(coefficients: Tensor) -> Tensor:
    """Return the radius at which the radial distortion of each row of 13 stops rising.

    Infinity if it never does. It has no gradient.

    Raises:
        ValueError: If the coefficients are not rows of 13.
    """
    if coefficients.ndim != 2 or coefficients.shape[1] != COEFFICIENTS:
        raise ValueError(f"coefficients must be camera by 13, got {tuple(coefficients.shape)}")
    if selected_kernels() == "reference":
        return reference.distortion_reach(coefficients.detach())
    return _OPERATORS.distortion_reach(coefficients.detach())


def _check(distorted: Tensor, coefficients: Tensor) -> None:
    if distorted.ndim != 3 or distorted.shape[2] != 2:
        raise ValueError(f"distorted must be camera by point by 2, got {tuple(distorted.shape)}")
    if tuple(coefficients.shape) != (distorted.shape[0], COEFFICIENTS):
        raise ValueError(
            f"coefficients must be {distorted.shape[0]} by 13, got {tuple(coefficients.shape)}"
        )
    exact = distorted.dtype in (torch.float32, torch.float64)
    if not exact or coefficients.dtype != distorted.dtype:
        raise TypeError(
            "distorted and coefficients must both be float32 or float64, "
            f"got {distorted.dtype} and {coefficients.dtype}"
        )


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define("geomim::distortion_reach", "(Tensor coefficients) -> Tensor")
torch.library.define(
    "geomim::undistort",
    "(Tensor distorted, Tensor coefficients, Tensor reach) -> (Tensor undistorted, Tensor known)",
)
torch.library.define(
    "geomim::undistort_backward",
    "(Tensor grad, Tensor undistorted, Tensor known, Tensor coefficients)"
    " -> (Tensor for_distorted, Tensor for_coefficients)",
)


@torch.library.register_fake("geomim::distortion_reach")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _reach_fake(coefficients: Tensor) -> Tensor:
    return coefficients.new_empty(coefficients.shape[:1])


@torch.library.register_fake("geomim::undistort")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _undistort_fake(distorted: Tensor, *_others: Tensor) -> tuple[Tensor, Tensor]:
    return distorted.new_empty(distorted.shape), _empty_known(distorted)


@torch.library.register_fake("geomim::undistort_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _backward_fake(
    grad: Tensor,
    _undistorted: Tensor,
    _known: Tensor,
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    return grad.new_empty(grad.shape), coefficients.new_empty(coefficients.shape)


def _empty_known(distorted: Tensor) -> Tensor:
    return distorted.new_empty(distorted.shape[:2], dtype=torch.bool)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    undistorted, known = output
    ctx.mark_non_differentiable(known)
    ctx.save_for_backward(undistorted, known, inputs[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    undistorted, known, coefficients = ctx.saved_tensors
    return *_OPERATORS.undistort_backward(grad, undistorted, known, coefficients), None


def _keep_for_backward(ctx: Any, inputs: tuple[Tensor, ...], output: object) -> None:  # noqa: ARG001 - torch's
    ctx.save_for_backward(*inputs)


def _differentiate_backward(
    ctx: Any, for_distorted: Tensor, for_coefficients: Tensor
) -> tuple[Tensor | None, ...]:
    """Differentiate the reference's closed form: no search is left in it."""
    grad, undistorted, known, coefficients = ctx.saved_tensors
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in (grad, undistorted, coefficients)]
        outputs = reference.undistort_backward(inputs[0], inputs[1], known, inputs[2])
        by_grad, by_points, by_coefficients = torch.autograd.grad(
            outputs, inputs, (for_distorted, for_coefficients)
        )
    return by_grad, by_points, None, by_coefficients


register_autograd("geomim::undistort", _differentiate, setup_context=_keep)
register_autograd(
    "geomim::undistort_backward", _differentiate_backward, setup_context=_keep_for_backward
)


@torch.library.impl("geomim::distortion_reach", "cpu")
def _reach_cpu(coefficients: Tensor) -> Tensor:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.undistort import cpu

    out = coefficients.new_empty(coefficients.shape[:1], dtype=torch.float64)
    cpu.distortion_reach(_array(coefficients), out.numpy(), threads=1)
    return out.to(coefficients.dtype)


@torch.library.impl("geomim::undistort", "cpu")
def _undistort_cpu(distorted: Tensor, coefficients: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    from geomim.kernels.undistort import cpu

    out, known = distorted.new_empty(distorted.shape, dtype=torch.float64), _empty_known(distorted)
    cpu.undistort(
        _array(distorted),
        _array(coefficients),
        _array(reach),
        out.numpy(),
        known.numpy(),
        threads=torch.get_num_threads(),
    )
    return out.to(distorted.dtype), known


@torch.library.impl("geomim::undistort_backward", "cpu")
def _backward_cpu(
    grad: Tensor, undistorted: Tensor, known: Tensor, coefficients: Tensor
) -> tuple[Tensor, Tensor]:
    from geomim.kernels.undistort import cpu

    out = grad.new_empty(grad.shape, dtype=torch.float64)
    blocks = -(-grad.shape[1] // cpu.BLOCK)
    partial = out.new_empty((grad.shape[0], blocks, COEFFICIENTS))
    cpu.undistort_backward(
        _array(grad),
        _array(undistorted),
        known.contiguous().numpy(),
        _array(coefficients),
        out.numpy(),
        partial.numpy(),
        threads=torch.get_num_threads(),
    )
    return out.to(grad.dtype), partial.sum(dim=1).to(coefficients.dtype)


def _array(tensor: Tensor) -> Any:
    """Hand a tensor to numba, in the precision of all arithmetic."""
    return tensor.detach().double().contiguous().numpy()


@torch.library.impl("geomim::distortion_reach", "cuda")
def _reach_cuda(coefficients: Tensor) -> Tensor:
    cameras = coefficients.shape[0]
    out = coefficients.new_empty((cameras,))
    _launch("distortion_reach", (1, cameras), (coefficients.contiguous(), out, cameras), out)
    return out


@torch.library.impl("geomim::undistort", "cuda")
def _undistort_cuda(
    distorted: Tensor, coefficients: Tensor, reach: Tensor
) -> tuple[Tensor, Tensor]:
    cameras, points = distorted.shape[:2]
    out, known = distorted.new_empty(distorted.shape), _empty_known(distorted)
    inputs = [tensor.contiguous() for tensor in (distorted, coefficients, reach)]
    _launch("undistort", (cameras, points), (*inputs, out, known, points), out)
    return out, known


@torch.library.impl("geomim::undistort_backward", "cuda")
def _backward_cuda(
    grad: Tensor, undistorted: Tensor, known: Tensor, coefficients: Tensor
) -> tuple[Tensor, Tensor]:
    cameras, points = grad.shape[:2]
    out = grad.new_empty(grad.shape)
    blocks = -(-points // _CUDA_BLOCK)
    partial = grad.new_empty((cameras, blocks, COEFFICIENTS), dtype=torch.float64)
    inputs = [tensor.contiguous() for tensor in (grad, undistorted, known, coefficients)]
    _launch("undistort_backward", (cameras, points), (*inputs, out, partial, points), out)
    return out, partial.sum(dim=1).to(coefficients.dtype)


def _launch(
    entry: str, work: tuple[int, int], arguments: tuple[nvrtc.Argument, ...], like: Tensor
) -> None:
    """Launch an entry point with blocks of points along x and cameras along y."""
    cameras, points = work
    if cameras == 0 or points == 0:
        return
    scalar = "double" if like.dtype == torch.float64 else "float"
    function = nvrtc.cuda_function("undistort", f"{entry}<{scalar}>", like.device)
    grid = (-(-points // _CUDA_BLOCK), cameras, 1)
    nvrtc.launch(function, grid, (_CUDA_BLOCK, 1, 1), arguments)
