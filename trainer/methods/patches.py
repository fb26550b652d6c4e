"""Images as rows of square patches, in reading order."""

from einops import rearrange
from jaxtyping import Bool, Shaped
from torch import Tensor


def patch_grid(image_size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Count the patches down and across an image of (height, width) pixels.

    Raises:
        ValueError: If the patch does not divide both sides.
    """
    height, width = image_size
    if height % patch or width % patch:
        raise ValueError(
            f"image_size must be a multiple of the patch, {patch}, got {height}x{width}"
        )
    return height // patch, width // patch


def patchify(
    image: Shaped[Tensor, "batch channel h w"], patch: int
) -> Shaped[Tensor, "batch token value"]:
    """Cut an image into patches; a token's values run row, column, channel."""
    return rearrange(image, "b c (gh ph) (gw pw) -> b (gh gw) (ph pw c)", ph=patch, pw=patch)


def unpatchify(
    tokens: Shaped[Tensor, "batch token value"], grid: tuple[int, int], patch: int
) -> Shaped[Tensor, "batch channel h w"]:
    """Undo ``patchify``."""
    return rearrange(
        tokens, "b (gh gw) (ph pw c) -> b c (gh ph) (gw pw)", gh=grid[0], ph=patch, pw=patch
    )


def spread(
    per_patch: Bool[Tensor, "batch token"], grid: tuple[int, int], patch: int
) -> Bool[Tensor, "batch h w"]:
    """Give every pixel the value of its patch."""
    rows = per_patch.unflatten(1, grid).repeat_interleave(patch, dim=1)
    return rows.repeat_interleave(patch, dim=2)
