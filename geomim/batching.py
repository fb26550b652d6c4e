"""The one rule by which batched transforms and cameras meet many points."""

import torch
from torch import Tensor


def over_points(batch: torch.Size, points: Tensor) -> tuple[int, ...]:
    """Return ``batch`` with an axis of 1 for every axis of ``points`` behind it, but the last.

    The leading axes of ``points`` are the batch (an axis of 1 broadcasts, on either side), all
    further ones but the last are points.

    Raises:
        ValueError: If ``points`` does not lead with the batch.
    """
    behind = points.ndim - 1 - len(batch)
    lead = points.shape[: len(batch)]
    if behind < 0 or any(p != b and 1 not in (p, b) for p, b in zip(lead, batch, strict=True)):
        raise ValueError(
            f"points must lead with the batch {tuple(batch)}, got {tuple(points.shape)}"
        )
    return (*batch, *(1,) * behind)
