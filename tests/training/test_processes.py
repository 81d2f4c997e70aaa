"""Runs of two processes, whose parent is interrupted, killed or ended."""

import functools
import inspect
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import forked
import interrupted
import pytest
import torch
from detectron2.engine import defaults
from detectron2.engine import launch as detectron2_launch
from interrupted import ended, wait_until

from ohem_d2.tools.training.checkpoints import Checkpointer
from ohem_d2.tools.training.processes import launch, on_sigterm

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available()
    or "GLOO" not in inspect.getsource(inspect.getmodule(detectron2_launch)),
    reason="this version of Detectron2 launches several processes only on GPUs",
)


def wait(folder):
    """Each process, for ever, deaf to interrupts as in a call that does not come back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    (folder / str(os.getpid())).touch()
    if torch.distributed.get_rank() == 0:
        torch.distributed.barrier()
    time.sleep(100)


def fail(folder):
    raise SystemExit(3 if torch.distributed.get_rank() else "said why")


def train(folder):
    """The first process takes its time to save, the other one to end."""
    rank, save = torch.distributed.get_rank(), Checkpointer.save

    def save_slowly(*args, **kwargs):
        time.sleep(0 if rank else 2)
        save(*args, **kwargs)

    Checkpointer.save = save_slowly
    defaults.create_ddp_model = functools.partial(defaults.create_ddp_model, device_ids=None)
    try:
        interrupted.train(folder, folder / "output", ("SOLVER.CHECKPOINT_PERIOD", 100))
    finally:
        time.sleep(1.2 * rank)


def die(folder):
    """While the other one trains."""
    if torch.distributed.get_rank() == 1:
        wait_until(lambda: interrupted.seen(folder / "output"))
        os.kill(os.getpid(), signal.SIGKILL)
    defaults.create_ddp_model = lambda model, **_: model  # which would wait for the other
    torch.distributed.destroy_process_group()
    interrupted.train(folder, folder / "output", seconds=100)


def in_process(main, folder):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as it is in processes that are not forked
    main(folder)


def parent(main, folder):
    # Started in the background by a shell, all processes would ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Its processes have imported what they need, as this one has.
    processes = torch.multiprocessing
    processes.start_processes = functools.partial(processes.start_processes, start_method="fork")
    launch(in_process, 2, dist_url="auto", args=(main, folder))


def started(main, folder):
    process = forked.process(target=parent, args=(main, folder))
    process.start()
    return process


def alive(pids):
    def running(pid):
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    return [pid for pid in pids if running(pid)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_children_end_with_the_parent(tmp_path, number):
    process = started(wait, tmp_path)
    wait_until(lambda: len(os.listdir(tmp_path)) == 2, [process])
    pids = list(map(int, os.listdir(tmp_path)))
    assert alive(pids) == pids
    time.sleep(0.3)
    os.kill(process.pid, number)
    (status,) = ended([process], 20)
    expected = {signal.SIGINT: (1,), signal.SIGTERM: (143,), signal.SIGKILL: (-9, 255)}
    assert status in expected[number]
    wait_until(lambda: not alive(pids), seconds=10)


def test_sigterm_to_the_parent_of_a_training(tmp_path):
    interrupted.write_images(tmp_path)
    process, output = started(train, tmp_path), tmp_path / "output"
    wait_until(lambda: interrupted.seen(output), [process])
    os.kill(process.pid, signal.SIGTERM)
    assert ended([process]) == [143]
    assert (output / "last_checkpoint").exists() and (output / "metrics.json").read_text()


def test_a_process_that_dies_takes_the_others_with_it(tmp_path):
    """Though SIGTERM, which PyTorch sends them, would have them end their iteration first."""
    interrupted.write_images(tmp_path)
    start = time.monotonic()
    assert ended([started(die, tmp_path)]) == [128 + signal.SIGKILL]
    assert time.monotonic() - start < 25


def test_the_status_of_a_child_without_a_traceback(tmp_path, capfd):
    process = started(fail, tmp_path)
    assert ended([process])[0] in (1, 3)
    assert "Traceback" not in capfd.readouterr().err


def sizes(folder):
    (folder / str(os.getpid())).touch()


def test_one_process_is_this_one(tmp_path):
    launch(sizes, 0, args=(tmp_path,))
    assert os.listdir(tmp_path) == [str(os.getpid())]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_somebody_elses_stays():
    assert on_sigterm(fail)
    assert not on_sigterm(wait) and signal.getsignal(signal.SIGTERM) is fail
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(on_sigterm, wait).result()
