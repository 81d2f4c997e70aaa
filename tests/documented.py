"""
The commands and code of the documentation, taken out of its pages; and, as a script, the process
that executes them, one after another, so that PyTorch and Detectron2 are imported once::

    python tests/documented.py JOBS.json RESULTS.json
"""

import contextlib
import dataclasses
import doctest
import io
import itertools
import json
import os
import re
import runpy
import shlex
import sys
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

# What makes a training small, unless the command is about just that
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.PIXEL_STD": "[57.4, 57.1, 58.4]",
    "MODEL.BACKBONE.FREEZE_AT": "0",
    "MODEL.RESNETS.DEPTH": "18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "64",
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.FPN.OUT_CHANNELS": "16",
    "MODEL.ROI_BOX_HEAD.FC_DIM": "32",
    "MODEL.ROI_HEADS.OHEM.WARMUP_ITERS": "0",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": "200",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "50",
    "INPUT.MIN_SIZE_TRAIN": "(96,)",
    "INPUT.MIN_SIZE_TEST": "96",
    "DATALOADER.NUM_WORKERS": "0",
    "SOLVER.IMS_PER_BATCH": "1",
    "SOLVER.BASE_LR": "0.001",
    "SOLVER.MAX_ITER": "2",
    "SOLVER.STEPS": "(1,)",
    "TEST.EVAL_PERIOD": "0",
    "VIS_PERIOD": "1",
}

_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(dev/\S+\.sh|(?:make|pip|python)\s[^`]+)`")


@dataclasses.dataclass(frozen=True)
class Snippet:
    page: str  # relative to the repository
    line: int
    language: str
    text: str  # of bash: one command, on one line, without comments

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {' '.join(self.text.split())[:60]}"


def snippets(root: Path, page: Path) -> Iterator[Snippet]:
    """
    Blocks of Python and YAML, and single commands of shell blocks and of running text. A loop over
    a variable counts once, with the first value.
    """
    text, name = page.read_text(), page.relative_to(root).as_posix()
    for match in _FENCE.finditer(text):
        _, language, block = match.groups()
        line = text.count("\n", 0, match.start()) + 2
        block = textwrap.dedent(block)
        if language != "bash":
            if language in ("python", "yaml"):
                yield Snippet(name, line, language, block)
            elif language not in ("", "bibtex") and not language.startswith("{"):
                raise ValueError(f"{name}:{line - 1} has a block of {language}; who checks it?")
            continue
        variables = {}
        for command in block.replace("\\\n", " ").splitlines():
            if loop := re.match(r"for (\w+) in (\S+).*; do$", command):
                variables[f"${loop[1]}"] = loop[2]
                continue
            for variable, value in variables.items():
                command = command.replace(variable, value)
            command = shlex.join(shlex.split(command, comments=True))
            if command not in ("", "done"):
                yield Snippet(name, line, "bash", command)
    prose = _FENCE.sub(lambda m: "\n" * m[0].count("\n"), text)
    for match in _INLINE.finditer(prose):
        line = prose.count("\n", 0, match.start()) + 1
        yield Snippet(name, line, "bash", " ".join(match[1].split()))


# ---- the process that executes ---------------------------------------------------------------


def execute(jobs: list[dict]) -> Iterator[str]:
    """For each job what went wrong, with what it had printed; an empty text if nothing."""
    for folder, group in itertools.groupby(jobs, key=lambda job: job["folder"]):
        os.chdir(folder)
        names: dict = {"__name__": "documented"}
        for job in group:
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                    if job["language"] == "bash":
                        run_command(job["arguments"])
                    elif job["language"] == "python":
                        run_python(job["text"], names)
                    else:
                        run_yaml(job["text"])
            except BaseException:
                yield printed.getvalue()[-2000:] + traceback.format_exc()
            else:
                yield ""


def run_command(arguments: list[str]) -> None:
    """A command of Python's, ``python script ...`` or ``python -m module ...``, in this process."""
    try:
        if arguments[1] == "-m":
            sys.argv = [arguments[2], *arguments[3:]]
            runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments[1:]
            runpy.run_path(arguments[1], run_name="__main__")
    except SystemExit as e:
        if e.code not in (None, 0):
            raise RuntimeError(f"exit status {e.code}") from e


def run_python(code: str, names: dict) -> None:
    """
    A block, in the names of those before it on its page, and a configuration to change. A model
    that it configures has to train, and to mine.
    """
    from detectron2.config import CfgNode, instantiate
    from omegaconf import DictConfig

    if "DefaultTrainer(" in code:
        run_script(code)
        return
    names["cfg"] = zoo("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    names["cfg"].DATASETS.TRAIN = ("coco:mine/train.json:mine/images",)
    before = names["cfg"].dump()
    if code.startswith(">>> "):
        run_session(code, names)
    else:
        exec(compile(code, "block", "exec"), names)
    cfg = names["cfg"]
    if isinstance(cfg, CfgNode) and "DefaultPredictor" not in code and cfg.dump() != before:
        train_a_step(cfg)
    if isinstance(cfg, DictConfig):
        assert_mines(instantiate(cfg.model.roi_heads))
    if "class TheirPredictor" in code:
        assert_trains_what_it_ranks_by(names["TheirPredictor"])


def run_script(code: str) -> None:
    """
    A whole script, as it stands, in a process of its own state: it has to train and to mine. Only
    the file that the model zoo gives is a small one, which builds on the zoo's own.
    """
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    from ohem_d2.tools.data.datasets import register_datasets

    zoo_file, data = model_zoo.get_config_file, "coco:mine/train.json:mine/images"
    register_datasets([data])

    def small_file(name: str) -> str:
        small = {key: value for key, value in SMALL.items() if ".OHEM." not in key}
        cfg = get_cfg()
        cfg.merge_from_file(zoo_file(name))
        small |= {"DATASETS.TRAIN": f"('{data}',)", "DATASETS.TEST": "()"}
        small |= {"MODEL.ROI_HEADS.NUM_CLASSES": "1", "OUTPUT_DIR": "output/script"}
        cfg.merge_from_list([word for item in small.items() for word in item])
        Path("small.yaml").write_text(cfg.dump())
        return "small.yaml"

    with mock.patch.object(model_zoo, "get_config_file", small_file):
        exec(compile(code, "script", "exec"), {"__name__": "__main__"})
    assert Path("output/script/model_final.pth").is_file()
    assert '"ohem/num_fg"' in Path("output/script/metrics.json").read_text()


def run_session(code: str, names: dict) -> None:
    """A block as of an interpreter: what it prints and raises has to be what stands there."""
    test = doctest.DocTestParser().get_doctest(code, names, "block", None, 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    failed = runner.run(test, out=told.append, clear_globs=False).failed
    assert failed == 0, "".join(told)
    names.update(test.globs)


def run_yaml(text: str) -> None:
    """A block, on top of the configuration that its first line names, has to train and to mine."""
    cfg = zoo(text.splitlines()[0].removeprefix("# "))
    Path("block.yaml").write_text(text)
    cfg.merge_from_file("block.yaml")
    train_a_step(cfg)


def zoo(name: str):
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    from ohem_d2 import add_ohem_config
    from ohem_d2.tools.data.datasets import register_datasets

    register_datasets(["coco:mine/train.json:mine/images"])
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(name))
    return cfg


def train_a_step(cfg, predictor: type | None = None):
    """Its losses, and the model; small, but with all that the configuration says of the heads."""
    from detectron2.utils.events import EventStorage
    from models import SHRINK, batch, detector

    cfg.merge_from_list([*SHRINK, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32])
    model, inputs = detector(cfg), batch(cfg)
    assert_mines(model.roi_heads)
    if predictor is not None:
        shape = model.roi_heads.box_head.output_shape
        model.roi_heads.box_predictor = predictor(cfg, shape)
    for x in inputs:
        x["sem_seg"] = x["image"][0].long() % 54
    warmup = cfg.MODEL.ROI_HEADS.get("OHEM", {}).get("WARMUP_ITERS", 0)
    with EventStorage(warmup) as storage:
        losses = model(inputs)
        sum(losses.values()).backward()
    logged = storage.latest()
    names = ["ohem/num_fg"]
    if cfg.MODEL.ROI_KEYPOINT_HEAD.NAME == "OHKMKeypointHead":
        names.append("ohkm/mean_hard")
    for name in names:
        assert any(key.endswith(name) for key in logged), f"{name} is not logged"
    return losses, model


def assert_mines(heads) -> None:
    from ohem_d2 import OHEMMixin

    assert isinstance(heads, OHEMMixin), type(heads)


def assert_trains_what_it_ranks_by(predictor: type) -> None:
    """The mean of its losses of single RoIs is the loss, also of images without objects."""
    import torch
    from detectron2.layers import cat
    from detectron2.utils.events import EventStorage
    from models import ground_truth, random_proposals

    from ohem_d2 import per_roi_losses

    cfg = zoo("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.ROI_HEADS.NAME = "OHEMROIHeads"
    _, model = train_a_step(cfg, predictor)
    target = ground_truth(4)
    rois = [random_proposals(target, 30), random_proposals(ground_truth(0), 5)]
    rois[0].gt_classes = torch.arange(30) % 81
    rois[0].gt_boxes = target.gt_boxes[torch.arange(30) % 4]
    rois[1].gt_classes = torch.full((5,), 80)
    predictor = model.roi_heads.box_predictor
    predictions = predictor(torch.rand(35, 16))
    each = per_roi_losses(predictor, predictions, rois)
    with EventStorage():
        trained = predictor.losses(predictions, rois)
        plain = super(type(predictor), predictor).losses(predictions, rois)
    for name, loss in trained.items():
        torch.testing.assert_close(each[name].mean(), loss)
    torch.testing.assert_close(each["loss_box_reg"].mean(), plain["loss_box_reg"])
    cross_entropy = torch.nn.functional.cross_entropy(
        predictions[0], cat([x.gt_classes for x in rois]), reduction="none"
    )
    assert (each["loss_cls"] < cross_entropy).all()


if __name__ == "__main__":
    jobs_file, results_file = map(Path, sys.argv[1:])
    results = list(execute(json.loads(jobs_file.read_text())))
    results_file.write_text(json.dumps(results))
