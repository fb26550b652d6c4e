"""Names and shapes as mmpretrain, mmdet and the release document them, written out by rule."""

import pytest
import torch
from torch import nn

from tests.trainer.methods.mim4d.networks import draw_images, make
from trainer.methods.mim4d.depth_net import DepthNet
from trainer.methods.mim4d.mmdet_names import mmdet_state
from trainer.methods.mim4d.neck import FeaturePyramid

Shapes = dict[str, tuple[int, ...]]

WIDTHS, DEPTHS, DIM, BINS = (8, 12, 16, 20), (1, 1, 2, 1), 8, 10


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    found: Shapes = {f"{name}.weight": shape}
    return found | ({f"{name}.bias": shape[:1]} if bias else {})


def batch_norm(name: str, width: int) -> Shapes:
    statistics = {"running_mean": (width,), "running_var": (width,), "num_batches_tracked": ()}
    return layer(name, width) | {f"{name}.{key}": shape for key, shape in statistics.items()}


def mmpretrain_convnext() -> Shapes:
    shapes = layer("downsample_layers.0.0", WIDTHS[0], 3, 4, 4)
    shapes |= layer("downsample_layers.0.1", WIDTHS[0])
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        if stage:
            before = WIDTHS[stage - 1]
            shapes |= layer(f"downsample_layers.{stage}.0", before)
            shapes |= layer(f"downsample_layers.{stage}.1", width, before, 2, 2)
        for block in range(depth):
            name = f"stages.{stage}.{block}"
            shapes |= {f"{name}.gamma": (width,)}
            shapes |= layer(f"{name}.depthwise_conv", width, 1, 7, 7)
            shapes |= layer(f"{name}.norm", width)
            shapes |= layer(f"{name}.pointwise_conv1", 4 * width, width)
            shapes |= layer(f"{name}.pointwise_conv2", width, 4 * width)
        shapes |= layer(f"norm{stage}", width)
    return shapes


def mmdet_resnet() -> Shapes:
    """Basic blocks, whose shortcut has a convolution where widths or strides change."""
    shapes = layer("conv1", 64, 3, 7, 7, bias=False) | batch_norm("bn1", 64)
    before = 64
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            shapes |= layer(f"{name}.conv1", width, before, 3, 3, bias=False)
            shapes |= layer(f"{name}.conv2", width, width, 3, 3, bias=False)
            shapes |= batch_norm(f"{name}.bn1", width) | batch_norm(f"{name}.bn2", width)
            if not block:
                shapes |= layer(f"{name}.downsample.0", width, before, 1, 1, bias=False)
                shapes |= batch_norm(f"{name}.downsample.1", width)
            before = width
    return shapes


def mmdet_fpn(levels: tuple[int, ...], extra: int) -> Shapes:
    shapes: Shapes = {}
    for number, width in enumerate(levels):
        shapes |= layer(f"lateral_convs.{number}.conv", DIM, width, 1, 1)
    for number in range(len(levels) + extra):
        shapes |= layer(f"fpn_convs.{number}.conv", DIM, DIM, 3, 3)
    return shapes


def release_depth_net(inner: int) -> Shapes:
    """The release's first convolution has a bias that its batch norm takes out again."""
    shapes = layer("reduce_conv.0", DIM, DIM, 3, 3, bias=False) | batch_norm("reduce_conv.1", DIM)
    for block in range(3):
        for number in (1, 2):
            name = f"depth_conv.{block}"
            shapes |= layer(f"{name}.conv{number}", DIM, DIM, 3, 3, bias=False)
            shapes |= batch_norm(f"{name}.bn{number}", DIM)
    for branch in range(1, 5):
        name, side = f"depth_conv.3.aspp{branch}", 1 if branch == 1 else 3
        shapes |= layer(f"{name}.atrous_conv", inner, DIM, side, side, bias=False)
        shapes |= batch_norm(f"{name}.bn", inner)
    shapes |= layer("depth_conv.3.global_avg_pool.1", inner, DIM, 1, 1, bias=False)
    shapes |= batch_norm("depth_conv.3.global_avg_pool.2", inner)
    shapes |= layer("depth_conv.3.conv1", DIM, 5 * inner, 1, 1, bias=False)
    shapes |= batch_norm("depth_conv.3.bn1", DIM)
    return shapes | layer("depth_conv.4", BINS, DIM, 1, 1)


def parts(strides: tuple[int, ...], *, kind: str = "deep") -> tuple[FeaturePyramid, DepthNet]:
    channels = dict(zip((4, 8, 16, 32), WIDTHS, strict=True))
    neck = FeaturePyramid(channels, dim=DIM, strides=strides)
    return neck, DepthNet(DIM, BINS, kind=kind, norm="batch", pyramid_dim=6, dropout=0.5)


def shapes_of(kind: str, start: str) -> Shapes:
    state = mmdet_state(make(kind, output_norm=True), *parts((8, 16, 32, 64)))
    return {
        name.removeprefix(f"{start}."): tuple(value.shape)
        for name, value in state.items()
        if name.startswith(f"{start}.")
    }


@pytest.mark.parametrize("kind", ["convnext", "convnext_mlp"])
def test_a_convnext_has_the_names_and_shapes_of_mmpretrains(kind: str):
    assert shapes_of(kind, "img_backbone") == mmpretrain_convnext()


def test_a_resnet_has_those_of_mmdets():
    assert shapes_of("resnet_basic", "img_backbone") == mmdet_resnet()


def test_the_neck_has_those_of_mmdets_fpn_with_levels_added_on_its_output():
    assert shapes_of("convnext", "img_neck") == mmdet_fpn(WIDTHS[1:], extra=1)


def test_the_depth_net_has_those_of_the_release():
    assert shapes_of("convnext", "depth_net") == release_depth_net(6)
    neck, small = parts((32,), kind="small")
    state = mmdet_state(make("convnext"), neck, small)
    found = {name: tuple(x.shape) for name, x in state.items() if name.startswith("depth_net")}
    assert found == layer("depth_net", BINS, DIM, 1, 1)


def test_every_weight_is_there_once_save_the_norm_behind_the_pooling():
    for kind in ("convnext", "resnet_bottleneck"):
        backbone, (neck, depth) = make(kind, output_norm=True), parts((32,))
        kept = [*backbone.state_dict().items(), *neck.state_dict().items()]
        kept += depth.state_dict().items()
        wanted = {value.data_ptr() for name, value in kept if not name.startswith("net.head")}
        assert {value.data_ptr() for value in mmdet_state(backbone, neck, depth).values()} == wanted


def test_mmpretrains_block_computes_the_same_from_them():
    backbone = make("convnext_mlp").eval()
    state, name = mmdet_state(backbone, *parts((32,))), "img_backbone.stages.0.0."
    block = {key.removeprefix(name): x for key, x in state.items() if key.startswith(name)}
    maps = backbone.net.stem(draw_images())
    mixed = nn.functional.conv2d(
        maps, block["depthwise_conv.weight"], block["depthwise_conv.bias"], padding=3, groups=8
    ).permute(0, 2, 3, 1)
    mixed = nn.functional.layer_norm(mixed, (8,), block["norm.weight"], block["norm.bias"], 1e-6)
    mixed = mixed @ block["pointwise_conv1.weight"].T + block["pointwise_conv1.bias"]
    mixed = nn.functional.gelu(mixed) @ block["pointwise_conv2.weight"].T
    mixed = block["gamma"] * (mixed + block["pointwise_conv2.bias"])
    expected = maps + mixed.permute(0, 3, 1, 2)
    torch.testing.assert_close(expected, backbone.net.stages[0].blocks(maps))


def test_a_vit_has_no_names_in_mmdet():
    assert mmdet_state(make("vit"), *parts((32,))) == {}
