"""The order of the house: what may import what, how large things grow, and what stays private."""

import ast
import functools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import detectron2
import pytest
from detectron2.modeling import roi_heads
from detectron2.utils.events import EventStorage
from models import ROOT, batch, config, detector, roi_inputs

import ohem_d2

# The plugin, from the ground up. Imports point down, or stay on a floor. The annex is above it.
FLOORS = (
    ("config", "compat"),
    ("mining",),
    ("monitor", "checks", "verify"),
    ("heads",),
    ("model_zoo", "env", ""),  # "": the package itself
    ("tools", "__main__", "testing"),  # the annex and its doors
)
MOST_LINES = {"module": 300, "class": 200}
# of all modules together
MOST_IN_ALL = {"plugin": 1500, "both": 10600}

PACKAGE = sorted((ROOT / "ohem_d2").rglob("*.py"))
CODE = [*PACKAGE, *sorted((ROOT / "projects").rglob("*.py"))]
FILES = [*CODE, *sorted((ROOT / "tests").rglob("*.py"))]
SOURCES = {path: path.read_text() for path in FILES}
TREES = {path: ast.parse(source) for path, source in SOURCES.items()}


def names(paths):
    return [path.relative_to(ROOT).as_posix() for path in paths]


# ---- imports -----------------------------------------------------------------------------------


def module_of(path):
    """ohem_d2.mining.miner, say."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in PACKAGE}


def imported(path) -> Iterator[str]:
    """Modules of the package, wherever in the file they are imported."""
    package = module_of(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join((*above, *filter(None, [node.module])))
            for alias in node.names:
                part = f"{module}.{alias.name}"
                yield from (
                    name for name in [part if part in MODULES else module] if name in MODULES
                )


def floor_of(module):
    room = (*module.split("."), "")[1]
    (floor,) = (i for i, rooms in enumerate(FLOORS) if room in rooms)
    return floor


@pytest.mark.parametrize("path", PACKAGE, ids=names(PACKAGE))
def test_imports_point_down(path):
    own = module_of(path)
    for module in imported(path):
        assert floor_of(module) <= floor_of(own), f"{own} imports {module}"


def test_imports_are_found():
    """Of either form, or the test above says nothing."""
    assert set(imported(ROOT / "ohem_d2/tools/collect_env.py")) == {"ohem_d2"}
    assert "ohem_d2.tools.data.voc" in set(imported(ROOT / "ohem_d2/tools/data/datasets.py"))
    assert "ohem_d2.config" in set(imported(ROOT / "ohem_d2/__init__.py"))


# What the plugin itself imports, beside Detectron2, PyTorch and what they cannot be without
LIBRARIES = {"detectron2", "fvcore", "numpy", "omegaconf", "torch", "torchvision"}


def is_plugin(path):
    return ROOT / "ohem_d2" in path.parents and ROOT / "ohem_d2/tools" not in path.parents


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE if is_plugin(p)], ids=names(p for p in PACKAGE if is_plugin(p))
)
def test_the_plugin_takes_few_libraries(path):
    for node in ast.walk(TREES[path]):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module]
        for module in modules:
            library = module.split(".")[0]
            assert library in LIBRARIES | set(sys.stdlib_module_names) | {"ohem_d2"}, module


def test_importing_the_plugin_changes_nothing_and_imports_nothing_of_the_annex():
    """Nor what only the annex needs, unless Detectron2's own modeling imports it as well."""
    code = """
import sys
import detectron2.data
from detectron2.config import get_cfg
from detectron2.modeling import roi_heads

def detectron2s():
    found = {name: part for name, part in vars(roi_heads).items() if isinstance(part, type)}
    return get_cfg().dump(), {name: dict(vars(part)) for name, part in found.items()}

before, of_detectron2 = set(sys.modules), detectron2s()
import ohem_d2
assert detectron2s() == of_detectron2
print(*(set(sys.modules) - before))
"""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert found.returncode == 0, found.stderr
    modules = found.stdout.split()
    assert "ohem_d2.heads" in modules
    forbidden = {"matplotlib", "jinja2", "tabulate", "pycocotools", "msgspec", "filelock"}
    assert not {module.split(".")[0] for module in modules} & forbidden
    assert not [module for module in modules if module.startswith("ohem_d2.tools")]


# ---- the heads ---------------------------------------------------------------------------------


def test_the_bases_of_the_heads():
    ours = ohem_d2.OHEMROIHeads.__mro__
    assert ours[:2] == (ohem_d2.OHEMROIHeads, ohem_d2.OHEMMixin)
    assert ours[2:] == roi_heads.StandardROIHeads.__mro__


FORBIDDEN = re.compile(
    r"def __(call|getattribute|reduce(_ex)?)__|__class__\s*=|def __class__|_getframe"
    r"|ContextVar|\bvars\([^()]*\)\["
)


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE if is_plugin(p)], ids=names(p for p in PACKAGE if is_plugin(p))
)
def test_no_magic(path):
    assert FORBIDDEN.findall(SOURCES[path]) == []


def test_modules_that_a_training_step_passes_through():
    model = detector(config())
    inputs = batch(config())
    modules = set()

    def note(frame, event, arg):
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("ohem_d2"):
            modules.add(name)

    arguments = roi_inputs(model, inputs)
    with EventStorage():
        sys.setprofile(note)
        try:
            _, losses = model.roi_heads(*arguments)
            sum(losses.values()).backward()
        finally:
            sys.setprofile(None)
    assert {"ohem_d2.heads", "ohem_d2.mining.selection", "ohem_d2.mining.losses"} <= modules
    assert len(modules) <= 9, sorted(modules)


# ---- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CODE, ids=names(CODE))
def test_nothing_is_too_large(path):
    sizes = {("module", path.name): SOURCES[path].count("\n")}
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ClassDef):
            sizes["class", node.name] = node.end_lineno - node.lineno + 1
    large = {name: size for (kind, name), size in sizes.items() if size > MOST_LINES[kind]}
    assert large == {}


def num_lines(paths):
    return sum(SOURCES[path].count("\n") for path in paths)


def test_the_whole_does_not_grow():
    lines = {"plugin": num_lines(filter(is_plugin, PACKAGE)), "both": num_lines(CODE)}
    assert {name: n for name, n in lines.items() if n > MOST_IN_ALL[name]} == {}


def test_names_of_files():
    """No two of one name, and none as a standard module."""
    stems = [path.stem for path in PACKAGE if not path.stem.startswith("__")]
    assert [stem for stem, number in Counter(stems).items() if number > 1] == []
    assert set(stems) & set(sys.stdlib_module_names) == set()


# ---- private names -----------------------------------------------------------------------------

PRIVATE = re.compile(r"_[A-Za-z]\w*")


def private_definitions(tree) -> Iterator[str]:
    """Functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and own(node):
            name = node.attr
        else:
            continue
        if PRIVATE.fullmatch(name):
            yield name


def own(node):
    """Whether it is an attribute of self, cls or super()."""
    return ast.unparse(node.value) in ("self", "cls", "super()")


def private_uses(tree) -> Iterator[tuple[int, str]]:
    """Private names of something else than self, with their lines; in a string, as of setattr."""
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.ImportFrom):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and not own(node):
            found = [node.attr]
        elif isinstance(node, ast.Call):
            texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            found = [text.rpartition(".")[2] for text in texts if isinstance(text, str)]
        yield from ((node.lineno, name) for name in found if PRIVATE.fullmatch(name))


@functools.cache
def defined(path):
    return set(private_definitions(TREES[path]))


@functools.cache
def seams():
    """Detectron2's own seams are private by name, and are there to be overridden."""
    folders = (Path(detectron2.__file__).parent / f for f in ("modeling/roi_heads", "engine"))
    trees = (ast.parse(path.read_text()) for f in folders for path in f.glob("*.py"))
    return {name for tree in trees for name in private_definitions(tree)}


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_private_names_stay_in_their_file(path):
    project = ROOT.joinpath(*path.relative_to(ROOT).parts[:2])
    # Two projects may have a name in common.
    others = [p for p in CODE if p in PACKAGE or project in p.parents or path not in CODE]
    foreign = set().union(*map(defined, others)) - defined(path) - seams()
    uses = [(line, name) for line, name in private_uses(TREES[path]) if name in foreign]
    assert uses == []


def overridden() -> Iterator[str]:
    """Private methods of classes here that a subclass in another file defines, too."""
    classes = {
        node.name: (path, node)
        for path in FILES
        for node in TREES[path].body
        if isinstance(node, ast.ClassDef)
    }

    def methods(node):
        return {m.name for m in node.body if isinstance(m, ast.FunctionDef)}

    def parents(node):
        for base in node.bases:
            name = ast.unparse(base).rpartition(".")[2]
            if name in classes and classes[name][1] is not node:
                yield classes[name]
                yield from parents(classes[name][1])

    for path, node in classes.values():
        for place, parent in parents(node):
            for name in methods(node) & methods(parent) if place != path else ():
                if PRIVATE.fullmatch(name) and name not in seams():
                    yield f"{path.name}: {node.name}.{name} of {parent.name}"


def test_private_methods_are_not_overridden_from_outside():
    assert list(overridden()) == []


def test_private_uses_are_found():
    code = """
from a import _b
c._d()
self._e, super()._f()
monkeypatch.setattr("a.b._g", 1); monkeypatch.setattr(a, "_h", 1)
__all__, x.__dict__, "_no"
"""
    assert [name for _, name in private_uses(ast.parse(code))] == ["_b", "_g", "_h", "_d"]
