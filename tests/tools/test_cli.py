"""The one command: its help and its errors."""

import forked
import pytest

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


def test_wrong_input_takes_one_line(tmp_path):
    done = forked.run(["-m", "ohem_d2", "report", tmp_path], tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.status == 1
    assert line.startswith("python -m ohem_d2 report: ") and "metrics.json does not exist" in line
