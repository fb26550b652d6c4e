import math
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from trainer.config import DataConfig, DecoderConfig, Mask3DConfig, Mask3DModelConfig
from trainer.config_run import EncoderConfig
from trainer.methods.mask3d.frames import mask_fixed
from trainer.methods.mask3d.method import Mask3D
from trainer.methods.method import DataConstants

CONFIG = Mask3DConfig(
    method="mask3d",
    data=DataConfig(image_size=(16, 24)),
    model=Mask3DModelConfig(
        encoder=EncoderConfig(patch_size=4, dim=32, depth=2, heads=2),
        decoder=DecoderConfig(dim=32, depth=1, heads=2),
        depth_encoder_dim=16,
        depth_encoder_depth=1,
        depth_encoder_heads=2,
    ),
)


def make_method(**changes):
    model = CONFIG.model.model_copy(update=changes)
    constants = DataConstants(depth_mean_m=2.0, depth_std_m=0.5)
    return Mask3D(CONFIG.model_copy(update={"model": model}), constants)


def build(method):
    torch.manual_seed(0)
    return method.build()


def loss_of(method, model, batch, seed=0):
    return method.loss(model, batch, torch.Generator().manual_seed(seed))


def test_a_batch_can_be_learned_by_heart(make_batch):
    method, batch = make_method(), make_batch(2)
    model = build(method)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = loss_of(method, model, batch).total.item()
    for _ in range(80):
        optimizer.zero_grad()
        loss_of(method, model, batch).total.backward()
        optimizer.step()
    assert loss_of(method, model, batch).total.item() < first / 5


def test_the_generator_alone_decides_the_masks(make_batch):
    method, batch = make_method(), make_batch()
    model = build(method)
    first = loss_of(method, model, batch).total
    assert torch.equal(first, loss_of(method, model, batch).total)
    assert not torch.equal(first, loss_of(method, model, batch, seed=1).total)


@pytest.mark.parametrize("loss", ["l2", "l1", "berhu"])
@pytest.mark.parametrize("loss_on", ["masked", "all"])
@pytest.mark.parametrize("norm_target", ["none", "patch"])
def test_every_loss_is_finite_with_finite_gradients(make_batch, loss, loss_on, norm_target):
    method = make_method(loss=loss, loss_on=loss_on, norm_target=norm_target)
    model = build(method)
    losses = loss_of(method, model, make_batch())
    losses.total.backward()
    assert losses.terms == {}
    assert losses.total.item() > 0
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_colour_can_be_a_second_target(make_batch):
    method = make_method(rgb_target_weight=0.5)
    losses = loss_of(method, build(method), make_batch())
    terms = losses.terms
    expected = terms["loss_depth"] + 0.5 * terms["loss_rgb"]
    torch.testing.assert_close(losses.total, expected)
    assert terms["loss_rgb"] > 0


def test_frames_without_depth_give_no_loss_and_no_gradient(make_batch):
    method, batch = make_method(), make_batch()
    model = build(method)
    blind = replace(batch, depth_valid=torch.zeros_like(batch.depth_valid))
    total = loss_of(method, model, blind).total
    total.backward()
    assert total.item() == 0
    assert not any(weight.grad.any() for weight in model.parameters() if weight.grad is not None)


def test_depth_beyond_the_largest_counts_as_not_measured(make_batch):
    method, batch = make_method(max_depth_m=2.0), make_batch()
    model = build(method)
    near = replace(batch, depth_valid=batch.depth_valid & (batch.depth <= 2))
    assert not torch.equal(near.depth_valid, batch.depth_valid)
    assert torch.equal(loss_of(method, model, batch).total, loss_of(method, model, near).total)
    assert method.baselines([batch]) == method.baselines([near])


def test_metrics_do_not_depend_on_how_frames_are_batched(make_batch):
    method = make_method()
    model, first, second = build(method), make_batch(2, seed=1), make_batch(1, seed=2)
    whole = replace(
        make_batch(3),
        rgb=torch.cat([second.rgb, first.rgb]),
        depth=torch.cat([second.depth, first.depth]),
        depth_valid=torch.cat([second.depth_valid, first.depth_valid]),
        scene=second.scene + first.scene,
        frame=second.frame + first.frame,
    )
    apart, together = method.evaluate(model, [first, second]), method.evaluate(model, [whole])
    assert together == pytest.approx(apart, rel=1e-5)
    assert method.baselines([whole])["visible_mean"] == pytest.approx(
        method.baselines([first, second])["visible_mean"]
    )


def test_evaluation_repeats_and_leaves_the_mode_and_no_gradients(make_batch):
    method, batch = make_method(), make_batch()
    model = build(method).train()
    first = method.evaluate(model, [batch])
    torch.rand(1)
    assert method.evaluate(model, [batch]) == first
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert {"loss", "abs_rel", "rmse", "delta1"} <= set(first)


def test_metrics_count_hidden_valid_pixels_alone(make_batch):
    method, batch = make_method(), make_batch()
    frames, rebuilt = method.reconstruct(build(method), batch)
    judged = frames.judged
    expected = ((rebuilt - batch.depth).abs() / batch.depth)[judged].mean()
    found = method.evaluate(build(method), [batch])["abs_rel"]
    assert found == pytest.approx(expected.item(), rel=1e-5)
    assert not (judged & ~batch.depth_valid).any()
    assert 0 < judged.sum() < batch.depth_valid.sum()


def test_baselines_see_the_visible_depth_of_evaluation(make_batch):
    method, batch = make_method(), make_batch()
    frames = mask_fixed(batch, method.config)
    errors = []
    for depth, visible, judged in zip(batch.depth, frames.visible, frames.judged, strict=True):
        errors.append(((depth[visible].mean() - depth).abs() / depth)[judged])
    found = method.baselines([batch])
    assert found["visible_mean"]["abs_rel"] == pytest.approx(torch.cat(errors).mean().item())
    # On a slanted wall the nearest pixel is nearer the truth than the mean.
    assert found["nearest_visible"]["abs_rel"] < found["visible_mean"]["abs_rel"]


def test_without_depth_input_baselines_know_the_training_mean_alone(make_batch):
    method, batch = make_method(mask_ratio_depth=1.0), make_batch()
    found = method.baselines([batch])
    depth = batch.depth[batch.depth_valid]
    assert found["visible_mean"] == found["nearest_visible"]
    assert found["visible_mean"]["abs_rel"] == pytest.approx(
        ((2 - depth).abs() / depth).mean().item()
    )


def test_standardised_targets_leave_no_depth_metrics(make_batch):
    # They would need the mean and deviation of the hidden patches.
    method, batch = make_method(norm_target="patch"), make_batch()
    assert set(method.evaluate(build(method), [batch])) == {"loss"}


def test_standardised_targets_are_undone_with_the_measured_patches(make_batch):
    method, batch = make_method(norm_target="patch"), make_batch()
    model = build(method)
    torch.nn.init.zeros_(model.depth_head.weight)
    frames, rebuilt = method.reconstruct(model, batch)
    patch, valid = rebuilt[0, 8:12, 8:12], frames.valid[0, 8:12, 8:12]
    mean = batch.depth[0, 8:12, 8:12][valid].mean()
    torch.testing.assert_close(patch, mean.expand(4, 4))


@pytest.mark.parametrize("norm_target", ["none", "patch"])
def test_a_picture_has_a_row_a_frame(make_batch, norm_target):
    method = make_method(norm_target=norm_target)
    model = build(method)
    one, three = (method.picture(model, make_batch(count)) for count in (1, 3))
    assert one.shape[1:] == three.shape[1:]
    # A tile of 16 rows enlarged 11 times, and the line above it.
    assert three.shape[0] - one.shape[0] > 2 * 16 * 11
    again = method.picture(model, make_batch(3))
    assert (again == three).all()


def test_the_export_is_the_encoder_and_loads_strictly_into_timm():
    method = make_method()
    model = build(method)
    exported = method.backbone(model)
    vit = timm.models.VisionTransformer(**exported.arguments)
    vit.load_state_dict(exported.state, strict=True)
    image = torch.rand(1, 3, 16, 24)
    assert torch.equal(vit.forward_features(image), model.encoder.vit.forward_features(image))


def test_the_encoder_can_start_from_a_file(tmp_path):
    method = make_method()
    exported = method.backbone(build(method))
    save_file(exported.state, tmp_path / "backbone.safetensors")
    torch.manual_seed(1)
    model = make_method(init=str(tmp_path / "backbone.safetensors")).build()
    for name, value in model.encoder.vit.state_dict().items():
        assert torch.equal(value, exported.state[name])


def test_another_models_backbone_is_refused():
    with pytest.raises(TypeError, match="model must be what build returned, got Linear"):
        make_method().backbone(torch.nn.Linear(1, 1))


def test_validation_without_valid_depth_says_nan(make_batch):
    method, batch = make_method(), make_batch()
    blind = replace(batch, depth_valid=torch.zeros_like(batch.depth_valid))
    found = method.evaluate(build(method), [blind])
    assert found["loss"] == 0
    assert math.isnan(found["abs_rel"])


def test_a_picture_shows_seen_depth_as_it_was_seen(make_batch):
    # A model that is taught hidden patches alone says anything about the others.
    method, batch = make_method(), make_batch(1)
    model = build(method)
    shown = mask_fixed(batch, method.config).visible[0]
    pictures = []
    for bias in (0.0, 50.0):
        torch.nn.init.constant_(model.depth_head.bias, bias)
        pictures.append(method.picture(model, batch)[16 + 20 + 20 :])
    tile = 24 * 11 + 6
    rebuilt = [picture[5::11, 16 + 2 * tile + 5 :: 11][:16, :24] for picture in pictures]
    same = (rebuilt[0] == rebuilt[1]).all(axis=2)
    assert same[shown.numpy()].all()
    assert not same[~shown.numpy()].all()
