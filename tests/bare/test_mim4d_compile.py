"""torch.compile does not see through run-time shape checks, hence this folder."""

import pytest
import torch

from tests.trainer.methods.mim4d.networks import CONVOLUTIONAL, draw_hidden, draw_images, make


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_masked_backbones_compile_whole_and_keep_no_mask(kind):
    backbone, images = make(kind).eval(), draw_images()
    compiled = torch.compile(backbone, backend="aot_eager", fullgraph=True)
    for seed in (2, 3):
        hidden = draw_hidden(seed=seed)
        maps = compiled(images, hidden)
        for stride, expected in backbone(images, hidden).items():
            torch.testing.assert_close(maps[stride], expected)
