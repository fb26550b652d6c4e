"""Colour in units the network sees."""

from jaxtyping import Float
from torch import Tensor

from trainer.config import ModelConfig


def normalise_rgb(
    rgb: Float[Tensor, "batch 3 h w"], config: ModelConfig
) -> Float[Tensor, "batch 3 h w"]:
    """Shift and divide colour in 0..1 by the configured mean and deviation."""
    return (rgb - _column(rgb, config.rgb_mean)) / _column(rgb, config.rgb_std)


def restore_rgb(
    normalised: Float[Tensor, "batch 3 h w"], config: ModelConfig
) -> Float[Tensor, "batch 3 h w"]:
    """Undo ``normalise_rgb``; a reconstruction may leave 0..1."""
    return normalised * _column(normalised, config.rgb_std) + _column(normalised, config.rgb_mean)


def _column(
    like: Float[Tensor, "batch 3 h w"], colour: tuple[float, float, float]
) -> Float[Tensor, "3 1 1"]:
    return like.new_tensor(colour).view(3, 1, 1)
