import subprocess
import sys

import pytest
from pydantic import ValidationError

from trainer.config import CONFIG, MaeConfig, Mask3DConfig
from trainer.config_run import OptimConfig, SpeedConfig


def mask3d(**sections: object) -> Mask3DConfig | MaeConfig:
    return CONFIG.validate_python({"method": "mask3d", "optim": {"steps": 10}, **sections})


def test_the_method_picks_the_schema():
    assert isinstance(mask3d(), Mask3DConfig)
    assert isinstance(CONFIG.validate_python({"method": "mae"}), MaeConfig)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        mask3d().seed = 3


def test_an_image_the_patch_does_not_divide_is_refused_with_a_size_that_fits():
    words = (
        r"data.image_size must be divisible by model.encoder.patch_size, "
        r"got \(180, 360\) and 16; use \(192, 368\)"
    )
    with pytest.raises(ValidationError, match=words):
        mask3d(data={"image_size": (180, 360)})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"optim": {}}, "optim must set one of epochs and steps, got epochs None and steps None"),
        ({"optim": {"epochs": 1, "steps": 2}}, "set the other to null"),
        (
            {"data": {"batch_size": 10}, "optim": {"steps": 1, "accumulate": 3}},
            "data.batch_size must be divisible by optim.accumulate, got 10 and 3",
        ),
        ({"data": {"augment": {"scale": (0.9, 0.2)}}}, "augment.scale must rise, to at most 1"),
        ({"data": {"augment": {"ratio": (0.9, 12)}}}, "augment.ratio must rise, to at most 10"),
        (
            {"model": {"encoder": {"dim": 100, "heads": 12}}},
            "model.encoder.dim must be divisible by model.encoder.heads, got 100 and 12",
        ),
        (
            {"model": {"decoder": {"dim": 30, "heads": 3}}},
            "model.decoder.dim must be divisible by 4, got 30",
        ),
        (
            {"model": {"depth_encoder_dim": 30}},
            "model.depth_encoder_dim must be divisible by model.depth_encoder_heads",
        ),
        (
            {"model": {"mask_ratio_rgb": 0.001}},
            "model.mask_ratio_rgb must hide 1 to 299 of 300 patches, got 0.001",
        ),
        (
            {"model": {"shared_mask": True, "mask_ratio_depth": 0.5}},
            "must equal model.mask_ratio_rgb under model.shared_mask, got 0.5 and 0.8",
        ),
        (
            {"model": {"depth_mean_m": 2.0}},
            "model.depth_mean_m and model.depth_std_m must be set together, got 2.0 and None",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(sections: dict[str, object], words: str):
    with pytest.raises(ValidationError, match=words):
        mask3d(**sections)


def test_all_contradictions_are_reported_together():
    with pytest.raises(ValidationError, match=r"set one of epochs.*; data.image_size must"):
        mask3d(data={"image_size": (30, 30)}, optim={})


def test_a_mask_ratio_of_one_means_no_depth_input():
    config = mask3d(model={"mask_ratio_depth": 1.0})
    assert isinstance(config, Mask3DConfig)
    assert config.model.mask_ratio_depth == 1


@pytest.mark.parametrize("val", ["last", "scenes:0", "some", "last:-1"])
def test_an_unknown_split_is_refused(val: str):
    with pytest.raises(ValidationError, match="pattern"):
        mask3d(data={"val": val})


def test_every_setting_of_a_model_says_where_it_comes_from():
    # The sizes of blocks are explained once, on their section.
    fields = Mask3DConfig.model_fields["model"].annotation.model_fields
    silent = [name for name, field in fields.items() if not field.description]
    assert silent == ["encoder", "decoder"]


def test_defaults_hold_the_chosen_recipe():
    assert OptimConfig(steps=1).betas == (0.9, 0.95)
    assert SpeedConfig().amp == "auto"


def test_the_configuration_imports_no_torch():
    code = "import sys, trainer.config, trainer.config_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
