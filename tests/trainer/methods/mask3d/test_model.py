import pytest
import torch

from trainer.config import DecoderConfig, Mask3DModelConfig
from trainer.config_run import EncoderConfig
from trainer.methods.mask3d.masks import draw_masks
from trainer.methods.mask3d.model import Mask3DModel
from trainer.methods.method import DataConstants
from trainer.methods.patches import spread

SIZE, GRID, PATCH = (16, 24), (4, 6), 4
CONFIG = Mask3DModelConfig(
    encoder=EncoderConfig(patch_size=PATCH, dim=16, depth=1, heads=2),
    decoder=DecoderConfig(dim=16, depth=1, heads=2),
    depth_encoder_dim=8,
    depth_encoder_depth=1,
    depth_encoder_heads=2,
)
FUSIONS = ("concat_sequence", "concat_channel", "cross_attention")


def make_model(**changes):
    torch.manual_seed(0)
    config = CONFIG.model_copy(update=changes)
    return Mask3DModel(config, SIZE, DataConstants(depth_mean_m=2.0, depth_std_m=0.5))


def make_inputs(model, batch=2):
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(batch, 3, *SIZE, generator=generator)
    valid = torch.rand(batch, *SIZE, generator=generator) < 0.8
    depth = torch.where(valid, 1 + 3 * torch.rand(batch, *SIZE, generator=generator), 0.0)
    return rgb, depth, valid, *draw_masks(valid, model.config, generator=generator)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mask_ratio_depth": 1.0},
        {"depth_encoder_depth": 0, "depth_validity_channel": True},
        {"encoder": CONFIG.encoder.model_copy(update={"class_token": False})},
        {"rgb_target_weight": 0.5, "depth_norm": "metric"},
    ],
)
def test_every_weight_is_used(fusion, changes):
    model = make_model(fusion=fusion, **changes)
    output = model(*make_inputs(model))
    assert output.depth.shape == (2, *SIZE)
    rgb = 0 if output.rgb is None else output.rgb.square().sum()
    (output.depth.square().sum() + rgb).backward()
    unused = [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and (weight.grad is None or not weight.grad.any())
    ]
    # Cross-attention asks visible tokens alone, so no mask token of colour is among them.
    tolerated = {"rgb_mask_token"} if fusion == "cross_attention" else set()
    assert set(unused) <= tolerated


@pytest.mark.parametrize("fusion", FUSIONS)
def test_hidden_colour_and_hidden_depth_have_no_influence(fusion):
    model = make_model(fusion=fusion)
    rgb, depth, valid, rgb_mask, depth_mask = make_inputs(model)
    rgb.requires_grad_()
    depth.requires_grad_()
    output = model(rgb, depth, valid, rgb_mask, depth_mask)
    output.scale.metres(output.depth).square().sum().backward()
    assert not rgb.grad.abs().sum(dim=1)[spread(rgb_mask.hidden, GRID, PATCH)].any()
    assert not depth.grad[spread(depth_mask.hidden, GRID, PATCH)].any()
    assert depth.grad[spread(~depth_mask.hidden, GRID, PATCH) & valid].all()


@pytest.mark.parametrize("depth_norm", ["visible", "metric"])
@pytest.mark.parametrize("mask_ratio_depth", [0.8, 1.0])
def test_changing_hidden_depth_changes_neither_prediction_nor_scale(depth_norm, mask_ratio_depth):
    model = make_model(depth_norm=depth_norm, mask_ratio_depth=mask_ratio_depth)
    rgb, depth, valid, rgb_mask, depth_mask = make_inputs(model)
    before = model(rgb, depth, valid, rgb_mask, depth_mask)
    hidden = spread(depth_mask.hidden, GRID, PATCH)
    depth, valid = torch.where(hidden, 77.0, depth), valid ^ hidden
    after = model(rgb, depth, valid, rgb_mask, depth_mask)
    assert torch.equal(before.depth, after.depth)
    assert torch.equal(before.scale.mean, after.scale.mean)
    assert torch.equal(before.scale.std, after.scale.std)


def test_invalid_depth_is_not_read():
    model = make_model()
    rgb, depth, valid, *masks = make_inputs(model)
    before = model(rgb, depth, valid, *masks).depth
    assert torch.equal(model(rgb, torch.where(valid, depth, 5.0), valid, *masks).depth, before)


def test_without_visible_depth_the_scale_is_that_of_the_training_split():
    model = make_model(mask_ratio_depth=1.0)
    scale = model(*make_inputs(model)).scale
    assert scale.mean.tolist() == [2, 2]
    assert scale.std.tolist() == [0.5, 0.5]


def test_the_metric_scale_is_the_largest_depth():
    model = make_model(depth_norm="metric", max_depth_m=8.0)
    scale = model(*make_inputs(model)).scale
    assert scale.mean.tolist() == [0, 0]
    assert scale.std.tolist() == [8, 8]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_batch_is_its_items(fusion):
    model = make_model(fusion=fusion)
    rgb, depth, valid, *masks = make_inputs(model)
    whole = model(rgb, depth, valid, *masks).depth
    for index in range(2):
        part = slice(index, index + 1)
        single = [type(mask)(mask.hidden[part], mask.visible[part]) for mask in masks]
        found = model(rgb[part], depth[part], valid[part], *single).depth
        torch.testing.assert_close(found, whole[part], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_it_runs_under_bfloat16_and_answers_in_float32(fusion):
    model = make_model(fusion=fusion, rgb_target_weight=1.0)
    inputs = make_inputs(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(*inputs)
    assert output.depth.dtype == output.rgb.dtype == output.scale.std.dtype == torch.float32
    torch.testing.assert_close(output.depth, model(*inputs).depth, atol=0.1, rtol=0.1)


def test_fixed_positions_are_neither_trained_nor_stored():
    model = make_model()
    assert not [name for name in model.state_dict() if name.endswith("positions")]
    fixed = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    assert fixed == ["encoder.vit.pos_embed"]
