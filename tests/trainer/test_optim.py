import pytest
import torch
from torch import nn

from trainer.config_mim4d import Mim4dOptimConfig
from trainer.config_run import OptimConfig
from trainer.optim import (
    AveragedWeights,
    lr_at,
    make_optimizer,
    optimizer_tensors,
    peak_lr,
    restore_optimizer,
    run_steps,
    step_optimizer,
)

CONFIG = OptimConfig(steps=100, warmup=0.1, min_lr=1e-5, blr=0.01)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.cls_token = nn.Parameter(torch.ones(1, 1, 2))

    def forward(self, x):
        return self.norm(self.linear(x)) + self.cls_token


def step(model: nn.Module, optimizer, x: torch.Tensor, **options) -> tuple[float, float]:
    loss = model(x).square().mean() * 100
    loss.backward()
    options = {"clip": 1.0, "lr": 0.1, **options}
    norm, skipped = step_optimizer(optimizer, loss.detach(), **options)
    return norm.item(), skipped.item()


def test_the_rate_is_scaled_by_the_global_batch():
    assert peak_lr(OptimConfig(blr=1e-4, steps=1), 512) == pytest.approx(2e-4)


def test_the_rate_rises_linearly_and_falls_as_a_cosine():
    rates = [lr_at(step, steps=100, peak=1.0, config=CONFIG) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx((1 + 1e-5) / 2)
    assert rates[100] == pytest.approx(1e-5)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_epochs_count_the_batches_that_are_full():
    assert run_steps(CONFIG, frames=10, batch_size=4) == 100
    assert run_steps(OptimConfig(epochs=3), frames=10, batch_size=4) == 6
    assert run_steps(OptimConfig(epochs=0.1), frames=10, batch_size=4) == 1


def test_only_matrices_decay():
    model = Model()
    decayed, kept = make_optimizer(model, CONFIG).param_groups
    assert decayed["weight_decay"] == CONFIG.weight_decay
    assert [id(p) for p in decayed["params"]] == [id(model.linear.weight)]
    assert kept["weight_decay"] == 0
    assert len(kept["params"]) == 4


def test_frozen_weights_are_left_out():
    model = Model()
    model.linear.weight.requires_grad_(requires_grad=False)
    assert make_optimizer(model, CONFIG).param_groups[0]["params"] == []


def test_the_gradient_is_clipped_and_its_norm_told():
    model = Model()
    optimizer = make_optimizer(model, CONFIG)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    norm, skipped = step(model, optimizer, x, clip=1e-3)
    assert norm > 1
    assert skipped == 0
    squares = [
        v.square().sum() for k, v in optimizer_tensors(optimizer, model).items() if "sq" in k
    ]
    # exp_avg_sq holds (1 - beta) g^2, squared here: bounded by the clipped gradient.
    assert sum(squares).sqrt() <= (1 - CONFIG.betas[1]) * 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_non_finite_step_changes_nothing(value: float, clip: float | None):
    torch.manual_seed(0)
    model = Model()
    optimizer = make_optimizer(model, CONFIG)
    step(model, optimizer, torch.randn(5, 3))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = {k: v.clone() for k, v in optimizer_tensors(optimizer, model).items()}
    _, skipped = step(model, optimizer, torch.full((5, 3), value), clip=clip)
    assert skipped == 1
    assert all(torch.equal(weights[n], t) for n, t in model.state_dict().items())
    assert all(torch.equal(moments[k], v) for k, v in optimizer_tensors(optimizer, model).items())
    _, skipped = step(model, optimizer, torch.randn(5, 3))
    assert skipped == 0
    assert not torch.equal(weights["linear.weight"], model.linear.weight)


def test_a_restored_optimizer_steps_as_the_saved_one():
    torch.manual_seed(0)
    models = [Model(), Model()]
    optimizers = [make_optimizer(model, CONFIG) for model in models]
    step(models[0], optimizers[0], torch.randn(5, 3))
    models[1].load_state_dict(models[0].state_dict())
    saved = {k: v.clone() for k, v in optimizer_tensors(optimizers[0], models[0]).items()}
    restore_optimizer(optimizers[1], models[1], saved)
    x = torch.randn(5, 3)
    for model, optimizer in zip(models, optimizers, strict=True):
        step(model, optimizer, x)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


def test_the_state_of_another_model_is_refused():
    model = Model()
    words = "the optimizer's state must belong to the model, got step:other.weight"
    with pytest.raises(ValueError, match=words):
        restore_optimizer(
            make_optimizer(model, CONFIG), model, {"step:other.weight": torch.zeros(())}
        )


def test_averaged_weights_follow_and_ignore_skipped_steps():
    model = Model()
    averaged = AveragedWeights(model, decay=0.9)
    before = averaged.model.linear.weight.clone()
    with torch.no_grad():
        model.linear.weight += 1
    averaged.update(model, step=10**6, skipped=torch.tensor(1.0))
    assert torch.equal(averaged.model.linear.weight, before)
    averaged.update(model, step=10**6, skipped=torch.tensor(0.0))
    torch.testing.assert_close(averaged.model.linear.weight, before + 0.1)
    assert not averaged.model.linear.weight.requires_grad


def test_the_rate_of_the_backbone_is_scaled():
    model = nn.ModuleDict({"backbone": Model(), "head": Model()})
    optimizer = make_optimizer(model, Mim4dOptimConfig(steps=1, backbone_lr_scale=0.25, blr=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    step_optimizer(optimizer, torch.tensor(0.0), clip=None, lr=0.4)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in model["backbone"].parameters()} == {0.1}
    assert {rates[id(p)] for p in model["head"].parameters()} == {0.4}
