import pytest
import timm
import torch

from trainer.config import DataConfig, DecoderConfig, MaeConfig, MaeModelConfig
from trainer.config_run import EncoderConfig
from trainer.methods.mae.method import Mae
from trainer.methods.method import DataConstants

CONFIG = MaeConfig(
    method="mae",
    data=DataConfig(image_size=(16, 24)),
    model=MaeModelConfig(
        encoder=EncoderConfig(patch_size=4, dim=32, depth=2, heads=2),
        decoder=DecoderConfig(dim=32, depth=1, heads=2),
    ),
)


def make_method(**changes):
    model = CONFIG.model.model_copy(update=changes)
    constants = DataConstants(depth_mean_m=2.0, depth_std_m=0.5)
    return Mae(CONFIG.model_copy(update={"model": model}), constants)


def build(method):
    torch.manual_seed(0)
    return method.build()


def loss_of(method, model, batch, seed=0):
    return method.loss(model, batch, torch.Generator().manual_seed(seed)).total


class Oracle(torch.nn.Module):
    """Answers with what the method wants to hear."""

    def __init__(self, method, batch):
        super().__init__()
        self.answer = method._target(batch).values

    def forward(self, _rgb, _mask):
        return self.answer


@pytest.mark.parametrize("norm_target", ["none", "patch"])
def test_a_batch_can_be_learned_by_heart(make_batch, norm_target):
    method, batch = make_method(norm_target=norm_target), make_batch(1)
    model = build(method)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    first = loss_of(method, model, batch).item()
    for _ in range(100):
        optimizer.zero_grad()
        loss_of(method, model, batch).backward()
        optimizer.step()
    assert loss_of(method, model, batch).item() < first / 5


@pytest.mark.parametrize("norm_target", ["none", "patch"])
def test_a_perfect_answer_has_no_loss_and_gives_the_image_back(make_batch, norm_target):
    method, batch = make_method(norm_target=norm_target), make_batch()
    oracle = Oracle(method, batch)
    assert loss_of(method, oracle, batch).item() == 0
    assert method.evaluate(oracle, [batch])["psnr"] > 100


def test_standardised_targets_have_mean_zero_and_deviation_one_in_each_patch(make_batch):
    target = make_method()._target(make_batch()).values
    torch.testing.assert_close(target.mean(dim=2), torch.zeros(3, 24), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.std(dim=2), torch.ones(3, 24), atol=1e-4, rtol=0)


def test_only_hidden_patches_are_judged(make_batch):
    method, batch = make_method(norm_target="none"), make_batch()
    oracle = Oracle(method, batch)
    mask = method._fixed(batch)
    oracle.answer = torch.where(mask.hidden.unsqueeze(-1), oracle.answer, 9.0)
    assert method.evaluate(oracle, [batch])["loss"] == 0
    oracle.answer = oracle.answer + mask.hidden.unsqueeze(-1)
    assert method.evaluate(oracle, [batch])["loss"] == pytest.approx(1, rel=1e-5)


def test_psnr_is_that_of_colour_in_0_to_1(make_batch):
    # Off by 0.1 in colour, that is 0.1 / std when normalised: 20 dB.
    method, batch = make_method(norm_target="none"), make_batch()
    batch.rgb.mul_(0.8).add_(0.0)
    oracle = Oracle(method, batch)
    channel_std = torch.tensor(method.config.rgb_std).repeat(16)
    oracle.answer = oracle.answer + 0.1 / channel_std
    assert method.evaluate(oracle, [batch])["psnr"] == pytest.approx(20, abs=1e-3)


def test_evaluation_repeats_in_any_batches(make_batch):
    method, batches = make_method(), [make_batch(2, seed=1), make_batch(1, seed=2)]
    model = build(method).train()
    first = method.evaluate(model, batches)
    assert method.evaluate(model, batches[::-1]) == pytest.approx(first, rel=1e-6)
    assert model.training


def test_hidden_colour_has_no_influence(make_batch):
    method, batch = make_method(), make_batch()
    model, mask = build(method), method._fixed(batch)
    rgb = batch.rgb.clone().requires_grad_()
    model(rgb, mask).square().sum().backward()
    seen = rgb.grad.abs().sum(dim=1).unflatten(1, (4, 4)).unflatten(3, (6, 4)).sum(dim=(2, 4))
    assert torch.equal(seen.flatten(1) > 0, ~mask.hidden)


def test_every_weight_is_used(make_batch):
    method = make_method()
    model = build(method)
    loss_of(method, model, make_batch()).backward()
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    assert all(weight.grad is not None and weight.grad.any() for weight in learned)


def test_it_runs_under_bfloat16_and_answers_in_float32(make_batch):
    method, batch = make_method(), make_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(method, build(method), batch)
    assert loss.dtype == torch.float32
    assert loss.isfinite()


@pytest.mark.parametrize("norm_target", ["none", "patch"])
def test_a_picture_has_a_row_a_frame(make_batch, norm_target):
    method = make_method(norm_target=norm_target)
    model = build(method)
    one, three = (method.picture(model, make_batch(count)) for count in (1, 3))
    assert one.shape[1:] == three.shape[1:]
    assert three.shape[0] - one.shape[0] > 2 * 16 * 11


def test_the_export_loads_strictly_into_timm():
    method = make_method()
    exported = method.backbone(build(method))
    timm.models.VisionTransformer(**exported.arguments).load_state_dict(exported.state, strict=True)


def test_another_models_backbone_is_refused():
    with pytest.raises(TypeError, match="model must be what build returned, got Linear"):
        make_method().backbone(torch.nn.Linear(1, 1))


def test_it_asks_for_no_depth_and_has_no_baselines(make_batch):
    method = make_method()
    assert not method.needs_depth
    assert method.baselines([make_batch()]) == {}
