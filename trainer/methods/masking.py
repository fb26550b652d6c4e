"""Which patches an encoder does not see.

The visible tokens of a batch gather into one dense tensor, as every item hides the same number, or
as hidden ones fill up those that hide more.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@final
@dataclass(frozen=True, slots=True, eq=False)
class PatchMask:
    """The hidden patches and, in ascending order, the indices of the others.

    Behind them, in items that hide more than another, are hidden ones as a filler.
    """

    hidden: Bool[Tensor, "batch token"]
    visible: Int[Tensor, "batch kept"]

    @classmethod
    def from_hidden(cls, hidden: Bool[Tensor, "batch token"]) -> "PatchMask":
        """Index the patches that stay visible. Waits for the device to count them."""
        kept = (~hidden).sum(dim=1).amax().clamp(min=1)
        return cls(hidden, _first_false(hidden, int(kept)))

    @property
    def attended(self) -> Bool[Tensor, "batch kept"]:
        """Tell the visible from the filler. The first counts always: attention takes one."""
        first = torch.arange(self.visible.shape[1], device=self.visible.device) == 0
        return first | ~self.hidden.gather(1, self.visible)

    def gather(self, tokens: Float[Tensor, "batch token c"]) -> Float[Tensor, "batch kept c"]:
        """Drop the hidden tokens, save for the filler."""
        return tokens.gather(1, self._index(tokens))

    def scatter(
        self, tokens: Float[Tensor, "batch kept c"], *, filler: Float[Tensor, " c"]
    ) -> Float[Tensor, "batch token c"]:
        """Put visible tokens back in their places, with ``filler`` in those never gathered."""
        grid = filler.to(tokens.dtype).expand(*self.hidden.shape, -1)
        return grid.scatter(1, self._index(tokens), tokens)

    def _index(self, tokens: Float[Tensor, "batch token_or_kept c"]) -> Int[Tensor, "batch kept c"]:
        return self.visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])


def random_ranks(
    batch: int,
    token: int,
    *,
    generator: torch.Generator,
    device: torch.device | None = None,
    last: Bool[Tensor, "batch token"] | None = None,
) -> Int[Tensor, "batch token"]:
    """Draw each patch's place in the queue for being shown.

    Args:
        batch: Items to draw for, each independently.
        token: Patches an item has.
        generator: Source of the order.
        device: Where to sort; by default the generator's. It changes no place.
        last: Patches that queue behind all others, so they are shown only where too few remain.
    """
    noise = torch.rand(batch, token, generator=generator, device=generator.device).to(device)
    if last is not None:
        noise = noise + last
    return noise.argsort(dim=1, stable=True).argsort(dim=1)


def hide(ranks: Int[Tensor, "batch token"], *, ratio: float, least_visible: int = 1) -> PatchMask:
    """Show the front of the queue and hide the share ``ratio`` at its end, rounded to a patch.

    Two masks from the same ranks nest: what the higher ratio shows, the lower shows too.

    Raises:
        ValueError: If fewer than ``least_visible`` patches would stay visible, or ``ratio`` is
            not a share.
    """
    token = ranks.shape[1]
    # Not int(token * (1 - ratio)): in floats, 300 * (1 - 0.8) is just under 60.
    kept = token - round(ratio * token) if 0 <= ratio <= 1 else -1
    if kept < least_visible:
        raise ValueError(
            f"ratio must hide 0 to {token - least_visible} of {token} patches, got {ratio}"
        )
    hidden = ranks >= kept
    return PatchMask(hidden, _first_false(hidden, kept))


def concatenate(masks: Sequence[PatchMask]) -> PatchMask:
    """Join the masks of several items into that of their batch."""
    return PatchMask(
        torch.cat([mask.hidden for mask in masks]), torch.cat([mask.visible for mask in masks])
    )


def frame_generator(seed: int, scene: str, frame: int) -> torch.Generator:
    """Seed a CPU generator from a frame's identity, whatever batch it comes in."""
    digest = hashlib.sha256(f"{seed}/{scene}/{frame}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _first_false(hidden: Bool[Tensor, "batch token"], kept: int) -> Int[Tensor, "batch kept"]:
    return hidden.to(torch.uint8).argsort(dim=1, stable=True)[:, :kept]
