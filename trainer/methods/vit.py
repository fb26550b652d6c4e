"""A timm vision transformer that runs on visible patches alone."""

import math
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from trainer.config import DecoderConfig
from trainer.config_run import EncoderConfig
from trainer.methods.masking import PatchMask
from trainer.methods.method import BackboneExport
from trainer.methods.patches import patch_grid


class VisibleEncoder(nn.Module):
    """Encode the visible patches of an image.

    ``vit`` is a plain timm model, so its state dict carries timm's names and loads there.
    """

    def __init__(self, config: EncoderConfig, image_size: tuple[int, int]):
        super().__init__()
        self.vit = VisionTransformer(**vit_arguments(config, image_size))
        self.first = int(config.class_token)
        positions = sincos_positions(patch_grid(image_size, config.patch_size), config.dim)
        # The class token has no place: it gets a row of zeros (He et al. 2022).
        positions = nn.functional.pad(positions, (0, 0, self.first, 0)).unsqueeze(0)
        self.vit.pos_embed = nn.Parameter(positions, requires_grad=False)
        if self.vit.cls_token is not None:
            nn.init.normal_(self.vit.cls_token, std=0.02)

    def forward(
        self,
        image: Float[Tensor, "batch 3 h w"],
        mask: PatchMask,
        *,
        attended: Bool[Tensor, "batch kept"] | None = None,
    ) -> Float[Tensor, "batch seen c"]:
        """Attend among the class token, if any, and the visible patches behind it.

        Hidden pixels have no influence. With nothing hidden this is timm's ``forward_features``.

        Args:
            image: Finite.
            mask: Of its patches.
            attended: False for patches of the mask that have no say; None lets all have one.
        """
        vit = self.vit
        positions = vit.get_parameter("pos_embed")
        tokens = mask.gather(vit.patch_embed(image) + positions[:, self.first :])
        if vit.cls_token is not None:
            first = (vit.cls_token + positions[:, :1]).expand(len(image), -1, -1)
            tokens = torch.cat([first.to(tokens.dtype), tokens], dim=1)
        if attended is not None:
            attended = nn.functional.pad(attended, (self.first, 0), value=True)[:, None, None]
        for block in vit.blocks:
            tokens = block(tokens, attn_mask=attended)
        return vit.norm(tokens)


def vit_arguments(config: EncoderConfig, image_size: tuple[int, int]) -> dict[str, Any]:
    """Return what timm's ``VisionTransformer`` is built with, in types that JSON holds."""
    arguments: dict[str, Any] = {
        "img_size": list(image_size),
        "patch_size": config.patch_size,
        "embed_dim": config.dim,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
        "num_classes": 0,
    }
    if not config.class_token:
        # With average pooling timm would move the last norm behind the pooling.
        arguments |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    return arguments


def load_backbone(vit: VisionTransformer, init: str) -> None:
    """Copy an encoder's weights from a safetensors file, or from timm, which then downloads them.

    Positions of another square grid are resampled; a classification head is left out.

    Args:
        vit: What to fill.
        init: ``model.init``: the file's path, or ``timm:NAME``.

    Raises:
        ValueError: If the file is missing, or lacks a weight of the encoder in its shape.
    """
    state = read_weights(init)
    wanted = vit.state_dict()
    positions = state.get("pos_embed")
    if positions is not None and positions.shape[1] != wanted["pos_embed"].shape[1]:
        state["pos_embed"] = resample_abs_pos_embed(
            positions, list(vit.patch_embed.grid_size), num_prefix_tokens=vit.num_prefix_tokens
        )
    for name, weight in wanted.items():
        found = tuple(state[name].shape) if name in state else "no such weight"
        if found != tuple(weight.shape):
            raise ValueError(
                f"model.init must hold {name} of shape {tuple(weight.shape)}, "
                f"got {found} in {init}; make model.encoder match it"
            )
    vit.load_state_dict({name: state[name] for name in wanted})


def read_weights(init: str) -> dict[str, Tensor]:
    """Return the weights that ``model.init`` names, as ``load_backbone`` describes it.

    Raises:
        ValueError: If it is not ``timm:NAME`` and there is no such file.
    """
    if init.startswith("timm:"):
        return timm.create_model(init.removeprefix("timm:"), pretrained=True).state_dict()
    if not Path(init).is_file():
        raise ValueError(f"model.init must be a safetensors file or timm:NAME, got {init}")
    return load_file(init)


def export_backbone(
    encoder: VisibleEncoder, config: EncoderConfig, image_size: tuple[int, int]
) -> BackboneExport:
    """Copy the encoder to the CPU under timm's names."""
    state = {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in encoder.vit.state_dict().items()
    }
    return BackboneExport(state, vit_arguments(config, image_size))


def make_blocks(config: DecoderConfig) -> nn.Sequential:
    """Stack pre-norm transformer blocks."""
    return nn.Sequential(
        *(
            Block(config.dim, config.heads, mlp_ratio=config.mlp_ratio, qkv_bias=True)
            for _ in range(config.depth)
        )
    )


def sincos_positions(grid: tuple[int, int], dim: int) -> Float[Tensor, "token c"]:
    """Encode places on a grid: sines then cosines of the column, then of the row.

    The frequencies are those of Vaswani et al. 2017, section 3.5, over each half of ``dim``.

    Raises:
        ValueError: If ``dim`` is not a multiple of four.
    """
    if dim % 4:
        raise ValueError(f"dim must be a multiple of 4, got {dim}")
    steps = torch.arange(dim // 4, dtype=torch.float64)
    frequency = torch.exp(-math.log(10000.0) * steps / (dim // 4))
    row, column = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in grid), indexing="ij"
    )
    angles = [axis.reshape(-1, 1) * frequency for axis in (column, row)]
    waves = [wave(angle) for angle in angles for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1).float()


def learned_token(dim: int) -> nn.Parameter:
    """Draw a small vector to be learned (He et al. 2022)."""
    return nn.Parameter(0.02 * torch.randn(dim))


def initialise(module: nn.Module) -> None:
    """Draw the layers' weights as He et al. 2022 do: Xavier-uniform, with zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv2d):
            # A patch embedding is a linear layer over the patch.
            nn.init.xavier_uniform_(part.weight.flatten(1))
