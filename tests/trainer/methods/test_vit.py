import pytest
import timm
import torch
from safetensors.torch import save_file

from trainer.config_run import EncoderConfig
from trainer.methods.masking import PatchMask
from trainer.methods.patches import spread
from trainer.methods.vit import VisibleEncoder, export_backbone, load_backbone, sincos_positions

SIZE, GRID, PATCH = (16, 24), (2, 3), 8
CONFIG = EncoderConfig(patch_size=PATCH, dim=16, depth=2, heads=2)


def make_encoder(**changes):
    torch.manual_seed(0)
    return VisibleEncoder(CONFIG.model_copy(update=changes), SIZE)


def mask_hiding(*places):
    hidden = torch.zeros(2, 6, dtype=torch.bool)
    hidden[:, list(places)] = True
    return PatchMask.from_hidden(hidden)


@pytest.mark.parametrize("class_token", [True, False])
def test_with_nothing_hidden_it_is_timms_forward_features(class_token):
    encoder = make_encoder(class_token=class_token)
    image = torch.rand(2, 3, *SIZE)
    assert torch.equal(encoder(image, mask_hiding()), encoder.vit.forward_features(image))


def test_tokens_are_the_class_token_and_the_visible_patches():
    assert make_encoder()(torch.rand(2, 3, *SIZE), mask_hiding(0, 2, 5)).shape == (2, 4, 16)


def test_hidden_pixels_have_no_influence():
    encoder, mask = make_encoder(), mask_hiding(1, 4)
    image = torch.rand(2, 3, *SIZE, requires_grad=True)
    encoder(image, mask).square().sum().backward()
    influenced = image.grad.abs().amax(dim=1) > 0
    assert torch.equal(influenced, ~spread(mask.hidden, GRID, PATCH))


def test_a_visible_patch_is_encoded_with_its_own_position():
    # Encoding a patch alone equals encoding, alone, the image cut to what is visible.
    encoder, mask = make_encoder(depth=1), mask_hiding(0, 1, 2, 3, 5)
    image = torch.rand(2, 3, *SIZE)
    vit = encoder.vit
    token = vit.patch_embed(image)[:, 4:5] + vit.pos_embed[:, 5:6]
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(2, -1, -1)
    expected = vit.norm(vit.blocks(torch.cat([first, token], dim=1)))
    torch.testing.assert_close(encoder(image, mask), expected)


def test_positions_are_fixed_and_distinct_on_a_grid_that_is_not_square():
    encoder = make_encoder()
    assert not encoder.vit.pos_embed.requires_grad
    assert (encoder.vit.pos_embed[0, 0] == 0).all()
    positions = sincos_positions((15, 20), 32)
    assert torch.cdist(positions, positions).fill_diagonal_(9).min() > 0.1
    # Reading order: one step right changes the first half (the column) alone.
    assert torch.equal(positions[0, 16:], positions[1, 16:])
    assert torch.equal(positions[0, :16], positions[20, :16])
    assert positions[1, 0] == pytest.approx(torch.sin(torch.tensor(1.0)).item())


def test_positions_need_a_width_of_four_times_something():
    with pytest.raises(ValueError, match="dim must be a multiple of 4, got 18"):
        sincos_positions(GRID, 18)


def test_norms_use_the_epsilon_of_published_vits():
    vit = make_encoder().vit
    norms = [part for part in vit.modules() if isinstance(part, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    assert len(norms) == 5


@pytest.mark.parametrize("class_token", [True, False])
def test_the_export_loads_strictly_into_timm(class_token):
    encoder = make_encoder(class_token=class_token)
    exported = export_backbone(
        encoder, CONFIG.model_copy(update={"class_token": class_token}), SIZE
    )
    vit = timm.models.VisionTransformer(**exported.arguments)
    vit.load_state_dict(exported.state, strict=True)
    image = torch.rand(2, 3, *SIZE)
    assert torch.equal(vit.forward_features(image), encoder(image, mask_hiding()))


def test_weights_come_from_a_file_with_their_positions_resampled(tmp_path):
    square = VisibleEncoder(CONFIG, (32, 32))
    save_file(export_backbone(square, CONFIG, (32, 32)).state, tmp_path / "vit.safetensors")
    encoder = make_encoder()
    load_backbone(encoder.vit, str(tmp_path / "vit.safetensors"))
    assert torch.equal(encoder.vit.blocks[0].mlp.fc1.weight, square.vit.blocks[0].mlp.fc1.weight)
    assert encoder.vit.pos_embed.shape == (1, 7, 16)


def test_weights_of_another_shape_are_refused(tmp_path):
    narrow = CONFIG.model_copy(update={"dim": 8})
    other = VisibleEncoder(narrow, SIZE)
    path = tmp_path / "vit.safetensors"
    save_file(export_backbone(other, narrow, SIZE).state, path)
    with pytest.raises(
        ValueError, match=r"model.init must hold cls_token of shape \(1, 1, 16\), got \(1, 1, 8\)"
    ):
        load_backbone(make_encoder().vit, str(path))
    save_file({"pos_embed": torch.zeros(1, 7, 16)}, path)
    with pytest.raises(ValueError, match=r"cls_token .* got no such weight"):
        load_backbone(make_encoder().vit, str(path))


def test_a_missing_file_of_weights_is_named():
    with pytest.raises(
        ValueError, match=r"model.init must be a safetensors file or timm:NAME, got /no"
    ):
        load_backbone(make_encoder().vit, "/nowhere.safetensors")


def test_weights_come_from_timm_by_name(monkeypatch):
    asked = []

    def create_model(name, *, pretrained):
        asked.append((name, pretrained))
        return make_encoder().vit

    monkeypatch.setattr(timm, "create_model", create_model)
    load_backbone(make_encoder().vit, "timm:vit_small")
    assert asked == [("vit_small", True)]
