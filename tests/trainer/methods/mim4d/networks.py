"""Backbones small enough to test, and what to feed them."""

import torch
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, Bottleneck, ResNet

from trainer.config import EncoderConfig
from trainer.methods.mim4d.backbone import Backbone, MaskedViT
from trainer.methods.mim4d.convnext import MaskedConvNeXt
from trainer.methods.mim4d.resnet import MaskedResNet
from trainer.methods.mim4d.visibility import hide_padding

SIZE, CELLS = (96, 128), (3, 4)
CONVOLUTIONAL = ("convnext", "convnext_mlp", "resnet_basic", "resnet_bottleneck")
STRIDES = (4, 8, 16, 32)


def make(kind: str, *, drop_path: float = 0.0, output_norm: bool = False) -> Backbone:
    torch.manual_seed(0)
    if kind == "vit":
        return MaskedViT(EncoderConfig(patch_size=16, dim=16, depth=2, heads=2), SIZE)
    if kind.startswith("convnext"):
        # Layer scale and skips start near nothing; here every layer has a say.
        net = ConvNeXt(
            num_classes=0,
            depths=(1, 1, 2, 1),
            dims=(8, 12, 16, 20),
            conv_mlp=kind == "convnext_mlp",
            ls_init_value=1.0,
        )
        return MaskedConvNeXt(net, strides=STRIDES, drop_path=drop_path, output_norm=output_norm)
    block = BasicBlock if kind == "resnet_basic" else Bottleneck
    net = ResNet(block, (1, 1, 2, 1), num_classes=0, channels=(8, 12, 16, 20), zero_init_last=False)
    return MaskedResNet(net, strides=STRIDES, drop_path=drop_path)


def draw_images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def draw_hidden(count: int = 2, *, seed: int = 2) -> torch.Tensor:
    """Hide 5 of 12 cells of every image, other ones in each."""
    noise = torch.rand(count, 12, generator=torch.Generator().manual_seed(seed))
    return (noise.argsort(dim=1) < 5).unflatten(1, CELLS)


def draw_padded(count: int = 2) -> torch.Tensor:
    """Hide as many cells, and the padding of images that end within cells, each elsewhere."""
    ends = torch.tensor([[90, 128], [57, 77], [96, 35]])[:count]
    return hide_padding(draw_hidden(count), ends, SIZE)
