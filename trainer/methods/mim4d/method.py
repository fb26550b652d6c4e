"""MIM4D as the loop sees it: what it trains on and how it is judged and drawn."""

from collections.abc import Iterable
from typing import final

import numpy as np
from jaxtyping import UInt8
from torch import Generator, nn

from geomim_data.clip_batch import ClipBatch
from trainer.config_mim4d import Mim4dConfig
from trainer.methods.method import BackboneExport, ClipConstants, Losses


@final
class Mim4d:
    """Pre-train by rendering masked and dropped frames of a rig's video."""

    needs_depth = False

    def __init__(self, config: Mim4dConfig, constants: ClipConstants):
        self.config, self.constants = config, constants

    def build(self) -> nn.Module:
        raise NotImplementedError("the model is not built yet")

    def loss(self, model: nn.Module, batch: ClipBatch, generator: Generator) -> Losses:
        raise NotImplementedError("the model is not built yet")

    def evaluate(self, model: nn.Module, batches: Iterable[ClipBatch]) -> dict[str, float]:
        raise NotImplementedError("the model is not built yet")

    def baselines(self, batches: Iterable[ClipBatch]) -> dict[str, dict[str, float]]:
        raise NotImplementedError("the model is not built yet")

    def picture(self, model: nn.Module, batch: ClipBatch) -> UInt8[np.ndarray, "height width 3"]:
        raise NotImplementedError("the model is not built yet")

    def backbone(self, model: nn.Module) -> BackboneExport:
        raise NotImplementedError("the model is not built yet")
