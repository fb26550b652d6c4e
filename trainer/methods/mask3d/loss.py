"""How far rebuilt values are from measured ones, over the pixels that count."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.methods.patches import patchify, unpatchify

LossKind = Literal["l2", "l1", "berhu"]


class Standardised(NamedTuple):
    """A target in units of its own patches, and how to go back."""

    target: Float[Tensor, "batch h w"]
    usable: Bool[Tensor, "batch h w"]
    """Valid pixels of the patches that have enough of them."""
    mean: Float[Tensor, "batch h w"]
    std: Float[Tensor, "batch h w"]


def frame_losses(
    prediction: Float[Tensor, "batch *pixel"],
    target: Float[Tensor, "batch *pixel"],
    selected: Bool[Tensor, "batch *pixel"],
    *,
    kind: LossKind,
) -> Float[Tensor, " batch"]:
    """Average the error over each frame's selected pixels; 0 where none is selected.

    ``berhu`` is the reversed Huber loss (Laina et al. 2016, section 3.2), with its bend at a fifth
    of the frame's largest error.
    """
    selected = selected.flatten(1)
    # Not a product with the mask: an unselected pixel gets exactly no gradient.
    error = torch.where(selected, prediction.flatten(1) - target.flatten(1), 0.0).abs()
    match kind:
        case "l2":
            error = error.square()
        case "l1":
            pass
        case "berhu":
            error = _berhu(error)
    return error.sum(dim=1) / selected.sum(dim=1).clamp(min=1)


def mean_over_frames(
    losses: Float[Tensor, " batch"], selected: Bool[Tensor, "batch *pixel"]
) -> Float[Tensor, ""]:
    """Average over the frames that have a selected pixel; 0 if there is none."""
    counted = selected.flatten(1).any(dim=1)
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp(min=1)


def standardise_patches(
    target: Float[Tensor, "batch h w"],
    valid: Bool[Tensor, "batch h w"],
    *,
    patch: int,
    min_valid: float,
) -> Standardised:
    """Shift and divide each patch by the mean and deviation of its valid pixels.

    As He et al. 2022 do for colour, deviation sqrt(var + 1e-6). Patches with a smaller share of
    valid pixels than ``min_valid`` are not usable: their deviation says nothing.
    """
    grid = (target.shape[1] // patch, target.shape[2] // patch)
    values = patchify(target.unsqueeze(1), patch)
    inside = patchify(valid.unsqueeze(1), patch)
    count = inside.sum(dim=2, keepdim=True)
    mean = torch.where(inside, values, 0.0).sum(dim=2, keepdim=True) / count.clamp(min=1)
    centred = torch.where(inside, values - mean, 0.0)
    std = (centred.square().sum(dim=2, keepdim=True) / count.clamp(min=1) + 1e-6).sqrt()
    usable = inside & (count >= min_valid * patch * patch)
    return Standardised(
        *(
            unpatchify(part.expand_as(values), grid, patch)[:, 0]
            for part in (centred / std, usable, mean, std)
        )
    )


def _berhu(error: Float[Tensor, "batch value"]) -> Float[Tensor, "batch value"]:
    bend = 0.2 * error.detach().amax(dim=1, keepdim=True).clamp(min=1e-6)
    return torch.where(error <= bend, error, (error.square() + bend.square()) / (2 * bend))
