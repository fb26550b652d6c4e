import json

import pytest
import torch

from benchmarks import bench_data, measure
from benchmarks.__main__ import main, names
from benchmarks.measure import COPY, Contender, Workload


@pytest.mark.parametrize("name", names())
def test_every_benchmark_runs(name, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GEOMIM_REAL_DATA", raising=False)
    path = tmp_path / "records.jsonl"
    main([name, "--tiny", "--rounds", "1", "--json", str(path)])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    printed = capsys.readouterr().out
    assert len(records) > 1
    for record in records:
        assert 0 < record["min_ms"] <= record["median_ms"]
        assert record["gb_per_s"] == pytest.approx(record["bytes"] / record["min_ms"] / 1e6)
        assert {"device", "dtype", "threads", "commit", "hardware"} < record.keys()
        assert record["workload"] in printed
        assert record["implementation"] in printed


def test_contenders_take_turns():
    order = []
    workload = Workload(
        "nothing", tuple(Contender(n, lambda n=n: order.append(n)) for n in "abc"), nbytes=8
    )
    measure.measure(workload, rounds=4, threads=1)
    counted = order[3:]  # the first run of each warms up
    assert "".join(counted) == "abc" + "bca" + "cab" + "abc"


def test_a_record_says_what_was_measured():
    workload = Workload("add", (Contender("torch", lambda: None),), nbytes=2**20, dtype="float16")
    torch_record, copy_record = measure.measure(workload, rounds=3, threads=2)
    assert (torch_record.workload, torch_record.implementation) == ("add", "torch")
    assert (torch_record.dtype, torch_record.threads, torch_record.bytes) == ("float16", 2, 2**20)
    assert copy_record.implementation == COPY
    assert copy_record.gb_per_s > 0.01


def test_threads_are_put_back():
    before = torch.get_num_threads()
    seen = []
    contender = Contender("torch", lambda: seen.append(torch.get_num_threads()))
    measure.measure(Workload("look", (contender,), nbytes=1), rounds=1, threads=2)
    assert set(seen) == {2}
    assert torch.get_num_threads() == before


def test_a_benchmark_that_does_not_exist_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["warpspeed"])
    assert "no benchmark is called warpspeed" in capsys.readouterr().err


def test_a_store_is_hardly_larger_than_its_recording(tmp_path):
    root = bench_data.made_up_scan(tmp_path / "scannet", size=(480, 640), frames=24)
    assert bench_data.size_ratio(bench_data.Scan("made up", root, tmp_path)) < 1.05
