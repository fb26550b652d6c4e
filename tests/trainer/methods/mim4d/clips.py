"""Clips of a rig of cameras that look all around, with lidar, for tests."""

from dataclasses import replace

import torch

from geomim_data.clip_batch import ClipBatch
from trainer.clip_data import noise_clips
from trainer.config_file import load_config
from trainer.config_mim4d import Mim4dConfig


def tiny_config(**overrides: object) -> Mim4dConfig:
    """Return a run that takes a second a step; no clip shares statistics with another."""
    config = load_config(
        "mim4d-demo",
        {
            "data": {
                "image_size": [64, 96],
                "offsets": [0, -1],
                "offset_unit": "frames",
                "workers": 0,
                "batch_size": 1,
            },
            "model.backbone.name": "convnext_atto",
            "model.volume.shape": [16, 16, 4],
            "model.volume.cell_m": [4.0, 4.0, 2.0],
            "model.volume.lower_m": [-32.0, -32.0, -4.0],
            "model.render": {"rays": 16, "samples": 12, "importance": 4},
            "speed.device": "cpu",
            **overrides,
        },
    )
    assert isinstance(config, Mim4dConfig)
    return config


def tiny_clips(config: Mim4dConfig, *, batch: int = 1, seed: int = 0) -> ClipBatch:
    """Draw clips of noise."""
    return noise_clips(config, batch_size=batch, generator=torch.Generator().manual_seed(seed))


def lose(batch: ClipBatch, valid: torch.Tensor) -> ClipBatch:
    """Lose the images where ``valid`` is False."""
    keep = valid & batch.valid
    return replace(
        batch, valid=keep, images=torch.where(keep[..., None, None, None], batch.images, 0.0)
    )
