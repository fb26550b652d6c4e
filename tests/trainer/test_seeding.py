import random

import numpy as np
import torch

from trainer.seeding import random_state, restore_random_state, seed_everything, step_generator


def draws(**arguments: int) -> list[float]:
    return torch.rand(4, generator=step_generator(3, 5, **arguments)).tolist()


def test_a_steps_generator_is_a_function_of_seed_and_step():
    assert draws() == draws()


def test_steps_parts_and_ranks_draw_apart():
    drawn = [draws(), draws(part=1), draws(rank=1)]
    drawn.append(torch.rand(4, generator=step_generator(3, 6)).tolist())
    drawn.append(torch.rand(4, generator=step_generator(4, 5)).tolist())
    assert len({tuple(values) for values in drawn}) == 5


def test_seeding_repeats_every_global_generator():
    def everything() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002, S311

    seed_everything(2**40 + 1)
    first = everything()
    seed_everything(2**40 + 1)
    assert everything() == first


def test_the_global_state_can_be_restored():
    state = random_state()
    drawn = torch.rand(3)
    restore_random_state(state)
    assert torch.equal(torch.rand(3), drawn)
