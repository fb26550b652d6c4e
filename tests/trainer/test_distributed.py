import pytest
import torch
from torch import distributed

from trainer.config_errors import ConfigError
from trainer.distributed import World, device_of, is_main, mean_across_ranks, world


def test_without_a_launcher_there_is_one_process():
    assert world({}) == World(0, 1)
    assert is_main()


def test_a_launcher_of_one_is_understood():
    assert world({"RANK": "0", "WORLD_SIZE": "1"}) == World(0, 1)


def test_several_processes_are_refused():
    with pytest.raises(ConfigError, match="WORLD_SIZE must be 1, got 2; training runs in one"):
        world({"RANK": "0", "WORLD_SIZE": "2"})


def test_the_mean_over_one_process_is_the_value(tmp_path):
    value = torch.tensor([1.0, 3.0])
    assert mean_across_ranks(value) is value
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert torch.equal(mean_across_ranks(value), value)
    finally:
        distributed.destroy_process_group()


def test_a_device_that_is_absent_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")
    with pytest.raises(
        ConfigError, match=r"speed\.device must be cpu or auto without CUDA, got cuda"
    ):
        device_of("cuda:0")
