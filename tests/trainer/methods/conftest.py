from collections.abc import Callable

import pytest
import torch

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform
from geomim_data.dataset import RgbdBatch


@pytest.fixture
def make_batch() -> Callable[..., RgbdBatch]:
    """Make frames of random colour before a slanted wall with holes."""

    def make(count: int = 3, *, size: tuple[int, int] = (16, 24), seed: int = 0) -> RgbdBatch:
        generator = torch.Generator().manual_seed(seed)
        height, width = size
        slant = torch.linspace(1, 2, width) + torch.linspace(0, 1, height)[:, None]
        near = torch.rand(count, 1, 1, generator=generator) + 0.5
        valid = torch.rand(count, *size, generator=generator) < 0.8
        valid[:, :8, :8] = False
        return RgbdBatch(
            rgb=torch.rand(count, 3, *size, generator=generator),
            depth=torch.where(valid, near * slant, 0.0),
            depth_valid=valid,
            camera=PinholeCamera(
                torch.full((count, 2), float(width)),
                torch.tensor([width / 2, height / 2]).expand(count, 2),
                size,
            ),
            world_from_cam=RigidTransform.identity(count),
            pose_valid=torch.ones(count, dtype=torch.bool),
            scene=tuple(f"scene{seed}" for _ in range(count)),
            frame=tuple(range(count)),
        )

    return make
