"""Hold what training changes: weights, moments, averages and the position in the data."""

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomim_data.sampler import SamplerState
from trainer.checkpoint import Checkpoint
from trainer.config_errors import ConfigError
from trainer.config_run import OptimConfig
from trainer.optim import AveragedWeights, make_optimizer, optimizer_tensors, restore_optimizer
from trainer.seeding import random_state, restore_random_state


@final
class Learner:
    """A model in training after ``step`` steps."""

    def __init__(self, model: nn.Module, config: OptimConfig, position: SamplerState):
        self.model = model
        self.optimizer = make_optimizer(model, config)
        self.averaged = None if config.ema is None else AveragedWeights(model, config.ema)
        self.position = position
        self.step = 0
        self.skipped = 0

    @property
    def judged(self) -> nn.Module:
        """The model to validate and export: the averaged one where there is one."""
        return self.model if self.averaged is None else self.averaged.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def advance(self, position: SamplerState, skipped: Float[Tensor, ""]) -> None:
        """Count a step that was taken, or skipped on the device."""
        if self.averaged is not None:
            self.averaged.update(self.model, step=self.step, skipped=skipped)
        self.position = position
        self.step += 1

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Return all tensors that a resumed run needs, by the name of their file."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.model),
            "random": random_state(),
        }
        if self.averaged is not None:
            parts["average"] = self.averaged.model.state_dict()
        return parts

    def state(self) -> dict[str, object]:
        """Return the numbers that a resumed run needs."""
        return {"step": self.step, "skipped": self.skipped, "sampler": dict(self.position)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what a checkpoint of the same run holds.

        Raises:
            ConfigError: If its weights do not fit the model.
        """
        load_weights(self.model, checkpoint.tensors("model"), str(checkpoint.folder))
        restore_optimizer(self.optimizer, self.model, checkpoint.tensors("optimizer"))
        if self.averaged is not None:
            averaged = checkpoint.tensors("average")
            load_weights(self.averaged.model, averaged, str(checkpoint.folder))
        restore_random_state(checkpoint.tensors("random"))
        sampler = checkpoint.state["sampler"]
        if not isinstance(sampler, dict):
            raise ConfigError(f"{checkpoint.folder}: the sampler's state must be an object")
        self.position = SamplerState(
            seed=int(sampler["seed"]),
            epoch=int(sampler["epoch"]),
            consumed=int(sampler["consumed"]),
        )
        self.step = checkpoint.step
        self.skipped = int(str(checkpoint.state["skipped"]))


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights that fit a model exactly.

    Raises:
        ConfigError: Naming the first few that do not fit.
    """
    misfits = list(_misfits(model.state_dict(), weights))
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise ConfigError(f"{source}: weights must fit the model: {'; '.join(misfits[:3])}{more}")
    model.load_state_dict(weights)


def _misfits(own: dict[str, Tensor], weights: dict[str, Tensor]) -> Iterator[str]:
    for name in sorted({*own, *weights}):
        if name not in weights:
            yield f"{name} is missing"
        elif name not in own:
            yield f"{name} is unknown"
        elif own[name].shape != weights[name].shape:
            yield f"{name} must be {tuple(own[name].shape)}, got {tuple(weights[name].shape)}"
