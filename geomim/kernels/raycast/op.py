"""Cast rays as a torch operator: the numba loop on the CPU, the reference elsewhere."""

import torch
from torch import Tensor

from geomim.kernels.raycast import reference
from geomim.kernels.selection import selected_kernels


def cast_rays(
    origins: Tensor, directions: Tensor, kind: Tensor, unit_from_world: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return distance, primitive and normal of the nearest hit of every ray.

    Args:
        origins: Rays by 3; computed in double precision, returned in this dtype.
        directions: Rays by 3, of any length, in the same dtype; the distance counts in it.
        kind: One integer a primitive, 0 box, 1 sphere, 2 cylinder.
        unit_from_world: Primitives by 3 by 4, into each one's unit coordinates: a rigid motion,
            then a scaling of the axes.

    Raises:
        TypeError: If the rays are neither float32 nor float64.
    """
    if origins.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"origins must be float32 or float64, got {origins.dtype}")
    if selected_kernels() == "reference":
        return reference.cast_rays(origins, directions, kind, unit_from_world)
    return torch.ops.geomim.cast_rays(origins, directions, kind, unit_from_world)


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define(
    "geomim::cast_rays",
    "(Tensor origins, Tensor directions, Tensor kind, Tensor unit_from_world)"
    " -> (Tensor distance, Tensor primitive, Tensor normal)",
)


@torch.library.impl("geomim::cast_rays", "cpu")
def _cast_rays_cpu(
    origins: Tensor, directions: Tensor, kind: Tensor, unit_from_world: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.raycast import cpu

    distance, primitive, normal = _empty_hits(origins)
    cpu.cast_rays(
        origins.contiguous().numpy(),
        directions.contiguous().numpy(),
        kind.to(torch.int64).contiguous().numpy(),
        unit_from_world.double().contiguous().numpy(),
        distance.numpy(),
        primitive.numpy(),
        normal.numpy(),
        threads=torch.get_num_threads(),
    )
    return distance, primitive, normal


# No CUDA kernel yet: the reference is plain torch and runs wherever torch does.
torch.library.impl("geomim::cast_rays", "cuda")(reference.cast_rays)


@torch.library.register_fake("geomim::cast_rays")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _cast_rays_fake(origins: Tensor, *_others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_hits(origins)


def _empty_hits(origins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rays = origins.shape[0]
    distance = origins.new_empty((rays,))
    return distance, origins.new_empty((rays,), dtype=torch.int64), origins.new_empty((rays, 3))
