"""Mask3D: masked colour and masked depth in, dense depth out.

After the captions of figures 1 and 2 of Hou et al., CVPR 2023; all they leave open is a field of
``Mask3DModelConfig``.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from trainer.config import Mask3DModelConfig
from trainer.methods.colour import normalise_rgb
from trainer.methods.mask3d.fusion import ConcatChannel, ConcatSequence, CrossAttention
from trainer.methods.mask3d.normalisation import DepthScale, constant_scale, visible_scale
from trainer.methods.masking import PatchMask
from trainer.methods.method import DataConstants
from trainer.methods.patches import patch_grid, patchify, unpatchify
from trainer.methods.vit import VisibleEncoder, initialise, learned_token, sincos_positions


class Reconstruction(NamedTuple):
    """What the decoder rebuilt, in float32."""

    depth: Float[Tensor, "batch h w"]
    """Unitless: in units of ``scale``, or of each patch if the target was standardised."""
    scale: DepthScale
    rgb: Float[Tensor, "batch 3 h w"] | None
    """Colour less ``rgb_mean`` over ``rgb_std``, if it is a target."""


class DepthEncoder(nn.Module):
    """A light transformer over the visible depth patches; downstream tasks drop it."""

    positions: Float[Tensor, "token c"]

    def __init__(self, config: Mask3DModelConfig, grid: tuple[int, int]):
        super().__init__()
        dim, patch = config.depth_encoder_dim, config.encoder.patch_size
        self.embed = nn.Linear(patch * patch * (1 + config.depth_validity_channel), dim)
        self.register_buffer("positions", sincos_positions(grid, dim), persistent=False)
        self.blocks = nn.Sequential(
            *(
                Block(dim, config.depth_encoder_heads, qkv_bias=True)
                for _ in range(config.depth_encoder_depth)
            )
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(
        self, patches: Float[Tensor, "batch token value"], mask: PatchMask
    ) -> Float[Tensor, "batch kept c"]:
        """Encode the visible ones of all patches."""
        positions = self.positions.expand(len(patches), -1, -1)
        return self.norm(self.blocks(self.embed(mask.gather(patches)) + mask.gather(positions)))


class Mask3DModel(nn.Module):
    """Rebuild dense depth from some colour patches and some depth patches."""

    positions: Float[Tensor, "token c"]

    def __init__(
        self, config: Mask3DModelConfig, image_size: tuple[int, int], constants: DataConstants
    ):
        super().__init__()
        self.config, self.constants = config, constants
        self.patch, dim = config.encoder.patch_size, config.decoder.dim
        self.grid = patch_grid(image_size, self.patch)
        self.encoder = VisibleEncoder(config.encoder, image_size)
        self.rgb_projection = nn.Linear(config.encoder.dim, dim)
        self.rgb_modality, self.rgb_mask_token = learned_token(dim), learned_token(dim)
        # Without visible depth an encoder for it would be weights without gradients.
        if config.mask_ratio_depth < 1:
            self.depth_encoder = DepthEncoder(config, self.grid)
            self.depth_projection = nn.Linear(config.depth_encoder_dim, dim)
        self.depth_modality, self.depth_mask_token = learned_token(dim), learned_token(dim)
        self.register_buffer("positions", sincos_positions(self.grid, dim), persistent=False)
        self.fusion = _make_fusion(config)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.depth_head = nn.Linear(dim, self.patch**2)
        self.rgb_head = nn.Linear(dim, 3 * self.patch**2) if config.rgb_target_weight > 0 else None
        initialise(self)

    def forward(
        self,
        rgb: Float[Tensor, "batch 3 h w"],
        depth: Float[Tensor, "batch h w"],
        depth_valid: Bool[Tensor, "batch h w"],
        rgb_mask: PatchMask,
        depth_mask: PatchMask,
    ) -> Reconstruction:
        """Rebuild depth everywhere. Hidden colour and hidden depth have no influence.

        Args:
            rgb: Colour in 0..1.
            depth: Metres; finite where invalid.
            depth_valid: Which pixels were measured.
            rgb_mask: The colour patches hidden.
            depth_mask: The depth patches hidden.
        """
        scale = self.scale(depth, depth_valid, depth_mask)
        first, colour = self._rgb_tokens(rgb, rgb_mask)
        shape = self._depth_tokens(scale.normalise(depth), depth_valid, depth_mask)
        tokens = self.norm(self.fusion(first, colour, shape, rgb_mask, depth_mask))
        rebuilt = unpatchify(self.depth_head(tokens), self.grid, self.patch)[:, 0].float()
        if self.rgb_head is None:
            return Reconstruction(rebuilt, scale, None)
        painted = unpatchify(self.rgb_head(tokens), self.grid, self.patch)
        return Reconstruction(rebuilt, scale, painted.float())

    def scale(
        self,
        depth: Float[Tensor, "batch h w"],
        depth_valid: Bool[Tensor, "batch h w"],
        depth_mask: PatchMask,
    ) -> DepthScale:
        """Choose each frame's units of depth, from its visible valid pixels if any."""
        config = self.config
        if config.depth_norm == "metric":
            return constant_scale(0.0, config.max_depth_m, like=depth)
        constants = self.constants
        seen, valid = (
            depth_mask.gather(patchify(image.unsqueeze(1).float(), self.patch)).flatten(1)
            for image in (depth, depth_valid)
        )
        return visible_scale(
            seen,
            valid > 0,
            trim=config.depth_norm_trim,
            std_floor_m=config.depth_std_floor_m,
            fallback=constant_scale(constants.depth_mean_m, constants.depth_std_m, like=depth),
        )

    def _rgb_tokens(
        self, rgb: Float[Tensor, "batch 3 h w"], mask: PatchMask
    ) -> tuple[Float[Tensor, "batch first c"], Float[Tensor, "batch token c"]]:
        tokens = self.rgb_projection(self.encoder(normalise_rgb(rgb, self.config), mask))
        first, seen = tokens.split([self.encoder.first, mask.visible.shape[1]], dim=1)
        grid = mask.scatter(seen, filler=self.rgb_mask_token)
        return first, grid + self.positions + self.rgb_modality

    def _depth_tokens(
        self,
        normalised: Float[Tensor, "batch h w"],
        valid: Bool[Tensor, "batch h w"],
        mask: PatchMask,
    ) -> Float[Tensor, "batch token c"]:
        place = self.positions + self.depth_modality
        if self.config.mask_ratio_depth == 1:
            return (self.depth_mask_token + place).expand(len(normalised), -1, -1)
        channels = [torch.where(valid, normalised, 0.0)]
        if self.config.depth_validity_channel:
            channels.append(valid.float())
        patches = patchify(torch.stack(channels, dim=1), self.patch)
        seen = self.depth_projection(self.depth_encoder(patches, mask))
        return mask.scatter(seen, filler=self.depth_mask_token) + place


def _make_fusion(config: Mask3DModelConfig) -> nn.Module:
    match config.fusion:
        case "concat_sequence":
            return ConcatSequence(config.decoder)
        case "concat_channel":
            return ConcatChannel(config.decoder)
        case "cross_attention":
            return CrossAttention(config.decoder)
