import json
from pathlib import Path

import torch
from timm.models import VisionTransformer

from trainer.config_file import load_config
from trainer.export import export_backbone, loading_snippet
from trainer.methods.method import BackboneExport

ARGUMENTS: dict[str, object] = {
    "img_size": [16, 24],
    "patch_size": 8,
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 0,
}


def exported(out: Path) -> tuple[Path, VisionTransformer]:
    out.mkdir()
    model = VisionTransformer(**ARGUMENTS)
    backbone = BackboneExport(dict(model.state_dict()), ARGUMENTS)
    return export_backbone(out, backbone, load_config("mae-demo"), step=7), model


def test_the_snippet_of_the_readme_loads_the_backbone(tmp_path: Path):
    folder, model = exported(tmp_path / "it's a run")
    readme = (folder / "README.md").read_text()
    snippet = readme.split("```")[1].removeprefix("python")
    assert snippet.strip() == loading_snippet(folder).strip()
    scope: dict[str, object] = {}
    exec(snippet, scope)  # noqa: S102 - the printed lines themselves are tested
    image = torch.rand(1, 3, 16, 24)
    assert torch.equal(scope["backbone"](image), model(image))


def test_the_export_tells_what_its_input_is(tmp_path: Path):
    folder, _ = exported(tmp_path / "run")
    about = json.loads((folder / "backbone.json").read_text())
    assert about["image_size"] == [64, 96]
    assert about["mean"] == [0.485, 0.456, 0.406]
    assert (about["method"], about["step"]) == ("mae", 7)


def test_an_export_replaces_the_one_before(tmp_path: Path):
    folder, _ = exported(tmp_path / "run")
    backbone = BackboneExport({"w": torch.ones(2).expand(3, 2)}, {})
    export_backbone(tmp_path / "run", backbone, load_config("mae-demo"), step=8)
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "backbone.json", "backbone.safetensors"}
    assert json.loads((folder / "backbone.json").read_text())["step"] == 8


def test_a_detector_loads_what_has_names_in_mmdet(tmp_path: Path):
    state = {"img_neck.lateral_convs.0.conv.bias": torch.arange(3.0)}
    backbone = BackboneExport({"w": torch.ones(2)}, {}, mmdet=state)
    folder = export_backbone(tmp_path, backbone, load_config("mae-demo"), step=9)
    loaded = torch.load(folder / "mmdet.pth", weights_only=True)
    assert loaded["meta"] == {"step": 9}
    assert loaded["state_dict"].keys() == state.keys()
    assert torch.equal(*(each.popitem()[1] for each in (loaded["state_dict"], state)))
    assert "img_backbone.*" in (folder / "README.md").read_text()
