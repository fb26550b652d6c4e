"""Run a model without training it."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

VALIDATION_SEED = 0
"""Seeds the one mask of every validation frame; the same in all runs, so that they compare."""


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Enter eval mode without gradients; leave the mode as found."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
