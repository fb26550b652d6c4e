import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import benchmarks
from benchmarks import bench_data, machine, measure, processes, report
from benchmarks.__main__ import main, names
from benchmarks.measure import COPY, Contender, Missing, Record, Workload


@pytest.mark.parametrize("name", names())
def test_every_benchmark_runs(name, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GEOMIM_REAL_DATA", raising=False)
    options = ["--tiny", "--in-process", "--rounds", "1", "--threads", "1", "--out", str(tmp_path)]
    assert main([name, *options]) == 0
    records = json.loads((tmp_path / f"{name}.json").read_text())
    printed = capsys.readouterr().out
    assert len(records) > 1
    for record in records:
        assert 0 < record["min_ms"] <= record["median_ms"]
        assert record["gb_per_s"] == pytest.approx(record["bytes"] / record["min_ms"] / 1e6)
        assert record["workload"] in printed
        assert record["implementation"] in printed
    main([name, "--table", "--out", str(tmp_path)])
    assert records[-1]["workload"] in capsys.readouterr().out


def test_contenders_take_turns():
    order = []
    workload = Workload(
        "nothing", tuple(Contender(n, lambda n=n: order.append(n)) for n in "abc"), nbytes=8
    )
    measure.measure(workload, rounds=4, threads=1, turn_s=0.0)
    counted = order[3:]  # the first run of each warms up
    assert "".join(counted) == "abc" + "bca" + "cab" + "abc"


@pytest.mark.parametrize(("turn_s", "rounds"), [(0.5, 15), (2, 6), (100, 3)])
def test_long_turns_make_fewer_rounds_but_three(monkeypatch, turn_s, rounds):
    now = 0.0

    class Slow:
        def warm_up(self) -> None:
            self.turn()

        def turn(self) -> list[float]:
            nonlocal now
            now += turn_s
            return [turn_s]

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)
    times, _ = measure.take_turns({"slow": Slow()}, rounds=15)
    assert times == {"slow": [turn_s] * rounds}


def test_short_runs_are_repeated_and_the_first_of_a_turn_is_not_counted():
    ran = []
    workload = Workload("short", (Contender("torch", lambda: ran.append(0)),), nbytes=8)
    record = measure.measure(workload, rounds=3, threads=1).records[0]
    assert record.runs == 30
    assert len(ran) == 2 + 3 * (1 + 10)


def test_a_record_says_what_was_measured():
    workload = Workload("add", (Contender("torch", lambda: None),), nbytes=2**20, dtype="float16")
    torch_record, copy_record = measure.measure(workload, rounds=3, threads=2).records
    assert (torch_record.workload, torch_record.implementation) == ("add", "torch")
    assert (torch_record.dtype, torch_record.threads, torch_record.bytes) == ("float16", 2, 2**20)
    assert torch.__version__.startswith(torch_record.versions["torch"])
    assert torch_record.hardware.endswith("cores")
    assert copy_record.implementation == COPY
    assert copy_record.gb_per_s > 0.01


def test_threads_are_put_back():
    before = torch.get_num_threads()
    seen = []
    contender = Contender("torch", lambda: seen.append(torch.get_num_threads()))
    measure.measure(Workload("look", (contender,), nbytes=1), rounds=1, threads=2)
    assert set(seen) == {2}
    assert torch.get_num_threads() == before


def test_a_missing_contender_is_named_and_sinks_no_other():
    def missing():
        raise Missing("needs a crystal ball")

    contenders = (Contender("oracle", missing), Contender("torch", lambda: None))
    result = measure.measure(Workload("tell", contenders, nbytes=8), rounds=1, threads=1)
    assert result.absent == ("oracle: needs a crystal ball",)
    assert [record.implementation for record in result.records] == ["torch", COPY]


def test_results_that_differ_are_not_timed():
    def differ():
        raise AssertionError("a differs from b")

    workload = Workload("same", (), nbytes=8, check=differ)
    with pytest.raises(AssertionError, match="a differs from b"):
        measure.measure(workload, rounds=1, threads=1)


@pytest.fixture
def made_up_benchmark(tmp_path, monkeypatch):
    """A module ``benchmarks.bench_made_up`` that other processes can import too."""
    source = """
    import os, torch
    from benchmarks.measure import Contender, Workload

    def workloads(*, tiny):
        contenders = (Contender("geomim", ours), Contender("broken", lambda: 1 / 0))
        last = Contender("killed", lambda: os._exit(3))
        yield Workload("first", (*contenders, last), nbytes=1000, note=f"tiny={tiny}")
        yield Workload("second", contenders, nbytes=1000)
        raise ValueError("the third cannot be made")

    def ours():
        assert torch.get_num_threads() == 2 and os.environ["OMP_NUM_THREADS"] == "2"
        open(FOLDER + "/" + str(os.getpid()), "a").close()
    """
    text = textwrap.dedent(source).replace("FOLDER", repr(str(tmp_path)))
    (tmp_path / "bench_made_up.py").write_text(text)
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path)])
    return tmp_path


def test_each_contender_has_its_process_and_failures_stay_there(made_up_benchmark):
    # Processes know no monkeypatch: a starter that extends the package's path stands in for it.
    starter = made_up_benchmark / "starter.py"
    starter.write_text(
        "import benchmarks, dataclasses, json\n"
        f"benchmarks.__path__.append({str(made_up_benchmark)!r})\n"
        "if __name__ == '__main__':\n"
        "    from benchmarks import processes\n"
        "    try:\n"
        "        for r in processes.measure_apart('made_up', tiny=True, rounds=2, threads=2):\n"
        "            print(json.dumps(dataclasses.asdict(r)), flush=True)\n"
        "    except processes.Failed as error:\n"
        "        print(json.dumps(str(error)))\n"
    )
    done = subprocess.run(
        [sys.executable, str(starter)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
    )
    *results, failure = map(json.loads, done.stdout.splitlines())
    assert [result["outline"]["name"] for result in results] == ["first", "second"]
    assert results[0]["outline"]["note"] == "tiny=True"
    for result in results:
        assert [record["implementation"] for record in result["records"]] == ["geomim", COPY]
        assert result["absent"][0] == "broken: ZeroDivisionError: division by zero"
    assert results[0]["absent"][1] == "killed: its process ended with exit code 3"
    assert failure == "ValueError: the third cannot be made"
    assert len([path for path in made_up_benchmark.iterdir() if path.name.isdigit()]) == 1


@pytest.fixture
def record():
    def make(implementation, min_ms, *, workload="look", threads=1):
        return Record(
            workload=workload,
            implementation=implementation,
            device="cpu",
            dtype="float32",
            threads=threads,
            median_ms=2 * min_ms,
            min_ms=min_ms,
            iqr_ms=0.0,
            runs=1,
            bytes=10**6,
            gb_per_s=1 / min_ms,
            commit="abc",
            hardware="a box, 2 cores",
            versions={"torch": "2.15"},
        )

    return make


def test_the_table_compares_with_ours_and_with_the_copy(record):
    records = [record("kornia", 42.6), record("geomim", 2.0), record(COPY, 1.0)]
    rows = report.table(records).splitlines()
    assert rows[1].split()[-2:] == ["2%", "21.3x"]
    assert rows[2].split()[-2:] == ["50%", "1x"]
    assert rows[3].split()[-2:] == ["100%", "0.5x"]


def test_thread_counts_and_workloads_are_compared_apart(record):
    records = [record("torch", 4.0), record("geomim", 2.0)]
    records += [record("torch", 3.0, threads=2), record("geomim", 1.0, threads=2)]
    ratios = [row.split()[-1] for row in report.table(records).splitlines()[1:]]
    assert ratios == ["2x", "1x", "3x", "1x"]


def test_a_file_of_records_is_a_list_and_is_replaced(record, tmp_path):
    path = tmp_path / "results" / "look.json"
    report.write_records([record("torch", 4.0), record("geomim", 2.0)], path)
    report.write_records([record("geomim", 1.0)], path)
    assert json.loads(path.read_text()) == [dataclasses.asdict(record("geomim", 1.0))]
    assert report.read_records(path) == [record("geomim", 1.0)]
    assert list(path.parent.iterdir()) == [path]


def test_tiny_figures_replace_no_others(monkeypatch, capsys):
    written = []
    monkeypatch.setattr(report, "write_records", lambda *arguments: written.append(arguments))
    main(["data", "--tiny", "--in-process", "--rounds", "1", "--threads", "1"])
    assert not written
    assert "store" in capsys.readouterr().out


def test_a_benchmark_that_breaks_sinks_no_other(monkeypatch, capsys, tmp_path):
    def breaks(name, **_):
        raise processes.Failed(f"{name} disagrees")
        yield

    monkeypatch.setattr(processes, "measure_apart", breaks)
    monkeypatch.setattr("benchmarks.__main__.names", lambda: ["data", "dots"])
    assert main(["--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert "data broke: data disagrees" in printed
    assert "dots broke: dots disagrees" in printed


def test_the_commit_is_known_where_there_is_a_checkout(monkeypatch, tmp_path):
    machine.commit.cache_clear()
    monkeypatch.setattr(machine, "HERE", tmp_path)
    assert machine.commit() == "unknown"
    machine.commit.cache_clear()


def test_a_benchmark_that_does_not_exist_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["warpspeed"])
    assert "no benchmark is called warpspeed" in capsys.readouterr().err


def test_a_store_is_hardly_larger_than_its_recording(tmp_path):
    root = bench_data.made_up_scan(tmp_path / "scannet", size=(480, 640), frames=24)
    assert bench_data.size_ratio(bench_data.Scan("made up", root, tmp_path)) < 1.05
