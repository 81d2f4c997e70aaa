"""The environment that `make` makes: what is in it, and what is said when something is wrong."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import types

import pytest
from models import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def setup_env(*args, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "dev/setup_env.py"), *args],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd="/",
    )


def test_set_up_takes_an_environment_that_has_everything():
    done = setup_env(sys.executable)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sys.executable


@pytest.mark.parametrize(
    "python, message",
    [("/nowhere/python", "does not run"), ("bare", "has no torch")],
)
def test_set_up_with_an_environment_that_lacks_something(python, message, tmp_path):
    if python == "bare":
        subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
        python = str(tmp_path / "bin/python")
    done = setup_env(python)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("setup: ") and message in last


def fake(monkeypatch, tmp_path):
    """The set-up as a module, with a clone of its own."""
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "dev/setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(module, "MARK", str(tmp_path / ".venv/complete"))
    return module


def test_set_up_on_a_python_that_is_too_old(monkeypatch, tmp_path, capsys):
    module = fake(monkeypatch, tmp_path)
    monkeypatch.setattr(module.sys, "version_info", (3, 8, 1))
    with pytest.raises(SystemExit):
        module.make()
    assert "Python 3.8 cannot run this project: use 3.10 to 3.13" in capsys.readouterr().err


def test_set_up_on_a_full_disk(monkeypatch, tmp_path, capsys):
    module = fake(monkeypatch, tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**30}))
    with pytest.raises(SystemExit):
        module.make()
    assert "The disk has 1.0 GB free" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("ERROR: No matching distribution found for torch==2.14.1", "registry cannot be reached"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "not the one that was pinned"),
        ("ERROR: something else", "call make again: it goes on"),
    ],
)
def test_set_up_explains_what_pip_says(monkeypatch, tmp_path, capsys, words, message):
    module = fake(monkeypatch, tmp_path)
    pip = tmp_path / "python"
    pip.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")
    pip.chmod(0o755)
    with pytest.raises(SystemExit):
        module.pip(str(pip), ["torch"])
    assert message in capsys.readouterr().err


def test_set_up_mends_a_broken_environment(monkeypatch, tmp_path):
    """A .venv whose Python does not run is made anew; a half-finished one is gone on with."""
    module = fake(monkeypatch, tmp_path)
    steps = []
    monkeypatch.setattr(module, "pip", lambda python, args: steps.append(args[-1]))
    monkeypatch.setattr(module, "install_detectron2", lambda python: steps.append("detectron2"))
    monkeypatch.setattr(module, "proven", lambda python: steps.append("prove") or True)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text("broken")
    (tmp_path / ".venv/complete").write_text("another")
    python = module.make()
    assert module.works(python)
    assert steps[0].endswith("tools.txt") and steps[-1] == "prove"
    assert steps[1].endswith("dev/locked/python{}.{}.txt".format(*sys.version_info))
    steps.clear()
    assert module.make() == python and steps == []  # nothing is done twice
    os.remove(tmp_path / ".venv/complete")  # as after an interruption
    (tmp_path / ".venv/keep").write_text("")
    module.make()
    assert steps[-1] == "prove" and (tmp_path / ".venv/keep").exists()


def test_set_up_installs_a_detectron2_that_does_not_work_anew(monkeypatch, tmp_path, capsys):
    """As an interruption leaves it: importable, but with parts missing."""
    module = fake(monkeypatch, tmp_path)
    calls, works = [], iter([False, True])
    monkeypatch.setattr(module, "works", lambda *_: True)
    monkeypatch.setattr(module, "pip", lambda python, args: calls.append(args))
    monkeypatch.setattr(module, "imports", lambda *_: True)
    monkeypatch.setattr(module, "output", lambda *_: str(tmp_path))
    monkeypatch.setattr(module, "proven", lambda _: next(works))
    monkeypatch.setattr(module, "prove", lambda _: calls.append("prove"))
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2/_C.cpython-310-x86_64-linux-gnu.so").touch()
    (tmp_path / ".venv").mkdir()
    module.make()
    assert calls[-1] == "prove" and "dev/requirements-detectron2.txt" in calls[-2]
    assert list((tmp_path / "detectron2").iterdir()) == []
    assert (tmp_path / ".venv/complete").exists()


@pytest.mark.parametrize(("package", "wanted"), [("ruff", "ruff=="), ("build", "build>=")])
def test_set_up_takes_tools_as_they_are_pinned(monkeypatch, tmp_path, package, wanted):
    assert fake(monkeypatch, tmp_path).requirement(package).startswith(wanted)


# ---- what is installed ---------------------------------------------------------------------------


def lines_of(path):
    """Without comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_locked_packages(version):
    """Each has hashes, and requirements.txt allows it."""
    pins = {}
    for line in lines_of(ROOT / f"dev/locked/python{version}.txt"):
        package, *hashes = line.split(" --hash=")
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", found) for found in hashes), line
        (pin,) = Requirement(package).specifier
        assert pin.operator == "=="
        pins[canonicalize_name(Requirement(package).name)] = pin.version
    for wanted in map(Requirement, lines_of(ROOT / "requirements.txt")):
        if wanted.marker is None or wanted.marker.evaluate({"python_version": version}):
            assert pins[canonicalize_name(wanted.name)] in wanted.specifier


def test_locking_takes_every_python(tmp_path):
    for name in ("bash", "dirname", "uname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run([ROOT / "dev/lock.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "lock: no python3.10 here" in done.stderr


@pytest.mark.parametrize("system, hashes", [("Linux", True), ("Darwin", False)])
def test_hashes_are_asked_for_where_there_are_any(monkeypatch, tmp_path, system, hashes):
    module, calls = fake(monkeypatch, tmp_path), []
    monkeypatch.setattr(module.platform, "system", lambda: system)
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(module, "pip", lambda python, args: calls.append(args))
    (tmp_path / ".venv").mkdir()
    module.install_requirements("python")
    assert all(("--require-hashes" in args) == hashes for args in calls)
    if hashes:
        tools = [line.split("==")[0] for line in lines_of(tmp_path / ".venv/tools.txt")]
        assert sorted(tools) == ["packaging", "setuptools", "wheel"]
    else:
        assert calls == [["-r", "requirements.txt"]]


@pytest.mark.parametrize("source, commit", [("git", r"[0-9a-f]{40}"), ("git@main", "main")])
def test_detectron2_from_its_repository(monkeypatch, tmp_path, source, commit):
    """At a commit; once, unless another is asked for."""
    module, calls = fake(monkeypatch, tmp_path), []
    monkeypatch.setenv("DETECTRON2", source)
    monkeypatch.setattr(module, "pip", lambda python, args: calls.append(args))
    for origin in (None, '{"requested_revision": "another"}'):
        monkeypatch.setattr(module, "output", lambda *_, origin=origin: origin)
        module.install_detectron2("python")
        assert re.fullmatch(rf"git\+https://.*/detectron2\.git@{commit}", calls.pop()[-1])
    origin = f'{{"requested_revision": "{module.detectron2_commit()}"}}'
    monkeypatch.setattr(module, "output", lambda *_: origin)
    module.install_detectron2("python")
    assert calls == []


# ---- several at once -----------------------------------------------------------------------------

# A Python that makes environments of copies of itself, and whose pip takes as long as a file is
# there.
STAND_IN = """#!/bin/sh
case "$*" in
    *"-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *"-m pip"*) echo "$PPID" >>FOLDER/pip; while [ -e FOLDER/hold ]; do sleep 0.05; done ;;
    *version_info*) echo VERSION ;;
esac
"""


class Clone:
    """The real set-up with a stand-in for the Python that it starts."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("dev", "projects/tree_crowns"):
            shutil.copytree(ROOT / name, folder / name)
        for name in ("requirements.txt", "setup.py"):
            shutil.copy(ROOT / name, folder)
        text = STAND_IN.replace("FOLDER", str(folder))
        python = folder / "python"
        python.write_text(text.replace("VERSION", "{}.{}".format(*sys.version_info)))
        python.chmod(0o755)
        self.hold = folder / "hold"
        self.hold.touch()

    def start(self, **environment):
        script = str(self.folder / "dev/setup_env.py")
        code = f"import sys; sys.executable = {str(self.folder / 'python')!r}; sys.argv = ['']\n"
        code += f"import runpy; runpy.run_path({script!r}, run_name='__main__')"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        environment = {**os.environ, "DETECTRON2": "wheel", **environment}
        return subprocess.Popen([sys.executable, "-c", code], env=environment, **quiet)

    def workers(self):
        """Process ids of those that called pip."""
        path = self.folder / "pip"
        return list(map(int, path.read_text().split())) if path.exists() else []

    def until_at_work(self, process):
        while process.pid not in self.workers():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)


@pytest.fixture
def clone(tmp_path):
    clone = Clone(tmp_path)
    yield clone
    clone.hold.unlink(missing_ok=True)  # nobody waits for it after a test that failed


@pytest.mark.parametrize("killed", [False, True])
def test_two_set_ups_at_once(clone, killed):
    """
    The second waits for the first, and for the pip of one that was killed. After the first it finds
    everything done; after a killed one it does it.
    """
    first = clone.start()
    clone.until_at_work(first)
    if killed:
        first.kill()
    second = clone.start()
    assert "waiting for its end" in second.stderr.readline()
    assert set(clone.workers()) == {first.pid}
    clone.hold.unlink()
    words = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert second.returncode == 0 and first.returncode == (-9 if killed else 0), words
    assert (second.pid in clone.workers()) == killed
    assert (clone.folder / ".venv/complete").exists()


def test_a_wrong_source_is_refused_first(clone):
    clone.hold.unlink()
    done = clone.start(DETECTRON2="svn")
    assert "DETECTRON2=svn is none of wheel, git and git@COMMIT" in done.communicate()[1]
    assert done.returncode == 1 and clone.workers() == []


def test_the_lock_of_systems_without_fcntl(monkeypatch, tmp_path, capsys):
    module, tries = fake(monkeypatch, tmp_path), iter([PermissionError, PermissionError, None])

    def locking(*_):
        if error := next(tries):
            raise error

    monkeypatch.setattr(module, "fcntl", None)
    monkeypatch.setattr(module, "LOCK", str(tmp_path / "lock"))
    stand_in = types.SimpleNamespace(locking=locking, LK_NBLCK=1)
    monkeypatch.setitem(sys.modules, "msvcrt", stand_in)
    with module.alone():
        assert next(tries, "none left") == "none left"
    assert capsys.readouterr().err.count("waiting for its end") == 1
