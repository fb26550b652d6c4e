"""A masked autoencoder of colour (He et al., CVPR 2022), with the encoder of Mask3D."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.config import MaeModelConfig
from trainer.methods.colour import normalise_rgb
from trainer.methods.masking import PatchMask
from trainer.methods.patches import patch_grid
from trainer.methods.vit import (
    VisibleEncoder,
    initialise,
    learned_token,
    make_blocks,
    sincos_positions,
)


class MaeModel(nn.Module):
    """Rebuild colour patches from the visible ones."""

    positions: Float[Tensor, "token c"]

    def __init__(self, config: MaeModelConfig, image_size: tuple[int, int]):
        super().__init__()
        self.config, dim = config, config.decoder.dim
        self.encoder = VisibleEncoder(config.encoder, image_size)
        self.projection = nn.Linear(config.encoder.dim, dim)
        self.mask_token = learned_token(dim)
        grid = patch_grid(image_size, config.encoder.patch_size)
        self.register_buffer("positions", sincos_positions(grid, dim), persistent=False)
        self.blocks = make_blocks(config.decoder)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, 3 * config.encoder.patch_size**2)
        initialise(self)

    def forward(
        self, rgb: Float[Tensor, "batch 3 h w"], mask: PatchMask
    ) -> Float[Tensor, "batch token value"]:
        """Rebuild every patch, in float32 and in the units of the target.

        Args:
            rgb: Colour in 0..1.
            mask: The patches hidden; they have no influence.
        """
        tokens = self.projection(self.encoder(normalise_rgb(rgb, self.config), mask))
        first, seen = tokens.split([self.encoder.first, mask.visible.shape[1]], dim=1)
        grid = mask.scatter(seen, filler=self.mask_token) + self.positions
        decoded = self.blocks(torch.cat([first.to(grid.dtype), grid], dim=1))
        return self.head(self.norm(decoded[:, self.encoder.first :])).float()
