"""The one command: its help, its errors, its old names."""

import subprocess
import sys

import pytest
from models import ROOT

from ohem_d2.tools import cli


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and f"python -m ohem_d2 {name}" in said and "::" in said


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["report"], ["report", "x", "--images"]])
def test_a_command_that_cannot_be_read(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2 and "usage: python -m ohem_d2" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["ohem_d2", "report"], ["ohem_d2.report"]])
def test_wrong_input_takes_one_line(command, tmp_path):
    """Under its old name as well, which is told."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stderr.splitlines() if "torch/" not in line]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    if command == ["ohem_d2.report"]:
        assert "`python -m ohem_d2 report`" in lines.pop(0)
    (line,) = lines
    assert line.startswith("python -m ohem_d2 report: ") and "metrics.json does not exist" in line


@pytest.mark.parametrize("name", ["inspect", "report", "collect_env"])
def test_old_names(name):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"ohem_d2.{name}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    new = f"python -m ohem_d2 {name.replace('_', '-')}"
    assert done.returncode == 0 and f"usage: {new}" in done.stdout
    assert f"This is now `{new}`" in done.stderr
