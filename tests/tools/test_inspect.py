"""What would OHEM pick, and why: the command and its parts, on real photographs."""

import csv
import json
import pickle
import shutil
from pathlib import Path

import cv2
import forked
import numpy as np
import pytest
import reference
import torch
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from models import config, detector

import ohem_d2
from ohem_d2.mining.losses import CannotMine
from ohem_d2.monitor.pictures import BACKGROUND, FOREGROUND, GROUND_TRUTH
from ohem_d2.tools import cli
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.explain import explain, mine
from ohem_d2.tools.load_data import image_mapper, load_records
from ohem_d2.tools.load_model import load_cfg, load_model

TILE = ("MODEL.ROI_HEADS.NUM_CLASSES", 1, "INPUT.MIN_SIZE_TEST", 160, "INPUT.MAX_SIZE_TEST", 320)


def inspect(arguments):
    cli.main(["inspect", *arguments])


def save(folder, cfg):
    """A configuration and weights for it, as a run leaves them."""
    torch.save({"model": detector(cfg).state_dict()}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run"), config("fpn", *TILE, budget=32))


@pytest.fixture(scope="module")
def tiles(tree_crowns):
    return f"coco:{tree_crowns / 'test.json'}:{tree_crowns / 'tiles'}"


@pytest.fixture(scope="module")
def photograph(tiles):
    """The test tile with the most crowns, as Detectron2 has it."""
    register_datasets([tiles])
    return max(DatasetCatalog.get(tiles), key=lambda record: len(record["annotations"]))


def arguments(run, *more):
    model = ("--config-file", run / "config.yaml", "--weights", run / "model_final.pth")
    return [str(a) for a in (*model, *more)]


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def boxes_of(rows):
    return [[float(row[side]) for side in ("x0", "y0", "x1", "y1")] for row in rows]


def shows(picture, color):
    """Whether the colour is in it, as far as a line of one pixel has it."""
    return (np.abs(picture.astype(int) - color).max(axis=2) < 10).any()


def drawn_boxes(record):
    boxes = np.array([a["bbox"] for a in record["annotations"] if not a.get("iscrowd")])
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def test_a_picture_and_a_table_for_images_of_a_data_set(run, tiles, tmp_path, capsys):
    inspect(arguments(run, "--dataset", tiles, "--num", 2, "--output", tmp_path, "--top", 5))
    printed = capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 4
    for path in tmp_path.glob("*.csv"):
        rows = rows_of(path)
        mined = [row for row in rows if row["status"] == "mined"]
        assert len(mined) == 32 < len(rows) and {row["label"] for row in rows} > {"background"}
        assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
        losses = [float(row["loss"]) for row in rows]
        assert losses == sorted(losses, reverse=True)
        for row in rows:
            total = float(row["loss_cls"]) + float(row["loss_loc"])
            assert float(row["loss"]) == pytest.approx(total)
        picture = cv2.imread(str(path.with_suffix(".png")))[:, :, ::-1]
        assert min(picture.shape[:2]) >= 800
        some = any(float(row["iou"]) == 1 for row in rows)
        assert shows(picture, GROUND_TRUTH) == some
        for color, foreground in ((FOREGROUND, True), (BACKGROUND, False)):
            some = any((row["label"] == "tree") == foreground for row in mined)
            assert shows(picture, color) == some
        assert f"{len(rows)} candidates: 32 mined" in printed and str(path) in printed
        line = next(x for x in printed.splitlines() if f"{float(rows[4]['loss']):.3f}" in x)
        assert rows[4]["label"] in line
    assert "loss = 1.0 x cls + 1.0 x loc" in printed


@pytest.mark.parametrize("scope", ["class", "agnostic", "none"])
def test_the_table_agrees_with_plain_loops(run, photograph, scope):
    overrides = ["MODEL.ROI_HEADS.OHEM.NMS_SCOPE", scope]
    if scope != "none":
        overrides += ["MODEL.ROI_HEADS.OHEM.NMS_THRESH", "0.5"]
    weights = str(run / "model_final.pth")
    cfg = load_cfg(str(run / "config.yaml"), weights=weights, overrides=overrides)
    model, untrained = load_model(cfg)
    assert untrained == []
    (mining,) = mine(model, image_mapper(cfg)(photograph))
    rows = explain(mining, nms_thresh=0.5, nms_scope=scope)
    losses, labels = [row["loss"] for row in rows], [row["label"] for row in rows]
    boxes = boxes_of(rows)
    classes = [0 if label == "0" else 1 for label in labels]
    groups = {"class": classes, "agnostic": [0] * len(rows), "none": None}[scope]
    chosen = reference.select(losses, boxes, classes, 32, 0.5, scope)
    assert [row["rank"] - 1 for row in rows if row["status"] == "mined"] == chosen
    culprits = reference.suppressors(losses, boxes, groups, 0.5)
    assert [row["suppressed_by"] or 0 for row in rows] == [c + 1 for c in culprits]
    assert (sum(c >= 0 for c in culprits) > 3) == (scope != "none")
    below = [row["rank"] - 1 for row in rows if row["status"] == "below the cut"]
    assert below and min(below) > max(chosen)
    truth = drawn_boxes(photograph) * mining.images[0].shape[1] / photograph["height"]
    for row, box in zip(rows, boxes):
        iou = max(reference.iou(box, drawn) for drawn in truth)
        assert row["iou"] == pytest.approx(iou, abs=1e-3)
        assert (row["label"] == "0") == (row["iou"] >= 0.5)


def test_the_same_is_mined_again_and_nothing_is_learned(run, photograph):
    weights = str(run / "model_final.pth")
    cfg = load_cfg(str(run / "config.yaml"), weights=weights)
    model, _ = load_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = image_mapper(cfg)(photograph)
    first, second = (mine(model, inputs)[0] for _ in range(2))
    assert torch.equal(first.ranking, second.ranking) and torch.equal(first.hard, second.hard)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.roi_heads.watcher is None


def test_boxes_are_told_in_pixels_of_the_photograph(run, photograph, tmp_path):
    """The ground truth is among the candidates, so it has to be found in the table."""
    one = ("--image", photograph["file_name"], "--annotations", annotations(photograph, tmp_path))
    inspect(arguments(run, *one, "--output", tmp_path))
    (table,) = tmp_path.glob("*.csv")
    boxes = np.array(boxes_of(rows_of(table)))
    for drawn in drawn_boxes(photograph):
        assert np.abs(boxes - drawn).max(axis=1).min() < 0.5


def annotations(record, folder):
    """The photograph's own, in a file of their own."""
    path = folder / "annotations.json"
    content = {
        "images": [
            {"id": 7, "file_name": f"elsewhere/{Path(record['file_name']).name}"}
            | {key: record[key] for key in ("width", "height")}
        ],
        "annotations": [
            {"id": i + 1, "image_id": 7, "category_id": 3, "iscrowd": 0}
            | {"bbox": [*box[:2], *(box[2:] - box[:2])], "area": 1.0}
            for i, box in enumerate(drawn_boxes(record))
        ],
        "categories": [{"id": 3, "name": "tree"}],
    }
    path.write_text(json.dumps(content, default=float))
    return path


def test_one_image_with_annotations(run, photograph, tmp_path):
    path = annotations(photograph, tmp_path)
    given = ("--image", photograph["file_name"], "--annotations", path, "--output", tmp_path)
    inspect(arguments(run, *given))
    (table,) = tmp_path.glob("*.csv")
    rows = rows_of(table)
    assert len(rows) > 100 and {row["label"] for row in rows} == {"tree", "background"}


def test_an_image_without_labels_has_no_loss(run, photograph):
    with pytest.raises(SystemExit, match="--annotations .* --no-objects"):
        inspect(arguments(run, "--image", photograph["file_name"]))


def test_an_image_without_objects_is_all_background(run, photograph, tmp_path, capsys):
    one = ("--image", photograph["file_name"], "--no-objects", "--output", tmp_path)
    inspect(arguments(run, *one))
    (table,) = tmp_path.glob("*.csv")
    rows = rows_of(table)
    assert {row["label"] for row in rows} == {"background"}
    assert {float(row["iou"]) for row in rows} == {0.0}
    assert "32 mined (0 foreground, 32 background" in capsys.readouterr().out


def test_a_class_may_be_called_background(run, photograph, tmp_path, capsys):
    path = annotations(photograph, tmp_path)
    path.write_text(path.read_text().replace("tree", "background"))
    given = ("--image", photograph["file_name"], "--annotations", path, "--output", tmp_path)
    inspect(arguments(run, *given, "MODEL.ROI_HEADS.OHEM.RANK_CLS_WEIGHT", "0.0"))
    (table,) = tmp_path.glob("*.csv")
    rows = rows_of(table)
    assert {row["label"] for row in rows} == {"background"}
    assert all((row["foreground"] == "True") == (float(row["iou"]) >= 0.5) for row in rows)
    mined = [row["foreground"] == "True" for row in rows if row["status"] == "mined"]
    assert any(mined) and f"({sum(mined)} foreground, " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fpn", "c4-mask", "cascade", "keypoint"])
def test_plain_heads_are_replaced(name, tiles, tmp_path, capsys):
    """A model that was trained without OHEM, with masks and keypoints or without."""
    small = TILE if name != "cascade" else (*TILE, "MODEL.ROI_HEADS.OHEM.CASCADE_STAGES", "all")
    cfg = config(name, *small, budget=16, plain=True)
    run = save(tmp_path, cfg)
    out = tmp_path / "out"
    inspect(arguments(run, "--dataset", tiles, "--num", 1, "--output", out))
    captured = capsys.readouterr()
    stages = 3 if name == "cascade" else 1
    tables = sorted(out.glob("*.csv"))
    assert len(tables) == stages == len(list(out.glob("*.png")))
    for path in tables:
        assert sum(row["status"] == "mined" for row in rows_of(path)) == 16
    assert ("stage 2 of the cascade" in captured.out) == (name == "cascade")
    assert "Not trained" not in captured.err


def test_without_weights_it_says_that_nothing_was_trained(run, tiles, tmp_path, capsys):
    given = ("--dataset", tiles, "--num", 1, "--output", tmp_path)
    inspect(["--config-file", str(run / "config.yaml"), *map(str, given)])
    assert "Not trained" in capsys.readouterr().err
    # weights of a head with other classes do not count as trained
    other = ("MODEL.ROI_BOX_HEAD.FC_DIM", "8")
    inspect(arguments(run, *given, *other))
    said = capsys.readouterr().err
    assert "Not trained" in said and "box_" in said


@ROI_HEADS_REGISTRY.register()
class HeadsThatDoNotMine(StandardROIHeads):
    pass


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["MODEL.ROI_HEADS.NAME", "NoSuchHeads"], "--import"),
        (["MODEL.ROI_HEADS.NAME", "HeadsThatDoNotMine"], "OHEMMixin"),
        (["MODEL.ROI_HEADS.NAME", "RROIHeads"], "upright boxes only"),
        (["MODEL.ROI_HEADS.NAME", "OHEMRROIHeads"], "upright boxes only"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "80"], "MODEL.ROI_HEADS.NUM_CLASSES 1"),
        (["MODEL.ROI_HEADS.OHEM.NMS_TRESH", "0.5"], "NMS_TRESH.* did you mean NMS_THRESH"),
        (["MODEL.RESNETS.DEPTH", "77"], "cannot be built .* key 77 is missing"),
        (["MODEL.DEVICE", "abc"], "cannot be built .* RuntimeError: .* abc"),
        (["MODEL.NO_SUCH_KEY", "1"], "--import"),
        (["MODEL.MASK_ON"], "KEY VALUE"),
        (["MODEL.WEIGHTS", "gone.pth"], "gone.pth does not exist"),
        (["MODEL.WEIGHTS", "nope://x.pkl"], "nope://x.pkl cannot be loaded .* AssertionError: "),
        (["MODEL.LOAD_PROPOSALS", "True"], "PROPOSAL_FILES_TRAIN"),
    ],
)
def test_what_is_wrong_is_said(run, tiles, overrides, said, capsys):
    with pytest.raises(SystemExit, match=said):
        inspect(["--config-file", str(run / "config.yaml"), "--dataset", tiles, *overrides])


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("empty.yaml", "", "no lines KEY: VALUE"),
        ("list.yaml", "- MODEL", "no lines KEY: VALUE"),
        ("torn.yaml", "MODEL: {WEIGHTS", "while parsing"),
        ("lazy.py", "model = None", "LazyConfig.* in YAML"),
        ("saved.yaml", None, "LazyConfig.* in YAML"),
    ],
)
def test_what_is_no_configuration_is_said(tiles, tmp_path, name, content, said):
    if content is None:
        lazy = ohem_d2.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.py")
        LazyConfig.save(lazy, str(tmp_path / name))
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit, match=f"(?s){name}: .*{said}"):
        inspect(["--config-file", str(tmp_path / name), "--dataset", tiles])


# What is wrong with a data set of one photograph, and what is said of it
def without(part, key):
    return lambda data: data[part][0].pop(key)


WRONG_DATA = {
    "no image": (lambda data: data.update(images=[]), "data.json.*AssertionError: .* is empty"),
    "no images": (lambda data: data.pop("images"), "data.json is not in COCO format.*`images`"),
    "no annotations": (lambda data: data.pop("annotations"), "data.json.* no annotated object"),
    "no name": (without("images", "file_name"), r"data.json .*`file_name` - at `\$.images\[0\]`"),
    "no box": (without("annotations", "bbox"), r"data.json .*`bbox` - at `\$.annotations\[0\]`"),
    "width": (lambda data: data["images"][0].update(width=9), "images/elsewhere/.*: Mismatched"),
}


@pytest.mark.parametrize("change, said", WRONG_DATA.values(), ids=WRONG_DATA)
def test_wrong_data_is_said(run, photograph, tmp_path, change, said):
    data = json.loads(annotations(photograph, tmp_path).read_text())
    file = tmp_path / "images" / data["images"][0]["file_name"]
    file.parent.mkdir(parents=True)
    shutil.copy(photograph["file_name"], file)
    change(data)
    (tmp_path / "data.json").write_text(json.dumps(data))
    name = f"coco:{tmp_path / 'data.json'}:{tmp_path / 'images'}"
    with pytest.raises(SystemExit, match=f"(?s){said}") as error:
        inspect(arguments(run, "--dataset", name, "--output", tmp_path / "out"))
    assert error.value.__cause__ is not None  # for who looks for the place


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "images that are not there, .* such as .*photo.png"),
        (b"text", "photo.png: .*identify"),
        ((3, 4000), "photo.png: .*must be > 0"),
    ],
)
def test_wrong_pictures_are_said(run, tmp_path, content, said):
    path = tmp_path / "photo.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        cv2.imwrite(str(path), np.zeros((*content, 3), np.uint8))
    size = dict(zip(("height", "width"), content if isinstance(content, tuple) else (9, 9)))
    box = {"bbox": [0, 0, 2, 2], "bbox_mode": 0, "category_id": 0}
    record = {"file_name": str(path), "image_id": 1, "annotations": [box], **size}
    DatasetCatalog.register("wrong pictures", lambda: [record])
    try:
        with pytest.raises(SystemExit, match=said):
            inspect(arguments(run, "--dataset", "wrong pictures", "--output", tmp_path))
    finally:
        DatasetCatalog.remove("wrong pictures")


def test_a_diverged_model_is_said(run, photograph, tmp_path):
    checkpoint = torch.load(run / "model_final.pth")
    checkpoint["model"]["proposal_generator.rpn_head.conv.weight"].fill_(float("nan"))
    torch.save(checkpoint, tmp_path / "nan.pth")
    given = ("--image", photograph["file_name"], "--no-objects", "--output", tmp_path)
    with pytest.raises(SystemExit, match=".png: FloatingPointError: .* diverged"):
        inspect(arguments(run, *given, "--weights", tmp_path / "nan.pth"))


@pytest.mark.parametrize("below", ["", "x"])
def test_output_that_cannot_be_written_is_named(run, photograph, tmp_path, below):
    (tmp_path / "file").write_text("")
    given = ("--image", photograph["file_name"], "--no-objects", "--output")
    with pytest.raises(SystemExit, match="file.*png cannot be written: .* --output"):
        inspect(arguments(run, *given, tmp_path / "file" / below))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("flag, least", [("--num", 1), ("--top", 0)])
def test_numbers_too_small_are_refused(flag, least, capsys):
    with pytest.raises(SystemExit):
        inspect(["--config-file", "x", "--dataset", "x", flag, str(least - 1)])
    assert f"{flag}: '{least - 1}'; allowed: a whole number >= {least}" in capsys.readouterr().err


@pytest.mark.parametrize("trained_on, filtered", [(True, True), (True, False), (False, True)])
def test_images_that_a_training_leaves_out(run, photograph, trained_on, filtered):
    empty = {**photograph, "annotations": []}
    DatasetCatalog.register("with an empty one", lambda: [photograph, empty])
    try:
        cfg = load_cfg(str(run / "config.yaml"))
        cfg.DATASETS.TRAIN = ("with an empty one",) if trained_on else ()
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filtered
        records = load_records(cfg, ["with an empty one"])
        assert len(records) == (1 if trained_on and filtered else 2)
    finally:
        DatasetCatalog.remove("with an empty one")


def test_data_without_labels_has_no_loss(run, photograph):
    bare = {key: photograph[key] for key in ("file_name", "height", "width", "image_id")}
    DatasetCatalog.register("bare", lambda: [bare])
    try:
        with pytest.raises(SystemExit, match="needs labels"):
            inspect(arguments(run, "--dataset", "bare"))
    finally:
        DatasetCatalog.remove("bare")


def test_only_an_r_cnn_mines(tiles):
    retina = ("--config-file", "COCO-Detection/retinanet_R_50_FPN_1x.yaml", "--dataset", tiles)
    overrides = ("MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", "1", "MODEL.DEVICE", "cpu")
    with pytest.raises(SystemExit, match="not an R-CNN"):
        inspect([*retina, *overrides])


def test_wrong_files_are_named(run, tiles, photograph, tmp_path):
    image, torn = photograph["file_name"], tmp_path / "torn.pth"
    torn.write_bytes((run / "model_final.pth").read_bytes()[:5000])
    other = tmp_path / "other.json"
    other.write_text(annotations(photograph, tmp_path).read_text().replace("elsewhere/", "not-"))
    for args, said in (
        (("--dataset", "no_such_data"), "no_such_data.*not registered"),
        (("--image", tmp_path / "gone.png", "--no-objects"), "gone.png does not exist"),
        (("--image", image, "--annotations", "gone.json"), "gone.json does not exist"),
        (("--image", image, "--annotations", other), "0 images called"),
        (("--image", image, "--annotations", torn), "torn.pth is not in COCO format"),
        (("--image", image, "--no-objects", "--weights", torn), "cannot be loaded"),
        (("--image", image, "--no-objects", "--import", "no_such_module"), "PYTHONPATH"),
        (("--image", image, "--no-objects", "--config-file", "gone.yaml"), "gone.yaml"),
    ):
        with pytest.raises(SystemExit, match=said):
            inspect(arguments(run, *args))


def test_precomputed_proposals(tiles, tree_crowns, tmp_path):
    """Fast R-CNN: proposals come with the data set."""
    records = DatasetCatalog.get(tiles)
    rng = np.random.default_rng(0)
    corners = [rng.uniform(0, 250, (80, 2)) for _ in records]
    proposals = {
        "ids": [record["image_id"] for record in records],
        "boxes": [np.concatenate([c, c + 40], axis=1).astype(np.float32) for c in corners],
        "objectness_logits": [np.zeros(80, np.float32) for _ in records],
        "bbox_mode": 0,
    }
    (tmp_path / "proposals.pkl").write_bytes(pickle.dumps(proposals))
    cfg = config(
        "fpn",
        *TILE,
        *("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "MODEL.LOAD_PROPOSALS", True),
        *("DATASETS.TEST", (tiles,)),
        *("DATASETS.PROPOSAL_FILES_TEST", (str(tmp_path / "proposals.pkl"),)),
    )
    run = save(tmp_path, cfg)
    out = tmp_path / "out"
    inspect(arguments(run, "--dataset", tiles, "--num", 1, "--output", out))
    (table,) = out.glob("*.csv")
    crowns = [a for a in records[0]["annotations"] if not a["iscrowd"]]
    assert len(rows_of(table)) <= 80 + len(crowns)
    assert sum(row["status"] == "mined" for row in rows_of(table)) == 16


MODULE = """
from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from ohem_d2 import OHEMMixin

def add_my_config(cfg):
    cfg.MODEL.MINE = CfgNode({"KEY": 1})

@ROI_HEADS_REGISTRY.register()
class MyHeads(OHEMMixin, StandardROIHeads):
    pass
"""


def test_parts_of_ones_own_are_imported(run, tiles, tmp_path):
    """As a user calls it, from a folder of their own."""
    (tmp_path / "my_heads.py").write_text(MODULE)
    config_file = (run / "config.yaml").read_text().replace("OHEMROIHeads", "MyHeads")
    (tmp_path / "config.yaml").write_text(
        config_file.replace("MODEL:\n", "MODEL:\n  MINE:\n    KEY: 2\n", 1)
    )
    command = ("-m", "ohem_d2", "inspect", "--config-file", "config.yaml", "--import", "my_heads")
    given = ("--weights", run / "model_final.pth", "--dataset", tiles, "--num", 1)
    printed = forked.printed((*command, *given, "OUTPUT_DIR", "out"), tmp_path)
    assert "MyHeads" in printed and "32 mined" in printed
    assert len(list((tmp_path / "out" / "inspect").iterdir())) == 2


@ROI_HEADS_REGISTRY.register()
class HeadsWithABug(ohem_d2.OHEMROIHeads):
    def label_and_sample_proposals(self, proposals, targets):
        return {}["a bug"]


def test_a_bug_in_a_model_keeps_its_traceback(run, tiles):
    overrides = ("MODEL.ROI_HEADS.NAME", "HeadsWithABug")
    with pytest.raises(KeyError, match="a bug") as error:
        inspect(arguments(run, "--dataset", tiles, *overrides))
    assert error.traceback[-1].name == "label_and_sample_proposals"


@ROI_HEADS_REGISTRY.register()
class HeadsWithABugInTheConstructor(ohem_d2.OHEMROIHeads):
    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        len(5)


@ROI_HEADS_REGISTRY.register()
class HeadsThatCannotMine(ohem_d2.OHEMROIHeads):
    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        return {**super()._init_box_head(cfg, input_shape), "box_pooler": None}


def test_a_bug_in_a_constructor_keeps_its_traceback_and_what_our_checks_say_does_not(run, tiles):
    overrides = ("MODEL.ROI_HEADS.NAME", "HeadsWithABugInTheConstructor")
    with pytest.raises(TypeError, match="has no len") as error:
        inspect(arguments(run, "--dataset", tiles, *overrides))
    assert error.traceback[-1].name == "__init__"
    overrides = ("MODEL.ROI_HEADS.NAME", "HeadsThatCannotMine")
    with pytest.raises(SystemExit, match="cannot be built .*: HeadsThatCannotMine has no") as end:
        inspect(arguments(run, "--dataset", tiles, *overrides))
    assert isinstance(end.value.__cause__.__cause__, CannotMine)


def test_names_of_strangers_are_shown_harmlessly(run, tiles, photograph, tmp_path):
    (tmp_path / "c.yaml").write_text('MODEL: {"\\e[31mKEY": 1}')
    DatasetCatalog.register("hostile", lambda: [photograph])
    MetadataCatalog.get("hostile").thing_classes = ["\x1b[2Jtree"]
    try:
        for given in (("--config-file", tmp_path / "c.yaml"), ("--dataset", "hostile")):
            with pytest.raises(SystemExit, match=r"\\x1b") as end:
                inspect(arguments(run, "--dataset", tiles, *given))
            assert str(end.value).isprintable()
    finally:
        DatasetCatalog.remove("hostile")
