"""
Every command and every block of code in the documentation is executed: here, small, on a few real
photographs; or by the test that is named here. One that is neither fails.
"""

import functools
import json
import re
import shlex
import shutil
import subprocess
import sys

import cv2
import forked
import pytest
from documented import SMALL, Snippet, execute, run_session, snippets
from models import ROOT
from photographs import crowded_tile, voc_corners, voc_xml
from test_docs import PAGES

pytestmark = pytest.mark.long

SNIPPETS = [snippet for page in PAGES for snippet in snippets(ROOT, page)]

# By the beginning of a command: the test that executes it, or what it calls, in the long way. The
# longest beginning counts.
TESTED = {
    "pip install .": "test_package.py::test_installed_wheel_finds_its_files",
    "pip install '.[tools]'": "test_package.py::test_installing_changes_nothing_else",
    "pip install git+": "test_package.py::test_installs_from_git",
    "DETECTRON2_ENV_MODULE=ohem_d2.env python yours.py --config-file yours.yaml": (
        "test_other_scripts.py::test_by_an_environment_variable"
    ),
    "python yours.py --config-file yours.py model.roi_heads._target_=ohem_d2.OHEMROIHeads": (
        "test_other_scripts.py::test_by_a_lazy_config"
    ),
    "make setup": "test_set_up.py::test_set_up_takes_an_environment_that_has_everything",
    "make PYTHON=": "test_set_up.py::test_set_up_takes_an_environment_that_has_everything",
    "make BASE_PYTHON=": "test_set_up.py::test_set_up_on_a_python_that_is_too_old",
    "make DETECTRON2=git": "test_set_up.py::test_detectron2_from_its_repository",
    "make soak": "test_soak.py::test_the_command",
    "make lock": "test_set_up.py::test_locked_packages",
    "make demo": "tree_crowns/test_tree_crowns.py::test_demo",
    "make compare": "tree_crowns/test_tree_crowns.py::test_demo",
    "python -m ohem_d2 compare --train-data coco:mine/train.json:mine/images --test-data": (
        "test_documented_commands.py::test_getting_started_leaves_what_it_says"
    ),
    "make test": "test_documented_commands.py::test_ci_makes_the_tests",
    "make docs": "test_docs.py::test_every_page_is_built",
    "make evidence": "evidence/test_evidence.py::test_quick_runs_are_recorded_and_not_repeated",
    "make bench": "benchmark/test_benchmark.py::test_a_run_leaves_a_report",
    "make table1-mini": "paper/test_paper_table.py::test_every_row_of_the_miniature_runs",
    "pip install --no-deps -r projects/benchmark/requirements-mmdetection.txt": (
        "benchmark/test_against_mmdetection.py::test_the_same_rois_but_where_it_says_so"
    ),
    "PYTHONPATH=. python projects/benchmark/against_mmdetection.py": (
        "benchmark/test_against_mmdetection.py::test_the_same_rois_but_where_it_says_so"
    ),
    "PYTHONPATH=. python docs/published.py": (
        "evidence/test_published.py::test_tables_are_those_of_the_records"
    ),
    "python -m pytest -q": "test_documented_commands.py::test_ci_makes_the_tests",
    "PYTHONPATH=. python projects/benchmark/bench.py --gpu": (
        "benchmark/test_benchmark.py::test_a_setting_without_room_is_left_out"
    ),
    "dev/compat.sh": "test_documented_commands.py::test_versions_that_cannot_be_had",
    "dev/gpu_first.sh": "test_gpu_first.py::test_rehearsal",
    "python projects/paper/convert_weights.py": (
        "paper/test_paper_weights.py::test_every_layer_finds_its_place"
    ),
    "python projects/paper/make_proposals.py from-mat": (
        "paper/test_paper_proposals.py::test_mat_file"
    ),
    "python projects/paper/make_proposals.py selective-search": (
        "paper/test_paper_proposals.py::test_killed_run_goes_on"
    ),
    "python projects/paper/run_table.py": (
        "paper/test_paper_table.py::test_every_row_of_the_miniature_runs"
    ),
    'MODEL:\n  BACKBONE: {NAME: "build_vgg16_backbone"': (
        "paper/test_paper_vgg.py::test_the_readmes_configuration_trains"
    ),
    "python projects/paper/train.py": (
        "paper/test_paper_table.py::test_every_row_of_the_miniature_runs"
    ),
}

KEPT = ("MODEL.WEIGHTS",)  # as the command has it


def beginning_of(command):
    found = [beginning for beginning in TESTED if command.startswith(beginning)]
    return max(found, key=len, default=None)


def executed_here(snippet):
    if snippet.language != "bash":
        return beginning_of(snippet.text) is None
    if snippet.page == "README.md" and beginning_of(snippet.text):
        return False
    return re.match(r"python (train_net\.py|-m ohem_d2)( |$)", snippet.text) is not None


def arguments(command):
    """Of a command that is executed here, made small."""
    args = shlex.split(command)
    if args[1] == "train_net.py":
        small = {k: v for k, v in SMALL.items() if k not in KEPT or k not in args}
        if "--num-gpus" in args:
            args[args.index("--num-gpus") + 1] = "0"
        if "--train-data" not in args and "--eval-only" not in args:
            # in the place of COCO
            data = "('coco:mine/train.json:mine/images',)"
            small.update({"DATASETS.TRAIN": data, "DATASETS.TEST": data})
        args += [part for item in small.items() for part in item]
    elif len(args) <= 4:  # named in running text
        args += ["--help"]
    elif args[3] == "compare":
        args += ["--devices", "cpu", "--seeds", "1", "DATALOADER.NUM_WORKERS", "0"]
        args += ["INPUT.MIN_SIZE_TRAIN", "(96, 96)", "INPUT.MIN_SIZE_TEST", "96"]
        args += ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)", "SOLVER.WARMUP_ITERS", "1"]
    elif args[3] == "report":
        args += ["--images", "2"]
    return args


EXECUTED = [snippet for snippet in SNIPPETS if executed_here(snippet)]


# ---- data like a user's -----------------------------------------------------------------------


def write_data(folder, tree_crowns):
    """Photographs in COCO and in Pascal VOC format, where the documentation has them."""
    full = json.loads((tree_crowns / "train.json").read_text())
    image, annotations = crowded_tile(tree_crowns)
    other = next(i for i in full["images"] if i["file_name"] != image["file_name"])
    names = {image["id"]: "photo.jpg", other["id"]: "other.jpg"}
    annotations = [a for a in full["annotations"] if a["image_id"] in names]
    (folder / "mine/images").mkdir(parents=True)
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / "mine_voc" / name).mkdir(parents=True)
    for i in (image, other):
        picture = cv2.imread(str(tree_crowns / "tiles" / i["file_name"]))
        for images in ("mine/images", "mine_voc/JPEGImages"):
            cv2.imwrite(str(folder / images / names[i["id"]]), picture)
        boxes = [a["bbox"] for a in annotations if a["image_id"] == i["id"]]
        xml = voc_xml(i["width"], i["height"], [("tree", *voc_corners(box)) for box in boxes])
        (folder / "mine_voc/Annotations" / names[i["id"]]).with_suffix(".xml").write_text(xml)
    full.update(
        images=[{**i, "file_name": names[i["id"]]} for i in (image, other)],
        annotations=annotations,
    )
    for split in ("train", "test"):
        (folder / f"mine_voc/ImageSets/Main/{split}.txt").write_text("photo\nother")
        (folder / f"mine/{split}.json").write_text(json.dumps(full))
        (folder / f"{split}.json").symlink_to(f"mine/{split}.json")
    (folder / "images").symlink_to("mine/images")
    (folder / "mine/without_objects").symlink_to("images")
    for name in ("train_net.py", "configs"):
        (folder / name).symlink_to(ROOT / name)


@pytest.fixture(scope="module")
def executed(tree_crowns, tmp_path_factory):
    """
    A function of a page: its folder, and what went wrong by snippet. A page is executed once, in
    one process, as later commands take what earlier ones leave.
    """

    @functools.cache
    def execute_page(page):
        folder, results = tmp_path_factory.mktemp("page"), tmp_path_factory.mktemp("results")
        write_data(folder, tree_crowns)
        on_page = [snippet for snippet in EXECUTED if snippet.page == page]
        jobs = [
            {
                "folder": str(folder),
                "language": snippet.language,
                "text": snippet.text,
                "arguments": arguments(snippet.text) if snippet.language == "bash" else None,
            }
            for snippet in on_page
        ]
        files = results / "jobs.json", results / "results.json"
        files[0].write_text(json.dumps(jobs))
        done = forked.run([ROOT / "tests/documented.py", *files], results, seconds=300)
        assert done.status == 0, done.stderr[-3000:]
        return folder, dict(zip(on_page, json.loads(files[1].read_text())))

    return execute_page


@pytest.mark.parametrize("snippet", EXECUTED, ids=str)
def test_it_works_as_it_is_documented(snippet, executed):
    assert executed(snippet.page)[1][snippet] == ""


def test_getting_started_leaves_what_it_says(executed):
    folder = executed("docs/getting-started.md")[0]
    for name in ("quick", "quick_voc", "mine"):
        assert (folder / f"output/{name}/model_final.pth").exists()
    assert "photo.jpg" in (folder / "output/mine/report.html").read_text()
    assert (folder / "output/mine/inspect/photo.png").exists()
    metrics = (folder / "output/mine/metrics.json").read_text()
    assert "bbox/AP50" in metrics and "ohem/num_fg" in metrics
    assert "random 128" in (folder / "output/compare/compare.html").read_text()


# ---- what is executed elsewhere ----------------------------------------------------------------


@pytest.mark.parametrize("snippet", [s for s in SNIPPETS if s not in EXECUTED], ids=str)
def test_a_command_is_executed_by_a_test(snippet):
    beginning = beginning_of(snippet.text)
    assert beginning, f"{snippet.page}:{snippet.line}: nothing executes `{snippet.text}`"
    file, test = TESTED[beginning].split("::")
    (path,) = (ROOT / "tests").rglob(file)
    assert f"def {test}(" in path.read_text()
    if snippet.language != "bash":
        return
    words = shlex.split(snippet.text)
    words = [word for word in words if not re.match(r"DETECTRON2_\w+=", word)]
    if words[0] == "make":
        made = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
    elif words[0] == "python" and words[1] not in ("-m", "yours.py"):
        source = (ROOT / words[1]).read_text()
        known = re.findall(r"--[a-z][a-z-]*", source)
        for word in words[2:]:
            if word.startswith("--"):
                assert word in known or word == "--config-file", f"{words[1]} has no {word}"
    for word in words[1:]:
        if word.startswith(("configs/", "dev/", "projects/", "tests/")):
            assert (ROOT / word).exists(), f"{word} does not exist"


def test_a_command_that_nothing_executes_is_told():
    snippet = Snippet("README.md", 1, "bash", "python projects/paper/unheard_of.py")
    assert not executed_here(snippet)
    with pytest.raises(AssertionError, match="README.md:1: nothing executes `python projects"):
        test_a_command_is_executed_by_a_test(snippet)


def test_what_goes_wrong_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", sys.argv)
    (tmp_path / "three.py").write_text("import sys\nprint('so far')\nsys.exit(3)\n")
    (tmp_path / "good.py").write_text("import sys\nassert sys.argv == ['good.py', '--flag']\n")
    commands = ("python nothing.py", "python three.py", "python good.py --flag")
    wrong = execute(
        [
            {"folder": str(tmp_path), "language": "bash", "arguments": command.split()}
            for command in commands
        ]
    )
    missing, three, good = wrong
    assert "FileNotFoundError" in missing
    assert "so far" in three and "exit status 3" in three and good == ""


def test_a_session_has_to_print_and_raise_what_stands_there():
    names = {"one": 1}
    run_session(">>> print(one + 1)\n2\n>>> two = 2\n", names)
    assert names["two"] == 2
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        run_session(">>> print(two)\n3\n", names)
    raised = "Traceback (most recent call last):\nValueError: of\n  course\n"
    run_session(f">>> raise ValueError('of course')\n{raised}", names)
    with pytest.raises(AssertionError, match="ValueError: of all things"):
        run_session(f">>> raise ValueError('of all things')\n{raised}", names)


def test_no_test_is_named_for_what_is_not_documented():
    used = {beginning_of(s.text) for s in SNIPPETS if s not in EXECUTED}
    assert set(TESTED) - used == set()


def test_versions_that_cannot_be_had(tmp_path):
    """Every row of the table, on a machine without their interpreters and without git."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cat", "cp", "date", "dirname", "grep", "mkdir", "rm", "sed", "tail"):
        (tools / name).symlink_to(shutil.which(name))
    folder = tmp_path / "compat"
    done = subprocess.run(
        [str(ROOT / "dev/compat.sh")],
        env={"PATH": str(tools), "COMPAT_DIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "compat: nothing ran" in done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert (folder / "table.md").read_text() == done.stdout
    versions = {(row[0].strip("| "), row[1]) for row in rows}
    assert {"v0.6", "main", "main, April 2024"} == {detectron2 for detectron2, _ in versions}
    assert {"3.10", "3.11", "3.12", "3.13"} == {python for _, python in versions}
    for name, python, *_, result, _ in rows:
        missing = f"no python{python} here"
        if name == "| main":
            missing = "its repository cannot be reached from here"
        assert result == f"not run: {missing}"


def test_ci_makes_the_tests():
    assert "make test" in (ROOT / ".ci/run").read_text().splitlines()


# ---- the extraction ----------------------------------------------------------------------------


def test_commands_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Call `make all ARGS=--quick` or\n`python -m\nohem_d2 report`, not `config.py`.\n\n"
        "```bash\nmake one   # why\nfor seed in 1 2; do\n    python a.py \\\n        --seed $seed\n"
        "done\n```\n\n- item:\n\n  ```python\n  if x:\n      y\n  ```\n\n```\nmake output\n```\n"
    )
    assert list(snippets(tmp_path, page)) == [
        Snippet("page.md", 6, "bash", "make one"),
        Snippet("page.md", 6, "bash", "python a.py --seed 1"),
        Snippet("page.md", 16, "python", "if x:\n    y\n"),
        Snippet("page.md", 1, "bash", "make all ARGS=--quick"),
        Snippet("page.md", 2, "bash", "python -m ohem_d2 report"),
    ]
    page.write_text("```sh\nmake\n```\n")
    with pytest.raises(ValueError, match="page.md:1 has a block of sh"):
        list(snippets(tmp_path, page))
