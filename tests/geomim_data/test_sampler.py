import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomim_data.sampler import EpochSampler, SamplerState


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, int]:
    world_size = draw(st.integers(1, 4))
    batch_size = world_size * draw(st.integers(1, 4))
    length = draw(st.integers(batch_size, 60))
    return {"length": length, "batch_size": batch_size, "world_size": world_size}


def keys(sampler, state, batches):
    planned = itertools.islice(sampler.forever(state), batches)
    return [key for batch in planned for key in batch.keys]


def in_global_order(layout, **options):
    """One epoch as its ranks see it, their parts of each batch laid end to end."""
    ranks = [EpochSampler(**layout, rank=r, **options) for r in range(layout["world_size"])]
    parts = itertools.zip_longest(*(rank.epoch(0) for rank in ranks))
    return [key.sample for batch in parts for part in batch if part for key in part.keys]


@given(layouts(), st.integers(0, 2**32), st.integers(0, 5))
def test_an_epoch_is_a_permutation(layout, seed, epoch):
    order = EpochSampler(**layout, seed=seed).order(epoch)
    assert sorted(order.tolist()) == list(range(layout["length"]))


def test_the_order_is_fixed_for_good():
    assert EpochSampler(8, 4, seed=3).order(0).tolist() == [0, 1, 2, 7, 5, 6, 4, 3]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(EpochSampler(50, 5, seed=s).order(e).tolist()) for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4


def test_without_shuffling_the_order_is_the_data_set_s():
    assert EpochSampler(5, 2, shuffle=False).order(7).tolist() == [0, 1, 2, 3, 4]


@given(layouts(), st.booleans())
def test_ranks_together_give_the_global_order(layout, drop_last):
    options = {"seed": 5, "drop_last": drop_last}
    alone = EpochSampler(layout["length"], layout["batch_size"], **options)
    expected = [key.sample for batch in alone.epoch(0) for key in batch.keys]
    assert in_global_order(layout, **options) == expected


@given(layouts())
def test_validation_covers_every_sample_once(layout):
    assert sorted(in_global_order(layout, drop_last=False)) == list(range(layout["length"]))


@given(layouts())
def test_training_gives_every_rank_the_same_number_of_samples(layout):
    for rank in range(layout["world_size"]):
        planned = list(EpochSampler(**layout, rank=rank).epoch(0))
        assert len(planned) == layout["length"] // layout["batch_size"]
        assert {len(p.keys) for p in planned} == {layout["batch_size"] // layout["world_size"]}


@given(layouts(), st.booleans())
def test_the_number_of_batches_is_known_beforehand(layout, drop_last):
    sampler = EpochSampler(layout["length"], layout["batch_size"], drop_last=drop_last)
    assert sampler.batches_per_epoch == len(list(sampler.epoch(0)))


@given(layouts(), st.integers(0, 30), st.booleans())
def test_resuming_continues_as_if_never_stopped(layout, done, drop_last):
    sampler = EpochSampler(**layout, drop_last=drop_last)
    planned = list(itertools.islice(sampler.forever(sampler.start()), done + 20))
    state = planned[done].after
    resumed = EpochSampler(**layout, drop_last=drop_last).forever(json.loads(json.dumps(state)))
    assert list(itertools.islice(resumed, 19)) == planned[done + 1 :]


@given(layouts(), layouts(), st.integers(0, 12))
def test_resuming_on_another_layout_goes_on_in_the_same_order(before, after, done):
    length = max(before["length"], after["length"])
    before, after = before | {"length": length}, after | {"length": length}
    sampler = EpochSampler(**before)
    state = next(itertools.islice(sampler.forever(sampler.start()), done, None)).after
    world = after["world_size"]
    ranks = [EpochSampler(**after, rank=r).forever(state) for r in range(world)]
    seen = [key for batch in (next(rank) for rank in ranks) for key in batch.keys]
    expected = keys(EpochSampler(length, 1), state, after["batch_size"])
    if state["consumed"] + after["batch_size"] > length:  # too few left for one full batch
        expected = keys(
            EpochSampler(length, 1),
            {**state, "epoch": state["epoch"] + 1, "consumed": 0},
            after["batch_size"],
        )
    assert seen == expected


def test_an_epoch_s_last_batch_leads_to_the_next_epoch():
    sampler = EpochSampler(10, 4, seed=1)
    states = [planned.after for planned in itertools.islice(sampler.forever(sampler.start()), 3)]
    assert states[0] == {"seed": 1, "epoch": 0, "consumed": 4}
    assert states[1] == {"seed": 1, "epoch": 1, "consumed": 0}
    assert states[2] == {"seed": 1, "epoch": 1, "consumed": 4}


def test_a_rank_without_a_share_of_the_last_batch_is_given_none():
    batches = [
        len(list(EpochSampler(9, 4, rank=r, world_size=4, drop_last=False).epoch(0)))
        for r in range(4)
    ]
    assert sorted(batches) == [2, 2, 2, 3]


def test_samples_left_out_differ_between_epochs():
    sampler = EpochSampler(10, 4)
    left_out = [set(sampler.order(epoch)[8:].tolist()) for epoch in range(6)]
    assert len({frozenset(samples) for samples in left_out}) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"rank": 2, "world_size": 2}, "rank must be 0 to 1, got 2"),
        (
            {"batch_size": 3, "world_size": 2},
            "batch_size must be a multiple of world_size 2, got 3",
        ),
        ({"batch_size": 0}, "batch_size must be a multiple of world_size 1, got 0"),
        ({"batch_size": 11}, "must be at most the number of samples, 10, got 11; no batch would"),
    ],
)
def test_impossible_samplers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochSampler(**{"length": 10, "batch_size": 4} | arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "the state's seed must be 0, got 1"),
        ({"epoch": -1}, "the state's epoch must not be negative, got -1"),
        ({"consumed": 11}, "consumed 0 to 10 samples, got 11; the data set has changed"),
    ],
)
def test_states_of_other_runs_are_refused(change: dict[str, int], message):
    state = SamplerState(**{"seed": 0, "epoch": 0, "consumed": 0} | change)
    with pytest.raises(ValueError, match=message):
        next(EpochSampler(10, 4).forever(state))


def test_a_large_epoch_is_planned_lazily():
    first = next(EpochSampler(10**6, 256).forever({"seed": 0, "epoch": 9, "consumed": 500_000}))
    assert len(first.keys) == 256
    assert first.after["consumed"] == 500_256
    assert np.all([key.epoch == 9 for key in first.keys])
