"""Keep the backbone where others load it: safetensors under timm's names, and how to load it."""

from pathlib import Path

from safetensors.torch import save_file

from trainer.config import MaeConfig, Mask3DConfig
from trainer.files import replace_file, replace_json, replace_text
from trainer.methods.method import BackboneExport

_SNIPPET = """\
import json
from pathlib import Path

from safetensors.torch import load_file
from timm.models import VisionTransformer

folder = Path({folder!r})
about = json.loads((folder / "backbone.json").read_text())
backbone = VisionTransformer(**about["arguments"])
backbone.load_state_dict(load_file(folder / "backbone.safetensors"), strict=True)
"""

_README = """\
# The pre-trained backbone

`backbone.safetensors` holds the colour encoder under timm's names; `backbone.json` holds the
arguments of timm's `VisionTransformer`, the image size it was trained at, and the mean and standard
deviation that colour of 0 to 1 is normalised with.

```python
{snippet}```

Its input is `(rgb - mean) / std`, of shape (batch, 3, height, width); the sides must be those of
`image_size` unless `dynamic_img_size=True` is added to the arguments.
"""


def export_backbone(
    out: Path, backbone: BackboneExport, config: Mask3DConfig | MaeConfig, *, step: int
) -> Path:
    """Write ``out/exported``: the weights, what they are, and how to load them.

    Each file is replaced whole.
    """
    folder = out / "exported"
    folder.mkdir(exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state.items()}
    temporary = folder / ".backbone.safetensors.tmp"
    save_file(state, temporary)
    replace_file(temporary, folder / "backbone.safetensors")
    about = {
        "arguments": backbone.arguments,
        "image_size": config.data.image_size,
        "mean": config.model.rgb_mean,
        "std": config.model.rgb_std,
        "method": config.method,
        "step": step,
    }
    replace_json(folder / "backbone.json", about)
    replace_text(folder / "README.md", _README.format(snippet=loading_snippet(folder)))
    return folder


def loading_snippet(folder: Path) -> str:
    """Return Python that loads an export into timm as ``backbone``."""
    return _SNIPPET.format(folder=str(folder))
