"""MIM4D's rendering of one supervised frame, forward and backward, beside the same in plain torch.

At the sizes of mim4d.yaml: 512 rays in each of 6 views, 72 samples and 24 more, a volume of 180 x
180 x 5 cells of 32 channels. Pixels become rays, rays samples, samples distances and colours, and
these colour and distance along the ray; the gradients are those of the volume and of the field.
Both contenders run the same code, once by our kernels, once by their references. The field's
networks are 10 layers of width 16; with one layer each, the rest is left. ``profile_mim4d.py`` has
the shares of a whole step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast, final

import torch
from torch import Tensor

from benchmarks.measure import Contender, Workload
from geomim.cameras import PinholeCamera
from geomim.grids import VoxelGrid
from geomim.kernels.selection import Kernels, use_kernels
from geomim.rays import rays_of_pixels
from geomim.rotations import matrix_from_rotation_vector
from geomim.transforms import RigidTransform
from trainer.config_file import load_config
from trainer.config_mim4d import Mim4dConfig
from trainer.config_mim4d_model import FieldConfig
from trainer.methods.mim4d.field import SdfField
from trainer.methods.mim4d.rendering import SamplePlan, render_rays

VIEWS = 6
# Of the norm of a result.
TOLERANCE = 2e-3


@final
@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A volume, the field that reads it, and pixels (view, ray, 2) of a rig that looks around."""

    volume: Tensor
    field: SdfField
    pixels: Tensor
    camera: PinholeCamera
    rig_from_cam: RigidTransform
    samples: SamplePlan


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield the rendering with the field's networks, and with a layer in place of each."""
    config = cast("Mim4dConfig", load_config("mim4d-demo" if tiny else "mim4d"))
    whole = config.model.field
    shallow = whole.model_copy(
        update={"sdf_layers": 1, "colour_layers": 1, "width": 4, "geometry": 1}
    )
    for name, field in (("", whole), (", one layer a network", shallow)):
        problem = make_problem(config, field)
        count = problem.pixels.shape[0] * problem.pixels.shape[1]
        places = problem.samples.samples + problem.samples.importance
        yield Workload(
            f"MIM4D rendering{name}",
            tuple(
                Contender(who, partial(run, problem, kernels))
                for who, kernels in (("geomim", "compiled"), ("its references", "reference"))
            ),
            # The volume is read to place samples and to see, and its gradient is written.
            nbytes=3 * problem.volume.nbytes,
            note=f"{count} rays of {places} samples, {tuple(problem.volume.shape)}, fwd + bwd",
            check=partial(check, problem),
        )


def make_problem(config: Mim4dConfig, field: FieldConfig) -> Problem:
    """Draw everything from one seed; pixels are from below the sky, as most lidar points are."""
    generator = torch.Generator().manual_seed(0)
    model, (height, width) = config.model, config.data.image_size
    grid = VoxelGrid(model.volume.lower_m, model.volume.cell_m, model.volume.shape)
    shape = (1, model.volume.channels, *grid.shape[::-1])
    volume = 0.1 * torch.randn(shape, generator=generator)
    torch.manual_seed(0)
    share = torch.rand(VIEWS, model.render.rays, 2, generator=generator)
    sky = torch.tensor([0.0, model.render.sky])
    turns = matrix_from_rotation_vector(
        torch.arange(VIEWS)[:, None] * (2 * torch.pi / VIEWS) * torch.tensor([0.0, 0.0, 1.0])
    )
    ahead = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    return Problem(
        volume.to(memory_format=torch.channels_last_3d),
        SdfField(
            model.volume.channels,
            grid,
            ground_m=model.volume.ground_m,
            **field.model_dump(),
        ),
        (sky + (1 - sky) * share) * torch.tensor([width, height]),
        PinholeCamera(
            focal=torch.full((VIEWS, 2), 0.8 * width),
            principal_point=torch.tensor([width / 2, height / 2]).expand(VIEWS, 2),
            size=(height, width),
        ),
        RigidTransform(turns @ ahead, torch.zeros(VIEWS, 3)),
        SamplePlan(
            samples=model.render.samples,
            importance=model.render.importance,
            inv_s=model.render.importance_inv_s,
            near_m=model.render.near_m,
        ),
    )


def run(problem: Problem, kernels: Kernels) -> tuple[Tensor, ...]:
    """Render and differentiate; return colours, distances and the volume's gradient."""
    with use_kernels(kernels):
        volume = problem.volume.detach().requires_grad_()
        rays = rays_of_pixels(problem.camera, problem.pixels, world_from_cam=problem.rig_from_cam)
        seen = render_rays(
            problem.field,
            volume,
            rays.reshape(1, -1),
            plan=problem.samples,
            generator=torch.Generator().manual_seed(0),
        )
        loss = 10 * seen.rgb.mean() + 10 / 54 * seen.distance.mean()
        wanted = [volume, *problem.field.parameters()]
        return seen.rgb, seen.distance, *torch.autograd.grad(loss, wanted)


def check(problem: Problem) -> None:
    """Refuse kernels that do not render and differentiate as their references do."""
    for found, right in zip(run(problem, "compiled"), run(problem, "reference"), strict=True):
        # Rounding sends a few samples of the hundreds of thousands across the face of a cell.
        difference, size = (found - right).norm().item(), right.norm().item()
        if difference > TOLERANCE * size:
            raise ValueError(f"results must agree, got {difference:.3g} apart of {size:.3g}")
