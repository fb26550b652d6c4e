"""Know the launcher: which process this is, of how many, and how they share a number.

Training on several processes is to change this module alone; today one process is all there is.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from trainer.config_errors import ConfigError


class World(NamedTuple):
    """The place of this process among those of a run."""

    rank: int = 0
    size: int = 1


def world(environment: Mapping[str, str] = os.environ) -> World:
    """Return the place that torchrun gave to this process.

    Raises:
        ConfigError: If there are several processes.
    """
    found = World(int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1")))
    if found.size != 1:
        raise ConfigError(
            f"WORLD_SIZE must be 1, got {found.size}; training runs in one process, "
            "use optim.accumulate for large batches"
        )
    return found


def is_main() -> bool:
    """Tell whether this process writes the run folder."""
    return world().rank == 0


def mean_across_ranks(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes; the tensor itself in a single one."""
    if not distributed.is_initialized():
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def device_of(setting: str) -> torch.device:
    """Return the device that ``speed.device`` names; ``auto`` takes CUDA where there is one.

    Raises:
        ConfigError: If CUDA is asked for and absent.
    """
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "cpu"
    if setting.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"speed.device must be cpu or auto without CUDA, got {setting}")
    return torch.device(setting)
