"""torch.compile does not see through run-time shape checks, hence this folder."""

import pytest
import torch
from torch._dynamo.utils import counters

from tests.trainer.methods.mim4d.networks import (
    CONVOLUTIONAL,
    draw_hidden,
    draw_images,
    draw_padded,
    make,
)
from trainer.clip_data import noise_clips
from trainer.config_file import load_config
from trainer.methods import make_clip_method
from trainer.methods.method import ClipConstants


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_masked_backbones_compile_whole_and_keep_no_mask(kind):
    backbone, images = make(kind).eval(), draw_images()
    compiled = torch.compile(backbone, backend="aot_eager", fullgraph=True)
    for hidden in (draw_hidden(), draw_padded()):
        maps = compiled(images, hidden)
        for stride, expected in backbone(images, hidden).items():
            torch.testing.assert_close(maps[stride], expected)


def test_a_compiled_model_takes_the_same_step_in_chunks_and_breaks_no_graph():
    sizes = {"image_size": (64, 96), "cameras": ["left", "right"], "batch_size": 1}
    backbone = {"name": "convnext_atto", "drop_path": 0.2}
    small = {"data": sizes, "model.backbone": backbone, "speed.backbone_chunk": 3}
    config = load_config("mim4d-demo", small)
    clips = noise_clips(config, batch_size=1, generator=torch.Generator().manual_seed(0))
    method = make_clip_method(config, ClipConstants((), tuple))
    model = method.build().train()

    def step():
        model.zero_grad()
        losses = method.loss(model, clips, torch.Generator().manual_seed(0))
        losses.total.backward()
        kept = model.backbone.net.get_submodule("stages.0").parameters()
        return [losses.total, *(parameter.grad.clone() for parameter in kept)]

    plain = step()
    counters.clear()
    model.compile(backend="aot_eager")
    for found, expected in zip(step(), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["graph_break"]
