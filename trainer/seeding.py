"""Own all global randomness, and turn (seed, step) into the generator of a step."""

import random

import numpy as np
import torch
from torch import Generator, Tensor


def seed_everything(seed: int) -> None:
    """Seed every global generator: Python's, NumPy's, and torch's on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global state
    torch.manual_seed(seed)


def step_generator(seed: int, step: int, *, part: int = 0, rank: int = 0) -> Generator:
    """Return the CPU generator of a part of a step: a pure function of the arguments.

    A resumed run therefore draws the masks that it would have drawn without the interruption.
    """
    words = np.random.SeedSequence((seed, step, part, rank)).generate_state(1, np.uint64)
    return Generator().manual_seed(int(words[0]) >> 1)


def random_state() -> dict[str, Tensor]:
    """Return the states of torch's global generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Set torch's global generators to a state that ``random_state`` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
