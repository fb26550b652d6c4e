"""Depth metrics, pooled over pixels.

A batch becomes a row of float64 sums; rows of batches and of processes add up, so the metrics do
not depend on how the frames were grouped. Definitions follow Eigen et al. 2014, section 4.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LOG_FLOOR_M = 1e-3
"""Metres; what a prediction at or below it counts as in the logarithmic metrics."""
_DELTA_BASE = 1.25


def depth_error_sums(
    prediction: Float[Tensor, "*batch h w"],
    target: Float[Tensor, "*batch h w"],
    selected: Bool[Tensor, "*batch h w"],
) -> Float[Tensor, " sums"]:
    """Sum what ``depth_metrics`` needs over the selected pixels, in float64.

    Args:
        prediction: Metres; values that are not positive fail every delta.
        target: Metres, positive where selected.
        selected: Which pixels count.
    """
    guess, truth = prediction[selected].double(), target[selected].double()
    difference = guess - truth
    log_error = guess.clamp(min=LOG_FLOOR_M).log() - truth.log()
    ratio = torch.where(guess > 0, torch.maximum(guess / truth, truth / guess), torch.inf)
    terms = [
        torch.ones_like(truth),
        difference.abs() / truth,
        difference.square() / truth,
        difference.abs(),
        difference.square(),
        log_error,
        log_error.square(),
        log_error.abs(),
        *(ratio < _DELTA_BASE**power for power in (1, 2, 3)),
    ]
    return torch.stack([term.sum(dtype=torch.float64) for term in terms])


def depth_metrics(sums: Float[Tensor, " sums"]) -> dict[str, float]:
    """Turn added-up sums into metrics.

    Returns:
        ``abs_rel``, ``sq_rel`` (metres), ``mae`` and ``rmse`` (metres), ``rmse_log``, ``log10``,
        ``silog`` (100 times the standard deviation of the log error) and ``delta1`` to ``delta3``,
        the shares of pixels within a factor 1.25, 1.25^2 and 1.25^3. NaN if no pixel was selected.
    """
    count, *totals = sums.tolist()
    if count == 0:
        totals = [math.nan] * len(totals)
        count = 1
    means = [total / count for total in totals]
    abs_rel, sq_rel, mae, square, log_mean, log_square, log_abs, *deltas = means
    # A difference of near-equal numbers may round to just below zero.
    variance = log_square - log_mean**2
    return {
        "abs_rel": abs_rel,
        "sq_rel": sq_rel,
        "mae": mae,
        "rmse": math.sqrt(square),
        "rmse_log": math.sqrt(log_square),
        "log10": log_abs / math.log(10),
        "silog": 100 * math.sqrt(0.0 if variance < 0 else variance),
        **{f"delta{power}": share for power, share in enumerate(deltas, start=1)},
    }
