"""What a convolutional network needs to see visible pixels alone, as SparK does (Tian et al. 2023).

A masked convolution is a dense one whose input and output are zero where nothing is seen: no
faster, but every library has it. The mask is an argument all the way down. What a step hides are
cells; padding is hidden with them, pixel by pixel, and a place of a map is seen if any of its
pixels is.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

CELL = 32
"""Pixels along the side of what a step hides as one: the coarsest stride, so no map splits it."""

Maps = dict[int, Float[Tensor, "image _ _ _"]]
"""Feature maps (image, channel, row, column) by their stride in pixels."""


def check_hidden(
    images: Float[Tensor, "image 3 h w"], hidden: Bool[Tensor, "image down across"] | None
) -> None:
    """Raise unless maps of all strides fit the images, and what is hidden fits the maps.

    Raises:
        ValueError: If they do not.
    """
    height, width = images.shape[-2:]
    if height % CELL or width % CELL:
        raise ValueError(f"images must have sides divisible by {CELL}, got {height}x{width}")
    if hidden is None:
        return
    down, across = hidden.shape[1:]
    block = height // down if down else 0
    if not block or CELL % block or (height, width) != (down * block, across * block):
        rule = f"hidden must have a value per pixel or square block, which divides {CELL}x{CELL}"
        raise ValueError(f"{rule}, got {down}x{across} of them for {height}x{width} pixels")


def channels_last(images: Float[Tensor, "image c h w"]) -> Float[Tensor, "image c h w"]:
    """Lay the channels of a place side by side, as all that follows then does.

    Norms and 1x1 convolutions need no copies then, and convolutions are no slower.
    """
    return images.contiguous(memory_format=torch.channels_last)


def hide_padding(
    hidden: Bool[Tensor, "image down across"] | None,
    unpadded: Int[Tensor, "image 2"],
    size: tuple[int, int],
) -> Bool[Tensor, "image h w"]:
    """Tell which pixels are not seen: those of hidden cells and, as no image is there, padding.

    Args:
        hidden: Cells that a step hides; None hides none.
        unpadded: (height, width) of each image, in pixels from its upper left corner.
        size: (height, width) with the padding.
    """
    rows = torch.arange(size[0], device=unpadded.device)[:, None]
    columns = torch.arange(size[1], device=unpadded.device)
    padding = (rows >= unpadded[:, 0, None, None]) | (columns >= unpadded[:, 1, None, None])
    return padding if hidden is None else padding | hidden_at(hidden, size)


def hidden_at(
    hidden: Bool[Tensor, "image down across"], size: tuple[int, int]
) -> Bool[Tensor, "image h w"]:
    """Tell for every place of a map of ``size`` whether it is hidden: all of it, if it is split."""
    down, across = hidden.shape[1:]
    if size[0] >= down:
        rows = hidden.repeat_interleave(size[0] // down, dim=1)
        return rows.repeat_interleave(size[1] // across, dim=2)
    return hidden.unflatten(2, (size[1], -1)).unflatten(1, (size[0], -1)).all(dim=-1).all(dim=2)


def zero_hidden(
    maps: Float[Tensor, "image c h w"], hidden: Bool[Tensor, "image down across"] | None
) -> Float[Tensor, "image c h w"]:
    """Put exactly zero, whatever was there, in hidden places: no gradient passes them."""
    if hidden is None:
        return maps
    # Not masked_fill, which lays the channels of its result apart.
    return torch.where(hidden_at(hidden, (maps.shape[2], maps.shape[3])).unsqueeze(1), 0, maps)


def visible_batch_norm(
    norm: nn.BatchNorm2d,
    maps: Float[Tensor, "image c h w"],
    hidden: Bool[Tensor, "image down across"] | None,
) -> Float[Tensor, "image c h w"]:
    """Apply a batch norm whose statistics are those of visible places.

    In eval mode, or with nothing hidden, it is the norm itself. Hidden places come out finite and
    meaningless. Ranks do not share statistics.
    """
    if hidden is None or not norm.training:
        return norm(maps)
    seen = (~hidden_at(hidden, (maps.shape[2], maps.shape[3]))).unsqueeze(1).float()
    # A batch without a visible place has no statistics; it must not spoil the running ones by NaN.
    count, values = seen.sum().clamp(min=1), maps.float()
    mean = (values * seen).sum(dim=(0, 2, 3)) / count
    centred = (values - mean.view(1, -1, 1, 1)) * seen
    variance = centred.square().sum(dim=(0, 2, 3)) / count
    _track(norm, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
    scale = norm.weight * (variance + norm.eps).rsqrt()
    normed = centred * scale.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    return normed.to(maps.dtype)


def draw_paths(
    rates: Sequence[float],
    images: int,
    *,
    generator: Generator,
    device: torch.device | None = None,
) -> Float[Tensor, "image block"]:
    """Draw which residual branches each image skips (Huang et al. 2016), for all blocks at once.

    Drawn outside the network, so that neither chunks nor recomputation change the draw.

    Args:
        rates: The chance of each block's branch to be skipped, below 1.
        images: Items to draw for, each independently.
        generator: Source of the draw.
        device: Where to put the result; by default the generator's.

    Returns:
        What to multiply the branch by: zero, or the inverse of its chance to be kept.
    """
    kept = 1 - torch.tensor(rates, dtype=torch.float32, device=generator.device)
    noise = torch.rand(images, len(rates), generator=generator, device=generator.device)
    return ((noise < kept) / kept).to(device)


def path_rates(last: float, blocks: int) -> tuple[float, ...]:
    """Return skip chances that rise linearly from zero to ``last`` (as the release, and timm)."""
    return tuple(last * block / max(blocks - 1, 1) for block in range(blocks))


def scale_path(
    branch: Float[Tensor, "image c h w"], paths: Float[Tensor, "image block"] | None, block: int
) -> Float[Tensor, "image c h w"]:
    """Skip or rescale the branch of a block, image by image."""
    if paths is None:
        return branch
    return branch * paths[:, block].to(branch.dtype).view(-1, 1, 1, 1)


def add_branch(
    maps: Float[Tensor, "image c h w"],
    branch: Float[Tensor, "image c h w"],
    shown: Bool[Tensor, "image 1 h w"] | None,
    paths: Float[Tensor, "image block"] | None,
    block: int,
) -> Float[Tensor, "image c h w"]:
    """Add a block's scaled branch where there is something to see, in one pass over memory.

    Maps that are zero elsewhere stay so.
    """
    if shown is None:
        return scale_path(branch, paths, block) + maps
    return torch.addcmul(maps, branch, scale_path(shown.to(branch.dtype), paths, block))


def check_strides(strides: Sequence[int], available: Sequence[int]) -> None:
    """Raise unless the strides rise, exist, and use the network to its end.

    Raises:
        ValueError: If they do not. A last stage that nothing reads would train no weight.
    """
    if sorted(set(strides) & set(available)) != list(strides) or available[-1] not in strides:
        rule = f"strides must rise among {tuple(available)} and end with {available[-1]}"
        raise ValueError(f"{rule}, got {tuple(strides)}")


def _track(norm: nn.BatchNorm2d, mean: Float[Tensor, " c"], variance: Float[Tensor, " c"]) -> None:
    """Move the running statistics, as torch does: timm's norms keep them, with a momentum."""
    momentum = cast("float", norm.momentum)
    cast("Tensor", norm.num_batches_tracked).add_(1)
    cast("Tensor", norm.running_mean).lerp_(mean, momentum)
    cast("Tensor", norm.running_var).lerp_(variance, momentum)
