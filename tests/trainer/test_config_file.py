from pathlib import Path

import pytest

from trainer.config import MaeConfig, Mask3DConfig
from trainer.config_errors import ConfigError
from trainer.config_file import dump_config, load_config, packaged_configs

MINIMAL = "method: mask3d\noptim:\n  steps: 10\n"


@pytest.fixture
def mistakes(tmp_path: Path):
    """Return a function that loads a text and returns the lines of the error."""

    def load(text: str, *overrides: str) -> list[str]:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(path, overrides)
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return load


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_an_unknown_key_is_placed_and_the_nearest_known_one_suggested(mistakes):
    assert mistakes(MINIMAL + "  weigth_decay: 0.1\n") == [
        "run.yaml:4:3: unknown key 'optim.weigth_decay'; did you mean 'optim.weight_decay'?"
    ]


def test_a_key_of_another_section_is_suggested(mistakes):
    assert mistakes(MINIMAL + "  batch_size: 3\n") == [
        "run.yaml:4:3: unknown key 'optim.batch_size'; did you mean 'data.batch_size'?"
    ]


def test_a_key_like_no_other_is_called_unknown(mistakes):
    assert mistakes(MINIMAL + "zzzzzzzz: 1\n") == ["run.yaml:4:1: unknown key 'zzzzzzzz'"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed: x", "seed must be an integer, got 'x'"),
        ("seed: 1.5", "seed must be an integer, got 1.5"),
        ("seed: true", "seed must be an integer, got true"),
        ("seed: -1", "seed must be at least 0, got -1"),
        ("data: 3", "data must be a mapping, got 3"),
        ("data:", "data must be a mapping, got null"),
        ("data: {path: 3}", "data.path must be text, got 3"),
        ("data: {val: 3}", "data.val must be text, got 3"),
        ("data: {val: odd}", r"data.val must match ^(none|train|last:[1-9]\d*|scenes:"),
        ("data: {image_size: 64}", "data.image_size must be a list, got 64"),
        ("data: {image_size: [64]}", "data.image_size must hold 2 values"),
        ("data: {image_size: [64, 96, 3]}", "data.image_size must hold 2 values, got [64, 96, 3]"),
        ("data: {image_size: [64, x]}", "data.image_size[1] must be an integer, got 'x'"),
        ("data: {augment: {flip: 2}}", "data.augment.flip must be at most 1, got 2"),
        ("model: {mask_ratio_rgb: 1.5}", "model.mask_ratio_rgb must be less than 1, got 1.5"),
        ("model: {mask_ratio_rgb: 0}", "model.mask_ratio_rgb must be more than 0, got 0"),
        ("model: {mask_ratio_rgb: .nan}", "model.mask_ratio_rgb must be finite, got NaN"),
        ("model: {mask_ratio_rgb: high}", "model.mask_ratio_rgb must be a number, got 'high'"),
        ("model: {shared_mask: on}", "model.shared_mask must be true or false, got 'on'"),
        ("model: {loss: l3}", "model.loss must be 'l2', 'l1' or 'berhu', got 'l3'"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(mistakes, line: str, message: str):
    (found,) = mistakes(MINIMAL + line + "\n")
    place, _, words = found.partition(": ")
    assert place.startswith("run.yaml:4:")
    assert words.startswith(message)


def test_a_value_in_a_block_is_placed_at_its_key(mistakes):
    found = mistakes(MINIMAL + "model:\n  shared_mask: false\n  mask_ratio_rgb: 1.5\n")
    assert found == ["run.yaml:6:3: model.mask_ratio_rgb must be less than 1, got 1.5"]


def test_every_mistake_of_a_file_is_reported_in_order(mistakes):
    found = mistakes("method: mae\nsede: 1\noptim:\n  blr: x\n  steps: 0\ndata:\n  pth: x\n")
    assert [line.split(" ")[0] for line in found] == [
        "run.yaml:2:1:",
        "run.yaml:4:3:",
        "run.yaml:5:3:",
        "run.yaml:7:3:",
    ]


def test_a_contradiction_points_at_the_setting_to_change(mistakes):
    (found,) = mistakes(MINIMAL + "data:\n  image_size: [180, 360]\n")
    rule = "data.image_size must be divisible by model.encoder.patch_size"
    assert found == f"run.yaml:5:3: {rule}, got (180, 360) and 16; use (192, 368)"


def test_a_key_given_twice_is_an_error(mistakes):
    assert mistakes("method: mae\noptim: {steps: 3}\nseed: 1\nseed: 2\n") == [
        "run.yaml:4:1: key 'seed' given twice (first on line 3)"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1", "run.yaml: missing key 'method'; it must be 'mask3d', 'mae' or 'mim4d'"),
        ("method: mask4d", "run.yaml:1:1: method must be 'mask3d', 'mae' or 'mim4d', got 'mask4d'"),
        ("- 1", "run.yaml:1:1: the file must hold 'key: value' lines"),
        ("", "run.yaml:1:1: the file must hold 'key: value' lines"),
        ("a: [1", "run.yaml:1:6: not YAML: "),
        ("a: 1\n---\nb: 2", "run.yaml:2:1: not YAML: "),
        ("a: \x00", "run.yaml: not YAML: "),
        ("a: &x [1]\nb: *x", "run.yaml:1:4: anchors and aliases are not supported"),
        ("a: " + "[" * 40 + "]" * 40, "run.yaml:1:20: settings must not nest deeper than this"),
    ],
)
def test_a_file_that_holds_no_settings_is_placed(mistakes, text: str, message: str):
    assert mistakes(text)[0].startswith(message)


def test_a_file_of_other_bytes_is_refused(tmp_path: Path):
    (tmp_path / "x.yaml").write_bytes(b"method: \xff")
    with pytest.raises(ConfigError, match="must be UTF-8 text, got byte 8 that is not"):
        load_config(tmp_path / "x.yaml")


def test_a_huge_file_is_not_read(tmp_path: Path):
    (tmp_path / "x.yaml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="must be at most 1048576 bytes, got 2097152"):
        load_config(tmp_path / "x.yaml")


def test_numbers_are_yaml_1_2(tmp_path: Path):
    config = load_config(written(tmp_path, MINIMAL + "  blr: 1e-3\n"))
    assert config.optim.blr == 1e-3


def test_a_name_that_is_no_file_is_looked_up_among_the_packaged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("mask3d.yaml") == load_config("mask3d")
    assert load_config("mask3d").out == Path("runs/mask3d")


def test_an_unknown_name_lists_the_packaged_configs():
    words = r"mask4d.yaml: no such file, nor a packaged config \(.*, mask3d.yaml, mim4d.*\)"
    with pytest.raises(ConfigError, match=words):
        load_config("mask4d.yaml")


@pytest.mark.parametrize("name", packaged_configs())
def test_each_packaged_config_loads_and_survives_being_written(name: str, tmp_path: Path):
    config = load_config(name)
    assert load_config(written(tmp_path, dump_config(config))) == config


def test_the_packaged_baselines_differ_from_mask3d_in_method_alone():
    for suffix in ("", "-demo"):
        mask3d, mae = load_config(f"mask3d{suffix}"), load_config(f"mae{suffix}")
        assert mask3d.data == mae.data
        assert mask3d.model.encoder == mae.model.encoder
        assert mask3d.optim.model_copy(update={"blr": 1}) == mae.optim.model_copy(update={"blr": 1})


def test_overrides_are_typed_by_the_setting_they_name(tmp_path: Path):
    overrides = [
        "optim.blr=1e-4",
        "data.image_size=[64,96]",
        "out=2024",
        "data.val=last:6",
        "data.val_frames=null",
        "model.init=null",
        "model.shared_mask=true",
        "data.augment={flip: 0}",
    ]
    config = load_config(written(tmp_path, MINIMAL), overrides)
    assert isinstance(config, Mask3DConfig)
    assert config.optim.blr == 1e-4
    assert config.data.image_size == (64, 96)
    assert config.out == Path("2024")
    assert config.data.val == "last:6"
    assert config.data.val_frames is config.model.init is None
    assert config.model.shared_mask
    assert config.data.augment.flip == 0


def test_an_override_may_change_the_method(tmp_path: Path):
    assert isinstance(load_config(written(tmp_path, MINIMAL), ["method=mae"]), MaeConfig)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.weigth_decay=1", "unknown key 'optim.weigth_decay'; did you mean 'optim.weight"),
        ("seed.x=1", "unknown key 'seed.x'; did you mean 'seed'?"),
        ("seed=x", "seed must be an integer, got 'x'"),
        ("seed=", "seed must be an integer, got null"),
        ("data.image_size=[1", "the value must be YAML, got '[1'"),
        ("data.image_size=[30,30]", "data.image_size must be divisible by"),
    ],
)
def test_a_mistaken_override_is_quoted(mistakes, override: str, message: str):
    (found,) = mistakes(MINIMAL, override)
    assert found.startswith(f"{override}: {message}")


def test_a_word_that_is_no_override_is_refused(mistakes):
    assert mistakes(MINIMAL, "seed") == ["an override must read key=value, got 'seed'"]


@pytest.mark.parametrize(
    "overrides",
    [{"data.path": "x"}, {"data__path": Path("x")}, {"data": {"path": "x"}}],
)
def test_python_overrides_may_be_dotted_underscored_or_nested(overrides: dict[str, object]):
    config = load_config("mask3d-demo", overrides)
    assert config.data.path == Path("x")
    assert config.data.image_size == (64, 96)


def test_a_configuration_can_be_overridden_too():
    config = load_config(load_config("mae-demo"), {"seed": 3})
    assert config.seed == 3
    assert config.out == Path("runs/mae-demo")
