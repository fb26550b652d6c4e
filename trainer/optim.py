"""Build AdamW, its schedule and averaged weights; step without asking the device anything."""

import copy
import math
from collections.abc import Iterable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW

from trainer.config_run import OptimConfig

# Names under which models keep what is learnt but is no matrix of a layer.
_TOKENS = ("_token", "pos_embed", "modality")


def peak_lr(config: OptimConfig, batch_size: int) -> float:
    """Return blr * batch / 256 (Goyal et al. 2017, as MAE scales it)."""
    return config.blr * batch_size / 256


def lr_at(step: int, *, steps: int, peak: float, config: OptimConfig) -> float:
    """Return the rate of a step (from 0): a linear rise, then half a cosine to ``min_lr``."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(steps - warmup, 1)
    return config.min_lr + (peak - config.min_lr) * 0.5 * (1 + math.cos(math.pi * share))


def run_steps(config: OptimConfig, *, frames: int, batch_size: int) -> int:
    """Return how many steps the run takes; an epoch drops what does not fill a batch."""
    if config.steps is not None:
        return config.steps
    return max(1, round((config.epochs or 0) * (frames // batch_size)))


def make_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """Return AdamW that decays matrices alone: no bias, norm or token.

    Each group has the ``lr_scale`` that its parameters' names ask for.
    """
    starts = ("", *config.lr_scales)
    decayed: dict[str, list[nn.Parameter]] = {start: [] for start in starts}
    kept: dict[str, list[nn.Parameter]] = {start: [] for start in starts}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            start = next((start for start in config.lr_scales if name.startswith(start)), "")
            (decayed if _is_decayed(name, parameter) else kept)[start].append(parameter)
    groups = [
        {"params": found[start], "weight_decay": decay, "lr_scale": config.lr_scales.get(start, 1)}
        for start in starts
        for found, decay in ((decayed, config.weight_decay), (kept, 0.0))
    ]
    # Fused, because only then a step can be skipped on the device.
    return AdamW(groups, lr=0.0, betas=config.betas, fused=True)


def step_optimizer(
    optimizer: AdamW, loss: Float[Tensor, ""], *, clip: float | None, lr: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Clip and step, unless the loss or a gradient is not finite; decided on the device.

    Returns:
        The norm of the gradient before clipping, and 1 where the step was skipped, else 0.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    skipped = (~(norm.isfinite() & loss.isfinite())).float()
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    # torch.amp's GradScaler sets this too: where it is 1, a fused step leaves everything alone.
    optimizer.found_inf = skipped  # pyright: ignore[reportAttributeAccessIssue] - undeclared
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm, skipped


def optimizer_tensors(optimizer: AdamW, model: nn.Module) -> dict[str, Tensor]:
    """Return the state of every parameter as ``kind:parameter``."""
    return {
        f"{kind}:{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: AdamW, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give every parameter the state that ``optimizer_tensors`` returned.

    Raises:
        ValueError: If a tensor belongs to no parameter.
    """
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        kind, _, name = key.partition(":")
        if name not in parameters:
            raise ValueError(f"the optimizer's state must belong to the model, got {key}")
        parameter = parameters[name]
        optimizer.state[parameter][kind] = value.to(parameter.device)


@final
class AveragedWeights:
    """An exponential moving average of a model's weights, kept on its device."""

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(requires_grad=False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int, skipped: Float[Tensor, ""]) -> None:
        """Move towards the model's weights, unless the step was skipped.

        The first steps forget faster, so that the random start does not linger.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        weight = (1 - decay) * (1 - skipped)
        for average, value in _pairs(self.model, model):
            if average.is_floating_point():
                average.lerp_(value, weight.to(average.dtype))
            else:
                average.copy_(value)


def _pairs(one: nn.Module, other: nn.Module) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(one.state_dict().values(), other.state_dict().values(), strict=True)


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not any(token in name for token in _TOKENS)
