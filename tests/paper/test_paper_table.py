"""The command for Table 1 and its miniature: real runs, one of them killed."""

import json
import shlex
import subprocess
import time

import cv2
import forked
import pytest
import run_table
import torch
from models import ROOT
from run_table import PAPER_MAP, find_rows, settings_of

from ohem_d2.tools import runs
from projects.paper import mini
from projects.paper.train import logged, peak_memory

pytestmark = pytest.mark.long

# Rows of the fixture below, by the command; each of the others trains without it.
BY_COMMAND = ["02_fast_rcnn_vgg16_n2", "12_ohem_vgg_m_n2", "13_ohem_vgg16_n2"]
BY_COMMAND += ["bootstrapping_vgg16_n2"]
MINI = ROOT / "projects/paper/configs/mini"


# ---- the report --------------------------------------------------------------------------------


def finished(folder, row, seed, ap50, **more):
    run = folder / row / f"seed{seed}"
    run.mkdir(parents=True)
    result = {
        "metrics": {"AP": ap50 / 2, "AP50": ap50, "AP75": 0.0},
        "seconds": 0.5,
        "sweep_seconds": 0.0,
        "peak_bytes": 2**30,
        "training_loss": {},
        **more,
    }
    (run / "result.json").write_text(json.dumps(result))


def test_table_has_mean_and_spread_beside_the_papers_figure(tmp_path, capsys):
    for seed, ap50 in ((1, 30.0), (2, 32.0), (3, 34.0)):
        finished(tmp_path, "13_ohem_vgg16_n2", seed, ap50)
    finished(tmp_path, "02_fast_rcnn_vgg16_n2", 1, 28.0)
    run_table.main(["--configs", str(MINI), "--output", str(tmp_path), "--only-report"])
    lines = (tmp_path / "table.md").read_text().splitlines()
    (ohem,) = (line for line in lines if line.startswith("| 13 "))
    cells = [cell.strip() for cell in ohem.strip("|").split("|")]
    # 32 and 2: mean and sample standard deviation of 30, 32, 34
    assert cells[1:6] == ["ohem_vgg16_n2", "3", "32.0 ± 2.0", "16.0 ± 1.0", "69.9"]
    (random,) = (line for line in lines if line.startswith("| 2 "))
    assert "| 28.0 |" in random and "67.2" in random  # no spread of one seed
    (missing,) = (line for line in lines if line.startswith("| 1 "))
    assert "| 0 |" in missing
    assert not (tmp_path / "training_loss.png").exists()
    assert capsys.readouterr().out.splitlines() == lines


def test_training_loss_is_drawn_where_it_was_taken(tmp_path):
    for seed in (1, 2):
        finished(tmp_path, "13_ohem_vgg16_n2", seed, 1.0, training_loss={"1": 2.0, "100": 1.0})
    run_table.main(["--configs", str(MINI), "--output", str(tmp_path), "--only-report"])
    assert (tmp_path / "training_loss.png").stat().st_size > 0


def test_sweeps_are_beside_the_iterations_that_they_are_no_part_of(tmp_path):
    finished(tmp_path, "bootstrapping_vgg16_n2", 1, 1.0, sweep_seconds=0.25)
    arguments = ["--configs", str(MINI), "--output", str(tmp_path), "--only-report"]
    run_table.main([*arguments, "--rows", "bootstrapping_vgg16_n2"])
    assert "| 0.50, and 0.25 in sweeps |" in (tmp_path / "table.md").read_text()


def test_what_was_logged_twice_counts_once():
    records = [{"iteration": 1, "a": 1.0}, {"iteration": 2}, {"iteration": 1, "a": 3.0}]
    assert logged(records, "a") == {1: 3.0}


def test_a_figure_that_is_not_a_number_is_said(tmp_path):
    for seed in (1, 2):
        finished(tmp_path, "13_ohem_vgg16_n2", seed, float("nan"))
    run_table.main(["--configs", str(MINI), "--output", str(tmp_path), "--only-report"])
    assert "| 2 | nan ± nan |" in (tmp_path / "table.md").read_text()


def test_papers_figures_are_those_of_all_thirteen_rows():
    assert sorted(PAPER_MAP) == list(range(1, 14))


# ---- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "14"], "--rows 14: no such row"),
        (["--configs", "nowhere"], "there is no NUMBER_NAME.yaml"),
        (["--train-data", "coco:a:b"], "one file for each data set"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as e:
        run_table.main(["--output", str(tmp_path), *arguments])
    assert message in f"{e.value}{capsys.readouterr().err}"


def test_rows_by_number_and_by_name():
    rows = find_rows(MINI, ["13", "bootstrapping_vgg16_n2"])
    assert [row.stem for row in rows] == ["13_ohem_vgg16_n2", "bootstrapping_vgg16_n2"]
    assert len(find_rows(MINI, None)) == 13


def test_rows_of_a_folder_without_numbers():
    (row,) = find_rows(MINI.parent / "voc07+12", ["ohem_vgg16"])
    assert row.stem == "ohem_vgg16"


def test_what_is_named_twice_is_run_once():
    assert run_table.parse(["--seeds", "1", "2", "1"]).seeds == [1, 2]
    assert len(find_rows(MINI, ["13", "13_ohem_vgg16_n2"])) == 1


def test_trust_reaches_the_runs(tmp_path, monkeypatch):
    commands = []

    def run_all(variants, *_):
        commands.extend(variant.command(1, "cpu", tmp_path) for variant in variants)
        return []

    monkeypatch.setattr(runs, "run_all", run_all)
    for flags in ([], ["--trust"]):
        run_table.main(["--rows", "13", "--output", str(tmp_path), *flags])
    assert ["--trust" in command for command in commands] == [False, True]


def documented_commands():
    """Of this command, in its own head and in the reader's guide."""
    readme = (ROOT / "projects/paper/README.md").read_text()
    text = f"{run_table.__doc__}\n{readme}".replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line.startswith("python projects/paper/run_table.py")]


@pytest.mark.parametrize("line", documented_commands())
def test_documented_commands_are_understood(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    args = run_table.parse(shlex.split(line, comments=True)[2:])
    assert find_rows(args.configs, args.rows)
    assert len(args.overrides) % 2 == 0


def test_settings_follow_the_bases(tmp_path):
    (tmp_path / "base.yaml").write_text("A: 1")
    row = tmp_path / "1_row.yaml"
    row.write_text('_BASE_: "base.yaml"\nB: 1')
    before = settings_of(row, [])
    assert settings_of(row, []) == before
    assert settings_of(row, ["A", "2"]) != before
    (tmp_path / "base.yaml").write_text("A: 2")
    assert settings_of(row, []) != before


def test_a_base_that_there_is_not(tmp_path):
    (tmp_path / "1_row.yaml").write_text('_BASE_: "nowhere.yaml"')
    with pytest.raises(SystemExit, match="nowhere.yaml"):
        run_table.main(["--configs", str(tmp_path), "--output", str(tmp_path / "out")])


# ---- runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tree_crowns, tmp_path_factory):
    """
    Rows of the miniature, a few iterations each, by a command that is killed and given again. In
    between the result of one that had finished is removed, as if it was killed right before it.
    """
    if not hasattr(cv2, "ximgproc"):
        pytest.skip("selective search takes opencv-contrib-python")
    folder = tmp_path_factory.mktemp("mini")
    command = [ROOT / "projects/paper/mini.py", "--quick", "--rows", *BY_COMMAND]
    command += ["--data", folder / "data", "--output", folder / "out"]

    def finished():
        return sorted(folder.glob("out/*/*/result.json"))

    forked.kill_when(lambda: len(finished()) >= 2, command, folder, seconds=300)
    deadline = time.monotonic() + 60
    while subprocess.run(["pgrep", "-f", "--", f"--result.*{folder}"], capture_output=True).stdout:
        assert time.monotonic() < deadline  # The runs end with the command.
        time.sleep(0.2)
    removed, *others = finished()
    tested = removed, removed.read_text(), len(removed.with_name("output.txt").read_text())
    removed.unlink()
    kept = {path: path.stat().st_mtime_ns for path in others}
    return folder / "out", kept, tested, forked.printed(command, folder, seconds=300)


@pytest.mark.parametrize("row", [*find_rows(MINI), *find_rows(MINI, mini.OTHER_ROWS)], ids=str)
def test_every_row_of_the_miniature_runs(row, quick, tmp_path):
    out, _, _, stdout = quick
    if row.stem in BY_COMMAND:
        result = json.loads((out / row.stem / "seed1/result.json").read_text())
        assert 0 <= result["metrics"]["AP50"] <= 100
        assert result["seconds"] > 0 and result["peak_bytes"] > 2**27
        assert stdout.count("\n| ") == len(BY_COMMAND) + 1 and "69.9" in stdout
        return
    settings = [*mini.prepare_data(out.parent / "data/tree_crowns_quick", True, 1), *mini.QUICK]
    given = ["--config-file", row, "OUTPUT_DIR", tmp_path / "out", "SEED", 1, *settings]
    done = forked.run([run_table.PROJECT / "train.py", *given], tmp_path, seconds=120)
    assert done.status == 0, done.stderr[-3000:]
    last = runs.read_metrics(tmp_path / "out")[-1]
    assert 0 <= last["bbox/AP50"] <= 100


def test_training_loss_comes_into_the_results(quick):
    out, *_ = quick
    for row in ("02_fast_rcnn_vgg16_n2", "13_ohem_vgg16_n2", "bootstrapping_vgg16_n2"):
        result = json.loads((out / row / "seed1/result.json").read_text())
        first, last = (result["training_loss"][i] for i in ("0", "4"))
        assert len(result["training_loss"]) == 2 and first > last > 0
    result = json.loads((out / "12_ohem_vgg_m_n2/seed1/result.json").read_text())
    assert result["training_loss"] == {}


def test_wall_time_of_bootstrapping_has_its_sweeps(quick):
    out, _, _, stdout = quick
    for row, sweeps in (("bootstrapping_vgg16_n2", True), ("13_ohem_vgg16_n2", False)):
        result = json.loads((out / row / "seed1/result.json").read_text())
        assert (result["sweep_seconds"] > 0) == sweeps
    assert "in sweeps" in stdout


def test_a_run_that_was_killed_before_its_result_is_only_tested(quick):
    _, _, (file, text, log), _ = quick
    assert json.loads(file.read_text())["metrics"] == json.loads(text)["metrics"]
    written = file.with_name("output.txt").read_text()[log:]
    assert "Starting training from iteration 4" in written
    assert written.count("Start inference on") == 1


def test_memory_is_that_of_the_runs_own_gpu(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", asked.append)
    peak_memory("cuda:1")
    assert asked == ["cuda:1"]
    assert peak_memory("cpu") > 2**27 and len(asked) == 1


def test_finished_runs_are_kept_after_a_kill(quick):
    out, kept, _, stdout = quick
    assert kept
    for path, written in kept.items():
        assert path.stat().st_mtime_ns == written
        assert f"{path.parents[1].name}, seed 1, cpu" not in stdout


def test_heads_are_those_of_the_rows(quick):
    out, *_ = quick
    for row, heads in (("13_ohem_vgg16_n2", "OHEMROIHeads"), ("02_fast_rcnn_vgg16_n2", "BgLoROI")):
        config = (out / row / "seed1/config.yaml").read_text()
        assert f"NAME: {heads}" in config
        logged = (out / row / "seed1/metrics.json").read_text()
        assert ("ohem/num_fg" in logged) == (heads == "OHEMROIHeads")


def test_other_settings_do_not_overwrite_runs(quick, capsys):
    out, *_ = quick
    row = "13_ohem_vgg16_n2"
    before = (out / row / "seed1/result.json").read_bytes()
    with pytest.raises(SystemExit, match="runs failed"):
        run_table.main(
            ["--configs", str(MINI), "--output", str(out), "--rows", row, "--seeds", "1"]
            + ["--devices", "cpu", "--", "SOLVER.MAX_ITER", "5"]
        )
    assert "other settings" in capsys.readouterr().err
    assert (out / row / "seed1/result.json").read_bytes() == before


def test_a_run_that_fails_says_where_to_look(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("raise SystemExit('a fault')")
    monkeypatch.setattr(run_table, "PROJECT", tmp_path)
    with pytest.raises(SystemExit, match="output.txt"):
        run_table.main(
            ["--configs", str(MINI), "--output", str(tmp_path), "--rows", "13", "--seeds", "1"]
            + ["--devices", "cpu"]
        )
    assert "a fault" in (tmp_path / "13_ohem_vgg16_n2/seed1/output.txt").read_text()
