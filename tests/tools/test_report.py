"""The report of a run: a real, short one on real photographs, and what goes wrong with runs."""

import base64
import dataclasses
import html.parser
import json
import logging
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from models import config

from ohem_d2.monitor.pictures import BACKGROUND, FOREGROUND
from ohem_d2.tools import cli, report
from ohem_d2.tools.curves import curves, plot, read_series
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.explain import mine
from ohem_d2.tools.load_data import image_mapper, load_records, spread
from ohem_d2.tools.load_model import load_cfg, load_model
from ohem_d2.tools.training.trainer import OHEMTrainer

CLASSES = ["narrow", "wide"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def make_report(arguments):
    cli.main(["report", *arguments])


@pytest.fixture(scope="module")
def data(tree_crowns, tmp_path_factory):
    """Six tiles whose crowns are of two classes, by their width."""
    path = tmp_path_factory.mktemp("data") / "two classes.json"
    full = json.loads((tree_crowns / "test.json").read_text())
    full["images"] = full["images"][:6]
    kept = {image["id"] for image in full["images"]}
    full["annotations"] = [a for a in full["annotations"] if a["image_id"] in kept]
    for annotation in full["annotations"]:
        annotation["category_id"] = 1 + (annotation["bbox"][2] > 35)
    full["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    path.write_text(json.dumps(full))
    return f"coco:{path}:{tree_crowns / 'tiles'}"


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """What a run of 60 iterations leaves."""
    folder = tmp_path_factory.mktemp("a run & <more>")
    cfg = config(
        "fpn",
        *("DATASETS.TRAIN", (data,), "DATASETS.TEST", (), "OUTPUT_DIR", str(folder)),
        *("MODEL.ROI_HEADS.NUM_CLASSES", 2, "INPUT.MIN_SIZE_TRAIN", (96,)),
        *("INPUT.MIN_SIZE_TEST", 160, "DATALOADER.NUM_WORKERS", 0),
        *("SOLVER.IMS_PER_BATCH", 1, "SOLVER.MAX_ITER", 60, "SOLVER.BASE_LR", 1e-4),
        ohem={"warmup_iters": 10},
    )
    (folder / "config.yaml").write_text(cfg.dump())
    register_datasets([data])
    torch.manual_seed(0)
    # DefaultTrainer sets up a logger that shows nothing yet, and other tests would inherit that.
    logger = logging.getLogger("detectron2")
    level = logger.level
    logger.setLevel(logging.INFO)
    OHEMTrainer(cfg).train()
    logger.setLevel(level)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy that a test may spoil."""
    without = shutil.ignore_patterns("report.html")
    return shutil.copytree(finished, tmp_path / finished.name, ignore=without)


class Page(html.parser.HTMLParser):
    """The text of a page, its pictures, its tables, and whatever it would fetch."""

    def __init__(self, path):
        super().__init__()
        self.text, self.pictures, self.rows, self.fetched = [], [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "img":
            self.pictures.append((attributes["alt"], attributes["src"]))
        elif tag in ("script", "link", "iframe", "object", "source"):
            self.fetched.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        for name in ("src", "href", "srcset"):
            if not attributes.get(name, "data:").startswith("data:"):
                self.fetched.append(attributes[name])

    def handle_data(self, data):
        self.text.append(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()

    def decoded(self):
        for alt, source in self.pictures:
            kind, content = source.removeprefix("data:").split(";base64,")
            yield alt, kind, base64.b64decode(content)


@pytest.fixture(scope="module")
def page(finished):
    make_report([str(finished), "--images", "4", "--hardest", "2"])
    return Page(finished / "report.html")


def test_it_is_one_file_that_fetches_nothing(page, finished):
    assert page.fetched == []
    styles = re.findall(r"url\(|@import", (finished / "report.html").read_text())
    assert styles == []


def test_curves_are_those_of_the_metrics(page, finished):
    svgs = {alt: content for alt, kind, content in page.decoded() if kind == "image/svg+xml"}
    for title in ("Losses", "Mined RoIs", "Candidates", "Classification loss", "Cut"):
        root = ElementTree.fromstring(svgs[f"{title} over iterations"])
        assert root.tag.endswith("svg")
    # Two or three points are a line of as many corners, with the same ups and downs.
    series, broken = read_series(finished)
    assert broken == 0
    iterations, values = series["ohem/num_fg"]
    assert iterations == [19, 39, 59]
    lines = (finished / "metrics.json").read_text().splitlines()
    assert values == [json.loads(line)["ohem/num_fg"] for line in lines]
    svg = svgs["Mined RoIs over iterations"].decode()
    path = re.search(r'<path d="([^"]*)"[^>]*stroke: #009eff', svg).group(1)
    corners = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), dtype=float)
    assert len(corners) == 3
    heights = corners[0, 1] - corners[:, 1]
    rises = np.array(values) - values[0]
    assert np.allclose(heights * np.abs(rises).max(), rises * np.abs(heights).max(), atol=1e-2)


def test_shares_of_the_classes_are_counted(page, finished, data):
    """Counted again, image by image."""
    cfg = load_cfg(str(finished / "config.yaml"), weights=str(finished / "model_final.pth"))
    model, _ = load_model(cfg)
    to_inputs = image_mapper(cfg)
    objects, candidates, mined = Counter(), Counter(), Counter()
    names = [*CLASSES, "background"]
    means = {}
    for record in spread(DatasetCatalog.get(data), 4):
        (mining,) = mine(model, to_inputs(record))
        labels = [names[c] for c in mining.rois[0].gt_classes.tolist()]
        candidates.update(labels)
        mined.update(labels[i] for i in mining.hard.tolist())
        objects.update(names[a["category_id"]] for a in record["annotations"] if not a["iscrowd"])
        means[record["file_name"]] = mining.ranking[mining.hard].mean().item()
    rows = {row[0]: row[1:] for row in page.rows if row[0] in names}
    assert list(rows) == sorted(rows, key=lambda name: -mined[name])
    assert set(rows) == set(names)
    for name, row in rows.items():
        assert row[0] == ("" if name == "background" else str(objects[name]))
        assert row[1:3] == [str(candidates[name]), str(mined[name])]
        share = 100 * mined[name] / sum(mined.values())
        assert row[4] == f"{share:.1f} %"
    assert sum(mined.values()) == 4 * 16

    hardest = sorted(means, key=lambda file: -means[file])[:2]
    shown = [(alt, content) for alt, kind, content in page.decoded() if kind == "image/jpeg"]
    assert [alt for alt, _ in shown] == [f"mined RoIs on {file}" for file in hardest]
    for file, (_, content) in zip(hardest, shown):
        assert f"mean loss {means[file]:.3f}" in "".join(page.text)
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), 1)
        photograph = cv2.imread(file)
        height = round(photograph.shape[0] * picture.shape[1] / photograph.shape[1])
        assert min(height, picture.shape[1]) == 800
        small = cv2.resize(picture[-height:], photograph.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.corrcoef(small.ravel(), photograph.ravel())[0, 1] > 0.6


def test_settings_and_names_are_told_as_they_are(page, finished):
    text = "".join(page.text)
    assert finished.name in text  # with its & and <
    assert "60 iterations" in text
    settings = {row[0]: row[1] for row in page.rows if row[0].startswith(("MODEL.", "SOLVER."))}
    assert settings["MODEL.ROI_HEADS.OHEM.WARMUP_ITERS"] == "10"
    assert settings["MODEL.ROI_HEADS.NAME"] == "OHEMROIHeads"
    assert settings["MODEL.ROI_HEADS.OHEM.READONLY_PRECISION"] == '""'


def test_a_run_that_was_killed_and_resumed(run):
    metrics = run / "metrics.json"
    lines = metrics.read_text().splitlines()
    again = [line.replace('"iteration": 39', '"iteration": 39, "again": 1') for line in lines[1:]]
    metrics.write_text("\n".join([lines[0], lines[1], lines[2][:100], *again, '{"iter']))
    series, broken = read_series(run)
    assert broken == 2
    assert series["total_loss"][0] == [19, 39, 59] and series["again"] == ([39], [1.0])
    # When a run goes back and has not come as far again, what it had logged there is void.
    metrics.write_text("\n".join([*lines, lines[0].replace('"total_loss": ', '"total_loss": 1')]))
    series, broken = read_series(run)
    assert broken == 0 and series["total_loss"][0] == [19]


def test_a_lost_branch_goes_with_all_its_scalars(tmp_path):
    """Also those that do not come again, as no evaluation has been reached yet."""

    def lines(*points):
        return "".join(json.dumps({"iteration": i, **values}) + "\n" for i, values in points)

    lost = (59, {"total_loss": 3.0}), (79, {"total_loss": 2.0, "bbox/AP": 9.0, "old": 1.0})
    before = (19, {"total_loss": 5.0}), (39, {"total_loss": 4.0, "bbox/AP": 7.0})
    after = (59, {"total_loss": 3.5, "new": 6.0})
    (tmp_path / "metrics.json").write_text(lines(*before, *lost, after))
    series, broken = read_series(tmp_path)
    assert broken == 0 and series == {
        "total_loss": ([19, 39, 59], [5.0, 4.0, 3.5]),
        "bbox/AP": ([39], [7.0]),
        "new": ([59], [6.0]),
    }
    # An evaluation that is written with a later line is no sign of another branch.
    late = (38, {"bbox/AP": 7.0}), (59, {"total_loss": 3.0})
    (tmp_path / "metrics.json").write_text(lines(*before[:1], (39, {"total_loss": 4.0}), *late))
    assert read_series(tmp_path)[0] == {
        "total_loss": ([19, 39, 59], [5.0, 4.0, 3.0]),
        "bbox/AP": ([38], [7.0]),
    }


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", '"a"', "null"])
def test_numbers_that_are_none_are_broken_lines(tmp_path, number):
    whole = '{"iteration": 19, "lr": 0.1, "note": "no number"}'
    wrong = [f'{{"iteration": {number}, "lr": 0.1}}', f'{{"iteration": 39, "lr": {"1" * 400}}}']
    lines = [whole, *wrong, "", "12", '{"lr": 0.1}']
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    assert read_series(tmp_path) == ({"lr": ([19], [0.1])}, 4)


def test_broken_lines_are_told(run, capsys):
    with open(run / "metrics.json", "a") as file:
        file.write('{"iteration": 79, "total_lo')
    make_report([str(run), "--images", "0"])
    text = "".join(Page(run / "report.html").text)
    assert "1 line(s) of metrics.json could not be read" in text
    assert "could not be read" in capsys.readouterr().err
    assert "Hardest images" not in text and "Curves" in text


@pytest.mark.parametrize(
    "lost, said",
    [
        ("model_final.pth", "saved no checkpoint"),
        ("config.yaml", "--config-file"),
        ("last_checkpoint", None),
    ],
)
def test_without_a_checkpoint_the_curves_are_left(run, lost, said, capsys):
    (run / lost).unlink()
    make_report([str(run), "--images", "1"])
    text = "".join(Page(run / "report.html").text)
    assert "Curves" in text
    assert ("Hardest images" in text) == (said is None)
    if said is not None:
        told = capsys.readouterr().err
        assert said in told and said in text and lost in told


def poison(parameter):
    """The parameter of the run's checkpoint is NaN."""

    def change(run, data):
        checkpoint = torch.load(run / "model_final.pth")
        checkpoint["model"][parameter].fill_(float("nan"))
        torch.save(checkpoint, run / "model_final.pth")
        return ()

    return change


def no_images(run, data):
    _, path, images = data.split(":")
    full = json.loads(Path(path).read_text())
    (run / "data.json").write_text(json.dumps({**full, "images": []}))
    return "--dataset", f"coco:{run / 'data.json'}:{images}"


def torn_config(run, data):
    (run / "config.yaml").write_text("MODEL: {")
    return ()


WRONG = {
    "diverged RPN": (poison("proposal_generator.rpn_head.conv.weight"), "png: FloatingPointError"),
    "diverged head": (poison("roi_heads.box_predictor.cls_score.bias"), "the run has diverged"),
    "no images": (no_images, "AssertionError: .* is empty"),
    "configuration": (torn_config, "config.yaml: while parsing"),
    "device": (lambda run, data: ("MODEL.DEVICE", "abc"), "RuntimeError: .* abc"),
}


@pytest.mark.parametrize("change, said", WRONG.values(), ids=WRONG)
def test_curves_are_shown_whatever_is_wrong(run, data, change, said, capsys):
    make_report([str(run), "--images", "1", *change(run, data)])
    page = Page(run / "report.html")
    told = capsys.readouterr().err
    assert re.search(said, told) and re.search(said, "".join(page.text))
    assert sum(kind == "image/svg+xml" for _, kind, _ in page.decoded()) >= 6


def test_an_error_in_a_model_of_ones_own_can_be_found(run, monkeypatch, caplog):
    def broken(*args):
        raise AttributeError("no such head")

    monkeypatch.setattr(report, "sweep_images", broken)
    make_report([str(run)])
    assert "AttributeError: no such head" in "".join(Page(run / "report.html").text)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info[2] is not None  # the traceback


def test_output_that_cannot_be_written_is_named(run):
    folder = run / "folder"
    folder.mkdir()
    for output in (folder, run / "metrics.json" / "report.html"):
        with pytest.raises(SystemExit, match=f"{output.name} cannot be written: .* --output"):
            make_report([str(run), "--images", "0", "--output", str(output)])
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize("flag, least", [("--images", 0), ("--hardest", 1)])
def test_numbers_too_small_are_refused(flag, least, capsys):
    with pytest.raises(SystemExit):
        make_report(["run", flag, str(least - 1)])
    assert f"{flag}: '{least - 1}'; allowed: a whole number >= {least}" in capsys.readouterr().err


def test_torn_checkpoints_and_lost_data_are_named(run, data):
    (run / "model_final.pth").write_bytes((run / "model_final.pth").read_bytes()[:3000])
    make_report([str(run)])
    assert "cannot be loaded" in "".join(Page(run / "report.html").text)
    config_file = run / "config.yaml"
    config_file.write_text(config_file.read_text().replace("two classes", "gone"))
    make_report([str(run)])
    assert "gone.json does not exist" in "".join(Page(run / "report.html").text)


def test_without_metrics_there_is_no_report(run):
    (run / "metrics.json").write_text('{"iteration": 19, "tot')
    with pytest.raises(SystemExit, match="no complete line"):
        make_report([str(run)])
    (run / "metrics.json").unlink()
    with pytest.raises(SystemExit, match="metrics.json does not exist"):
        make_report([str(run)])
    assert not (run / "report.html").exists()


def test_a_run_without_ohem(run, capsys):
    metrics = run / "metrics.json"
    metrics.write_text(metrics.read_text().replace("ohem/", "other/"))
    config_file = run / "config.yaml"
    config_file.write_text(config_file.read_text().replace("OHEMROIHeads", "StandardROIHeads"))
    make_report([str(run), "--images", "1"])
    page = Page(run / "report.html")
    assert "has no ohem/ scalars" in "".join(page.text)
    titles = [alt for alt, kind, _ in page.decoded() if kind == "image/svg+xml"]
    assert titles == ["Losses over iterations"]
    assert "Hardest images" in "".join(page.text)  # what OHEM would mine


def test_losses_that_are_not_finite(run):
    metrics = run / "metrics.json"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines[1].update({"total_loss": float("nan"), "ohem/cut": float("inf")})
    lines[2].update({"ohem/num_nonfinite": 3.0})
    metrics.write_text("\n".join(map(json.dumps, lines)))
    make_report([str(run), "--images", "0"])
    page = Page(run / "report.html")
    assert "NaN or infinite" in "".join(page.text) and len(page.pictures) == 6


def test_stages_of_a_cascade_are_curves_of_their_own():
    line = ([0, 20], [1.0, 2.0])
    series = {f"stage{i}/ohem/num_{kind}": line for i in range(3) for kind in ("fg", "bg")}
    ((title, _, svg),) = curves({**series, "roi_head/num_fg": line, "lr": line})
    assert title == "Mined RoIs"
    assert all(name.replace("ohem/", "") in svg for name in series) and "lr" not in svg.split()
    # A single point is no curve.
    assert list(curves({"bbox/AP": ([59], [12.0])})) == []


STEP = [0, 20]


def test_colours_and_lines_of_the_stages_of_a_cascade():
    line = (STEP, [1.0, 2.0])
    names = [f"stage{i}/ohem/num_{kind}" for i in range(3) for kind in ("fg", "bg")]
    svg = plot(names, dict.fromkeys(names, line))
    for color in (FOREGROUND, BACKGROUND):
        drawn = [s for s in re.findall(r'style="([^"]*)"', svg) if bytes(color).hex() in s]
        dashes = {re.search("stroke-dasharray: ([^;]*)|$", style).group(1) for style in drawn}
        assert len(dashes) == 3  # none among them


@pytest.mark.parametrize("name", ["loss_$\\x$", "loss_\ud800", "loss_\0"])
def test_any_name_of_a_loss_is_drawn(name):
    ((_, _, svg),) = curves({name: (STEP, [1.0, 2.0])})
    assert ElementTree.fromstring(svg).tag.endswith("svg")


def test_higher_is_up_for_negative_values_too():
    svg = plot(["loss"], {"loss": (STEP, [-2.0, -1.0])})
    color = "1f77b4"  # the first of matplotlib's
    path = re.search(rf'<path d="([^"]*)"[^>]*stroke: #{color}', svg).group(1)
    (_, low), (_, high) = re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)
    assert float(high) < float(low)  # as SVG counts from the top


def test_one_record_is_no_curve_and_that_is_told(run):
    metrics = run / "metrics.json"
    metrics.write_text(metrics.read_text().splitlines()[0])
    make_report([str(run), "--images", "0"])
    text = "".join(Page(run / "report.html").text)
    assert "a curve takes two" in text and "Curves" not in text


def test_average_precision_of_several_test_sets(tmp_path):
    names = [f"coco:mine/{x}.json:mine/images/bbox/AP" for x in "ab"]
    series = {name: (STEP, [1.0, 2.5]) for name in (*names, "total_loss")}
    (tmp_path / "page").write_text(report.render(tmp_path, series, [], None))
    page = Page(tmp_path / "page")
    assert all(f"{name} 2.5" in " ".join("".join(page.text).split()) for name in names)
    assert "Average precision over iterations" in [alt for alt, _ in page.pictures]


def test_a_class_called_background_is_counted_as_a_class(finished, data):
    cfg = load_cfg(str(finished / "config.yaml"), weights=str(finished / "model_final.pth"))
    model, _ = load_model(cfg)
    records = spread(load_records(cfg, [data]), 2)
    expected, _ = report.sweep_images(cfg, model, records, CLASSES, 0)
    found, _ = report.sweep_images(cfg, model, records, ["background", "wide"], 0)
    assert {count.name: count.foreground for count in expected} == {
        **dict.fromkeys(CLASSES, True),
        "background": False,
    }
    for count, other in zip(expected, found):
        renamed = "background" if count.name == "narrow" else count.name
        assert other == dataclasses.replace(count, name=renamed)


def test_a_class_may_be_called_background(tmp_path):
    given = ((True, 3, 9, 4), (False, 0, 9, 4))
    counts = [report.ClassCount("background", *numbers) for numbers in given]
    sweep = report.Sweep("an image", {}, counts, [])
    page = report.render(tmp_path, {"total_loss": (STEP, [1.0, 2.0])}, [], sweep)
    (tmp_path / "page").write_text(page)
    rows = [row for row in Page(tmp_path / "page").rows if row[0] == "background"]
    assert [row[1] for row in rows] == ["3", ""]
    colors = re.findall(r"background:(rgb[^\"]*)", page)
    assert colors == [f"rgb{color}".replace(" ", "") for color in (FOREGROUND, BACKGROUND)]


# ---- in a browser ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Opens a page without a network; what it prints comes back."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"none of {', '.join(BROWSERS)} in PATH, and no CHROMIUM in the environment")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"

    def open_page(page, *more):
        command = [found, *flags, offline, profile, *more, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return open_page


# What the page is like once everything is in place, for the test to read
PROBE = """<script>
addEventListener("load", () => {
  const pictures = [...document.images].map(i => i.complete && i.naturalWidth > 0);
  document.title = JSON.stringify({pictures, fetched: performance.getEntriesByType("resource")
    .map(r => r.name).filter(n => !n.startsWith("data:")), width: document.body.scrollWidth,
    space: innerWidth});
});
</script>"""


@pytest.mark.parametrize("width", [1250, 500])
def test_every_picture_is_shown_and_nothing_is_cut(page, finished, browser, tmp_path, width):
    probed = tmp_path / "probed.html"
    probed.write_text((finished / "report.html").read_text() + PROBE)
    dom = browser(probed, f"--window-size={width},900", "--dump-dom")
    seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom, re.S).group(1)))
    assert seen["pictures"] == [True] * len(page.pictures) and len(page.pictures) >= 8
    assert seen["fetched"] == [] and seen["width"] <= seen["space"]


def test_what_is_to_be_seen_is_seen(page, finished, browser, tmp_path):
    picture = tmp_path / "screen.png"
    browser(finished / "report.html", "--window-size=1250,3200", f"--screenshot={picture}")
    screen = cv2.imread(str(picture))[:, :, ::-1].astype(int)
    assert screen.shape == (3200, 1250, 3)

    def rows_with(color, least):
        """Rows of the screen that have so many pixels of the colour."""
        return np.nonzero((np.abs(screen - color).max(axis=2) < 24).sum(axis=1) >= least)[0]

    # The curves of mined RoIs, and below them the bars of the classes
    bars = []
    for color in (FOREGROUND, BACKGROUND):
        assert len(rows_with(color, 3)) > 20
        bars.append(rows_with(color, 20))
        assert len(bars[-1]) >= 8
    # A photograph is colourful, and a page is not.
    saturation = (screen.max(axis=2) - screen.min(axis=2)) > 30
    photographs = np.nonzero(saturation.mean(axis=1) > 0.3)[0]
    assert len(photographs) > 300 and photographs.min() > max(rows.min() for rows in bars)
