"""Every loss is computed on a GPU that is not there: tensors have its device but no contents.

An operation that mixes devices fails here as it would there.
"""

from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.trainer.methods.mim4d.clips import tiny_clips, tiny_config
from trainer.config_file import load_config
from trainer.data import fake_batch
from trainer.methods import make_clip_method, make_method
from trainer.methods.method import ClipConstants, DataConstants
from trainer.methods.mim4d import method as mim4d_method

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="torch knows no CUDA")


@pytest.mark.parametrize("name", ["mask3d-demo", "mae-demo"])
def test_frames(name):
    config = load_config(name)
    method = make_method(config, DataConstants(depth_mean_m=2.5, depth_std_m=1.0))
    batch = fake_batch(config.data, batch_size=2, generator=Generator().manual_seed(0))
    pretended = PretendedGpu()
    model, there = pretended.holding(method.build()), pretended.moved(batch)
    with pretended.mode:
        losses = method.loss(model, there, Generator().manual_seed(0))
    assert losses.total.device.type == "cuda"


@pytest.mark.parametrize(
    ("backbone", "lifting", "kind"),
    [
        ("convnext_atto", "pull", "deformable"),
        ("resnet18", "push", "scene_flow"),
        # A ViT counts what it sees, and so looks at contents.
        ("convnext_atto", "push", "both"),
    ],
)
def test_clips(monkeypatch, backbone, lifting, kind):
    config = tiny_config(
        **{
            "model.temporal.kind": kind,
            "model.volume.lifting": lifting,
            "model.backbone.name": backbone,
            # Which sweep is nearest depends on contents too.
            "model.loss.depth_bins": 0,
        }
    )
    method, batch = make_clip_method(config, ClipConstants(("a", "b"), tuple)), tiny_clips(config)
    model = method.build()
    planned = mim4d_method.plan_randomly(model, batch, Generator().manual_seed(0))
    pretended = PretendedGpu()
    model, planned = pretended.holding(model), pretended.moved(planned)
    # What is drawn depends on contents, of which there are none.
    monkeypatch.setattr(mim4d_method, "plan_randomly", lambda *_: planned)
    there = pretended.moved(batch)
    with pretended.mode:
        losses = method.loss(model, there, Generator())
    assert losses.total.device.type == "cuda"


def test_mixed_devices_fail():
    pretended = PretendedGpu()
    there = pretended.moved(torch.ones(2))
    with pretended.mode, pytest.raises(RuntimeError, match="device"):
        there + torch.ones(2)


class PretendedGpu:
    """A device that takes tensors and forgets what they hold."""

    def __init__(self):
        self.mode = FakeTensorMode()

    def moved(self, value: Any) -> Any:
        """Move tensors, in named tuples and frozen dataclasses too; generators stay away."""
        if isinstance(value, Tensor):
            held = self.mode.from_tensor(value.detach().clone())
            with self.mode:
                return held.to("cuda")
        if is_dataclass(value) and not isinstance(value, type):
            copy = object.__new__(type(value))
            for field in fields(value):
                object.__setattr__(copy, field.name, self.moved(getattr(value, field.name)))
            return copy
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.moved, value))
        return None if isinstance(value, Generator) else value

    def holding(self, model: nn.Module) -> nn.Module:
        """Move a model's weights, in place."""
        for part in model.modules():
            for name, weight in part.named_parameters(recurse=False):
                moved = nn.Parameter(self.moved(weight), requires_grad=weight.requires_grad)
                part.register_parameter(name, moved)
            for name, values in part.named_buffers(recurse=False):
                setattr(part, name, self.moved(values))
        return model
