"""Evaluation of detectors that find everything, and of others against Detectron2's evaluators."""

import copy
import json
import math
import pickle

import forked
import numpy as np
import processes
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.pascal_voc_evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools.mask import decode, frPyObjects
from scenes import HEIGHT, WIDTH, by_rule, coco_scene, voc_scene, write_coco, write_images

from ohem_d2.tools.check import check_data
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.data.evaluation import (
    VOCEvaluator,
    average_precision,
    build_evaluator,
    evaluation_faults,
    first_hits,
)
from ohem_d2.tools.errors import InputError
from ohem_d2.tools.load_model import default_cfg
from ohem_d2.tools.training.trainer import OHEMTrainer


@pytest.fixture(autouse=True)
def forgotten():
    """What a test registers is gone after it."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def configuration(folder, *overrides):
    cfg = default_cfg()
    cfg.OUTPUT_DIR = str(folder / "out")
    cfg.merge_from_list(list(overrides))
    return cfg


def detected(record, objects=None):
    """An output that has just the objects of a record, with scores from high to low."""
    objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    found = Instances((record["height"], record["width"]))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores = torch.linspace(0.99, 0.9, len(objects))
    found.pred_classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.long)
    return {"instances": found}


def evaluated(evaluator, records, outputs):
    evaluator.reset()
    for record, output in zip(records, outputs):
        evaluator.process([record], [copy.deepcopy(output)])
    return evaluator.evaluate()


def perfect(cfg, name, classes=()):
    """What the evaluation says of a detector that finds exactly the objects."""
    if name.startswith(("coco:", "voc")):
        register_datasets([name], classes)
    records = DatasetCatalog.get(name)
    return evaluated(build_evaluator(cfg, name), records, map(detected, records))


# ---- COCO's metrics ------------------------------------------------------------------------------


def ids(*values):
    def change(annotations):
        for annotation, value in zip(annotations, values):
            annotation["id"] = value
            if value is None:
                del annotation["id"]

    return change


def key(name, value):
    def change(annotations):
        for annotation in annotations:
            annotation[name] = value
            if value is None:
                del annotation[name]

    return change


CHANGES = {
    "as it is": lambda annotations: None,
    "ids from 0": ids(*range(8)),
    "text ids": ids(*"abcdefgh"),
    "no ids": ids(*[None] * 8),
    "ids twice": ids(1, 1, 2, 2, 3, 3, 4, 4),
    "one id for all": ids(*[5] * 8),
    "ids below 1": ids(0.2, 0.4, 0.6, 0.8, 1.2, 1.4, 1.6, 1.8),
    "negative ids": ids(*range(-8, 0)),
    "no area": key("area", None),
    "area NaN": key("area", math.nan),
    "area negative": key("area", -300),
    "area 0": key("area", 0),
    "area text": key("area", "300"),
    "area too large": key("area", 10**6),
    "no iscrowd": key("iscrowd", None),
    "ignored": key("ignore", 1),
    "no segmentation": key("segmentation", None),
    "flat polygons": key("segmentation", [1, 2, 30, 2, 30, 20]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_who_finds_everything_has_100(name, tmp_path):
    scene = coco_scene(tmp_path, 4)
    CHANGES[name](scene["annotations"])
    data = write_coco(tmp_path, scene)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    result = perfect(configuration(tmp_path), data)
    assert [result["bbox"][metric] for metric in ("AP", "AP50", "AP75", "APs")] == [100] * 4
    assert math.isnan(result["bbox"]["APl"]) and result["bbox"]["AP-cat"] == 100
    assert {file: file.read_bytes() for file in before} == before


def test_detectron2_alone_gets_ids_from_0_wrong(tmp_path):
    """When this fails pycocotools has mended it."""
    scene = coco_scene(tmp_path, 4)
    ids(*range(8))(scene["annotations"])
    register_coco_instances("mine", {}, *write_coco(tmp_path, scene).split(":")[1:])
    records = DatasetCatalog.get("mine")
    theirs = evaluated(COCOEvaluator("mine", output_dir=None), records, map(detected, records))
    assert theirs["bbox"]["AP"] < 100
    ours = evaluated(
        build_evaluator(configuration(tmp_path), "mine"), records, map(detected, records)
    )
    assert ours["bbox"]["AP"] == 100


def crowded(folder, num):
    """An image of so many objects in rows, and another of two."""
    write_images(folder / "images", ["0.png", "1.png"], (192, 256))
    boxes = [(x, y, 9, 9) for y in range(2, 184, 12) for x in range(2, 244, 12)][:num]
    annotations = [(1, box) for box in boxes] + [(2, box) for box in boxes[:2]]
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i}.png", "width": 256, "height": 192} for i in (0, 1)
        ],
        "annotations": [
            {"id": i + 1, "image_id": n, "category_id": 1, "bbox": b, "area": 81, "iscrowd": 0}
            for i, (n, b) in enumerate(annotations)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }


def test_more_objects_than_coco_has_detections(tmp_path):
    data = write_coco(tmp_path, crowded(tmp_path, 300))
    cfg = configuration(tmp_path, "TEST.DETECTIONS_PER_IMAGE", 400)
    result = perfect(cfg, data)
    assert result["bbox"]["AP"] == result["bbox"]["APs"] == 100
    assert by_rule(evaluation_faults(cfg, data, DatasetCatalog.get(data))) == {}
    cfg.TEST.DETECTIONS_PER_IMAGE = 299
    found = by_rule(evaluation_faults(cfg, data, DatasetCatalog.get(data)))
    assert found == {"too many": [f"{tmp_path / 'images/0.png'}: 300"]}
    cfg.TEST.DETECTIONS_PER_IMAGE = 100  # COCO's own
    assert perfect(cfg, data)["bbox"]["AP"] < 40


def test_a_mask_model_is_evaluated_on_what_it_is_trained_on(tmp_path):
    """Objects without a mask would end in a traceback, after the inference."""
    scene = coco_scene(tmp_path, 4)
    for i, segmentation in enumerate([[], [[1, 2, 3, 4]], None]):
        scene["annotations"][i]["segmentation"] = segmentation
    del scene["annotations"][2]["segmentation"]
    scene["annotations"][3]["segmentation"] = scene["annotations"][3]["segmentation"][0]  # flat
    data = write_coco(tmp_path, scene)
    register_datasets([data])
    records = DatasetCatalog.get(data)
    outputs = []
    for record in copy.deepcopy(records):
        objects = [a for a in record["annotations"] if len((a.get("segmentation") or [[]])[0]) > 4]
        found = detected({**record, "annotations": objects})["instances"]
        found.pred_masks = torch.zeros(len(objects), HEIGHT, WIDTH, dtype=torch.bool)
        for mask, a in zip(found.pred_masks, objects):
            x, y, w, h = map(int, a["bbox"])
            mask[y : y + h, x : x + w] = True
        outputs.append({"instances": found})
    assert sum(len(output["instances"]) for output in outputs) == 5
    result = evaluated(
        build_evaluator(configuration(tmp_path, "MODEL.MASK_ON", True), data), records, outputs
    )
    assert result["segm"]["AP"] == result["bbox"]["AP"] == 100


def test_images_whose_size_is_not_given(tmp_path):
    scene = coco_scene(tmp_path, 4)
    for image in scene["images"]:
        image.update(width=None, height=None)
    data = write_coco(tmp_path, scene)
    register_datasets([data])
    records = DatasetCatalog.get(data)
    outputs = [detected(record) for record in records]
    for record, output in zip(records, outputs):
        polygons = [a["segmentation"] for a in record["annotations"]]
        rles = [frPyObjects(p, record["height"], record["width"]) for p in polygons]
        masks = np.stack([decode(rle)[..., 0] for rle in rles])
        output["instances"].pred_masks = torch.tensor(masks, dtype=torch.bool)
    cfg = configuration(tmp_path, "MODEL.MASK_ON", True)
    result = evaluated(build_evaluator(cfg, data), records, outputs)
    assert result["segm"]["AP"] == result["bbox"]["AP"] == 100


def test_what_is_left_out_counts_for_nothing(tmp_path):
    scene = coco_scene(tmp_path, 4)
    for i, box in enumerate([[5, 5, 0, 9], [5, 5, -3, 9], [70, 5, 9, 9], [5, math.nan, 9, 9]]):
        scene["annotations"][i]["bbox"] = box
    data = write_coco(tmp_path, scene)
    register_datasets([data])
    records = DatasetCatalog.get(data)
    outputs = [detected(r) for r in records]
    for output in outputs[:2]:
        output["instances"] = output["instances"][:0]
    result = evaluated(build_evaluator(configuration(tmp_path), data), records, outputs)
    assert result["bbox"]["AP"] == 100


@pytest.mark.parametrize("kind", ["none", "empty", "crowds", "no area", "images"])
def test_nothing_to_evaluate_on(kind, tmp_path):
    scene, cfg = coco_scene(tmp_path), configuration(tmp_path)
    for annotation in scene["annotations"]:
        annotation.update(
            {"crowds": {"iscrowd": 1}, "no area": {"bbox": [1, 1, 0, 1]}}.get(kind, {})
        )
    if kind in ("none", "empty"):
        scene["annotations"] = []
    if kind == "none":  # as of COCO's images for its own server
        del scene["annotations"]
    data = f"images:{tmp_path}" if kind == "images" else write_coco(tmp_path, scene)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    register_datasets([data])
    cfg.DATASETS.TEST = (data,)
    if kind == "none":
        (fault,) = evaluation_faults(cfg, data, DatasetCatalog.get(data))
        assert "nothing is evaluated" in str(fault)
        assert not perfect(cfg, data)
        return
    said = {
        "images": "nothing to evaluate on; name the",
        "crowds": "3 images that show nothing .*6 of 6 annotations have iscrowd: 1.*Label it",
        "no area": "to evaluate on; 6 boxes without an area, .*0.png: .*Label it, or leave it out",
    }
    with pytest.raises(InputError, match=said.get(kind, "there is no object to find in 3 images")):
        check_data(cfg, training=False)


# ---- labels of somebody's code -------------------------------------------------------------------


def test_labels_are_read_anew(tmp_path):
    """Detectron2 keeps a converted file in OUTPUT_DIR, and takes it for the labels for ever."""
    scene = coco_scene(tmp_path, 4)
    labels = scene["annotations"]

    def records():
        return [
            {
                **{"file_name": str(tmp_path / f"images/{image['file_name']}")},
                **{"image_id": image["id"], "width": WIDTH, "height": HEIGHT},
                "annotations": [
                    {"bbox": a["bbox"], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
                    for a in labels
                    if a["image_id"] == image["id"]
                ],
            }
            for image in scene["images"]
        ]

    DatasetCatalog.register("by code", records)
    MetadataCatalog.get("by code").thing_classes = ["cat"]
    cfg = configuration(tmp_path)
    for change in (
        lambda: None,
        lambda: labels.pop(),
        lambda: labels.__setitem__(0, {**labels[0], "bbox": [30, 20, 9, 9]}),
        lambda: scene["images"].append({**scene["images"][0], "id": 77}),
    ):
        change()
        assert perfect(cfg, "by code")["bbox"]["AP"] == 100
    assert len(list(tmp_path.glob("out/inference/*format.json"))) == 1


def test_a_data_set_of_another_kind_is_left_to_its_owner(tmp_path):
    DatasetCatalog.register("another", list)
    MetadataCatalog.get("another").evaluator_type = "mine"
    cfg = configuration(tmp_path)
    assert evaluation_faults(cfg, "another", []) == []
    with pytest.raises(NotImplementedError, match="'mine'; override OHEMTrainer.build_evaluator"):
        OHEMTrainer.build_evaluator(cfg, "another")


@pytest.mark.parametrize("metadata", [{}, {"thing_classes": ["cat"]}])
def test_what_the_evaluation_of_records_needs(metadata, tmp_path):
    DatasetCatalog.register("bare", list)
    MetadataCatalog.get("bare").set(**metadata)
    record = {"file_name": "a.png", "annotations": [{"category_id": 0}]}
    with pytest.raises(InputError, match="bare: its evaluation needs .* width and height of each"):
        evaluation_faults(configuration(tmp_path), "bare", [record])
    if metadata:
        sized = {**record, "width": 9, "height": 9}
        assert evaluation_faults(configuration(tmp_path), "bare", [sized]) == []


# ---- Pascal VOC ----------------------------------------------------------------------------------

SCENES = {
    "a slash": ({}, [("car/van", 5, 7, 25, 23), ("a b/..\\c", 30, 7, 55, 23)], ()),
    "blanks in names of files": ({"ids": ("photo 1", "photo 2")}, None, ()),
    "PNG": ({"images": ".png"}, None, ()),
    "JPG": ({"images": ".JPG"}, None, ()),
    "fractions": ({}, [("cat", 5.5, 7.25, 25.5, 23), ("dog", 35, 7, 55, 23.75)], ()),
    "one image": ({"ids": ("000001",)}, None, ()),
    "difficult": ({}, [("cat", 5, 7, 25, 23), ("dog", 35, 7, 55, 23, True)], ("dog",)),
    "all difficult": ({}, [("cat", 5, 7, 25, 23, True), ("dog", 35, 7, 55, 23, True)], ("dog",)),
    "a class without objects": ({}, None, ("cow",)),
}


@pytest.mark.parametrize("name", SCENES)
def test_who_finds_everything_has_100_in_voc(name, tmp_path):
    how, objects, absent = SCENES[name]
    folder = voc_scene(tmp_path, objects={"000002": objects} if objects else None, **how)
    if name in ("a slash", "difficult"):
        voc_scene(tmp_path, objects=dict.fromkeys(("000001", "000002"), objects))
    classes = ["cat", "cow", "dog"] if "cow" in absent else ()
    result = perfect(configuration(tmp_path), f"voc:{folder}:test", classes)
    values = result["bbox"]["AP"], result["bbox"]["AP50"], result["voc"]["AP50"]
    assert values == pytest.approx((100, 100, 100))
    per_class = [v for k, v in result["voc"].items() if k != "AP50" and not math.isnan(v)]
    assert per_class == pytest.approx([100] * (1 if name == "difficult" else 2))
    assert len(result["voc"]) == (4 if "cow" in absent else 3)


def test_what_voc_files_may_lack(tmp_path):
    """As four of five tools write them; and hidden files, as of a Macintosh, are none."""
    folder = voc_scene(tmp_path)
    for file in folder.glob("Annotations/*.xml"):
        text = file.read_text()
        for tag in ("pose", "truncated", "difficult", "size", "filename"):
            start, end = f"<{tag}>", f"</{tag}>"
            while start in text:
                text = text[: text.index(start)] + text[text.index(end) + len(end) :]
        file.write_text(text)
    for name in ("Annotations/._000001.xml", "JPEGImages/._000001.jpg", "JPEGImages/.DS_Store"):
        (folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (folder / "Annotations/stranger.xml").write_text("<torn")
    (folder / "ImageSets/Main/test.txt").write_text("\ufeff000001\n000002\n000001\n", "utf-8")
    result = perfect(configuration(tmp_path), f"voc:{folder}:test")
    assert result["bbox"]["AP"] == result["voc"]["AP50"] == 100
    (records,) = [DatasetCatalog.get(f"voc:{folder}:test")]
    assert [(r["image_id"], r["width"]) for r in records] == [("000001", 64), ("000002", 64)]


def test_difficult_objects(tmp_path):
    """Neither found nor missed in the evaluation, regions to ignore in the training; or objects."""
    objects = [("cat", 5, 7, 25, 23), ("cat", 35, 7, 55, 23, True), ("dog", 1, 1, 30, 30)]
    folder = voc_scene(tmp_path, objects=dict.fromkeys(("000001", "000002"), objects))
    plain, all_of_them = f"voc:{folder}:test", f"voc:{folder}:test:difficult"
    cfg = configuration(tmp_path)
    for name, crowds, missed in ((plain, [0, 1, 0], 100), (all_of_them, [0, 0, 0], 50)):
        assert perfect(cfg, name)["voc"]["AP50-cat"] == 100
        records = DatasetCatalog.get(name)
        assert [[a["iscrowd"] for a in r["annotations"]] for r in records] == [crowds] * 2
        outputs = [detected(record) for record in records]
        for output in outputs:  # without the second cat, wherever it counts
            found = output["instances"]
            output["instances"] = found[found.pred_boxes.tensor[:, 0] != 34]
        result = evaluated(build_evaluator(cfg, name), records, outputs)
        assert result["voc"]["AP50-cat"] == missed and result["bbox"]["AP-dog"] == 100
        assert result["bbox"]["AP50"] == 100 if missed == 100 else result["bbox"]["AP50"] < 100
    # Who finds it, too, has neither harm nor gain of it.
    outputs = list(map(detected, DatasetCatalog.get(all_of_them)))
    assert [len(output["instances"]) for output in outputs] == [3, 3]
    result = evaluated(build_evaluator(cfg, plain), DatasetCatalog.get(plain), outputs)
    assert result["voc"]["AP50"] == 100 and result["bbox"]["AP"] == pytest.approx(100)


def test_corners_from_0(tmp_path):
    """VOC counts pixels from 1, so Detectron2 moves boxes of tools that count from 0 by a pixel."""
    folder = voc_scene(tmp_path, objects={"000002": [("cat", 0, 0, 20, 10)]})
    (shifted,) = boxes_of(f"voc:{folder}:test")
    (right,) = boxes_of(f"voc0:{folder}:test")
    assert shifted == [-1, -1, 20, 10] and right == [0, 0, 20, 10]


def boxes_of(name):
    register_datasets([name])
    (record,) = [r for r in DatasetCatalog.get(name) if r["image_id"] == "000002"]
    return [a["bbox"] for a in record["annotations"]]


# ---- VOC's rule, against Detectron2's own evaluator ----------------------------------------------


def random_scene(folder, seed):
    """
    Some images with objects of two classes, difficult ones among them, and detections: near
    objects, twice, of the wrong class, and anywhere; all scores differ in their third decimal.
    """
    rng = np.random.default_rng(seed)
    names = [f"{i:06}" for i in range(6)]
    objects = {}
    for name in names:
        objects[name] = [("cat", 1, 1, 9, 9)] if name == names[0] else []
        for _ in range(rng.integers(0, 5)):
            x, y = rng.integers(1, 40), rng.integers(1, 28)
            w, h = rng.integers(8, 22, 2)
            kind = "cat" if rng.random() < 0.6 else "dog"
            objects[name].append((kind, x, y, x + w, y + h, rng.random() < 0.25))
    folder = voc_scene(folder, ids=names, objects=objects)
    scores = iter((rng.permutation(900) / 1000 + 0.05).tolist())
    outputs = []
    for name in names:
        boxes, classes = [], []
        for kind, x0, y0, x1, y1, *_ in objects[name]:
            for _ in range(rng.integers(0, 4)):
                boxes.append(np.array([x0 - 1, y0 - 1, x1, y1]) + rng.normal(0, 2, 4))
                classes.append(int((kind == "dog") ^ (rng.random() < 0.1)))
        for _ in range(rng.integers(0, 4)):
            x, y = rng.uniform(0, 40), rng.uniform(0, 28)
            boxes.append(np.array([x, y, x + 15, y + 12]))
            classes.append(int(rng.integers(0, 2)))
        found = Instances((HEIGHT, WIDTH))
        # They write down a decimal of each coordinate.
        found.pred_boxes = Boxes(torch.tensor(np.round(boxes, 1).reshape(-1, 4)))
        found.scores = torch.tensor([next(scores) for _ in classes], dtype=torch.float64)
        found.pred_classes = torch.tensor(classes, dtype=torch.long)
        outputs.append({"instances": found})
    return folder, outputs


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", range(12))
def test_voc_is_evaluated_as_detectron2_does(seed, year, tmp_path):
    folder, outputs = random_scene(tmp_path, seed)
    register_pascal_voc("theirs", str(folder), "test", year, ("cat", "dog"))
    MetadataCatalog.get("theirs").evaluator_type = "pascal_voc"
    records = DatasetCatalog.get("theirs")
    theirs = evaluated(PascalVOCDetectionEvaluator("theirs"), records, outputs)["bbox"]["AP50"]
    ours = evaluated(build_evaluator(configuration(tmp_path), "theirs"), records, outputs)["voc"]
    assert ours["AP50"] == pytest.approx(theirs, abs=1e-6) and 5 < theirs < 100


def plain_ap(detections, objects):
    """
    By loops, of one class: detections of images as (score, image, box), objects as (image, box,
    difficult). The area under the precision that is reached at a recall or beyond.
    """
    taken, right, wrong, curve = set(), 0, 0, []
    num = sum(not difficult for *_, difficult in objects)
    for _, image, box in sorted(detections, key=lambda d: -d[0]):  # Python's sort is stable.
        best, best_iou = None, 0.5
        for i, (of, other, _) in enumerate(objects):
            if of == image and iou(box, other) > best_iou:
                best, best_iou = i, iou(box, other)
        if best is not None and objects[best][2]:
            continue
        if best is not None and best not in taken:
            taken.add(best)
            right += 1
        else:
            wrong += 1
        curve.append((right / num, right / (right + wrong)))
    area, before = 0.0, 0.0
    for recall, _ in curve:
        area += (recall - before) * max(p for r, p in curve if r >= recall)
        before = recall
    return 100 * area


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    sizes = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return both / (sum(sizes) - both)


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("seed", range(6))
def test_ties_stay_in_the_order_of_the_images(seed, levels, tmp_path):
    """Of a few scores that many detections share."""
    folder, outputs = random_scene(tmp_path, seed)
    for output in outputs:
        found = output["instances"]
        found.scores = (found.scores * levels).floor() / levels
    name = f"voc:{folder}:test"
    register_datasets([name])
    records = DatasetCatalog.get(name)
    result = evaluated(build_evaluator(configuration(tmp_path), name), records, outputs)["voc"]
    for c, kind in enumerate(("cat", "dog")):
        detections, objects = [], []
        for i, (record, output) in enumerate(zip(records, outputs)):
            found = output["instances"][output["instances"].pred_classes == c]
            boxes = found.pred_boxes.tensor.float().tolist()
            detections += [(s, i, b) for s, b in zip(found.scores.tolist(), boxes)]
            objects += [
                (i, a["bbox"], a["iscrowd"]) for a in record["annotations"] if a["category_id"] == c
            ]
        assert result[f"AP50-{kind}"] == pytest.approx(plain_ap(detections, objects), abs=1e-4)


def test_the_sort_is_stable(tmp_path):
    """
    4,000 detections of one score, the right ones first: NumPy's own sort would mix them, each
    processor in its own way, and AP would be about a half of what it is.
    """
    num = 2000
    hits = np.array([1.0] * num + [0.0] * num)
    order = np.argsort(np.zeros(2 * num))
    mixed = average_precision(hits[order], num)
    assert average_precision(hits, num) == 1 and (mixed < 0.99 or (order == np.sort(order)).all())
    objects = [{"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": 0, "iscrowd": 0}]
    labels = [{"image_id": i, "annotations": objects * (i < num)} for i in range(2 * num)]
    MetadataCatalog.get("many").set(thing_classes=["cat"])
    evaluator = VOCEvaluator("many", labels)
    found = Instances((9, 9), pred_boxes=Boxes(torch.tensor([[0.0, 0, 9, 9]])))
    found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.long)
    outputs = [{"instances": found}] * len(labels)
    assert evaluated(evaluator, labels, outputs)["voc"]["AP50"] == 100
    back = labels[::-1]  # The order of the labels counts, not that in which images come.
    assert evaluated(evaluator, back, outputs)["voc"]["AP50"] == 100
    MetadataCatalog.remove("many")


def test_average_precision_by_hand():
    assert average_precision(np.array([1.0, 0, 1]), 2) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision(np.array([0.0, 1]), 1) == 0.5
    assert average_precision(np.array([]), 3) == 0
    eleven = average_precision(np.array([1.0, 0, 1]), 2, eleven_points=True)
    assert eleven == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert average_precision(np.array([]), 3, True) == 0


def test_hits_by_hand():
    objects = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 5], [20, 0, 30, 5.1], [40, 0, 50, 10]]
    boxes += [[60, 0, 70, 10], [40, 0, 50, 10]]
    found = first_hits(boxes, objects, [False, False, True])
    assert found[:4] == [1, 0, 0, 1] and found[5] == 0  # an IoU of 0.5 is not above it
    assert math.isnan(found[4]) and math.isnan(found[6])
    assert first_hits([], objects, [False] * 3) == [] and first_hits(boxes[:1], [], []) == [0]


# ---- several processes ---------------------------------------------------------------------------


def evaluate_in_two(rank, folder, names):
    processes.meet(rank, folder)
    results = []
    for name in names:
        register_datasets([name])
        records = DatasetCatalog.get(name)[rank::2]
        evaluator = build_evaluator(configuration(folder), name)
        results.append(evaluated(evaluator, records, map(detected, records)))
    (folder / f"results_{rank}").write_bytes(pickle.dumps(results))
    processes.leave(rank, folder)


def test_two_processes_evaluate_once(tmp_path):
    """On the same labels, which one of them mends."""
    scene = coco_scene(tmp_path, 4)
    ids(*range(8))(scene["annotations"])
    names = [write_coco(tmp_path, scene), f"voc:{voc_scene(tmp_path, ids=('1', '2', '3'))}:test"]
    forked.spawn(evaluate_in_two, tmp_path, names)
    first, second = (pickle.loads((tmp_path / f"results_{i}").read_bytes()) for i in range(2))
    assert [result["bbox"]["AP"] for result in first] == pytest.approx([100, 100])
    assert first[1]["voc"]["AP50"] == 100 and not any(second)
    labels = {file.name: file for file in tmp_path.glob("out/inference/*format.json")}
    assert len(labels) == 2
    for file in labels.values():
        assert min(a["id"] for a in json.loads(file.read_text())["annotations"]) == 1
