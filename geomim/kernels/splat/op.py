"""Project and splat points as torch operators; ``reference.py`` defines them.

Which point wins a pixel is the same on every device and with any number of threads. Sums of the
backward passes have a fixed order on the CPU; on CUDA they are atomic.
"""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels.autograd import register_autograd
from geomim.kernels.selection import selected_kernels
from geomim.kernels.splat import cuda, reference

_OPERATORS = torch.ops.geomim
# Parts of the sum over points: enough for the threads of a socket.
_PARTS = 16


def project_pinhole(
    points: Tensor,
    cam_from_points: Tensor,
    focal: Tensor,
    principal_point: Tensor,
    *,
    size: tuple[int, int],
    near: float,
    margin: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels and depths of points in every camera, and which are valid.

    Shapes and meaning are those of :func:`geomim.kernels.splat.reference.project_pinhole`.

    Raises:
        TypeError: If the points are neither float32 nor float64, or a table is of another dtype.
        ValueError: If a shape does not fit.
    """
    tables = (cam_from_points, focal, principal_point)
    _check_alike("points", points, "cameras", *tables)
    cameras = len(cam_from_points)
    shapes = tuple(tuple(table.shape) for table in tables)
    fits = points.ndim == 3 and points.shape[2] == 3 and len(points) in (1, cameras)
    if shapes != ((cameras, 3, 4), (cameras, 2), (cameras, 2)) or not fits:
        raise ValueError(
            "points, cam_from_points, focal and principal_point must be of as many cameras, got "
            f"{tuple(points.shape)}, {shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    if selected_kernels() == "reference":
        return reference.project_pinhole(points, *tables, *size, near, margin)
    return _OPERATORS.project_pinhole(points, *tables, *size, near, margin)


def splat(
    pixels: Tensor, depth: Tensor, valid: Tensor, *, size: tuple[int, int], radius: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Keep the nearest point of every pixel; the depth is differentiable through the winner.

    Shapes and meaning are those of :func:`geomim.kernels.splat.reference.splat`.

    Raises:
        TypeError: If the depth is neither float32 nor float64, or the pixels are of another dtype.
        ValueError: If a shape does not fit, there are 2**31 points, or the radius is negative.
    """
    _check_alike("depth", depth, "pixels", pixels)
    if depth.ndim != 2 or pixels.shape != (*depth.shape, 2) or valid.shape != depth.shape:
        raise ValueError(
            "pixels, depth and valid must be (image, point, 2) and twice (image, point), got "
            f"{tuple(pixels.shape)}, {tuple(depth.shape)} and {tuple(valid.shape)}"
        )
    if depth.shape[1] >= 2**31:
        raise ValueError(f"an image must have less than 2**31 points, got {depth.shape[1]}")
    if not radius >= 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    if selected_kernels() == "reference":
        return reference.splat(pixels, depth, valid, *size, radius)
    return _OPERATORS.splat(pixels, depth, valid, *size, radius)


def _check_alike(name: str, first: Tensor, others_name: str, *others: Tensor) -> None:
    if first.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {first.dtype}")
    kinds = {(other.dtype, other.device) for other in others}
    if kinds != {(first.dtype, first.device)}:
        raise TypeError(
            f"{others_name} must be {first.dtype} on {first.device} like the {name}, got "
            f"{sorted(map(str, kinds))}"
        )


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define(
    "geomim::project_pinhole",
    "(Tensor points, Tensor cam_from_points, Tensor focal, Tensor principal_point, SymInt height,"
    " SymInt width, float near, float margin) -> (Tensor pixels, Tensor depth, Tensor valid)",
)
torch.library.define(
    "geomim::project_pinhole_backward",
    "(Tensor grad_pixels, Tensor grad_depth, Tensor valid, Tensor points, Tensor cam_from_points,"
    " Tensor focal) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "geomim::splat",
    "(Tensor pixels, Tensor depth, Tensor valid, SymInt height, SymInt width, float radius)"
    " -> (Tensor depth_map, Tensor index)",
)


@torch.library.register_fake("geomim::project_pinhole")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _project_fake(
    points: Tensor, cam_from_points: Tensor, *_others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _room(points, cam_from_points)


@torch.library.register_fake("geomim::project_pinhole_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _project_backward_fake(
    _grad_pixels: Tensor,
    _grad_depth: Tensor,
    _valid: Tensor,
    points: Tensor,
    cam_from_points: Tensor,
    focal: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tables = (points, cam_from_points, focal, focal)
    a, b, c, d = (table.new_empty(table.shape) for table in tables)
    return a, b, c, d


@torch.library.register_fake("geomim::splat")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _splat_fake(
    _pixels: Tensor, depth: Tensor, _valid: Tensor, height: int, width: int, _radius: float
) -> tuple[Tensor, Tensor]:
    shape = (depth.shape[0], height, width)
    return depth.new_empty(shape), depth.new_empty(shape, dtype=torch.int32)


def _room(points: Tensor, cam_from_points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return room for what ``project_pinhole`` returns."""
    shape = (cam_from_points.shape[0], points.shape[1])
    valid = points.new_empty(shape, dtype=torch.bool)
    return points.new_empty((*shape, 2)), points.new_empty(shape), valid


def _keep_for_project(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    points, cam_from_points, focal, *_ = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[2], points, cam_from_points, focal)


def _differentiate_project(
    ctx: Any, grad_pixels: Tensor, grad_depth: Tensor, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    gradients = _OPERATORS.project_pinhole_backward(grad_pixels, grad_depth, *ctx.saved_tensors)
    return *gradients, None, None, None, None


def _keep_for_splat(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.count = inputs[1].shape[1]
    ctx.save_for_backward(output[1])


def _differentiate_splat(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """Give each pixel's gradient to its winner; pixels, which only choose, have none."""
    (index,) = ctx.saved_tensors
    flat = index.flatten(1).long()
    by_depth = grad.new_zeros((len(flat), ctx.count + 1)).scatter_add(
        1, torch.where(flat >= 0, flat, ctx.count), grad.flatten(1)
    )
    return None, by_depth[:, :-1], None, None, None, None


register_autograd(
    "geomim::project_pinhole", _differentiate_project, setup_context=_keep_for_project
)
register_autograd("geomim::splat", _differentiate_splat, setup_context=_keep_for_splat)


@torch.library.impl("geomim::project_pinhole", "cpu")
def _project_cpu(
    points: Tensor, cam_from_points: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.splat import cpu

    focal, principal_point, height, width, near, margin = others
    out = _room(points, cam_from_points)
    cpu.project_pinhole(
        *_arrays(points, cam_from_points, focal, principal_point),
        height,
        width,
        near,
        margin,
        *_arrays(*out),
        threads=torch.get_num_threads(),
    )
    return out


@torch.library.impl("geomim::project_pinhole_backward", "cpu")
def _project_backward_cpu(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from geomim.kernels.splat import cpu

    *_, points, cam_from_points, focal = inputs
    by_points = points.new_zeros(points.shape)
    tables = [
        table.new_zeros((_PARTS, *table.shape), dtype=torch.float64)
        for table in (cam_from_points, focal, focal)
    ]
    cpu.project_pinhole_backward(
        *_arrays(*inputs, by_points, *tables), threads=torch.get_num_threads()
    )
    by_matrix, by_focal, by_centre = (table.sum(dim=0).to(points.dtype) for table in tables)
    return by_points, by_matrix, by_focal, by_centre


@torch.library.impl("geomim::splat", "cpu")
def _splat_cpu(
    pixels: Tensor, depth: Tensor, valid: Tensor, height: int, width: int, radius: float
) -> tuple[Tensor, Tensor]:
    from geomim.kernels.splat import cpu

    shape = (depth.shape[0], height, width)
    out = (depth.new_empty(shape), depth.new_empty(shape, dtype=torch.int32))
    cpu.splat(
        *_arrays(pixels, depth, valid), radius, *_arrays(*out), threads=torch.get_num_threads()
    )
    return out


@torch.library.impl("geomim::project_pinhole", "cuda")
def _project_cuda(
    points: Tensor, cam_from_points: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    focal, principal_point, height, width, near, margin = others
    out = _room(points, cam_from_points)
    inputs = tuple(t.contiguous() for t in (points, cam_from_points, focal, principal_point))
    cuda.project_pinhole(inputs, (height, width), (near, margin), out)
    return out


@torch.library.impl("geomim::project_pinhole_backward", "cuda")
def _project_backward_cuda(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = tuple(t.contiguous() for t in inputs)
    *_, points, cam_from_points, focal = inputs
    a, b, c, d = (torch.zeros_like(t) for t in (points, cam_from_points, focal, focal))
    cuda.project_pinhole_backward(inputs, (a, b, c, d))
    return a, b, c, d


@torch.library.impl("geomim::splat", "cuda")
def _splat_cuda(
    pixels: Tensor, depth: Tensor, valid: Tensor, height: int, width: int, radius: float
) -> tuple[Tensor, Tensor]:
    shape = (depth.shape[0], height, width)
    out = (depth.new_empty(shape), depth.new_full(shape, -1, dtype=torch.int32))
    cuda.splat((pixels.contiguous(), depth.contiguous(), valid.contiguous()), radius, out)
    return out


def _arrays(*tensors: Tensor) -> list[Any]:
    """Hand tensors to numba."""
    return [tensor.contiguous().numpy() for tensor in tensors]
