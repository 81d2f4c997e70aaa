"""``--resume`` with a command that does not go with the checkpoint: what is said, and is true."""

import shutil

import forked
import interrupted
import pytest
import torch
from models import ROOT
from torch import nn
from train_on_marks import CONFIG, marks

from ohem_d2.tools.errors import InputError
from ohem_d2.tools.training.resumption import resumption_notes


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    interrupted.write_images(folder)
    return folder


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A run of two iterations that was to have four."""
    output = tmp_path_factory.mktemp("run") / "output"
    (process,) = interrupted.start(1, images, output, ("SOLVER.MAX_ITER", 2))
    assert interrupted.ended([process]) == [0]
    return output


class Setup:
    """What a run builds before it resumes."""

    def __init__(self, images, output, *overrides):
        overrides = ("SOLVER.MAX_ITER", 4, *overrides)
        self.cfg = interrupted.config(images, output, *overrides)
        self.model = interrupted.WitnessTrainer.build_model(self.cfg)
        self.optimizer = interrupted.WitnessTrainer.build_optimizer(self.cfg, self.model)

    def notes(self):
        return list(resumption_notes(self.cfg, self.model, self.optimizer))


def test_nothing_is_said_of_what_agrees(images, trained):
    free = ("SOLVER.IMS_PER_BATCH", 3, "SOLVER.STEPS", (3,))  # which have an effect
    assert Setup(images, trained, *free).notes() == []
    assert Setup(images, trained, "SEED", -1).notes() == []


def test_the_checkpoints_seed_counts_and_that_is_told(images, trained):
    (note,) = Setup(images, trained, "SEED", 4).notes()
    assert note == "--resume: SEED stays as in the checkpoint, 3; 4 has no effect"


@pytest.mark.parametrize(
    "key, value, group, name",
    [
        ("SOLVER.BASE_LR", 0.5, 0.001, "lr"),
        ("SOLVER.MOMENTUM", 0.25, 0.9, "momentum"),
        ("SOLVER.WEIGHT_DECAY", 0.75, 0.0001, "weight_decay"),
        ("SOLVER.NESTEROV", True, False, "nesterov"),
    ],
)
def test_the_checkpoints_rates_count_and_that_is_told(
    images, trained, tmp_path, key, value, group, name
):
    (note,) = Setup(images, trained, key, value).notes()
    assert f"{key} stays as in the checkpoint, {group}; {value} has no effect" in note
    assert f"set MODEL.WEIGHTS {trained / 'model_final.pth'} and another OUTPUT_DIR" in note
    output = tmp_path / "output"
    shutil.copytree(trained, output)
    overrides = ("SOLVER.MAX_ITER", 3, "SOLVER.WARMUP_ITERS", 0, key, value)
    assert interrupted.ended(interrupted.start(1, images, output, overrides, resume=True)) == [0]
    assert f"{key} stays as in the checkpoint" in (output / "log.txt").read_text()
    saved = torch.load(output / "model_final.pth", weights_only=True)["trainer"]["_trainer"]
    assert {g[name] for g in saved["optimizer"]["param_groups"]} == {group}


def test_other_shapes(images, trained):
    setup = Setup(images, trained)
    setup.model.layers[2] = nn.Linear(16, 2)
    with pytest.raises(InputError) as error:
        setup.notes()
    said = "of another model: layers.2.weight is of shape (1, 16) there, and of shape (2, 16) here"
    assert said in str(error.value) and "set MODEL.WEIGHTS" in str(error.value)


def test_another_part(images, trained):
    setup = Setup(images, trained)
    setup.model.bbox_predictor = nn.Linear(1, 1)
    with pytest.raises(InputError, match="bbox_predictor.weight is missing there"):
        setup.notes()


def test_amp_newly_on(images, trained):
    """Whose scaler is not in the checkpoint."""
    with pytest.raises(InputError, match="was trained with SOLVER.AMP.ENABLED False. To begin"):
        Setup(images, trained, "SOLVER.AMP.ENABLED", True).notes()


def test_another_optimizer_or_frozen_part(images, trained):
    setup = Setup(images, trained)
    setup.optimizer = torch.optim.AdamW(setup.model.layers.parameters(), lr=0.001)
    with pytest.raises(InputError, match="trained with another optimizer, other parts frozen"):
        setup.notes()
    setup = Setup(images, trained)
    setup.model.layers[0].requires_grad_(False)
    setup.optimizer = interrupted.WitnessTrainer.build_optimizer(setup.cfg, setup.model)
    with pytest.raises(InputError, match="trained with another optimizer, other parts frozen"):
        setup.notes()
    other_groups = ("SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.0)
    with pytest.raises(InputError, match="other parts frozen, or other SOLVER.WEIGHT_DECAY_"):
        Setup(images, trained, *other_groups).notes()


def test_a_run_that_is_complete(images, trained):
    for most in (1, 2):
        (note,) = Setup(images, trained, "SOLVER.MAX_ITER", most).notes()
        assert f"the run in {trained} is complete, with 2 iterations" in note
        assert note.endswith("a larger SOLVER.MAX_ITER than 2 trains on")


def test_nothing_to_resume_from(images, tmp_path):
    (note,) = Setup(images, tmp_path).notes()
    assert f"there is no checkpoint in {tmp_path}, and the training begins anew" in note


def test_a_check_and_a_run_say_the_same(tmp_path):
    """Through train_net.py, from nothing to a finished run, and then with another class."""
    marks(tmp_path / "data")
    (tmp_path / "data/c.yaml").write_text(CONFIG)
    command = [ROOT / "train_net.py", "--num-gpus", "0", "--config-file", "c.yaml", "--resume"]

    def run(*more):
        found = forked.run([*command, *more], tmp_path / "data", seconds=120)
        assert "Traceback" not in found.stdout + found.stderr
        return found.status, found.stdout + found.stderr

    first = ("--train-data", "coco:one.json:images")
    for said, more in (
        ("the training begins anew", ()),
        (" is complete, with 2 iterations", ()),
        ("BASE_LR stays as in the checkpoint", ("SOLVER.MAX_ITER", "4", "SOLVER.BASE_LR", "0.5")),
    ):
        status, text = run("--check", *first, *more)
        assert status == 0 and said in text, text[-2000:]
        if not more:
            status, text = run(*first)
            assert status == 0 and said in text, text[-2000:]
    for check in (("--check",), ()):
        status, text = run(*check, "--train-data", "coco:two.json:images")
        assert status == 1 and "Another number of classes?" in text
        assert "roi_heads.box_predictor.cls_score.weight is of shape (2, " in text
