"""The command: a real comparison, killed and gone on with, and what is refused before."""

import json
import math
import re
from pathlib import Path

import forked
import pytest
from detectron2.data import MetadataCatalog
from marks import CLASSES, write_data

from ohem_d2.tools import cli, compare
from ohem_d2.tools.comparison import one_run
from ohem_d2.tools.load_model import default_cfg

pytestmark = pytest.mark.long

SMALL = [
    *("SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "(2,)", "SOLVER.CHECKPOINT_PERIOD", "1"),
    *(
        "INPUT.MIN_SIZE_TRAIN",
        "(60, 68)",
        "INPUT.MIN_SIZE_TEST",
        "64",
        "DATALOADER.NUM_WORKERS",
        "0",
    ),
    *("SOLVER.WARMUP_ITERS", "1", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "100"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marks")
    return write_data(folder / "train", 4), write_data(folder / "test", 2)


def command(data, output, *more):
    given = ["--train-data", data[0], "--test-data", data[1], "--output", str(output)]
    return ["compare", *given, "--devices", "cpu", "cpu", "--threads", "1", *more, *SMALL]


def test_killed_and_given_again_it_loses_nothing_and_answers(data, tmp_path):
    output = tmp_path / "out"
    arguments = ["-m", "ohem_d2", *command(data, output, "--seeds", "1")]

    def some_are_under_way():
        return len(list(output.glob("*/seed1/last_checkpoint"))) == 2  # on two devices at a time

    forked.kill_when(some_are_under_way, arguments, tmp_path)
    assert not (output / "compare.json").exists()
    reached = {
        path: int(re.sub(r"\D", "", path.read_text()) or 10**6)
        for path in output.glob("*/seed1/last_checkpoint")
    }
    finished = {path: path.stat().st_mtime_ns for path in output.glob("*/seed1/result.json")}

    printed = forked.printed(arguments, tmp_path)
    assert "(backbone)" not in printed  # the architecture, which Detectron2 logs
    content = json.loads((output / "compare.json").read_text())
    assert list(content["results"]) == ["random 128", "ohem 128"]
    for path, before in reached.items():
        log = path.with_name("log.txt").read_text()
        if path.with_name("result.json") in finished:
            continue
        resumed = re.findall(r"Starting training from iteration (\d+)", log)
        # from the checkpoint, at the earliest the one that was the last when it was killed
        assert int(resumed[0]) == 0 and int(resumed[-1]) >= min(before + 1, 3), path
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    for by_seed in content["results"].values():
        (run,) = by_seed.values()
        assert run["curve"][-1] == [3, run["AP"]]
        assert list(run["classes"]) == CLASSES and 0 <= run["AP"] <= 100
    assert content["answer"][0].startswith("Too few seeds: one tells nothing of the spread")
    assert content["answer"][0] in printed and "2 samplers, 1 seeds, 3 iterations each" in printed
    assert content["command"].startswith("python -m ohem_d2 compare --train-data coco:")
    page = (output / "compare.html").read_text()
    assert "Too few seeds" in page and "<svg" in page
    # both learn from the same data, and differ by the sampler
    configs = [default_cfg() for _ in range(2)]
    for cfg, name in zip(configs, ("random-128", "ohem-128")):
        cfg.merge_from_file(str(output / name / "seed1/config.yaml"))
    assert configs[0].DATASETS == configs[1].DATASETS and configs[0].SEED == configs[1].SEED == 1
    heads = [cfg.MODEL.ROI_HEADS.NAME for cfg in configs]
    assert heads == ["StandardROIHeads", "OHEMROIHeads"]


def test_bad_data_are_refused_before_the_first_run(data, tmp_path, capsys):
    file, images = Path(data[0].split(":")[1]), data[0].split(":")[2]
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 99
    (tmp_path / "bad.json").write_text(json.dumps(content))
    bad = f"coco:{tmp_path / 'bad.json'}:{images}", data[1]
    with pytest.raises(SystemExit) as e:
        cli.main(command(bad, tmp_path / "out"))
    assert "99" in str(e.value) and "bad.json" in str(e.value) + capsys.readouterr().out
    assert not list(tmp_path.glob("out/*/seed*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--samplers", "hard:128"), "--samplers 'hard:128'; allowed"),
        (
            ("--samplers", "random:16", "b=SOLVER.BASE_LR -1.0", "--seeds", "1"),
            "SOLVER.BASE_LR = -1.0; allowed",
        ),
        (("--config-file", "no.yaml"), "no.yaml: no such file"),
        (("--seeds", "0"), "argument --seeds: '0'; allowed: a whole number >= 1"),
        (("--devices", "cpu", "SEED"), "--devices: 'SEED'; allowed: cpu, cuda:0 or another device"),
    ],
)
def test_wrong_arguments_are_told(data, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as e:
        cli.main(command(data, tmp_path / "out", *more))
    assert message in f"{e.value} {capsys.readouterr().err}"
    assert not list(tmp_path.glob("out/*/seed*"))


# ---- what a run leaves -------------------------------------------------------------------------


@pytest.fixture
def cfg(tmp_path):
    cfg = default_cfg()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST, cfg.SOLVER.MAX_ITER = str(tmp_path), ("classes of 2",), 100
    MetadataCatalog.get("classes of 2").thing_classes = CLASSES
    lines = [{"iteration": 39, "bbox/AP": math.nan}, {"iteration": 79, "bbox/AP": 12.5}]
    lines += [{"iteration": 99, "bbox/AP": 20.0, "time": 0.5}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    return cfg


def found(ap, **more):
    return dict.fromkeys(one_run.METRICS, ap) | more


def test_a_result_has_classes_and_the_curve(cfg):
    result = one_run.results_of(cfg, found(20.0, APl=math.nan, **{"AP-narrow": 15, "AP-wide": 25}))
    assert result["AP"] == 20.0 and math.isnan(result["APl"])  # there are no large objects
    assert result["classes"] == {"narrow": 15, "wide": 25} and result["seconds"] == 0.5
    assert result["curve"] == [[40, 0.0], [80, 12.5], [100, 20.0]]


def test_a_run_that_found_nothing_has_zero_in_all_classes(cfg):
    result = one_run.results_of(cfg, found(math.nan))
    assert {result[key] for key in one_run.METRICS} == {0.0}
    assert result["classes"] == {"narrow": 0.0, "wide": 0.0} and result["curve"][-1] == [100, 0.0]
    table = compare.table({"a": {1: result}, "b": {1: result | {"AP": 3.0}}})
    assert table[2].startswith("| a | 1 | 0.0 |") and "+3.0" in table[3]


def test_one_class_has_the_ap_of_all(cfg):
    MetadataCatalog.get("one class").thing_classes = ["mark"]
    cfg.DATASETS.TEST = ("one class",)
    assert one_run.results_of(cfg, found(20.0))["classes"] == {"mark": 20.0}


def test_the_table_says_by_how_much_each_is_beyond_the_first():
    def run(ap, **more):
        return found(ap, **more)

    results = {
        "random": {1: run(30.0, false_alarms=2.0), 2: run(34.0, false_alarms=3.0)},
        "ohem": {1: run(33.0), 2: run(37.4)},
        "one": {2: run(30.0)},
    }
    header, _, random, ohem, one = compare.table(results)
    assert header.endswith("| false alarms | AP minus random, 95 % | AP75 minus random, 95 % |")
    assert random.startswith("| random | 2 | 32.0 ± 2.8 |") and random.endswith(
        "| 2.50 ± 0.71 |  |  |"
    )
    assert ohem.endswith("|  | +3.2 (+0.7 to +5.7) | +3.2 (+0.7 to +5.7) |")
    assert one.endswith("| -4.0 | -4.0 |")
