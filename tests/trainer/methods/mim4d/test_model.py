from dataclasses import replace

import pytest
import torch

from geomim_data.clip_batch import ClipBatch
from tests.trainer.methods.mim4d.clips import lose, tiny_clips, tiny_config
from trainer.config_run import OptimConfig
from trainer.methods.mim4d.model import Mim4dModel, Rendering
from trainer.methods.mim4d.planning import plan_fixed, plan_randomly
from trainer.optim import make_optimizer

KINDS = ["deformable", "scene_flow", "both"]


def made(**overrides: object) -> Mim4dModel:
    """Make a model in which all layers have a say, also those that begin with none."""
    torch.manual_seed(0)
    model = Mim4dModel(tiny_config(**overrides)).eval()
    for part in (model.decoder, model.velocity):
        for name, weight in part.named_parameters() if part else ():
            if name.endswith("weight") and not weight.any():
                torch.nn.init.normal_(weight, std=0.2)
    return model


@torch.no_grad()
def rendered(model: Mim4dModel, batch: ClipBatch) -> Rendering:
    return model(batch, plan_fixed(model, batch).plan)


def one(batch: ClipBatch, index: int) -> ClipBatch:
    """Return one clip of a batch, without lidar."""
    part = slice(index, index + 1)
    camera = batch.camera
    return ClipBatch(
        images=batch.images[part],
        unpadded=batch.unpadded[part],
        camera=type(camera)(camera.focal[part], camera.principal_point[part], camera.size),
        world_from_cam=batch.world_from_cam[part],
        timestamp_us=batch.timestamp_us[part],
        valid=batch.valid[part],
        origin=batch.origin[part],
        scene=batch.scene[part],
        sample=batch.sample[part],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_both_volumes_are_rendered_and_everything_is_trained(kind: str):
    model = made(**{"model.temporal.kind": kind}).train()
    batch = tiny_clips(tiny_config())
    planned = plan_randomly(model, batch, torch.Generator().manual_seed(0))
    rendering = model(batch, planned.plan)
    assert rendering.rebuilt is not None
    total = sum(part.rgb.sum() + part.distance.sum() for part in rendering[:2])
    total.backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_two_rigs_is_two_batches_of_one(kind: str):
    model = made(**{"model.temporal.kind": kind})
    both = replace(tiny_clips(tiny_config(), batch=2), lidar=None)
    focal = both.camera.focal * torch.tensor([1.0, 0.7]).view(2, 1, 1, 1)
    # The second rig is wider and has lost a camera.
    poses = both.world_from_cam
    wider = poses.translation.clone()
    wider[1] += 0.5 * poses.rotation[1, ..., 2]
    there = torch.ones_like(both.valid)
    there[1, :, 2] = False
    both = replace(
        both,
        camera=replace(both.camera, focal=focal),
        world_from_cam=replace(poses, translation=wider),
    )
    both = lose(both, there)
    plan = plan_fixed(model, both).plan
    with torch.no_grad():
        together = model(both, plan)
        for index in range(2):
            alone_plan = replace(
                plan,
                hidden=plan.hidden.unflatten(0, (2, -1))[index],
                frames=plan.frames[index : index + 1],
                rays=type(plan.rays)(
                    plan.rays.origins[index : index + 1],
                    plan.rays.directions[index : index + 1],
                    plan.rays.valid[index : index + 1],
                ),
            )
            alone = model(one(both, index), alone_plan)
            for pair in zip(together[:2], alone[:2], strict=True):
                many, single = pair
                part = many.rgb.unflatten(0, (2, -1))[index]
                torch.testing.assert_close(part, single.rgb, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_pixels_have_no_influence(kind: str):
    model, batch = made(**{"model.temporal.kind": kind}), tiny_clips(tiny_config())
    plan = plan_fixed(model, batch).plan
    images = batch.images.clone().requires_grad_()
    padded = replace(batch, images=images, unpadded=batch.unpadded - torch.tensor([3, 37]))
    seen = model(padded, plan)
    (seen.direct.rgb.sum() + seen.rebuilt.distance.sum()).backward()
    hidden = plan.hidden.repeat_interleave(32, 1).repeat_interleave(32, 2)
    hidden[:, -3:] = hidden[:, :, -37:] = True
    slopes = images.grad.flatten(0, 2).abs().amax(dim=1)
    assert (slopes[hidden] == 0).all()
    assert (slopes[~hidden] > 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_rebuilt_volume_knows_nothing_of_its_own_frame(kind: str):
    model, batch = made(**{"model.temporal.kind": kind}), tiny_clips(tiny_config())
    plan = plan_fixed(model, batch).plan
    key = (plan.frames[0] == 0).nonzero().item()
    images = batch.images.clone().requires_grad_()
    scenes = model.scenes(replace(batch, images=images), plan)
    scenes.rebuilt[:, key].square().sum().backward()
    assert (images.grad[:, 0] == 0).all()
    assert (images.grad[:, 1] != 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_without_a_camera_renders_nothing_that_is_not_finite(kind: str):
    model, batch = made(**{"model.temporal.kind": kind}), tiny_clips(tiny_config())
    nothing = rendered(model, lose(batch, torch.zeros_like(batch.valid)))
    for part in nothing[:2]:
        assert not part.valid.any()
        assert part.rgb.isfinite().all()


def test_a_frame_without_others_is_not_rebuilt():
    model, batch = made(), tiny_clips(tiny_config())
    valid = batch.valid.clone()
    valid[:, 1] = False
    found = rendered(model, lose(batch, valid))
    assert found.direct.valid[0].any()
    assert not found.rebuilt.valid.any()


def test_one_moment_is_rendered_from_its_own_volume_alone():
    one_moment = {"data.offsets": [0], "model.supervise": "key"}
    model = made(**one_moment)
    found = rendered(model, tiny_clips(tiny_config(**one_moment)))
    assert found.rebuilt is None
    assert found.direct.valid.any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_moments_does_not_matter(kind: str):
    forward, backward = (
        {"data.offsets": offsets, "model.temporal.kind": kind}
        for offsets in ([0, -1, -2], [-2, -1, 0])
    )
    model, other = made(**forward), made(**backward)
    other.load_state_dict(model.state_dict())
    batch = tiny_clips(tiny_config(**forward))
    order = torch.tensor([2, 1, 0])
    turned = replace(
        batch,
        images=batch.images[:, order],
        unpadded=batch.unpadded[:, order],
        camera=replace(
            batch.camera,
            focal=batch.camera.focal[:, order],
            principal_point=batch.camera.principal_point[:, order],
        ),
        world_from_cam=batch.world_from_cam[:, order],
        timestamp_us=batch.timestamp_us[:, order],
        valid=batch.valid[:, order],
    )
    plan = replace(plan_fixed(model, batch).plan, hidden=None, frames=torch.tensor([[0, 1]]))
    with torch.no_grad():
        seen = model(batch, plan)
        again = other(turned, replace(plan, frames=torch.tensor([[2, 1]])))
    torch.testing.assert_close(again.rebuilt.rgb, seen.rebuilt.rgb, atol=1e-5, rtol=1e-4)


def test_chunks_of_the_backbone_change_nothing():
    model, batch = made(), tiny_clips(tiny_config())
    whole = rendered(model, batch)
    model.chunk = 5
    torch.testing.assert_close(rendered(model, batch).direct.rgb, whole.direct.rgb)


@pytest.mark.parametrize("queries", ["separable", "full"])
def test_tables_of_queries_do_not_decay(queries: str):
    overrides = {"model.temporal.queries": queries}
    config = tiny_config(**overrides)
    decayed, kept = _names_by_decay(made(**overrides), config.optim)
    tables = {name for name in decayed | kept if ".tables." in name}
    assert tables
    assert tables <= kept


def _names_by_decay(model: Mim4dModel, config: OptimConfig) -> tuple[set[str], set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, kept = set[str](), set[str]()
    for group in make_optimizer(model, config).param_groups:
        into = decayed if group["weight_decay"] else kept
        into |= {names[id(parameter)] for parameter in group["params"]}
    return decayed, kept
