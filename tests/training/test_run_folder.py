"""One run at a time in a folder, and no new one over an old one."""

import contextlib
import os
from pathlib import Path

import interrupted
import pytest
from interrupted import ended, kill, start, wait_until

from ohem_d2.tools.errors import InputError
from ohem_d2.tools.training.run_folder import claim, left_as_it_was, release


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    interrupted.write_images(folder)
    return folder


def test_two_runs_at_once(images, tmp_path):
    """The lock goes with the process that is killed, though its workers live some seconds more."""
    first = start(1, images, tmp_path, ("DATALOADER.NUM_WORKERS", 1), seconds=0.1)
    wait_until(lambda: interrupted.seen(tmp_path), first)
    for resume in (False, True):
        with pytest.raises(InputError, match=f"OUTPUT_DIR {tmp_path} is in use by another run"):
            claim(tmp_path, resume=resume)
    children = Path(f"/proc/{first[0].pid}/task/{first[0].pid}/children")
    workers = children.read_text().split() if children.exists() else []
    kill(first)
    claim(tmp_path, resume=True)
    assert all(Path(f"/proc/{worker}").exists() for worker in workers)
    release(tmp_path)


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


@pytest.mark.parametrize("left", ["last_checkpoint", "model_0000004.pth", "metrics.json"])
def test_a_new_run_over_an_old_one(tmp_path, left):
    write(tmp_path, left, "config.yaml", "other.txt")
    with pytest.raises(InputError, match=rf"{tmp_path} has a run already \({left}\).*--overwrite"):
        claim(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([".lock", left, "config.yaml", "other.txt"])
    claim(tmp_path, resume=True)
    release(tmp_path)


def test_an_old_run_is_set_aside(tmp_path):
    run = [
        "last_checkpoint",
        "model_final.pth",
        "metrics.json",
        "config.yaml",
        "log.txt",
        "log.txt.rank1",
    ]
    run += ["events.out.tfevents.1.host.2.0", "inference/coco.json"]
    others = ["another/model_final.pth", "weights.pth"]
    write(tmp_path, *run, *others)
    for number in (1, 2):
        claim(tmp_path, overwrite=True)
        release(tmp_path)
        assert all((tmp_path / f"earlier_{number}" / name).read_text() == name for name in run)
        assert all((tmp_path / name).exists() for name in others)
        assert not any((tmp_path / name).exists() for name in run)
        write(tmp_path, *run)


def test_what_does_not_count(tmp_path):
    """What is left of a run that was killed before it wrote anything, of tests, and of pictures."""
    (tmp_path / "metrics.json").touch()
    write(tmp_path, "config.yaml", "log.txt", "inference/coco.json", "sub/last_checkpoint")
    claim(tmp_path)
    claim(tmp_path)  # it is this process's
    release(tmp_path)
    release(tmp_path)


def test_a_folder_that_cannot_be(tmp_path):
    write(tmp_path, "file")
    with pytest.raises(InputError, match="file/run cannot be written to: Not a directory"):
        claim(tmp_path / "file/run")


def test_a_trainer_takes_its_folder(images, tmp_path):
    assert ended(start(1, images, tmp_path, ("SOLVER.MAX_ITER", 2))) == [0]
    trainer = interrupted.WitnessTrainer(interrupted.config(images, tmp_path))
    with pytest.raises(InputError, match="has a run already"):
        trainer.resume_or_load(resume=False)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2
    trainer.max_iter = 3
    trainer.train()
    # It is over, and what the same process begins in the folder then is another run.
    with pytest.raises(InputError, match="has a run already"):
        claim(tmp_path)


def test_a_new_run_that_is_killed_early_does_not_go_on_with_the_old_model(images, tmp_path):
    assert ended(start(1, images, tmp_path, ("SOLVER.MAX_ITER", 2))) == [0]
    claim(tmp_path, overwrite=True)
    release(tmp_path)
    early = start(1, images, tmp_path)
    wait_until(lambda: max(interrupted.seen(tmp_path), default=0) == 4, early)
    kill(early)
    assert ended(start(1, images, tmp_path, ("SOLVER.MAX_ITER", 3), resume=True)) == [0]
    assert "Starting training from iteration 0" in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "model_0000001.pth").exists()


def test_what_is_tried_leaves_nothing(tmp_path):
    write(tmp_path, "run/metrics.json")
    for folder in ("new/run", "run", "run/metrics.json/run"):
        fails = contextlib.nullcontext() if folder == "new/run" else pytest.raises(InputError)
        with fails, left_as_it_was(tmp_path / folder):
            claim(tmp_path / folder)
            assert (tmp_path / folder / ".lock").exists()
            release(tmp_path / folder)
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["metrics.json", "run"]
    claim(tmp_path / "run", resume=True)
    with left_as_it_was(tmp_path / "run"):
        pass
    assert (tmp_path / "run/.lock").exists()
    release(tmp_path / "run")
