"""The documentation builds without a warning, and what it links to exists."""

import ast
import dataclasses
import re
import subprocess
import sys

import pytest
from detectron2.config import get_cfg
from models import ROOT

from docs import config_keys
from ohem_d2 import OHEMSettings, add_ohem_config

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES += sorted(ROOT.glob("projects/*/README.md"))
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
MOST_WORDS = {"page": 2000, "all": 14800}  # all: 60 % of version 0.3's


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
        "NMS by loss drops a RoI whose IoU with a harder one is above this",  # comments
        "For this many iterations Detectron2's random sampling comes first.",
        "Allowed: an IoU from 0 to 1.",
        "Allowed: 'class' or 'agnostic' or 'none'.",
    ):
        assert words in text


def test_comments_belong_to_their_keys():
    keys = {key.name.rpartition(".")[2]: key for key in config_keys.all_keys()}
    cfg = get_cfg()
    add_ohem_config(cfg)
    assert {name: key.default for name, key in keys.items()} == dict(cfg.MODEL.ROI_HEADS.OHEM)
    cls, loc = (keys[f"RANK_{kind}_WEIGHT"].comment for kind in ("CLS", "LOC"))
    assert cls == loc  # two keys with one comment
    comments = {key.comment for key in keys.values()}
    assert len(comments) == len(keys) - 1 and all(len(comment) > 20 for comment in comments)
    assert keys["NMS_THRESH"].allowed == "an IoU from 0 to 1"


def test_a_key_without_a_comment_is_told(monkeypatch):
    source = "class A:\n    # of a\n    a: int = 1\n\n    b: int = 2\n"
    monkeypatch.setattr(config_keys.inspect, "getsource", lambda thing: source)
    with pytest.raises(ValueError, match="b: int = 2 .* has no comment"):
        list(config_keys.comments(None, ast.parse(source).body[0].body))


def test_every_public_name_is_in_the_reference(site):
    import ohem_d2

    page = (site / "docs/api.html").read_text()
    tree = ast.parse((ROOT / "ohem_d2/__init__.py").read_text())
    ours = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1]
    names = [alias.name for node in ours for alias in node.names]
    assert len(names) > 12
    for name in names:
        owner = getattr(ohem_d2, name).__module__
        assert f'id="ohem_d2.{name}"' in page or f'id="{owner}.{name}"' in page, name


def test_pages_are_short():
    """As a reader counts: without the marks of tables and the comments between them."""
    words = {}
    for page, name in zip(PAGES, NAMES):
        text = re.sub(r"<!--.*?-->|\|[-|]+\|$|\|", " ", page.read_text(), flags=re.M)
        words[name] = len(text.split())
    too_long = {n: w for n, w in words.items() if w > MOST_WORDS["page"] and n != "docs/keys.md"}
    assert not too_long and sum(words.values()) <= MOST_WORDS["all"], words
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=[*NAMES, "CHANGELOG.md"])
def test_prose_is_wrapped(page):
    text = re.sub(r"^ *```.*?```|<!--.*?-->", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    long = [line for line in text.splitlines() if len(line) > 100]
    assert [line for line in long if not line.lstrip().startswith("|")] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=[*NAMES, "CHANGELOG.md"])
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
    """In running text, `configs/README.md` and the like."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for path in re.findall(r"`((?:configs|dev|docs|ohem_d2|projects|tests)/[\w./+-]+)`", text):
        assert (ROOT / path).exists() or (page.parent / path).exists(), path
