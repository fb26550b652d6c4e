"""Ways for colour and depth tokens to meet in the bottleneck and be decoded.

Each takes the class token (or none), both grids with mask tokens in the hidden places, and both
masks, and returns one decoded token a place. The paper's captions allow all three.
"""

import torch
from jaxtyping import Float
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from trainer.config import DecoderConfig
from trainer.methods.masking import PatchMask
from trainer.methods.vit import make_blocks


class ConcatSequence(nn.Module):
    """Self-attention over all colour and all depth tokens; the depth half is the result."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.blocks = make_blocks(config)

    def forward(
        self,
        first: Float[Tensor, "batch first c"],
        rgb: Float[Tensor, "batch token c"],
        depth: Float[Tensor, "batch token c"],
        _rgb_mask: PatchMask,
        _depth_mask: PatchMask,
    ) -> Float[Tensor, "batch token c"]:
        """Decode."""
        return self.blocks(torch.cat([first, rgb, depth], dim=1))[:, -depth.shape[1] :]


class ConcatChannel(nn.Module):
    """One token a place, made linearly of its colour and depth tokens, then self-attention."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.mix = nn.Linear(2 * config.dim, config.dim)
        self.blocks = make_blocks(config)

    def forward(
        self,
        first: Float[Tensor, "batch first c"],
        rgb: Float[Tensor, "batch token c"],
        depth: Float[Tensor, "batch token c"],
        _rgb_mask: PatchMask,
        _depth_mask: PatchMask,
    ) -> Float[Tensor, "batch token c"]:
        """Decode."""
        mixed = self.mix(torch.cat([rgb, depth], dim=2))
        return self.blocks(torch.cat([first.to(mixed.dtype), mixed], dim=1))[:, first.shape[1] :]


class CrossAttention(nn.Module):
    """Each depth place asks the visible tokens of both kinds, then self-attention (MultiMAE)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        dim, self.heads = config.dim, config.heads
        self.norm_query, self.norm_context, self.norm = (
            nn.LayerNorm(dim, eps=1e-6) for _ in range(3)
        )
        self.query, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.blocks = make_blocks(config)

    def forward(
        self,
        first: Float[Tensor, "batch first c"],
        rgb: Float[Tensor, "batch token c"],
        depth: Float[Tensor, "batch token c"],
        rgb_mask: PatchMask,
        depth_mask: PatchMask,
    ) -> Float[Tensor, "batch token c"]:
        """Decode."""
        seen = [first, rgb_mask.gather(rgb), depth_mask.gather(depth)]
        tokens = depth + self._attend(depth, torch.cat(seen, dim=1))
        return self.blocks(tokens + self.mlp(self.norm(tokens)))

    def _attend(
        self, tokens: Float[Tensor, "batch token c"], context: Float[Tensor, "batch seen c"]
    ) -> Float[Tensor, "batch token c"]:
        query = self.query(self.norm_query(tokens))
        key, value = self.key_value(self.norm_context(context)).chunk(2, dim=-1)
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))
