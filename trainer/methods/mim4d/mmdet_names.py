"""What is kept, named as detectors of the mmdetection family name it.

The names are those of mmpretrain's ConvNeXt, mmdet's ResNet and FPN, and the release's depth net,
which is BEVDepth's; mmdet3d calls the first two parts ``img_backbone`` and ``img_neck``.
"""

from collections.abc import Iterator
from typing import cast

from timm.models.convnext import ConvNeXtBlock, ConvNeXtStage
from torch import Tensor, nn

from trainer.methods.mim4d.backbone import Backbone, MaskedViT
from trainer.methods.mim4d.convnext import STRIDES, MaskedConvNeXt
from trainer.methods.mim4d.depth_net import DepthNet
from trainer.methods.mim4d.neck import FeaturePyramid

_LINEAR = ("pointwise_conv1.weight", "pointwise_conv2.weight")

Named = Iterator[tuple[str, nn.Module | Tensor]]


def mmdet_state(backbone: Backbone, neck: FeaturePyramid, depth: DepthNet) -> dict[str, Tensor]:
    """Return the weights by their names in mmdet3d; nothing of a ViT, which mmdet has not."""
    if isinstance(backbone, MaskedViT):
        return {}
    is_convnext = isinstance(backbone, MaskedConvNeXt)
    parts = {
        "img_backbone": _convnext(backbone) if is_convnext else iter([("", backbone.net)]),
        "img_neck": _neck(neck),
        "depth_net": _depth_net(depth),
    }
    state = dict[str, Tensor]()
    for start, named in parts.items():
        for name, found in named:
            weights = {"": found} if isinstance(found, Tensor) else found.state_dict()
            state |= {
                ".".join(filter(None, (start, name, key))): value for key, value in weights.items()
            }
    return {
        # timm's small models have 1x1 convolutions for mmpretrain's linear layers.
        name: value.flatten(1) if name.endswith(_LINEAR) and is_convnext else value
        for name, value in state.items()
    }


def _convnext(backbone: MaskedConvNeXt) -> Named:
    """mmpretrain's; timm's norm behind the pooling is none of a detector's."""
    yield "downsample_layers.0", backbone.net.stem
    for number, child in enumerate(backbone.net.stages):
        stage = cast("ConvNeXtStage", child)
        if number:
            yield f"downsample_layers.{number}", stage.downsample
        for place, part in enumerate(stage.blocks):
            block, name = cast("ConvNeXtBlock", part), f"stages.{number}.{place}"
            yield f"{name}.depthwise_conv", block.conv_dw
            yield f"{name}.norm", block.norm
            yield f"{name}.pointwise_conv1", block.mlp.fc1
            yield f"{name}.pointwise_conv2", block.mlp.fc2
            if block.gamma is not None:
                yield f"{name}.gamma", block.gamma
    for stride, norm in backbone.norms.items():
        yield f"norm{STRIDES.index(int(stride))}", norm


def _neck(neck: FeaturePyramid) -> Named:
    for number, lateral in enumerate(neck.laterals.values()):
        yield f"lateral_convs.{number}.conv", lateral
    for number, output in enumerate([*neck.outputs.values(), *neck.extras.values()]):
        yield f"fpn_convs.{number}.conv", output


def _depth_net(net: DepthNet) -> Named:
    if len(net.layers) == 1:
        yield "", net.layers[0]
        return
    parts = dict(net.named_modules())
    yield "reduce_conv", parts["layers.0"]
    for number in range(3):
        inner, name = f"layers.{number + 1}.layers", f"depth_conv.{number}"
        yield f"{name}.conv1", parts[f"{inner}.0.0"]
        yield f"{name}.bn1", parts[f"{inner}.0.1"]
        yield f"{name}.conv2", parts[f"{inner}.1"]
        yield f"{name}.bn2", parts[f"{inner}.2"]
    for number in range(4):
        branch, name = f"layers.4.branches.{number}", f"depth_conv.3.aspp{number + 1}"
        yield f"{name}.atrous_conv", parts[f"{branch}.0"]
        yield f"{name}.bn", parts[f"{branch}.1"]
    yield "depth_conv.3.global_avg_pool.1", parts["layers.4.whole.1.0"]
    yield "depth_conv.3.global_avg_pool.2", parts["layers.4.whole.1.1"]
    yield "depth_conv.3.conv1", parts["layers.4.join.0"]
    yield "depth_conv.3.bn1", parts["layers.4.join.1"]
    yield "depth_conv.4", parts["layers.6"]
