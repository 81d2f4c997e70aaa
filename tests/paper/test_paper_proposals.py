"""Proposal files: made from real photographs, checked, and trained with."""

import json
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.data.build import load_proposals_into_dataset
from detectron2.data.datasets import register_pascal_voc
from detectron2.structures import BoxMode
from hostile import Payload
from make_proposals import main
from models import ROOT, config, detector
from photographs import voc_xml
from processes import environment

from ohem_d2.tools.errors import InputError
from projects.paper.ohem_paper.proposals import files, making, selective_search
from projects.paper.ohem_paper.proposals.files import select_boxes
from projects.paper.ohem_paper.proposals.making import load_records
from projects.paper.ohem_paper.voc import register_without_difficult

PAPER = ROOT / "projects/paper"
WIDTH, HEIGHT = 128, 96


@pytest.fixture(scope="module")
def photographs(tree_crowns, tmp_path_factory):
    """A COCO data set of eight pieces of aerial photographs, each with its crowns and a crowd."""
    folder = tmp_path_factory.mktemp("photographs")
    full = json.loads((tree_crowns / "train.json").read_text())
    boxes_of = {image["id"]: [] for image in full["images"]}
    for annotation in full["annotations"]:
        x, y, width, height = box = annotation["bbox"]
        if x + width <= WIDTH and y + height <= HEIGHT:
            boxes_of[annotation["image_id"]].append(box)
    crowded = sorted(full["images"], key=lambda image: -len(boxes_of[image["id"]]))[:8]
    images, annotations = [], []
    for number, image in enumerate(crowded):
        tile = cv2.imread(str(tree_crowns / "tiles" / image["file_name"]))
        cv2.imwrite(str(folder / f"{number}.png"), tile[:HEIGHT, :WIDTH])
        new = {"id": 10 * number + 3, "file_name": f"{number}.png"}
        images.append({**new, "height": HEIGHT, "width": WIDTH})
        for box, crowd in [*((b, 0) for b in boxes_of[image["id"]]), ([1, 1, 60, 60], 1)]:
            annotation = {"id": len(annotations) + 1, "image_id": new["id"], "category_id": 1}
            annotation |= {"bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            annotations.append(annotation)
    categories = [{"id": 1, "name": "tree"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "data.json").write_text(json.dumps(data))
    return f"coco:{folder / 'data.json'}:{folder}"


@pytest.fixture(scope="module")
def searched(photographs, tmp_path_factory):
    """The file that selective search makes of them."""
    file = tmp_path_factory.mktemp("searched") / "proposals.pkl"
    main(["selective-search", photographs, str(file), "--workers", "2"])
    return file


def read(file):
    return pickle.loads(file.read_bytes())


def check_proposal_file(file, records):
    """Those of a configuration that is tested with the file."""
    name = f"of {file}"
    DatasetCatalog.register(name, lambda: [{"file_name": "x.png", **r} for r in records])
    cfg = config("fpn", "MODEL.LOAD_PROPOSALS", True, "DATASETS.TEST", (name,))
    cfg.DATASETS.PROPOSAL_FILES_TEST = (str(file),)
    try:
        files.check_proposals(cfg, name, "TEST")
    finally:
        DatasetCatalog.remove(name)


def assert_same(file, other):
    """Not byte by byte: NumPy may write a data type once more."""
    found, expected = read(file), read(other)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        if key == "bbox_mode":
            assert found[key] == values
            continue
        assert len(found[key]) == len(values)
        for a, b in zip(found[key], values):
            np.testing.assert_array_equal(a, b)
            assert np.asarray(a).dtype == np.asarray(b).dtype


def random_boxes(num, seed=0, size=20):
    generator = np.random.default_rng(seed)
    corners = generator.random((num, 2, 2)) * size
    return np.concatenate([corners.min(axis=1), corners.max(axis=1) + 0.1], axis=1)


# Boxes


def test_duplicates_by_a_plain_loop():
    boxes = random_boxes(200, size=4)
    seen, expected = set(), []
    for i, box in enumerate(boxes):
        key = tuple(float(np.round(x)) for x in box)
        if key not in seen:
            expected.append(i)
        seen.add(key)
    assert 50 < len(expected) < 200
    assert select_boxes(boxes, 0, 999).tolist() == expected
    assert select_boxes(boxes, 0, 5).tolist() == expected[:5]
    assert len(select_boxes(np.zeros((0, 4)), 0, 5)) == 0


def test_small_boxes():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 1.9, 9], [0, 0, 9, 1.9], [5, 5, 9, 7]])
    assert select_boxes(boxes, 2, 9).tolist() == [0, 3]


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def num_found(boxes, records):
    """How many objects have a box that overlaps them by half."""
    found = 0
    for of_image, record in zip(boxes, records):
        for x, y, w, h in (a["bbox"] for a in record["annotations"] if not a["iscrowd"]):
            found += any(iou(box, (x, y, x + w, y + h)) >= 0.5 for box in of_image.tolist())
    return found


# Selective search


def test_selective_search(searched, photographs):
    records = load_records(photographs)
    check_proposal_file(searched, records)
    data = read(searched)
    assert data["ids"] == [r["image_id"] for r in records]
    assert data["bbox_mode"] == BoxMode.XYXY_ABS
    for boxes in data["boxes"]:
        assert boxes.dtype == np.float32 and len(boxes) > 20
        assert (boxes >= 0).all() and (boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 2).all()
        assert len(np.unique(boxes, axis=0)) == len(boxes)
        # The segments cover the image.
        assert boxes[:, :2].min() == 0
        assert boxes[:, 2].max() == WIDTH and boxes[:, 3].max() == HEIGHT
    # Chance alone: boxes of the other images have less.
    by_chance = num_found(data["boxes"][1:] + data["boxes"][:1], records)
    assert num_found(data["boxes"], records) > 1.2 * by_chance > 0
    assert list(searched.parent.iterdir()) == [searched]  # no parts are left


def test_detectron2_keeps_the_order(searched, photographs):
    records = load_proposals_into_dataset(load_records(photographs), searched)
    for record, boxes in zip(records, read(searched)["boxes"]):
        assert (record["proposal_boxes"] == boxes).all()


def test_seed_ranks_the_same_boxes(photographs):
    record = load_records(photographs)[0]
    first, again, other = (
        selective_search.search_image(record, "fast", None, seed) for seed in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()
    assert {*map(tuple, first)} == {*map(tuple, other)}


def test_ranks_are_places_by_area_times_random_numbers():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 4, 4], [0, 0, 2, 2], [0, 0, 3, 3]], np.float32)
    random = np.random.default_rng(3).random(4)
    expected = sorted(range(4), key=lambda i: random[i] * [4, 1, 3, 2][i])
    order = selective_search.rank(boxes, np.random.default_rng(3))
    assert order.tolist() == expected != [1, 3, 2, 0]
    # Large boxes come early on average.
    many = np.zeros((1000, 4), np.float32)
    many[:, 2:] = np.arange(1, 1001)[:, None]
    order = selective_search.rank(many, np.random.default_rng(0))
    assert order[:200].mean() > 600 > 400 > order[-200:].mean()


def test_resized_search_has_boxes_of_the_image_on_disk(photographs):
    record = load_records(photographs)[0]
    plain = selective_search.search_image(record, "fast", None, 0)
    large = selective_search.search_image(record, "fast", 3 * WIDTH, 0)
    assert len(large) > 1.5 * len(plain)  # regions have at least some number of pixels
    assert large.min() == 0 and large[:, 2].max() == WIDTH and large[:, 3].max() == HEIGHT


@pytest.mark.parametrize("width", [None, 200])
def test_finds_an_object_that_stands_out(photographs, width, tmp_path):
    """A black rectangle on a real photograph: its sides are where they are, to the pixel."""
    record = dict(load_records(photographs)[0])
    image = cv2.imread(record["file_name"])
    image[30:60, 20:90] = 0
    record["file_name"] = str(tmp_path / "x.png")
    cv2.imwrite(record["file_name"], image)
    boxes = selective_search.search_image(record, "fast", width, 0)
    best = max(iou(box, [20, 30, 90, 60]) for box in boxes.tolist())
    assert best == 1 if width is None else best > 0.9


def test_quality_finds_more(photographs):
    image = cv2.imread(load_records(photographs)[0]["file_name"])
    fast, quality = (selective_search.regions(image, mode) for mode in ("fast", "quality"))
    assert len(quality) > 1.5 * len(fast)


def test_killed_run_goes_on(searched, photographs, tmp_path, capsys):
    output = tmp_path / "proposals.pkl"
    command = [sys.executable, "-W", "ignore", str(PAPER / "make_proposals.py")]
    command += ["selective-search", photographs, str(output), "--workers", "1"]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("proposals.pkl.*.parts/*.npy"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not output.exists()
    main(["selective-search", photographs, str(output), "--workers", "2"])
    assert_same(output, searched)
    first = int(re.search(r"(\d+)/8 ", capsys.readouterr().err)[1])
    assert 1 <= first < 8  # images that were not searched again
    assert list(tmp_path.iterdir()) == [output]


def test_bad_image_is_named_and_the_others_kept(photographs, tmp_path):
    records = load_records(photographs)[:2]
    folder = tmp_path / "images"
    folder.mkdir()
    for record in records:
        target = folder / os.path.basename(record["file_name"])
        target.write_bytes(Path(record["file_name"]).read_bytes())
    image = {"height": HEIGHT, "width": WIDTH}
    images = [{**image, "id": i, "file_name": f"{i}.png"} for i in (0, 1)]
    data = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "data.json").write_text(json.dumps(data))
    name = f"coco:{tmp_path / 'data.json'}:{folder}"
    output = tmp_path / "proposals.pkl"
    (folder / "1.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match="1.png does not exist or is no image"):
        main(["selective-search", name, str(output), "--workers", "1"])
    assert not output.exists()
    # with another size than the annotation says
    cv2.imwrite(str(folder / "1.png"), np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    with pytest.raises(SystemExit, match="1.png has 96 x 128 pixels, its annotation says 128 x 96"):
        main(["selective-search", name, str(output), "--workers", "1"])
    assert len(list(tmp_path.glob("proposals.pkl.*.parts/*.npy"))) == 1


def test_other_settings_and_images_are_not_gone_on_with(photographs, tmp_path, monkeypatch):
    output = tmp_path / "x.pkl"
    records = load_records(photographs)[:2]
    monkeypatch.setattr(making, "load_records", lambda name: records)
    monkeypatch.setattr(making, "search_data_set", lambda *args, **kwargs: ())
    for number, how in enumerate(({}, {"seed": 5}, {"seed": 5}), start=1):
        with pytest.raises(FileNotFoundError, match="0.npy"):  # nothing was found
            making.by_selective_search(photographs, output, **how)
        assert len(list(tmp_path.glob("x.pkl.*.parts"))) == min(number, 2)
    records.reverse()
    with pytest.raises(FileNotFoundError, match="0.npy"):
        making.by_selective_search(photographs, output)
    assert len(list(tmp_path.glob("x.pkl.*.parts"))) == 3
    assert not output.exists()


def test_lack_of_memory_is_said(photographs, tmp_path, monkeypatch):
    """After the first image, which is kept."""
    found = iter([np.zeros((1, 4), np.float32)])

    def regions(*_):
        try:
            return next(found)
        except StopIteration:
            raise cv2.error("OpenCV(4.9.0) alloc.cpp: (-4:Insufficient memory)") from None

    monkeypatch.setattr(selective_search, "regions", regions)
    with pytest.raises(SystemExit, match="What is finished is kept; go on with fewer --workers"):
        main(["selective-search", photographs, str(tmp_path / "x.pkl"), "--workers", "1"])
    assert len(list(tmp_path.glob("x.pkl.*.parts/*.npy"))) == 1


def test_opencv_without_contributed_modules(photographs, tmp_path, monkeypatch):
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(SystemExit, match="pip install opencv-contrib-python"):
        main(["selective-search", photographs, str(tmp_path / "x.pkl")])


def test_finished_file_is_not_overwritten(searched, photographs):
    before = searched.read_bytes()
    with pytest.raises(SystemExit, match="exists; remove it"):
        main(["selective-search", photographs, str(searched)])
    assert searched.read_bytes() == before


def test_data_set_that_is_not_there(tmp_path):

    register_pascal_voc(tmp_path.name, str(tmp_path), "test", 2007)
    with pytest.raises(SystemExit, match="No such file or directory: .*test.txt"):
        main(["selective-search", tmp_path.name, str(tmp_path / "x.pkl")])
    with pytest.raises(SystemExit, match="'coco_2099_train' is not registered"):
        main(["selective-search", "coco_2099_train", str(tmp_path / "x.pkl")])


# Files of others


RECORDS = [{"image_id": i, "height": 50, "width": 60} for i in ("000012", "7")]


def proposals(**changes):
    boxes = [np.array([[1, 2, 30, 40], [0, 0, 60, 50]], np.float32), np.zeros((0, 4), np.float32)]
    logits = [np.array([0.5, 2], np.float32), np.zeros(0, np.float32)]
    data = {"ids": ["000012", 7], "boxes": boxes, "objectness_logits": logits, "bbox_mode": 0}
    return {k: v for k, v in {**data, **changes}.items() if v is not None}


def with_first(*box, logits=(0.5,)):
    boxes = [np.array([box], np.float32), np.zeros((0, 4), np.float32)]
    return proposals(
        boxes=boxes, objectness_logits=[np.array(logits, np.float32), np.zeros(0, np.float32)]
    )


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", ["ours", "detectron", "enum", "xywh", "more images"])
def test_sound_files(kind, protocol, tmp_path):
    data = proposals()
    if kind == "detectron":
        data["indexes"], data["scores"] = data.pop("ids"), data.pop("objectness_logits")
        del data["bbox_mode"]
    elif kind == "enum":
        data["bbox_mode"] = BoxMode.XYXY_ABS
    elif kind == "xywh":
        data["bbox_mode"] = BoxMode.XYWH_ABS
        data["boxes"][0] = np.array([[1, 2, 29, 38], [0, 0, 60, 50]], np.float32)
    elif kind == "more images":
        data["ids"] += ["other"]
        data["boxes"] += [np.array([[0, 0, 9999, 9999]], np.float32)]
        data["objectness_logits"] += [np.ones(1, np.float32)]
    file = tmp_path / "proposals.pkl"
    file.write_bytes(pickle.dumps(data, protocol=protocol))
    check_proposal_file(file, RECORDS)
    loaded = load_proposals_into_dataset([dict(r) for r in RECORDS], file)
    assert loaded[0]["proposal_boxes"].shape == (2, 4)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"not a pickle", "is no pickle that can be read"),
        (b"", "is no pickle that can be read"),
        (pickle.dumps(proposals())[:-30], "is no pickle that can be read"),
        (proposals(extra=Payload("harmed")), "holds posix.mkdir, which may run code or crash"),
        ([1, 2], "TypeError: list indices must be integers"),
        (proposals(ids=None), "key 'ids' is missing"),
        (proposals(objectness_logits=None), "key 'objectness_logits' is missing"),
        (proposals(boxes=np.zeros((2, 4))), r"boxes have shape \(\d,\), not \(n, 4\)"),
        (proposals(bbox_mode=4), "bbox_mode is .*XYWHA_ABS.*, not BoxMode.XYXY_ABS"),
        (proposals(bbox_mode="xyxy"), "'xyxy' is not a valid BoxMode"),
        (proposals(ids=["a", "b"]), "key '000012' is missing"),
        (proposals(ids=["000012", "b"]), "key '7' is missing"),
        (
            proposals(boxes=[[[1, 2, 30, 40]], np.zeros((0, 4))]),
            "TypeError: only integer scalar arrays can be",
        ),
        (
            proposals(boxes=[np.zeros((2, 5)), np.zeros((0, 4))]),
            r"image 000012: boxes have shape \(2, 5\), not \(n, 4\)",
        ),
        (
            proposals(objectness_logits=[np.zeros(2), np.zeros(1)]),
            "IndexError: index 0 is out of bounds",
        ),
        (
            proposals(boxes=[np.array([[1, 2, 30, 40]] * 2), np.zeros((0, 4))]),
            "image 000012: boxes are int64; store them as float32",
        ),
        (with_first(1, 2, np.nan, 40), "image 000012: boxes are not all finite"),
        (
            with_first(1, 2, 30, 40, logits=[np.inf]),
            "image 000012: objectness_logits are not all finite",
        ),
        (
            with_first(30, 2, 30, 40),
            r"image 000012: 1 boxes have no area, such as \[30.0, 2.0, 30.0, 40.0\]; allowed",
        ),
        (with_first(1, 40, 30, 2), "image 000012: 1 boxes have no area"),
        (with_first(1, 2, 30, 60), "image 000012: 1 boxes reach out of the image, which has 60 x"),
        (with_first(-3, 2, 30, 40), "image 000012: 1 boxes reach out of the image"),
    ],
)
def test_unsound_files(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "proposals.pkl"
    file.write_bytes(data if isinstance(data, bytes) else pickle.dumps(data))
    with pytest.raises(ValueError, match=message) as error:
        check_proposal_file(file, RECORDS)
    assert str(file) in str(error.value)
    assert not (tmp_path / "harmed").exists()


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="none.pkl does not exist; it should be the proposals for"):
        check_proposal_file(tmp_path / "none.pkl", RECORDS)


# MATLAB's files


def cells(values):
    out = np.empty((1, len(values)), object)
    out[0, :] = values
    return out


def write_mat(path, boxes, ids=None):
    from scipy.io import savemat

    data = {"boxes": cells([np.asarray(b) for b in boxes])}
    if ids is not None:
        data["images"] = cells(ids).T
    savemat(path, data)
    return path


def test_mat_file(photographs, tmp_path):
    records = load_records(photographs)
    # (y1, x1, y2, x2) from 1, the last pixel included; the third image has none, and a duplicate
    # and a box of one pixel are dropped.
    whole, part, one = [1, 1, HEIGHT, WIDTH], [11, 21, 50, 30], [5, 5, 5, 5]
    boxes = [np.array([part, whole, part, one], np.uint16)] + [np.array([whole], float)] * 7
    boxes[2] = np.zeros((0, 0))
    ids = [str(r["image_id"]) for r in records]
    shuffled = [3, 1, 0, 2, 7, 6, 5, 4]
    named = write_mat(tmp_path / "x.mat", [boxes[i] for i in shuffled], [ids[i] for i in shuffled])
    main(["from-mat", photographs, str(named), str(tmp_path / "x.pkl")])
    ordered = write_mat(tmp_path / "y.mat", boxes)
    main(["from-mat", photographs, str(ordered), str(tmp_path / "y.pkl")])
    assert (tmp_path / "x.pkl").read_bytes() == (tmp_path / "y.pkl").read_bytes()
    check_proposal_file(tmp_path / "x.pkl", records)
    data = read(tmp_path / "x.pkl")
    assert data["ids"] == [r["image_id"] for r in records]
    assert data["boxes"][0].tolist() == [[20, 10, 30, 50], [0, 0, WIDTH, HEIGHT]]
    assert data["boxes"][2].shape == (0, 4)
    assert data["objectness_logits"][0].tolist() == [0, -1]


@pytest.mark.parametrize(
    "boxes, ids, message",
    [
        ([[[1, 1, 9, 9]]], None, "no ids and boxes of 1 images; the data set has 2"),
        ([[[1, 1, 9, 9]]] * 2, ["7", "8"], "lacks 1 of the data set's 2 images, such as 000012"),
        ([[[1, 1, 9, 9]]] * 2, ["000012"], "boxes of 2 images, but 1 ids"),
        ([[[1, 1, 9, 9]]] * 2, ["000012", "7", "8"], "boxes of 2 images, but 3 ids"),
        ([[[1, 1, 9]]] * 2, ["000012", "7"], r"image 000012: boxes are \w+ \(1, 3\), not numbers"),
        ([[[1, 1, 9, 90]]] * 2, ["000012", "7"], "image 000012: 1 boxes reach out of the image"),
        ([[[1, 1, 55, 9]]] * 2, ["000012", "7"], "image 000012: 1 boxes reach out of the image"),
        ([[[1, 9, 9, 1]]] * 2, ["000012", "7"], "image 000012: 1 boxes have no area"),
        ([[[1, 1, 9, np.nan]]] * 2, ["000012", "7"], "image 000012: boxes are not all finite"),
    ],
)
def test_bad_mat_files(boxes, ids, message, tmp_path):
    file = write_mat(tmp_path / "x.mat", boxes, ids)
    with pytest.raises(ValueError, match=message) as error:
        files.read_mat(file, RECORDS)
    assert str(file) in str(error.value)


def test_files_that_are_no_mat_files(tmp_path):
    from scipy.io import savemat

    file = tmp_path / "x.mat"
    with pytest.raises(InputError, match="x.mat does not exist"):
        files.read_mat(file, RECORDS)
    file.write_bytes(b"nothing" * 100)
    with pytest.raises(ValueError, match="x.mat is no .mat file that can be read"):
        files.read_mat(file, RECORDS)
    file.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(ValueError, match="x.mat is of MATLAB 7.3; save it again"):
        files.read_mat(file, RECORDS)
    savemat(file, {"boxes": np.zeros((3, 4))})
    with pytest.raises(ValueError, match="x.mat has no cell array 'boxes'"):
        files.read_mat(file, RECORDS)


# Training


def test_detectron2_trains_with_the_file(searched, photographs, storage):
    load_records(photographs)  # registers them
    cfg = config(
        "fpn",
        *("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "MODEL.LOAD_PROPOSALS", True),
        *("DATASETS.TRAIN", (photographs,), "DATASETS.PROPOSAL_FILES_TRAIN", (str(searched),)),
        *("INPUT.MIN_SIZE_TRAIN", (2 * HEIGHT,), "INPUT.RANDOM_FLIP", "none"),
        *("SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0),
        *("MODEL.ROI_HEADS.NUM_CLASSES", 1),
    )
    data = dict(zip(map(str, read(searched)["ids"]), read(searched)["boxes"]))
    inputs = next(iter(build_detection_train_loader(cfg)))
    for x in inputs:
        found = x["proposals"].proposal_boxes.tensor.numpy()
        np.testing.assert_allclose(found, 2 * data[str(x["image_id"])], atol=1e-3)
    model = detector(cfg)
    losses = model(inputs)
    sum(losses.values()).backward()
    assert losses["loss_cls"].item() > 0
    gradient = model.roi_heads.box_predictor.cls_score.weight.grad
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


# VOC


@pytest.fixture
def voc_folder(photographs, tmp_path):
    """Two photographs: an object and a difficult one on the first, a difficult one on the other."""
    records = load_records(photographs)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    objects = {"one": [(1, 1, 50, 40, 1), (11, 21, 60, 70, 0)], "two": [(5, 5, 40, 40, 1)]}
    for (image_id, boxes), record in zip(objects.items(), records):
        cv2.imwrite(str(tmp_path / f"JPEGImages/{image_id}.jpg"), cv2.imread(record["file_name"]))
        xml = voc_xml(WIDTH, HEIGHT, [("dog", *box) for box in boxes])
        (tmp_path / f"Annotations/{image_id}.xml").write_text(xml)
    for split in ("train", "trainval"):
        (tmp_path / f"ImageSets/Main/{split}.txt").write_text("one\ntwo\n")
    return tmp_path


def test_voc_without_difficult_objects(voc_folder):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    register_pascal_voc(voc_folder.name, str(voc_folder), "train", 2007)
    MetadataCatalog.get(voc_folder.name).evaluator_type = "pascal_voc"
    register_without_difficult(voc_folder.name)
    name = f"{voc_folder.name}_no_difficult"
    one, two = DatasetCatalog.get(name)
    assert [a["bbox"] for a in one["annotations"]] == [[10, 20, 60, 70]]
    assert two["annotations"] == [] and two["image_id"] == "two"
    meta = MetadataCatalog.get(name)
    assert meta.evaluator_type == "pascal_voc" and meta.year == 2007
    assert meta.thing_classes[11] == "dog" and one["annotations"][0]["category_id"] == 11


def test_published_splits_are_registered_where_detectron2_looks(voc_folder):
    """In a process of its own, for the folder is read from the environment at import."""
    root = voc_folder.parent / f"{voc_folder.name}_root"
    root.mkdir()
    for year in (2007, 2012):
        (root / f"VOC{year}").symlink_to(voc_folder)
    code = (
        "import projects.paper.ohem_paper.voc; from detectron2.data import DatasetCatalog as c\n"
        "for n in ('voc_2007_trainval', 'voc_2012_trainval'):\n"
        "    print(*(len(r['annotations']) for m in (n, n + '_no_difficult') for r in c.get(m)))\n"
        "print('voc_2007_test_no_difficult' in c.list())"
    )
    env = environment(DETECTRON2_DATASETS=str(root))
    command = [sys.executable, "-W", "ignore", "-c", code]
    out = subprocess.run(command, env=env, cwd=PAPER, capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[:3] == ["2 1 1 0", "2 1 1 0", "True"]


def test_ids_of_voc_are_plain_in_the_file(voc_folder, tmp_path):
    """Detectron2's are NumPy's strings, which tie a pickle to NumPy's version."""
    output = tmp_path / "x.pkl"
    main(["selective-search", f"voc:{voc_folder}:train", str(output), "--workers", "1"])
    assert read(output)["ids"] == ["one", "two"]
    assert {type(i) for i in read(output)["ids"]} == {str}
