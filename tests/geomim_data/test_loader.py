import itertools
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from geomim_data.dataset import Sample, collate
from geomim_data.errors import DataError
from geomim_data.loader import make_loader
from geomim_data.sampler import EpochSampler


class Numbered:
    """Samples that hold nothing but their own key; ``broken`` ones raise."""

    def __init__(self, *, broken=(), skipping=(), delay_s=0.0):
        self.broken = set(broken)
        self.skipping = set(skipping)
        self.delay_s = delay_s

    def collate(self, samples):
        return collate(samples)

    def __getitem__(self, key):
        epoch, sample = key
        time.sleep(self.delay_s)
        if sample in self.broken:
            raise DataError(f"shards/room[{sample}]: is torn")
        made = Sample(
            rgb=torch.full((3, 2, 2), float(torch.get_num_threads())),
            depth=torch.full((2, 2), float(os.getpid())),
            intrinsics=np.ones(4),
            world_from_cam=np.eye(4),
            pose_valid=True,
            scene=str(epoch),
            frame=sample,
        )
        return (
            replace(made, skipped=("shards/room[9]: is torn",)) if sample in self.skipping else made
        )


def keys(batches, count=None):
    """What the first batches hold, as (epoch, sample) pairs."""
    taken = itertools.islice(batches, count)
    return [list(zip(map(int, batch.scene), batch.frame, strict=True)) for batch in taken]


def planned(sampler, state, count):
    return [list(map(tuple, p.keys)) for p in itertools.islice(sampler.forever(state), count)]


@pytest.fixture(params=[0, 1, 2])
def workers(request):
    return request.param


def test_batches_come_in_the_samplers_order_through_the_epochs(workers):
    sampler = EpochSampler(10, 4, seed=1)
    with make_loader(Numbered(), sampler, workers=workers) as loader:
        assert keys(loader.forever(), 7) == planned(sampler, sampler.start(), 7)


def test_the_state_follows_the_batch_handed_out_not_those_loaded_ahead(workers):
    sampler = EpochSampler(10, 3, seed=1)
    with make_loader(Numbered(), sampler, workers=workers, prefetch=4) as loader:
        batches = loader.forever()
        for expected in itertools.islice(sampler.forever(sampler.start()), 8):
            next(batches)
            assert loader.state() == expected.after


def test_a_state_resumes_at_the_very_next_batch(workers):
    sampler = EpochSampler(10, 3, seed=1)
    with make_loader(Numbered(), sampler, workers=workers) as loader:
        keys(loader.forever(), 5)
        state = loader.state()
    with make_loader(Numbered(), EpochSampler(10, 3, seed=1), workers=1) as resumed:
        resumed.load_state(state)
        assert keys(resumed.forever(), 4) == planned(sampler, state, 4)


def test_a_loader_goes_back_and_forth_between_states(workers):
    sampler = EpochSampler(10, 3, seed=1)
    with make_loader(Numbered(), sampler, workers=workers) as loader:
        first = loader.forever()
        before = keys(first, 3)
        loader.load_state(sampler.start())
        assert list(first) == []
        assert keys(loader.forever(), 3) == before
        assert keys(loader.forever(), 1) == planned(sampler, loader.state(), 0) + keys_after(
            sampler, 3
        )


def keys_after(sampler, batches):
    return planned(sampler, sampler.start(), batches + 1)[batches:]


def test_an_epoch_is_whole_each_time_and_leaves_the_state_alone(workers):
    sampler = EpochSampler(7, 3, drop_last=False, shuffle=False)
    with make_loader(Numbered(), sampler, workers=workers) as loader:
        next(loader.epoch())  # abandoned early
        for _ in range(2):
            assert keys(loader.epoch()) == [
                [(0, 0), (0, 1), (0, 2)],
                [(0, 3), (0, 4), (0, 5)],
                [(0, 6)],
            ]
        assert loader.state() == sampler.start()


def test_loading_runs_ahead_across_the_end_of_an_epoch():
    sampler = EpochSampler(2, 1)
    with make_loader(Numbered(delay_s=0.15), sampler, workers=2) as loader:
        batches = loader.forever()
        for _ in range(2):
            next(batches)
        time.sleep(1.0)
        started = time.perf_counter()
        next(batches)
        assert time.perf_counter() - started < 0.1


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_are_processes_of_one_thread(start_method):
    loader = make_loader(Numbered(), EpochSampler(8, 2), workers=2, start_method=start_method)
    with loader:
        batches = list(itertools.islice(loader.forever(), 4))
    assert {batch.rgb.max().item() for batch in batches} == {1.0}
    pids = {int(batch.depth[0, 0, 0]) for batch in batches}
    assert len(pids) == 2
    assert os.getpid() not in pids


def worker_pids(batches):
    return {int(batch.depth[0, 0, 0]) for batch in itertools.islice(batches, 4)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_workers_ignore_the_signals_of_a_launcher(number):
    with make_loader(Numbered(), EpochSampler(100, 1), workers=2) as loader:
        batches = loader.forever()
        for pid in worker_pids(batches):
            os.kill(pid, number)
        assert len(list(itertools.islice(batches, 20))) == 20


def test_closing_ends_the_workers():
    loader = make_loader(Numbered(), EpochSampler(100, 1), workers=2)
    batches = loader.forever()
    pids = worker_pids(batches)
    loader.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert list(batches) == []
    loader.close()


def test_a_closed_loader_says_so():
    loader = make_loader(Numbered(), EpochSampler(4, 1))
    loader.close()
    with pytest.raises(ValueError, match="the loader must be open, got one that was closed"):
        next(loader.forever())


def test_the_parents_signals_are_let_through_again():
    with make_loader(Numbered(), EpochSampler(4, 1), workers=1) as loader:
        next(loader.forever())
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_start_without_python_3_12_s_warning_of_forks(monkeypatch):
    fork = os.fork

    def warning_fork():
        message = "This process (pid=1) is multi-threaded, use of fork() may lead to deadlocks"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return fork()

    monkeypatch.setattr(os, "fork", warning_fork)
    with make_loader(Numbered(), EpochSampler(4, 1), workers=1, start_method="fork") as loader:
        next(loader.forever())


LEAVES_WORKERS = """
import sys
from geomim_data.loader import make_loader
from geomim_data.sampler import EpochSampler
from tests.geomim_data.test_loader import Numbered

class Buggy(Numbered):
    def __getitem__(self, key):
        if key[1] == 3 and sys.argv[1] == "bug":
            raise RuntimeError("a bug")
        return super().__getitem__(key)

batches = make_loader(Buggy(), EpochSampler(10, 1, shuffle=False), workers=2).forever()
for _ in range(5):
    next(batches)
"""


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("bug", 1)])
def test_a_process_ends_with_its_workers_running(how, code):
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_WORKERS, how], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr.decode()
    assert b"a bug" in done.stderr or how == "end"
    assert time.perf_counter() - started < 30


def test_a_broken_frame_raises_one_line(workers):
    sampler = EpochSampler(6, 2, shuffle=False)
    with make_loader(Numbered(broken=[3]), sampler, workers=workers) as loader:
        batches = loader.forever()
        next(batches)
        with pytest.raises(DataError) as caught:
            next(batches)
        assert str(caught.value) == "shards/room[3]: is torn"
        assert loader.state()["consumed"] == 2


def test_skipped_frames_are_counted_and_logged(workers, caplog):
    sampler = EpochSampler(6, 2, shuffle=False)
    with (
        caplog.at_level(logging.WARNING),
        make_loader(Numbered(skipping=[1, 4]), sampler, workers=workers) as loader,
    ):
        keys(loader.forever(), 3)
        assert loader.skipped == 2
    assert caplog.messages == 2 * ["skipped a broken frame: shards/room[9]: is torn"]


def test_a_state_of_another_seed_is_refused():
    with (
        make_loader(Numbered(), EpochSampler(6, 2)) as loader,
        pytest.raises(ValueError, match="the state's seed must be 0, got 7"),
    ):
        loader.load_state({"seed": 7, "epoch": 0, "consumed": 0})


def test_the_global_generator_is_left_alone(workers):
    before = torch.random.get_rng_state()
    with make_loader(Numbered(), EpochSampler(6, 2), workers=workers) as loader:
        keys(loader.forever(), 2)
    torch.testing.assert_close(torch.random.get_rng_state(), before)
