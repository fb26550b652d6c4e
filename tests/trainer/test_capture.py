import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer.capture import NonFiniteError, NonFiniteWatch, capture
from trainer.clip_data import noise_clips
from trainer.config import DataConfig
from trainer.config_mim4d import Mim4dConfig
from trainer.data import fake_batch

CONFIG = DataConfig(image_size=(8, 16))
BATCH = fake_batch(CONFIG, batch_size=2, generator=torch.Generator().manual_seed(0))
GOOD, BAD = torch.tensor(0.0), torch.tensor(1.0)


def test_skipped_steps_are_counted_up_to_the_budget(tmp_path: Path):
    watch = NonFiniteWatch(tmp_path, budget=3, skipped=1)
    for step, verdict in enumerate((GOOD, BAD, GOOD, BAD)):
        watch.note(step, [BATCH], verdict)
    assert watch.settle() == 3
    assert not list(tmp_path.iterdir())


def test_one_more_than_the_budget_ends_the_run(tmp_path: Path):
    watch = NonFiniteWatch(tmp_path, budget=0, skipped=0)
    words = r"1 steps had a loss .*; the batch of step 5 is in .*step-5; try a lower optim.blr"
    with pytest.raises(NonFiniteError, match=words):
        watch.note(5, [BATCH], BAD)


def test_every_part_of_the_step_is_kept(tmp_path: Path):
    folder = capture(tmp_path, 5, [BATCH, BATCH])
    kept = load_file(folder / "part-1.safetensors")
    assert torch.equal(kept["rgb"], BATCH.rgb)
    assert torch.equal(kept["depth_valid"], BATCH.depth_valid)
    frames = json.loads((folder / "frames.json").read_text())
    assert frames == {"step": 5, "parts": [[["noise", 0], ["noise", 1]]] * 2}


def test_clips_are_kept_with_what_their_rig_saw(tmp_path: Path):
    config = Mim4dConfig(method="mim4d", data={"image_size": (32, 32)})
    batch = noise_clips(config, batch_size=1, generator=torch.Generator().manual_seed(0))
    folder = capture(tmp_path, 5, [batch])
    kept = load_file(folder / "part-0.safetensors")
    assert torch.equal(kept["images"], batch.images)
    assert torch.equal(kept["points"], batch.lidar.points)
    frames = json.loads((folder / "frames.json").read_text())
    assert frames == {"step": 5, "parts": [[["noise", 0]]]}
