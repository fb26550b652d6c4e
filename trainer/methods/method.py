"""Say what the loop needs of a pre-training method, and nothing more."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, final, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from torch import Generator, Tensor, nn

from geomim_data.clip_batch import ClipBatch
from geomim_data.dataset import RgbdBatch

BatchT = TypeVar("BatchT", RgbdBatch, ClipBatch)
"""What a method is given: frames, or clips of a rig."""
TakenT = TypeVar("TakenT", RgbdBatch, ClipBatch, contravariant=True)

HEADLINE = (
    "abs_rel",
    "rmse",
    "delta1",
    "depth_abs_rel",
    "depth_abs_rel_rebuilt",
    "psnr",
    "psnr_rebuilt",
    "loss",
)
"""The metrics that are shown to people; files hold all."""


@final
@dataclass(frozen=True, slots=True)
class DataConstants:
    """What is measured once on the training split: valid depth in metres."""

    depth_mean_m: float
    depth_std_m: float


@final
@dataclass(frozen=True, slots=True, eq=False)
class ClipConstants:
    """What is known of the training split of clips; ``sample`` reads the key frames of some."""

    cameras: tuple[str, ...]
    sample: Callable[[], Iterable[ClipBatch]]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """What a step minimises, and the parts of it worth a line in the log."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


@final
@dataclass(frozen=True, slots=True, eq=False)
class BackboneExport:
    """The part that downstream tasks keep.

    ``timm.models.VisionTransformer(**arguments).load_state_dict(state)`` loads it strictly, or
    ``timm.create_model`` in its place, as ``maker`` says; ``arguments`` holds what JSON holds.
    ``others`` are weights of further parts, by name; ``mmdet`` are those of all parts under the
    names that detectors of the mmdetection family have for them, if they have any.
    """

    state: dict[str, Tensor]
    arguments: dict[str, object]
    maker: Literal["VisionTransformer", "create_model"] = "VisionTransformer"
    others: dict[str, dict[str, Tensor]] = field(default_factory=dict[str, dict[str, Tensor]])
    mmdet: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


@runtime_checkable
class Method(Protocol[TakenT]):
    """A pre-training method: it owns the model's shape, its loss and how it is judged.

    ``model`` is always what ``build`` returned, on the device of the batch. A loss calls it through
    ``model(...)`` once, so that it can be wrapped or compiled; it may be under bfloat16 autocast,
    so outputs are cast to float32 before they meet a target.
    """

    @property
    def needs_depth(self) -> bool:
        """Tell whether a store without depth is refused."""
        ...

    def build(self) -> nn.Module:
        """Return a new model on the CPU, its random weights drawn from torch's global generator."""
        ...

    def loss(self, model: nn.Module, batch: TakenT, generator: Generator) -> Losses:
        """Return the loss of a batch under masks drawn from ``generator`` (on the CPU)."""
        ...

    def evaluate(self, model: nn.Module, batches: Iterable[TakenT]) -> dict[str, float]:
        """Return metrics pooled over all batches, under masks that are each item's own, always.

        Contains ``loss``. Runs without gradients and in eval mode, and leaves the mode as found.
        """
        ...

    def baselines(self, batches: Iterable[TakenT], /) -> dict[str, dict[str, float]]:
        """Return the metrics of rules that learn nothing, by name, under evaluate's masks."""
        ...

    def picture(self, model: nn.Module, batch: TakenT) -> UInt8[np.ndarray, "h w 3"]:
        """Draw a row or more for each item of a batch, under evaluate's masks."""
        ...

    def backbone(self, model: nn.Module) -> BackboneExport:
        """Return the encoder under timm's names."""
        ...
