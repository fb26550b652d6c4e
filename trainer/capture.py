"""Count the steps skipped as not finite, and keep the batch that was one too many."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from geomim_data.clip_batch import ClipBatch
from geomim_data.dataset import RgbdBatch
from trainer.files import replace_json

AnyBatch = RgbdBatch | ClipBatch


class NonFiniteError(RuntimeError):
    """More steps were skipped than ``optim.nonfinite_budget`` allows."""


class _Pending(NamedTuple):
    step: int
    batches: Sequence[AnyBatch]
    skipped: Tensor
    arrived: torch.cuda.Event | None


@final
class NonFiniteWatch:
    """Looks at each step's verdict one step late on a GPU, so that the GPU never runs dry."""

    def __init__(self, out: Path, *, budget: int, skipped: int):
        self._out = out
        self.skipped = skipped
        """How many steps were skipped, as far as is known without waiting."""
        self._budget = budget
        self._pending: _Pending | None = None

    def note(self, step: int, batches: Sequence[AnyBatch], skipped: Float[Tensor, ""]) -> None:
        """Take the verdict of a step and the batches that it was computed on.

        Raises:
            NonFiniteError: If an earlier step, or on the CPU this one, exceeds the budget.
        """
        self.settle()
        arrived = None
        if skipped.is_cuda:
            skipped = skipped.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._pending = _Pending(step, batches, skipped, arrived)
        if arrived is None:
            self.settle()

    def settle(self) -> int:
        """Return how many steps were skipped so far.

        Raises:
            NonFiniteError: If they are more than the budget; the last one's batch is then on disk.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return self.skipped
        if pending.arrived is not None:
            pending.arrived.synchronize()
        self.skipped += int(pending.skipped.item())
        if pending.skipped.item() and self.skipped > self._budget:
            folder = capture(self._out, pending.step, pending.batches)
            raise NonFiniteError(
                f"{self.skipped} steps had a loss or gradient that is not finite, more than "
                f"optim.nonfinite_budget {self._budget}; the batch of step {pending.step} is in "
                f"{folder}; try a lower optim.blr or speed.amp=off"
            )
        return self.skipped


def capture(out: Path, step: int, batches: Sequence[AnyBatch]) -> Path:
    """Write batches as ``out/captured/step-N/part-K.safetensors`` and name their items beside."""
    folder = out / "captured" / f"step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    for part, batch in enumerate(batches):
        tensors = _tensors(batch).items()
        plain = {name: tensor.cpu().contiguous() for name, tensor in tensors}
        save_file(plain, folder / f"part-{part}.safetensors")
    frames = [list(zip(batch.scene, _numbers(batch), strict=True)) for batch in batches]
    replace_json(folder / "frames.json", {"step": step, "parts": frames})
    return folder


def _tensors(batch: AnyBatch) -> dict[str, Tensor]:
    tensors = {
        "focal": batch.camera.focal,
        "principal_point": batch.camera.principal_point,
        "rotation": batch.world_from_cam.rotation,
        "translation": batch.world_from_cam.translation,
    }
    match batch:
        case RgbdBatch():
            return tensors | {
                "rgb": batch.rgb,
                "depth": batch.depth,
                "depth_valid": batch.depth_valid,
            }
        case ClipBatch():
            tensors |= {
                "images": batch.images,
                "valid": batch.valid,
                "unpadded": batch.unpadded,
                "timestamp_us": batch.timestamp_us,
            }
            if batch.lidar is not None:
                tensors |= {"points": batch.lidar.points, "offset": batch.lidar.offset}
            return tensors


def _numbers(batch: AnyBatch) -> tuple[int, ...]:
    match batch:
        case RgbdBatch():
            return batch.frame
        case ClipBatch():
            return batch.sample
