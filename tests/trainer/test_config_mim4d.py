import subprocess
import sys

import pytest
from pydantic import BaseModel, ValidationError

from trainer.config import CONFIG
from trainer.config_errors import section_of
from trainer.config_file import dump_config, load_config
from trainer.config_mim4d import Mim4dConfig
from trainer.config_mim4d_model import Mim4dModelConfig
from trainer.optim import peak_lr

CONFIGS = ("mim4d.yaml", "mim4d-vs0.1.yaml", "mim4d-demo.yaml", "mim4d-overfit.yaml")


def mim4d(**sections: object) -> Mim4dConfig:
    config = CONFIG.validate_python({"method": "mim4d", **sections})
    assert isinstance(config, Mim4dConfig)
    return config


def silent(section: type[BaseModel], path: str = "model") -> list[str]:
    """List the settings without a description, sections aside."""
    found = list[str]()
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            found += silent(inner, f"{path}.{name}")
        elif not field.description:
            found.append(f"{path}.{name}")
    return found


def test_every_setting_of_the_model_says_where_it_comes_from():
    # A vit's sizes are explained once, on their section.
    rest = [key for key in silent(Mim4dModelConfig) if not key.startswith("model.backbone.vit.")]
    assert rest == []


@pytest.mark.parametrize("name", CONFIGS)
def test_a_packaged_configuration_survives_being_written_and_read(name: str, tmp_path):
    config = load_config(name)
    path = tmp_path / name
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_the_main_configuration_has_the_numbers_of_the_release():
    config = load_config("mim4d.yaml")
    assert isinstance(config, Mim4dConfig)
    assert peak_lr(config.optim, config.data.batch_size) == pytest.approx(4e-4)
    assert config.optim.lr_scales == {"backbone.": 0.1}
    assert config.model.depth_net.bins == 118
    volume = config.model.volume
    sides = [
        lower + count * cell
        for lower, count, cell in zip(volume.lower_m, volume.shape, volume.cell_m, strict=True)
    ]
    assert sides == pytest.approx([54, 54, 3])
    assert config.model.loss.depth == pytest.approx(10 / 54)


def test_the_smaller_configuration_has_the_numbers_of_the_release():
    config = load_config("mim4d-vs0.1")
    assert isinstance(config, Mim4dConfig)
    assert config.model.depth_net.bins == 64
    assert config.model.loss.depth == pytest.approx(10 / 51.2)
    assert config.model.render.rays == 2048


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"data": {"offsets": (-1, -2)}}, "data.offsets must be different moments, one of them 0"),
        ({"data": {"offsets": (0, 0)}}, "data.offsets must be different moments"),
        (
            {"data": {"offsets": (0, -0.5)}},
            "must be whole numbers where data.offset_unit is frames",
        ),
        (
            {"data": {"offsets": (0, -0.05), "offset_unit": "seconds"}},
            "data.tolerance_s must be under half of the least distance of data.offsets, 0.05",
        ),
        ({"data": {"offsets": (0,)}}, "model.supervise must be key where data.offsets is one"),
        (
            {"data": {"image_size": (450, 800)}},
            r"data.image_size must be divisible by 32, got \(450, 800\); use \(480, 800\)",
        ),
        ({"model": {"mask_ratio": 0.999}}, "model.mask_ratio must leave one of 375 cells"),
        (
            {"model": {"depth_net": {"near_m": 3, "far_m": 2}}},
            "model.depth_net must have two bins or more",
        ),
        ({"model": {"backbone": {"strides": (8, 16)}}}, "model.backbone.strides must rise to 32"),
        ({"model": {"volume": {"groups": 5}}}, "channels must be divisible by model.volume.groups"),
        ({"model": {"temporal": {"long": {"dim": 30}}}}, "model.temporal.long.dim must be div"),
        (
            {"model": {"backbone": {"frozen_stages": 1}}},
            "model.init must be given where parts of the backbone are frozen, got null",
        ),
        (
            {"model": {"backbone": {"name": "resnet50"}}, "speed": {"backbone_chunk": 4}},
            "speed.backbone_chunk must be null for a resnet whose statistics are not frozen, got 4",
        ),
        (
            {"model": {"loss": {"flow_boxes": 0.1}}},
            "flow_boxes must be 0 without scene flow between moments, got 0.1; set model",
        ),
        (
            {"model": {"loss": {"flow_lidar": 1}, "temporal": {"kind": "scene_flow"}}},
            r"flow_lidar must have data.lidar and two or more data.lidar_offsets_s, got \(0.0,\)",
        ),
        ({"data": {"batch_size": 3}, "optim": {"epochs": 1, "accumulate": 2}}, "be divisible by"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(sections: dict[str, object], words: str):
    with pytest.raises(ValidationError, match=words):
        mim4d(**sections)


def test_one_moment_is_enough():
    assert mim4d(data={"offsets": (0,)}, model={"supervise": "key"}).data.offsets == (0,)


def test_a_list_can_be_overridden_on_the_command_line():
    config = load_config("mim4d", ["data.offsets=[0, 1]", "data.cameras=[CAM_FRONT]"])
    assert isinstance(config, Mim4dConfig)
    assert config.data.offsets == (0, 1)
    assert config.data.cameras == ("CAM_FRONT",)


def test_the_configuration_imports_no_torch():
    code = "import sys, trainer.config_mim4d; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
