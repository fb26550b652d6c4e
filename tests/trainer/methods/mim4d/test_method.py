import math
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from tests.trainer.methods.mim4d.clips import tiny_clips, tiny_config
from trainer.methods import make_clip_method
from trainer.methods.method import ClipConstants, Method
from trainer.methods.mim4d.method import Mim4d
from trainer.seeding import seed_everything


def method(**overrides: object) -> Mim4d:
    config = tiny_config(**overrides)
    batch = tiny_clips(config)
    return make_clip_method(config, ClipConstants(("CAM_FRONT",), lambda: [batch]))


def built(method: Mim4d) -> nn.Module:
    seed_everything(0)
    return method.build()


def test_it_is_a_method():
    assert isinstance(method(), Method)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    ours = method()
    losses = ours.loss(built(ours), tiny_clips(ours.config), torch.Generator().manual_seed(0))
    assert list(losses.terms) == [
        "loss_rgb",
        "loss_depth",
        "loss_rgb_rebuilt",
        "loss_depth_rebuilt",
        "loss_depth_bins",
    ]
    torch.testing.assert_close(losses.total, sum(losses.terms.values()))


def test_colour_alone_is_enough():
    ours = method(**{"data.lidar": None})
    batch = tiny_clips(ours.config)
    assert batch.lidar is None
    losses = ours.loss(built(ours), batch, torch.Generator().manual_seed(0))
    assert losses.total.isfinite()
    assert losses.terms["loss_depth"] == 0
    assert ours.baselines([batch]) == {}


def test_a_weight_of_zero_drops_its_term():
    ours = method(**{"model.loss.depth_rebuilt": 0, "model.loss.eikonal": 0.1})
    terms = ours.loss(built(ours), tiny_clips(ours.config), torch.Generator().manual_seed(0)).terms
    assert "loss_depth_rebuilt" not in terms
    assert "loss_eikonal_rebuilt" in terms


def test_a_few_steps_lower_the_loss():
    ours = method()
    model, batch = built(ours), tiny_clips(ours.config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = list[float]()
    for _ in range(6):
        loss = ours.loss(model, batch, torch.Generator().manual_seed(0)).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_metrics_are_of_both_volumes_and_always_the_same():
    ours = method()
    model, batch = built(ours).train(), tiny_clips(ours.config)
    found = ours.evaluate(model, [batch])
    assert found == ours.evaluate(model, [batch])
    assert model.training
    for name in ("psnr", "depth_abs_rel"):
        assert math.isfinite(found[name])
        assert math.isfinite(found[f"{name}_rebuilt"])


def test_baselines_are_judged_as_the_model_is():
    ours = method()
    found = ours.baselines([tiny_clips(ours.config)])
    assert list(found) == ["mean_depth", "copy_nearest"]
    assert found["mean_depth"].keys() >= {"depth_abs_rel", "depth_abs_rel_rebuilt"}
    assert list(found["copy_nearest"]) == ["psnr_rebuilt"]
    # It was measured on this very clip.
    assert found["mean_depth"]["depth_abs_rel"] < 1


def test_a_perfect_rendering_has_no_error():
    ours = method()
    batch = tiny_clips(ours.config)
    flat = replace(batch, images=torch.zeros_like(batch.images))
    assert ours.baselines([flat])["copy_nearest"]["psnr_rebuilt"] == math.inf


def test_a_picture_has_a_row_a_view():
    ours = method(**{"model.render.picture_stride": 8})
    picture = ours.picture(built(ours), tiny_clips(ours.config))
    assert picture.ndim == 3
    assert picture.shape[0] > 6 * 64


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18"])
def test_the_backbone_loads_into_timm(name: str):
    ours = method(**{"model.backbone.name": name})
    export = ours.backbone(built(ours))
    assert export.maker == "create_model"
    timm.create_model(**export.arguments).load_state_dict(export.state, strict=True)
    assert {"neck", "depth_net"} <= export.others.keys()
    parts = {name.partition(".")[0] for name in export.mmdet}
    assert parts == {"img_backbone", "img_neck", "depth_net"}


def test_another_model_is_refused():
    with pytest.raises(TypeError, match="model must be what build returned, got Linear"):
        method().backbone(nn.Linear(1, 1))
