"""Trainings that are killed, with SIGKILL and SIGTERM, and go on as if they had not been."""

import signal
import time

import interrupted
import pytest
import torch
from detectron2.engine import DefaultTrainer
from interrupted import ended, kill, seen, start, wait_until

from ohem_d2.tools.runs import read_metrics

exact = pytest.mark.skipif(
    "state_dict" not in vars(DefaultTrainer), reason="this Detectron2 saves no optimizer"
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    interrupted.write_images(folder)
    return folder


def by_iteration(output, num):
    """The last batch that was seen in each iteration, by each process."""
    return [{i: found[-1] for i, found in seen(output, rank).items()} for rank in range(num)]


def weights(output):
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


def assert_same(output, whole, num=1):
    assert by_iteration(output, num) == by_iteration(whole, num)
    for found in by_iteration(whole, num):
        assert sorted(found) == list(range(30))
        assert len({image for ids, *_ in found.values() for image in ids}) > 20
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(output)[name]), name


REPEATED = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")


@exact
@pytest.mark.parametrize(
    "num, workers, overrides",
    [(1, 0, ()), (1, 2, REPEATED), (2, 0, REPEATED), (2, 2, ())],
    ids=["plain", "repeated, two workers", "two processes", "two of both"],
)
def test_killed_at_any_time(images, tmp_path, num, workers, overrides):
    """A checkpoint after every seventh iteration; the whole run has no workers."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = start(num, images, whole, overrides)
    overrides = (*overrides, "DATALOADER.NUM_WORKERS", workers)
    for kills, least in enumerate((9, 17, 25)):
        going_on = start(num, images, killed, overrides, resume=kills > 0)
        wait_until(lambda least=least: max(seen(killed), default=0) >= least, going_on)
        kill(going_on)
    assert ended(start(num, images, killed, overrides, resume=True)) == [0] * num
    assert ended(first) == [0] * num
    assert_same(killed, whole, num)
    assert max(len(found) for found in seen(killed).values()) > 1  # some were done again


@exact
@pytest.mark.parametrize("num", [1, 2])
def test_sigterm_saves_and_ends(images, tmp_path, num):
    """One of two processes gets it; both end after the same iteration."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    first = start(num, images, whole)
    going_on = start(num, images, stopped)
    wait_until(lambda: max(seen(stopped), default=0) >= 10, going_on)
    going_on[-1].terminate()
    going_on[-1].terminate()  # from a scheduler and from the parent
    assert ended(going_on) == [143] * num
    last = max(seen(stopped))
    assert 10 <= last < 29 and {max(seen(stopped, rank)) for rank in range(num)} == {last}
    assert (stopped / "last_checkpoint").read_text() == f"model_{last:07d}.pth"
    assert f"SIGTERM: ended after iteration {last}" in (stopped / "log.txt").read_text()
    assert '"iteration": ' in (stopped / "metrics.json").read_text()
    assert ended(start(num, images, stopped, resume=True)) == [0] * num
    assert ended(first) == [0] * num
    assert_same(stopped, whole, num)
    assert all(len(found) == 1 for found in seen(stopped).values())


@exact
@pytest.mark.parametrize("num", [1, 2])
def test_sigterm_in_an_iteration_that_evaluates(images, tmp_path, num):
    """The evaluation does not begin, and the resumed run makes up for it, once."""
    evaluating = ("TEST.EVAL_PERIOD", 10)
    going_on = start(num, images, tmp_path, evaluating, seconds=0.2)
    wait_until(lambda: 19 in seen(tmp_path), going_on)  # it has just begun, and is to be evaluated
    going_on[-1].terminate()
    assert ended(going_on) == [143] * num
    assert max(seen(tmp_path)) == 19
    for _ in range(2):  # the second time there is nothing to do
        assert ended(start(num, images, tmp_path, evaluating, resume=True)) == [0] * num
    for rank in range(num):
        evaluated = (tmp_path / f"evaluated_{rank}").read_text().split()
        assert evaluated[:-1] == ["9", "19", "30"]
    points = {r["iteration"] for r in read_metrics(tmp_path) if "bbox/AP" in r}
    assert {9, 19, 30} <= points


def test_a_second_sigterm_ends_at_once(images, tmp_path):
    (process,) = start(1, images, tmp_path, seconds=30)
    wait_until(lambda: seen(tmp_path), [process])
    process.terminate()
    time.sleep(1.2)
    assert process.is_alive()
    process.terminate()
    assert ended([process]) == [-signal.SIGTERM] and not list(tmp_path.glob("*.pth"))


def test_a_sigterm_in_the_last_iteration(images, tmp_path):
    """All is saved, and what would follow, an evaluation, does not begin."""
    (process,) = start(1, images, tmp_path, ("SOLVER.MAX_ITER", 1), seconds=0.5)
    wait_until(lambda: seen(tmp_path), [process])
    process.terminate()
    assert ended([process]) == [-signal.SIGTERM]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_finished_run_given_again_counts_no_iteration_more(images, tmp_path):
    for resume in (False, True):
        assert ended(start(1, images, tmp_path, ("SOLVER.MAX_ITER", 2), resume=resume)) == [0]
    assert ended(start(1, images, tmp_path, ("SOLVER.MAX_ITER", 1), resume=True)) == [0]
    assert (tmp_path / "evaluated_0").read_text().split() == ["2", "2", "2"]


def test_a_checkpoint_that_does_not_say_where_the_data_was(images, tmp_path):
    assert ended(start(1, images, tmp_path, ("SOLVER.MAX_ITER", 2))) == [0]
    checkpoint = torch.load(tmp_path / "model_final.pth", weights_only=True)
    del checkpoint["trainer"]["hooks"]["ExactResumption"]  # as before 0.3
    torch.save(checkpoint, tmp_path / "model_final.pth")
    assert ended(start(1, images, tmp_path, ("SOLVER.MAX_ITER", 4), resume=True)) == [0]
    assert "the data begins anew" in (tmp_path / "log.txt").read_text()
    (first, *_), (third, *_) = (seen(tmp_path)[i][0] for i in (0, 2))  # their images
    assert third == first


@exact
def test_a_random_seed_stays_that_of_the_run(images, tmp_path):
    """Every image of an epoch, also of one with an interruption."""
    (process,) = start(1, images, tmp_path, ("SEED", -1))
    wait_until(lambda: max(seen(tmp_path), default=0) >= 10, [process])
    process.terminate()
    assert ended([process]) == [143]
    assert ended(start(1, images, tmp_path, ("SEED", -1), resume=True)) == [0]
    (found,) = by_iteration(tmp_path, 1)
    drawn = [image for ids, *_ in found.values() for image in ids]
    # Two epochs of 30 images; grouping may hold one back of either kind
    assert len(drawn) == 60 and max(map(drawn.count, drawn)) <= 3
    assert sum(drawn.count(i) == 2 for i in range(30)) >= 28
