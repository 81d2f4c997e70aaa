"""The soak: the command, on few iterations, and that it would see memory grow."""

import ctypes
import importlib
import re
import sys

import pytest
import torch
from models import ROOT


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "dev")
    return importlib.import_module("soak")


def test_the_command(tree_crowns, soak, monkeypatch, capfd):
    words = ["--iterations", "40", "--heads", "OHEMROIHeads", "--options", "both"]
    monkeypatch.setattr(sys, "argv", ["soak.py", *words])
    soak.main()
    out, log = capfd.readouterr()
    (row,) = re.findall(r"^\| OHEMROIHeads \| both \| (.*) \|$", out, re.MULTILINE)
    resident, *growth = map(float, row.split(" | "))
    assert 100 < resident < 4000 and len(growth) == 3
    assert "OHEM is active" in log


def test_what_is_kept_is_counted(soak):
    ctypes.CDLL(None).malloc_trim(0)  # Memory that is free by now would be taken without growth.
    before = soak.sample(0)
    kept = [torch.ones(2**24), [object() for _ in range(10**5)]]
    after = soak.sample(1)
    assert after.resident - before.resident > 60 and after.allocated - before.allocated > 60
    assert after.objects - before.objects >= 10**5
    del kept
    assert soak.sample(2).objects - before.objects < 10**4


def test_growth_is_that_after_warming_up(soak):
    samples = [soak.Sample(i, max(100, i * 0.5), 7, 3 * i) for i in range(0, 2000, 20)]
    samples[3] = samples[3]._replace(resident=10**6)
    growth = [soak.slope(samples, what) for what in soak.Sample._fields[1:]]
    assert growth == pytest.approx([50, 0, 300])
