"""The documentation builds without a warning, and what it links to exists."""

import ast
import dataclasses
import re
import subprocess
import sys

import pytest
from detectron2.config import get_cfg
from models import ROOT

import ohem_d2
from ohem_d2 import OHEMSettings, add_ohem_config
from projects.paper.ohem_paper.accumulation import add_accumulation_config

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("projects/*/README.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built pages."""
    pytest.importorskip("sphinx", reason="building the documentation takes sphinx")
    pytest.importorskip("myst_parser", reason="building the documentation takes myst-parser")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "sphinx", "-c", "docs", "-n", "-W", "--keep-going"]
        + ["-q", "-d", str(folder / "doctrees"), ".", str(folder / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr[-5000:]
    return folder / "html"


def test_every_page_is_built(site):
    for page in NAMES:
        built = (site / page).with_suffix(".html")
        assert "<h1>" in built.read_text(), page


def test_every_key_is_listed_as_the_code_has_it(site):
    page = (site / "docs/keys.html").read_text()
    text = re.sub(r"<[^>]+>", "", page).replace("&quot;", '"').replace("&#39;", "'")
    for field in dataclasses.fields(OHEMSettings):
        name = f"MODEL.ROI_HEADS.OHEM.{field.name.upper()}"
        default = f'"{field.default}"' if isinstance(field.default, str) else field.default
        (entry,) = re.findall(rf'id="confval-{re.escape(name)}"', page)
        assert re.search(rf"{re.escape(name)}\W*\s+Default:\s+{re.escape(str(default))}\s", text)
    for words in (
        "A RoI that overlaps a harder one by more than this IoU is dropped",  # comments
        "How many joints of a person OHKMKeypointHead trains on",
        "of whose gradients the mean is taken",
        "Allowed: an IoU from 0 to 1.",
        'Allowed: "class" or "agnostic" or "none".',
    ):
        assert words in text


def test_comments_belong_to_their_keys(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    pytest.importorskip("sphinx")
    import config_keys

    keys = {key.name: key for key in config_keys.all_keys()}
    cfg, plain = get_cfg(), get_cfg()
    add_ohem_config(cfg)
    add_accumulation_config(cfg)
    added = {name for name in flat(cfg) if name not in flat(plain)}
    assert {name: key.default for name, key in keys.items()} == {n: flat(cfg)[n] for n in added}
    weights = [keys[f"MODEL.ROI_HEADS.OHEM.RANK_{kind}_WEIGHT"] for kind in ("CLS", "LOC")]
    assert weights[0].comment == weights[1].comment  # two keys with one comment
    comments = {key.comment for key in keys.values()}
    assert len(comments) == len(keys) - 1 and all(len(comment) > 20 for comment in comments)
    assert keys["SOLVER.ACCUMULATION_STEPS"].comment.startswith("An iteration of OHEMTrainer is")
    assert keys["MODEL.ROI_HEADS.OHEM.NMS_THRESH"].allowed == "an IoU from 0 to 1"


def test_a_key_without_a_comment_is_told(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    pytest.importorskip("sphinx")
    import config_keys

    source = "class A:\n    # of a\n    a: int = 1\n\n    b: int = 2\n"
    monkeypatch.setattr(config_keys.inspect, "getsource", lambda thing: source)
    with pytest.raises(ValueError, match="b: int = 2 .* has no comment"):
        list(config_keys.comments(None, ast.parse(source).body[0].body))


def test_every_public_name_is_in_the_reference(site):
    page = (site / "docs/api.html").read_text()
    for name in ohem_d2.__all__:
        owner = getattr(ohem_d2, name).__module__
        assert f'id="ohem_d2.{name}"' in page or f'id="{owner}.{name}"' in page, name


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_into_the_repository_lead_to_files(page):
    """As a reader of the repository follows them, without a build."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_paths_that_are_named_exist(page):
    """In running text, `docs/choices.md` and the like."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for path in re.findall(r"`((?:configs|dev|docs|ohem_d2|projects|tests)/[\w./+-]+)`", text):
        assert (ROOT / path).exists() or (page.parent / path).exists(), path


def flat(node, prefix=""):
    """A configuration's leaves by their full names."""
    leaves = {}
    for key, value in node.items():
        if hasattr(value, "items"):
            leaves.update(flat(value, f"{prefix}{key}."))
        else:
            leaves[prefix + key] = value
    return leaves
