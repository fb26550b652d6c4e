"""Keep the backbone where others load it, under timm's names and mmdet's, and how to load it."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from trainer.config import AnyRun
from trainer.files import replace_file, replace_json, replace_text
from trainer.methods.method import BackboneExport

_SNIPPET = """\
import json
from pathlib import Path

from safetensors.torch import load_file
from {home} import {maker}

folder = Path({folder!r})
about = json.loads((folder / "backbone.json").read_text())
backbone = {maker}(**about["arguments"])
backbone.load_state_dict(load_file(folder / "backbone.safetensors"), strict=True)
"""
_HOMES = {"VisionTransformer": "timm.models", "create_model": "timm"}

_README = """\
# The pre-trained backbone

`backbone.safetensors` holds the colour encoder under timm's names; `backbone.json` holds the
arguments of timm's `{maker}`, the image size it was trained at, and the mean and standard
deviation that colour of 0 to 1 is normalised with.

```python
{snippet}```

Its input is `(rgb - mean) / std`, of shape (batch, 3, height, width).
{more}"""
_FIXED = """\
The sides must be those of `image_size` unless `dynamic_img_size=True` is added to the arguments.
"""
_OTHERS = "Weights of further parts are beside it: {names}.\n"
_MMDET = """
`mmdet.pth` is a checkpoint of a detector (`load_from="mmdet.pth"` in a configuration of mmdet3d)
that holds all these as `img_backbone.*` (mmdet's ResNet, or mmpretrain's ConvNeXt with
`gap_before_final_norm=False`), `img_neck.*` (mmdet's FPN) and `depth_net.*` (BEVDepth's layers).
"""


def export_backbone(out: Path, backbone: BackboneExport, config: AnyRun, *, step: int) -> Path:
    """Write ``out/exported``: the weights, what they are, and how to load them.

    Each file is replaced whole.
    """
    folder = out / "exported"
    folder.mkdir(exist_ok=True)
    for name, state in {"backbone": backbone.state, **backbone.others}.items():
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        temporary = folder / f".{name}.safetensors.tmp"
        save_file(plain, temporary)
        replace_file(temporary, folder / f"{name}.safetensors")
    if backbone.mmdet:
        temporary = folder / ".mmdet.pth.tmp"
        torch.save({"meta": {"step": step}, "state_dict": backbone.mmdet}, temporary)
        replace_file(temporary, folder / "mmdet.pth")
    about = {
        "maker": backbone.maker,
        "arguments": backbone.arguments,
        "image_size": config.data.image_size,
        "mean": config.model.rgb_mean,
        "std": config.model.rgb_std,
        "method": config.method,
        "step": step,
    }
    replace_json(folder / "backbone.json", about)
    replace_text(folder / "README.md", _readme(folder, backbone))
    return folder


def loading_snippet(folder: Path) -> str:
    """Return Python that loads an export into timm as ``backbone``."""
    maker = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))["maker"]
    return _SNIPPET.format(folder=str(folder), maker=maker, home=_HOMES[maker])


def _readme(folder: Path, backbone: BackboneExport) -> str:
    names = ", ".join(f"`{name}.safetensors`" for name in backbone.others)
    more = _FIXED if backbone.maker == "VisionTransformer" else ""
    more += _OTHERS.format(names=names) if names else ""
    more += _MMDET if backbone.mmdet else ""
    return _README.format(snippet=loading_snippet(folder), maker=backbone.maker, more=more)
