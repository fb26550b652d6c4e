"""Image backbones that see visible pixels alone: which, with which weights, in chunks."""

from collections.abc import Sequence
from typing import Literal, cast

import timm
import torch
from jaxtyping import Bool, Float
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.config import EncoderConfig
from trainer.methods.masking import PatchMask
from trainer.methods.mim4d.convnext import MaskedConvNeXt
from trainer.methods.mim4d.resnet import MaskedResNet
from trainer.methods.mim4d.visibility import CELL, Maps, check_hidden, hidden_at, zero_hidden
from trainer.methods.patches import patch_grid
from trainer.methods.vit import VisibleEncoder, initialise, load_backbone, read_weights

BackboneName = Literal[
    "convnext_atto",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "resnet18",
    "resnet50",
    "vit",
]


class MaskedViT(nn.Module):
    """One map, of stride ``patch_size``, from a transformer over the visible patches alone."""

    batch_statistics = False
    path_rates: tuple[float, ...] = ()

    def __init__(self, config: EncoderConfig, image_size: tuple[int, int]):
        super().__init__()
        if CELL % config.patch_size:
            raise ValueError(f"patch_size must divide {CELL}, got {config.patch_size}")
        self.grid = patch_grid(image_size, config.patch_size)
        self.channels = {config.patch_size: config.dim}
        self.encoder = VisibleEncoder(config, image_size)
        initialise(self.encoder)

    @property
    def net(self) -> nn.Module:
        """The plain timm model."""
        return self.encoder.vit

    def forward(
        self,
        images: Float[Tensor, "image 3 h w"],
        hidden: Bool[Tensor, "image down across"] | None = None,
        _paths: Float[Tensor, "image block"] | None = None,
    ) -> Maps:
        """Encode normalised images; exactly zero in the places of hidden patches.

        Hidden pixels have no influence. With nothing hidden this is timm's ``forward_features``.

        Args:
            images: Colour less its mean over its deviation.
            hidden: Pixels, or square blocks of up to 32 x 32, that are not seen; None shows all.
        """
        check_hidden(images, hidden)
        mask = self._mask(images, hidden)
        attended = None if hidden is None else mask.attended
        tokens = self.encoder(zero_hidden(images, hidden), mask, attended=attended)
        tokens = tokens[:, self.encoder.first :]
        filled = mask.scatter(tokens, filler=tokens.new_zeros(tokens.shape[-1]))
        maps = filled.unflatten(1, self.grid).permute(0, 3, 1, 2)
        (stride,) = self.channels
        return {stride: zero_hidden(maps, hidden)}

    def _mask(
        self,
        images: Float[Tensor, "image 3 h w"],
        hidden: Bool[Tensor, "image down across"] | None,
    ) -> PatchMask:
        if hidden is not None:
            return PatchMask.from_hidden(hidden_at(hidden, self.grid).flatten(1))
        every = torch.arange(self.grid[0] * self.grid[1], device=images.device)
        places = every.expand(len(images), -1)
        return PatchMask(torch.zeros_like(places, dtype=torch.bool), places)


Backbone = MaskedConvNeXt | MaskedResNet | MaskedViT
"""A module of ``(images, hidden, paths)``. ``net`` is timm's own; its names are what is exported.

``channels`` has the width of each map it returns, by stride.
"""


def make_backbone(
    name: BackboneName,
    *,
    strides: Sequence[int],
    drop_path: float,
    output_norm: bool,
    vit: EncoderConfig,
    image_size: tuple[int, int],
) -> Backbone:
    """Build a backbone with random weights; nothing is downloaded.

    Args:
        name: timm's, or ``vit``.
        strides: The maps that a convolutional network returns, rising to 32.
        drop_path: Last chance to skip a block, of a convolutional network.
        output_norm: Norm the maps of a ConvNeXt.
        vit: Sizes of the ViT, whose one map has the stride of its patches.
        image_size: (height, width) in pixels; a ViT takes no other.
    """
    match name:
        case "convnext_atto" | "convnext_tiny" | "convnext_small" | "convnext_base":
            net = cast("ConvNeXt", timm.create_model(name, num_classes=0))
            return MaskedConvNeXt(
                net, strides=strides, drop_path=drop_path, output_norm=output_norm
            )
        case "resnet18" | "resnet50":
            net = cast("ResNet", timm.create_model(name, num_classes=0))
            return MaskedResNet(net, strides=strides, drop_path=drop_path)
        case "vit":
            return MaskedViT(vit, image_size)


def initialise_backbone(
    backbone: Backbone, init: str | None, *, frozen_stages: int, freeze_statistics: bool
) -> None:
    """Load weights and then freeze parts, which without weights is refused.

    Args:
        backbone: What to fill.
        init: ``model.init``: null, a safetensors file under timm's names, or ``timm:NAME``, which
            timm downloads. A classification head is left out.
        frozen_stages: How many stages stay as loaded, with the stem (release: 1); 0 trains all.
        freeze_statistics: Keep the running statistics of a ResNet's norms.

    Raises:
        ValueError: If random weights would be frozen, a ViT would be, or a weight is missing.
    """
    if init is None:
        if frozen_stages or freeze_statistics:
            raise ValueError(
                "frozen_stages and freeze_statistics must be off without model.init, "
                f"got {frozen_stages} and {freeze_statistics}"
            )
        return
    if isinstance(backbone, MaskedViT):
        if frozen_stages:
            raise ValueError(f"frozen_stages must be 0 for a vit, got {frozen_stages}")
        load_backbone(backbone.encoder.vit, init)
        return
    _load_net(backbone.net, init)
    backbone.freeze(frozen_stages)
    if freeze_statistics and isinstance(backbone, MaskedResNet):
        backbone.freeze_statistics()


def in_chunks(
    backbone: Backbone,
    images: Float[Tensor, "image 3 h w"],
    hidden: Bool[Tensor, "image down across"] | None,
    chunk: int | None,
    *,
    paths: Float[Tensor, "image block"] | None = None,
) -> Maps:
    """Encode ``chunk`` images at a time and, for the gradient, each chunk a second time.

    Peak memory is that of one chunk and all maps; the result is that of all images at once. None
    is all at once, kept for the gradient.

    Raises:
        ValueError: If the images of a call influence each other's statistics, or chunk is not
            positive.
    """
    if chunk is None:
        return backbone(images, hidden, paths)
    if chunk < 1:
        raise ValueError(f"chunk must be positive, got {chunk}")
    if backbone.batch_statistics:
        raise ValueError(
            "chunk must be None while batch norms take statistics from the images, "
            f"got {chunk}; set speed.backbone_chunk to null, or freeze the statistics"
        )
    maps = [
        checkpoint(
            backbone,
            images[part],
            None if hidden is None else hidden[part],
            None if paths is None else paths[part],
            use_reentrant=False,
        )
        for part in (slice(first, first + chunk) for first in range(0, len(images), chunk))
    ]
    return {stride: torch.cat([part[stride] for part in maps]) for stride in backbone.channels}


def _load_net(net: nn.Module, init: str) -> None:
    state, wanted = read_weights(init), net.state_dict()
    for name, weight in wanted.items():
        found = tuple(state[name].shape) if name in state else "no such weight"
        if found != tuple(weight.shape):
            raise ValueError(
                f"model.init must hold {name} of shape {tuple(weight.shape)}, "
                f"got {found} in {init}; make model.backbone match it"
            )
    net.load_state_dict({name: state[name] for name in wanted})
