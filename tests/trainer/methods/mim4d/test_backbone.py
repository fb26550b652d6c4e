import copy

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.convnext import ConvNeXt
from torch import nn

from tests.trainer.methods.mim4d.networks import (
    CELLS,
    CONVOLUTIONAL,
    SIZE,
    STRIDES,
    draw_hidden,
    draw_images,
    draw_padded,
    make,
)
from trainer.config import EncoderConfig
from trainer.methods.mim4d.backbone import (
    MaskedViT,
    in_chunks,
    initialise_backbone,
    make_backbone,
)
from trainer.methods.mim4d.convnext import MaskedConvNeXt
from trainer.methods.mim4d.visibility import CELL, draw_paths, hidden_at, hide_padding

EVERY = (*CONVOLUTIONAL, "vit")
MASKS = [draw_hidden, draw_padded]
OPTIONS = {
    "strides": STRIDES,
    "drop_path": 0.2,
    "output_norm": False,
    "vit": EncoderConfig(patch_size=16, dim=16, depth=1, heads=2),
    "image_size": SIZE,
}


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_with_nothing_hidden_it_is_timm_exactly(kind, mode):
    backbone = make(kind).train(mode)
    net, images = copy.deepcopy(backbone.net), draw_images()
    laid = images.contiguous(memory_format=torch.channels_last)
    expected = net.forward_intermediates(laid, intermediates_only=True)[-4:]
    maps = backbone(images)
    assert list(maps) == list(STRIDES)
    assert all(torch.equal(maps[stride], expected[k]) for k, stride in enumerate(STRIDES))
    # Running statistics included.
    pairs = zip(backbone.net.state_dict().values(), net.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_with_nothing_hidden_a_vit_is_timms_forward_features():
    backbone, images = make("vit"), draw_images()
    tokens = backbone.net.forward_features(images)[:, 1:]
    expected = tokens.unflatten(1, (6, 8)).permute(0, 3, 1, 2)
    assert torch.equal(backbone(images)[16], expected)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_hiding_no_cell_is_hiding_nothing(kind):
    backbone, images = make(kind), draw_images()
    shown = backbone(images, torch.zeros(2, *CELLS, dtype=torch.bool))
    for stride, expected in backbone(images).items():
        torch.testing.assert_close(shown[stride], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", EVERY)
def test_maps_have_the_widths_and_sizes_they_announce(kind):
    backbone = make(kind)
    for stride, maps in backbone(draw_images(), draw_hidden()).items():
        size = tuple(side // stride for side in SIZE)
        assert maps.shape == (2, backbone.channels[stride], *size)


@pytest.mark.parametrize(
    ("kind", "output_norm"), [*((kind, False) for kind in EVERY), ("convnext", True)]
)
@pytest.mark.parametrize("draw", MASKS)
def test_hidden_places_are_exactly_zero_and_visible_ones_are_not(kind, output_norm, draw):
    hidden = draw()
    for maps in make(kind, output_norm=output_norm)(draw_images(), hidden).values():
        places = hidden_at(hidden, maps.shape[2:])[:, None].expand_as(maps)
        assert (maps[places] == 0).all()
        # A ReLU may leave nothing of a place, but not of a whole cell.
        largest = nn.functional.adaptive_max_pool2d(maps.abs().amax(dim=1), CELLS)
        assert torch.equal(largest == 0, hidden_at(hidden, CELLS))


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("draw", MASKS)
def test_hidden_pixels_have_no_influence_and_visible_ones_do(kind, mode, draw):
    backbone, hidden = make(kind).train(mode), draw()
    images = draw_images().requires_grad_()
    maps = backbone(images, hidden)
    torch.stack([values.square().sum() for values in maps.values()]).sum().backward()
    influence = images.grad.abs().amax(dim=1, keepdim=True) > 0
    if kind.startswith("resnet"):
        # A 1 x 1 convolution of stride 2 reads every other pixel, but a cell is never unread.
        assert not influence[:, 0][hidden_at(hidden, SIZE)].any()
        influence = nn.functional.max_pool2d(influence.float(), CELL) > 0
        assert torch.equal(influence[:, 0], ~hidden_at(hidden, CELLS))
    else:
        assert torch.equal(influence[:, 0], ~hidden_at(hidden, SIZE))


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("draw", MASKS)
def test_not_even_a_hidden_nan_comes_through(kind, draw):
    backbone, images, hidden = make(kind), draw_images(), draw()
    spoilt = images.masked_fill(hidden_at(hidden, SIZE)[:, None], torch.nan)
    again = make(kind)(spoilt, hidden)
    for stride, maps in backbone(images, hidden).items():
        assert torch.equal(again[stride], maps)


@pytest.mark.parametrize("kind", EVERY)
def test_one_masking_leaves_nothing_behind_for_the_next(kind):
    backbone, images = make(kind).eval(), draw_images()
    one, other = draw_hidden(seed=2), draw_hidden(seed=3)
    first = backbone(images, one)
    whole = backbone(images)
    backbone(images, other)
    again, whole_again = backbone(images, one), backbone(images)
    for stride, maps in first.items():
        assert torch.equal(maps, again[stride])
        assert torch.equal(whole[stride], whole_again[stride])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in backbone.modules())


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_a_padded_image_is_encoded_as_if_it_ended_where_it_does(kind, mode):
    whole, ends = make(kind, output_norm=True).train(mode), torch.tensor([[64, 96]] * 2)
    padded, images = copy.deepcopy(whole), draw_images()
    expected = whole(images[:, :, :64, :96])
    maps = padded(images, hide_padding(None, ends, SIZE))
    found = {s: values[:, :, : 64 // s, : 96 // s] for s, values in maps.items()}
    for stride, values in expected.items():
        torch.testing.assert_close(found[stride], values, rtol=1e-4, atol=1e-4)
    for side in (expected, found):
        torch.stack([values.square().mean() for values in side.values()]).sum().backward()
    for one, other in zip(whole.parameters(), padded.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-4)
    for one, other in zip(whole.buffers(), padded.buffers(), strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("rows", [90, 89, 66])
def test_padding_gives_a_new_network_no_larger_gradients(rows):
    # A new stem has no bias: all channels of padding are 0, and a norm's derivative is 1000 there.
    torch.manual_seed(0)
    backbone, images = make_backbone("convnext_atto", **OPTIONS), draw_images()

    def norms(ends):
        backbone.zero_grad()
        maps = backbone(images, hide_padding(draw_hidden(), ends, SIZE))
        torch.stack(
            [values.sum(dim=1).square().mean() for values in maps.values()]
        ).sum().backward()
        stem = backbone.net.stem[0]
        return stem.bias.grad.norm(), stem.weight.grad.norm()

    whole, padded = norms(torch.tensor([SIZE] * 2)), norms(torch.tensor([[rows, SIZE[1]]] * 2))
    assert all(0.3 < one / other < 3 for one, other in zip(padded, whole, strict=True))


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("draw", MASKS)
def test_each_image_is_encoded_under_its_own_mask(kind, draw):
    backbone, images, hidden = make(kind).eval(), draw_images(), draw()
    both = backbone(images, hidden)
    for item in range(2):
        alone = backbone(images[item : item + 1], hidden[item : item + 1])
        for stride, maps in alone.items():
            torch.testing.assert_close(both[stride][item], maps[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 7])
@pytest.mark.parametrize("kind", EVERY)
def test_chunks_change_neither_maps_nor_gradients(kind, chunk):
    backbone = make(kind, drop_path=0.5)
    if kind.startswith("resnet"):
        backbone.freeze_statistics()
    images, hidden = draw_images(3), draw_padded(3)
    paths = draw_paths(backbone.path_rates, 3, generator=torch.Generator().manual_seed(0))

    def run(size):
        backbone.zero_grad()
        maps = in_chunks(backbone, images, hidden, size, paths=paths)
        torch.stack([values.square().mean() for values in maps.values()]).sum().backward()
        return maps, {
            n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None
        }

    maps, gradients = run(None)
    chunked, chunked_gradients = run(chunk)
    for stride, values in maps.items():
        torch.testing.assert_close(chunked[stride], values, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == chunked_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(chunked_gradients[name], gradient, rtol=1e-3, atol=1e-5)


def test_chunks_are_refused_while_they_would_change_batch_statistics():
    backbone, images = make("resnet_basic"), draw_images()
    with pytest.raises(ValueError, match="chunk must be None while batch norms take statistics"):
        in_chunks(backbone, images, None, 1)
    assert in_chunks(backbone.eval(), images, None, 1).keys() == set(STRIDES)
    with pytest.raises(ValueError, match="chunk must be positive, got 0"):
        in_chunks(backbone, images, None, 0)


@pytest.mark.parametrize("kind", EVERY)
def test_every_weight_that_is_trained_gets_a_gradient(kind):
    backbone = make(kind)
    maps = backbone(draw_images(), draw_hidden())
    maps[max(maps)].square().sum().backward()
    without = {n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set()


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18"])
def test_weights_carry_timms_names(name):
    backbone = make_backbone(name, **OPTIONS)
    timm.create_model(name, num_classes=0).load_state_dict(backbone.net.state_dict(), strict=True)


@pytest.mark.parametrize(
    ("name", "width"),
    [("convnext_atto", 320), ("resnet18", 512), ("resnet50", 2048)],
)
def test_every_name_makes_its_network(name, width):
    backbone = make_backbone(name, **OPTIONS)
    assert backbone.channels[32] == width
    assert list(backbone.channels) == list(STRIDES)
    assert backbone.path_rates[0] == 0
    assert backbone.path_rates[-1] == pytest.approx(0.2)


def test_a_vit_is_made_of_its_fields():
    backbone = make_backbone("vit", **OPTIONS)
    assert isinstance(backbone, MaskedViT)
    assert backbone.channels == {16: 16}
    assert backbone.path_rates == ()


def test_skips_are_repeatable_and_scaled_to_keep_the_mean():
    def draw():
        return draw_paths((0.0, 0.5, 0.2), 4000, generator=torch.Generator().manual_seed(0))

    assert torch.equal(draw(), draw())
    assert (draw()[:, 0] == 1).all()
    assert set(draw()[:, 1].tolist()) == {0.0, 2.0}
    torch.testing.assert_close(draw().mean(dim=0), torch.ones(3), rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_an_image_that_skips_a_block_leaves_the_others_alone(kind):
    backbone, images = make(kind).eval(), draw_images()
    paths = torch.ones(2, 5)
    paths[0, 3] = 0
    whole, skipped = backbone(images), backbone(images, None, paths)
    assert torch.equal(whole[8], skipped[8])
    assert torch.equal(whole[32][1], skipped[32][1])
    assert not torch.equal(whole[16][0], skipped[16][0])


def test_fewer_maps_are_asked_for_by_stride():
    net = ConvNeXt(num_classes=0, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    options = {"drop_path": 0.0, "output_norm": True}
    backbone = MaskedConvNeXt(net, strides=(16, 32), **options)
    assert list(backbone(draw_images())) == [16, 32]
    for strides in [(8, 16), (32, 16), (64,), ()]:
        with pytest.raises(ValueError, match=r"strides must rise among .* and end with 32, got"):
            MaskedConvNeXt(net, strides=strides, **options)


def test_what_cannot_be_masked_is_refused():
    backbone, images = make("convnext"), draw_images()
    for shape in [(4, 3), (1, 2), (3, 3), (0, 4)]:
        with pytest.raises(ValueError, match=f"which divides 32x32, got {shape[0]}x{shape[1]} of"):
            backbone(images, torch.zeros(2, *shape, dtype=torch.bool))
    with pytest.raises(ValueError, match="sides divisible by 32, got 90x128"):
        backbone(images[:, :, :90])
    net = ConvNeXt(num_classes=0, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), use_grn=True)
    with pytest.raises(ValueError, match="first version, got one with GRN"):
        MaskedConvNeXt(net, strides=STRIDES, drop_path=0.0, output_norm=False)
    with pytest.raises(ValueError, match="patch_size must divide 32, got 24"):
        MaskedViT(EncoderConfig(patch_size=24, dim=16, depth=1, heads=2), SIZE)


@pytest.mark.parametrize("kind", EVERY)
def test_weights_are_read_from_a_file(kind, tmp_path):
    source, path = make(kind), str(tmp_path / "weights.safetensors")
    state = {name: torch.randn(value.shape) for name, value in source.net.state_dict().items()}
    save_file(state | {"head.fc.weight": torch.zeros(3)}, path)
    backbone = make(kind)
    initialise_backbone(backbone, path, frozen_stages=0, freeze_statistics=False)
    name = next(name for name, value in state.items() if value.ndim == 4)
    assert torch.equal(backbone.net.state_dict()[name], state[name])
    if kind != "vit":
        save_file({"nothing": torch.zeros(1)}, path)
        with pytest.raises(ValueError, match=r"model.init must hold .* got no such weight"):
            initialise_backbone(backbone, path, frozen_stages=0, freeze_statistics=False)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_frozen_stages_keep_weights_and_statistics(kind, tmp_path):
    backbone, path = make(kind), str(tmp_path / "weights.safetensors")
    save_file(backbone.net.state_dict(), path)
    initialise_backbone(backbone, path, frozen_stages=1, freeze_statistics=False)
    before = {name: value.clone() for name, value in backbone.train().net.state_dict().items()}
    backbone(draw_images(), draw_hidden())[32].sum().backward()
    trained = {name for name, p in backbone.net.named_parameters() if p.grad is not None}
    frozen = ("stem.", "stages.0.", "conv1.", "bn1.", "layer1.", "head.")
    assert trained == {n for n, _ in backbone.net.named_parameters() if not n.startswith(frozen)}
    after = backbone.net.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert not any(name.startswith(frozen) for name in changed)
    assert bool(changed) == kind.startswith("resnet")


def test_random_weights_are_never_frozen():
    for options in [(1, False), (0, True)]:
        with pytest.raises(ValueError, match=r"must be off without model.init"):
            initialise_backbone(
                make("resnet_basic"), None, frozen_stages=options[0], freeze_statistics=options[1]
            )
    initialise_backbone(make("vit"), None, frozen_stages=0, freeze_statistics=False)
    with pytest.raises(ValueError, match="frozen_stages must be 0 for a vit, got 1"):
        initialise_backbone(make("vit"), "x", frozen_stages=1, freeze_statistics=False)


def test_frozen_statistics_outlive_a_change_of_mode():
    backbone = make("resnet_basic")
    assert backbone.batch_statistics
    backbone.freeze_statistics()
    assert not copy.deepcopy(backbone).train().batch_statistics
    assert backbone.train().training
