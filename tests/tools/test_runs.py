"""The runner of comparisons, with real processes, one of them killed."""

import itertools
import json
import multiprocessing
import sys
import time

import pytest
from models import ROOT

from ohem_d2.tools import runs
from ohem_d2.tools.runs import Variant, fingerprint, results_of, run_all

# Programs take the module alone: the package and its errors import PyTorch, which takes seconds.
RUNS = f"""
import os, sys, time, types
from pathlib import Path
for name, folder in (("ohem_d2", "ohem_d2"), ("ohem_d2.tools", "ohem_d2/tools")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [os.path.join({str(ROOT)!r}, folder)]
sys.modules["ohem_d2.tools.errors"] = types.SimpleNamespace(InputError=ValueError)
from ohem_d2.tools import runs
"""

# A run counts ten checkpoints, one after another, if it is let.
PROGRAM = f"""{RUNS}
folder, seed, device, *what = sys.argv[1:]
folder = Path(folder)
runs.end_with_parent()
count = int((folder / "count").read_text()) if (folder / "count").exists() else 0
print("from", count, "of", seed, "on", device, "threads", os.environ.get("OMP_NUM_THREADS"))
print("maps", os.environ.get("MALLOC_MMAP_MAX_"))
if "fails" in what:
    sys.exit("it fails")
for count in range(count + 1, 11):
    (folder / "count").write_text(str(count))
    if "slow" in what:
        time.sleep(0.3)
(folder / "end").write_text(str(time.monotonic()))
runs.write_result(folder, dict(seed=int(seed), count=count))
"""


def variant(name, *what, settings="same"):
    def command(seed, device, folder):
        return [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            PROGRAM,
            str(folder),
            str(seed),
            device,
            *what,
        ]

    return Variant(name, settings, command)


def printed(folder):
    return (folder / "output.txt").read_text()


def test_every_variant_with_every_seed_a_seed_after_the_other(tmp_path, capsys):
    variants = [variant("one"), variant("two")]
    assert run_all(variants, [1, 2], tmp_path, ["cpu"], threads=1) == []
    for v in variants:
        assert results_of(v, [1, 2, 3], tmp_path) == {
            seed: {"seed": seed, "count": 10} for seed in (1, 2)
        }
    assert printed(tmp_path / "two/seed1") == "from 0 of 1 on cpu threads 1\nmaps 0\n"
    begun = capsys.readouterr().out.splitlines()
    assert begun == [
        f"run {number} of 4: {name}, seed {seed}, cpu"
        for number, (seed, name) in enumerate(itertools.product((1, 2), ("one", "two")), start=1)
    ]
    # once more: all is there
    assert run_all(variants, [1, 2], tmp_path, ["cpu"]) == []
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.rglob("*.part"))


def test_devices_have_one_run_each_at_a_time(tmp_path, monkeypatch):
    """Two runs that wait for each other, and a third that comes after."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    wait = f"""{RUNS}
folder = Path(sys.argv[1])
(folder / "here").touch()
deadline = time.monotonic() + 60
while len(list(Path({str(tmp_path)!r}).rglob("here"))) < 2:
    assert time.monotonic() < deadline
    time.sleep(0.01)
runs.write_result(folder, {{"on": sys.argv[2]}})
"""

    def command(seed, device, folder):
        return [sys.executable, "-c", wait, str(folder), device]

    waiting = Variant("waiting", "", command)
    assert run_all([waiting], [1, 2, 3], tmp_path, ["a", "b"]) == []
    found = results_of(waiting, [1, 2, 3], tmp_path)
    assert {found[1]["on"], found[2]["on"]} == {"a", "b"} and 3 in found
    # PyTorch is left what it would have
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "9")
    assert run_all([variant("one")], [1], tmp_path, ["cpu"]) == []
    assert "threads 7\nmaps 9\n" in printed(tmp_path / "one/seed1")


def test_killed_and_given_again_it_goes_on(tmp_path, capsys):
    variants = [variant("fast"), variant("late", "slow")]
    arguments = (variants, [1], tmp_path, ["cpu"])
    comparison = multiprocessing.get_context("fork").Process(target=run_all, args=arguments)
    comparison.start()
    count = tmp_path / "late/seed1/count"
    deadline = time.monotonic() + 60
    while not (count.exists() and count.read_text() > "1"):
        assert comparison.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    comparison.kill()
    comparison.join()
    # The run ends with it.
    time.sleep(0.5)
    reached = count.read_text()
    time.sleep(1)
    assert count.read_text() == reached != "10"
    assert not (tmp_path / "late/seed1/result.json").exists()

    kept = (tmp_path / "fast/seed1/result.json").stat().st_mtime_ns
    capsys.readouterr()
    assert run_all(*arguments) == []
    assert capsys.readouterr().out == "run 1 of 2: late, seed 1, cpu\n"
    assert (tmp_path / "fast/seed1/result.json").stat().st_mtime_ns == kept
    assert f"from {reached} of 1" in printed(tmp_path / "late/seed1")
    assert results_of(variant("late"), [1], tmp_path)[1]["count"] == 10


def test_failures_are_told_and_the_others_go_on(tmp_path):
    variants = [variant("bad", "fails"), variant("good")]
    assert run_all(variants, [1, 2], tmp_path, ["cpu"]) == [
        tmp_path / f"bad/seed{seed}/output.txt" for seed in (1, 2)
    ]
    assert "it fails" in printed(tmp_path / "bad/seed2")
    assert set(results_of(variants[1], [1, 2], tmp_path)) == {1, 2}
    # Mended, and with nothing else changed, it runs.
    assert run_all([variant("bad")], [1, 2], tmp_path, ["cpu"]) == []


def test_a_device_on_which_runs_fail_gets_no_more(tmp_path):
    failed = run_all([variant("bad", "fails")], [1, 2, 3, 4], tmp_path, ["cpu"])
    assert len(failed) == runs.MAX_FAILURES == 2
    assert not (tmp_path / "bad/seed3").exists()


def test_a_command_that_is_none_is_no_silence(tmp_path):
    with pytest.raises(FileNotFoundError):
        run_all([Variant("none", "", lambda *_: ["no such program"])], [1], tmp_path, ["cpu"])


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_neither_taken_nor_overwritten(finished, tmp_path, capsys):
    assert run_all([variant("one", *([] if finished else ["fails"]))], [1], tmp_path, ["cpu"]) == (
        [] if finished else [tmp_path / "one/seed1/output.txt"]
    )
    before = {p: p.read_bytes() for p in (tmp_path / "one/seed1").iterdir()}
    changed = variant("one", settings="changed")
    assert run_all([changed], [1], tmp_path, ["cpu"]) == [tmp_path / "one/seed1"]
    assert "one/seed1 is of other settings; remove or rename it" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in (tmp_path / "one/seed1").iterdir()} == before
    # another seed is a new run, and their difference is said
    assert run_all([changed], [2], tmp_path, ["cpu"]) == []
    results_of(changed, [1, 2], tmp_path)
    assert ("had different settings" in capsys.readouterr().err) == finished


def test_a_result_whose_settings_are_not_known_is_not_taken(tmp_path):
    runs.write_result(tmp_path / "one/seed1", {})
    assert run_all([variant("one")], [1], tmp_path, ["cpu"]) == [tmp_path / "one/seed1"]


def test_fingerprints(tmp_path):
    file = tmp_path / "a"
    file.write_text("x")
    before = fingerprint(file, "b")
    assert before == fingerprint(file, "b") == fingerprint("x", "b") and len(before) == 16
    others = [fingerprint("xb"), fingerprint("b", "x"), fingerprint("x", "b", ""), fingerprint()]
    assert len({before, *others}) == 5
    file.write_text("y")
    assert fingerprint(file, "b") != before


def test_metrics_without_a_line_that_a_kill_cut_short(tmp_path):
    assert runs.read_metrics(tmp_path) == []
    (tmp_path / "metrics.json").write_text('{"time": 1}\n{"time": 5}\n{"time": 2}\n{"a": 1}\n{"ti')
    records = runs.read_metrics(tmp_path)
    assert records == [{"time": 1}, {"time": 5}, {"time": 2}, {"a": 1}]
    assert runs.seconds_per_iteration(records) == 2
    assert runs.seconds_per_iteration([]) != runs.seconds_per_iteration([])  # nan


def test_tables():
    assert runs.mean_and_spread([30.0, 32.0, 34.0], 1) == "32.0 ± 2.0"  # of a sample
    assert runs.mean_and_spread([1.25], 2) == "1.25" and runs.mean_and_spread([], 2) == ""
    assert runs.mean_and_spread([float("nan")] * 2, 1) == "nan ± nan"
    table = runs.markdown_table(["a", "b"], [["1", "2"], ["3", ""]])
    assert table == ["| a | b |", "|---|---|", "| 1 | 2 |", "| 3 |  |"]


def test_results_are_what_json_can_have(tmp_path):
    with pytest.raises(TypeError):
        runs.write_result(tmp_path, {"path": tmp_path})
    assert not list(tmp_path.iterdir())
    runs.write_result(tmp_path, {"AP": float("nan")})
    assert "AP" in json.loads((tmp_path / "result.json").read_text())
