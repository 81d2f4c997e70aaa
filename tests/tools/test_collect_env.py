import forked
from models import ROOT

import ohem_d2
from ohem_d2.tools import collect_env


def test_prints_what_a_bug_report_needs(tmp_path):
    done = forked.run(["-m", "ohem_d2", "collect-env"], tmp_path)
    assert done.status == 0, done.stderr
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)
    assert rows["ohem_d2"] == f"{ohem_d2.__version__} @{ROOT / 'ohem_d2'}"
    assert "registered heads" in done.stdout and "OHEMCascadeROIHeads" in done.stdout
    (line,) = (x for x in done.stdout.splitlines() if x.startswith("Detectron2: compiled ops"))
    assert line.split()[-1] == str(collect_env.has_compiled_ops())
    assert "Report a bug with all of the above" in done.stdout


def test_goes_on_where_detectron2s_own_report_fails(monkeypatch):
    def fail():
        raise AttributeError("no compiler")

    monkeypatch.setattr(collect_env.collect_env, "collect_env_info", fail)
    report = collect_env.collect_env_info()
    assert "detectron2.utils.collect_env failed: AttributeError('no compiler')" in report
    assert "OHEMROIHeads" in report
