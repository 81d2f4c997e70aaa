"""
Wrong input and what is said of it, as a table. A line of it is a test; whoever finds a new fault
adds one.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from inputs import (
    add,
    annotation,
    cut,
    each,
    edit,
    folder_at,
    image,
    pipe_at,
    remove,
    replace,
    write,
)
from models import ROOT

COCO = "--train-data coco:train.json:images --test-data coco:test.json:images"
VOC = "--train-data voc:voc:train --test-data voc:voc:test"
BASE = [ROOT / "train_net.py", "--num-gpus", "0", "--config-file", "c.yaml"]
TRAIN, TRAIN_VOC = ([*BASE, *data.split()] for data in (COCO, VOC))


@dataclass(frozen=True)
class Case:
    name: str  # of the test
    said: str  # a regular expression of the last line; of all that is printed if the status is 0
    args: str = ""  # after those of the command
    spoil: Callable[[Path], object] = lambda folder: None  # the folder that the command is run in
    command: tuple = tuple(TRAIN)
    status: int = 1

    @property
    def listed(self) -> bool:
        """Whether what is said is looked for in all that is printed."""
        return self.status == 0 or "--check" in self.command

    @property
    def words(self) -> list[str]:
        return [*self.command, *shlex.split(self.args)]


def cases(table, command=TRAIN, status=1, group=""):
    """Of a dict from a name to (said, spoil) or (said, spoil, args)."""
    return [
        Case(
            f"{group} {name}".strip(),
            row[0],
            row[2] if row[2:] else "",
            row[1],
            tuple(command),
            status,
        )
        for name, row in table.items()
    ]


# ---- the command line and its keys -----------------------------------------------------------------

OVERRIDES = {
    "SOLVER.MAX_ITER 0": "SOLVER.MAX_ITER = 0; allowed: a whole number >= 1",
    "SOLVER.MAX_ITER -5": "SOLVER.MAX_ITER = -5",
    "SOLVER.MAX_ITER None": "SOLVER.MAX_ITER = None",
    "SOLVER.MAX_ITER many": "Type mismatch .* SOLVER.MAX_ITER",
    "SOLVER.MAX_ITER 1.5": "Type mismatch .* SOLVER.MAX_ITER",
    "SOLVER.MAX_ITER": "KEY VALUE pairs; these are not: SOLVER.MAX_ITER",
    "SOLVER.MAX_ITER=3": "KEY VALUE pairs; these are not: SOLVER.MAX_ITER=3",
    "SOLVER.MAX_ITER 3 --resume": "--resume stands after KEY VALUE pairs",
    "SOLVER.MAX_ITERS 3": "Non-existent key: SOLVER.MAX_ITERS.*--import",
    "solver.max_iter 3": "Non-existent key: solver.max_iter",
    "SOLVER 3": "SOLVER",
    "SOLVER.IMS_PER_BATCH 0": "SOLVER.IMS_PER_BATCH = 0; allowed: a whole number >= 1",
    "SOLVER.IMS_PER_BATCH -2": "SOLVER.IMS_PER_BATCH = -2",
    "SOLVER.CHECKPOINT_PERIOD 0": "SOLVER.CHECKPOINT_PERIOD = 0; allowed: a whole number >= 1",
    "SOLVER.BASE_LR -0.1": "SOLVER.BASE_LR = -0.1; allowed",
    "SOLVER.BASE_LR 1e999": "SOLVER.BASE_LR = inf",
    "SOLVER.BASE_LR nan": "Type mismatch .* SOLVER.BASE_LR",
    "SOLVER.BASE_LR 1e30": "diverged.*|infinite or NaN.* Lower SOLVER.BASE_LR",
    "SOLVER.MOMENTUM -1.0": "momentum",
    "SOLVER.WEIGHT_DECAY -1.0": "weight_decay",
    "SOLVER.STEPS '(2,1)'": r"SOLVER.STEPS = \(2, 1\); allowed: whole numbers",
    "SOLVER.STEPS '(3,)'": r"SOLVER.STEPS = \(3,\); SOLVER.MAX_ITER is not allowed",
    """SOLVER.STEPS '("a",)'""": r"SOLVER.STEPS = \('a',\); allowed",
    "SOLVER.WARMUP_ITERS -1": "SOLVER.WARMUP_ITERS = -1; allowed",
    "SOLVER.WARMUP_METHOD cubic": "SOLVER.WARMUP_METHOD = 'cubic'; allowed: 'constant' or 'linear'",
    "SOLVER.LR_SCHEDULER_NAME No": "Unknown LR scheduler: No",
    "SOLVER.ACCUMULATION_STEPS 0": "SOLVER.ACCUMULATION_STEPS = 0; allowed",
    "SOLVER.CLIP_GRADIENTS.ENABLED True SOLVER.CLIP_GRADIENTS.CLIP_TYPE x": "'x' is not a valid",
    "SOLVER.REFERENCE_WORLD_SIZE 8": "REFERENCE_WORLD_SIZE",
    "SEED x": "Type mismatch .* SEED",
    "SEED 99999999999": "SEED = 99999999999; allowed: a whole number below",
    "OUTPUT_DIR ''": "OUTPUT_DIR = ''; allowed: the name of a folder",
    "OUTPUT_DIR c.yaml": "OUTPUT_DIR = 'c.yaml' cannot be written to: .*exists",
    "OUTPUT_DIR c.yaml/out": "OUTPUT_DIR = 'c.yaml/out' cannot be written to: ",
    "OUTPUT_DIR /proc/nowhere": "OUTPUT_DIR = '/proc/nowhere' cannot be written to: ",
    "DATALOADER.NUM_WORKERS -1": "DATALOADER.NUM_WORKERS = -1; allowed",
    "DATALOADER.SAMPLER_TRAIN No": "Unknown training sampler: No",
    "INPUT.FORMAT XYZ": "INPUT.FORMAT = 'XYZ'; allowed: 'BGR'",
    "INPUT.MIN_SIZE_TRAIN '()'": r"INPUT.MIN_SIZE_TRAIN = \(\); allowed: one or more",
    "INPUT.MIN_SIZE_TRAIN '(-1,)'": r"INPUT.MIN_SIZE_TRAIN = \(-1,\)",
    "INPUT.MIN_SIZE_TRAIN 48": "Type mismatch .* INPUT.MIN_SIZE_TRAIN",
    "INPUT.MIN_SIZE_TEST -3": "INPUT.MIN_SIZE_TEST = -3",
    "INPUT.MAX_SIZE_TRAIN 0": "INPUT.MAX_SIZE_TRAIN = 0",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING all": "AssertionError: all",
    "INPUT.RANDOM_FLIP both": "INPUT.RANDOM_FLIP = 'both'; allowed: 'horizontal'",
    "INPUT.MASK_FORMAT rle": "INPUT.MASK_FORMAT = 'rle'; allowed: 'polygon'",
    "INPUT.CROP.ENABLED True INPUT.CROP.TYPE x": "AssertionError",
    "MODEL.PIXEL_STD '[1.0,0.0,1.0]'": r"MODEL.PIXEL_STD = \[1.0, 0.0, 1.0\]; allowed",
    "MODEL.PIXEL_MEAN '[1.0]'": "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD differ in length",
    "MODEL.DEVICE abacus": "MODEL.DEVICE = 'abacus': .*abacus",
    "MODEL.DEVICE cuda": "MODEL.DEVICE = 'cuda', and PyTorch can use no GPU here; allowed: 'cpu'",
    "MODEL.META_ARCHITECTURE No": "No object named 'No' found in 'META_ARCH' registry",
    "MODEL.BACKBONE.NAME No": "No object named 'No' found in 'BACKBONE' registry",
    "MODEL.PROPOSAL_GENERATOR.NAME No": "No object named 'No' found in 'PROPOSAL_GENERATOR'",
    "MODEL.ROI_HEADS.NAME No": "No object named 'No' found in 'ROI_HEADS' registry",
    "MODEL.ROI_BOX_HEAD.NAME No": "No object named 'No' found in 'ROI_BOX_HEAD' registry",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE No": "Unknown pooler type: No",
    "MODEL.RESNETS.DEPTH 77": "MODEL.RESNETS.DEPTH|key 77",
    "MODEL.RESNETS.NORM No": "No",
    "MODEL.ROI_HEADS.IN_FEATURES '(\"p9\",)'": "p9",
    "MODEL.FPN.IN_FEATURES '(\"res9\",)'": "res9",
    "MODEL.ANCHOR_GENERATOR.SIZES '[[8],[16]]'": "feature maps|len|anchor",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 0": "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 0",
    "MODEL.ROI_HEADS.OHEM 5": "MODEL.ROI_HEADS.OHEM",
    "MODEL.ROI_HEADS.OHEM.NMS_TRESH 0.5": "NMS_TRESH.*did you mean NMS_THRESH",
    "MODEL.ROI_HEADS.OHEM.NMS_THRESH 2.0": "MODEL.ROI_HEADS.OHEM.NMS_THRESH = 2.0; allowed",
    "MODEL.ROI_HEADS.OHEM.WARMUP_ITERS 3": "WARMUP_ITERS = 3; allowed: below SOLVER.MAX_ITER",
    "MODEL.ROI_HEADS.OHEM.BUDGET none": "MODEL.ROI_HEADS.OHEM.BUDGET = 'none'; allowed",
    "MODEL.MASK_ON True": "annotations without a segmentation, such as images/a.jpg",
    "MODEL.KEYPOINT_ON True": "keypoint",
    "MODEL.LOAD_PROPOSALS True": "DATASETS has no proposal file for coco:train.json:images",
    "TEST.EXPECTED_RESULTS '[[\"bbox\"]]'": "TEST.EXPECTED_RESULTS = .*; allowed: a list",
    "MODEL.WEIGHTS gone.pth": "gone.pth does not exist; it should be MODEL.WEIGHTS",
    "MODEL.WEIGHTS images": "images is no file; it should be MODEL.WEIGHTS",
    "MODEL.WEIGHTS images/a.jpg": "images/a.jpg cannot be loaded",
    "MODEL.WEIGHTS nope://x.pkl": "nope://x.pkl cannot be loaded",
    "--classes cat dog SEED 1": "dog: .* this is no key.* --classes ...,dog",
    "--classes cat dog": "dog: .* --classes ...,dog",
    "--classes cat dog --resume": "dog: .* --classes ...,dog",
    "--import no_such_module": "--import no_such_module: .* PYTHONPATH",
    "--train-data gone": "Data set 'gone' is not registered. Name it coco:.*--import",
    "--test-data gone": "Data set 'gone' is not registered",
    "--train-data coco:train.json": "coco:train.json' is not of the form coco:",
    "--train-data coco:gone.json:images": "gone.json does not exist; it should be the annotations",
    "--train-data coco:train.json:gone": "gone does not exist; it should be the folder of images",
    "--train-data coco:images:images": "images is no file; it should be the annotations",
    "--train-data coco:c.yaml:images": "c.yaml is not in COCO format",
    "--train-data coco_2017_val": "instances_val2017.json does not exist",
    "--config-file gone.yaml": "--config-file: gone.yaml: no such file, and no such name",
    "--config-file images": "images: no such file",
    "--config-file train_net.py": "train_net.py: no such file",
    "--config-file images/a.jpg": "images/a.jpg: ",
}
USAGE = {  # argparse's own errors, which end with the status 2
    "--classes ''": "argument --classes: '' has an empty name; allowed: cat,traffic light",
    "--classes cat,,dog": "argument --classes: 'cat,,dog' has an empty name",
    "--classes": "argument --classes: expected one argument",
    "--num-gpus x": "argument --num-gpus: invalid int value: 'x'",
}
ALONE = {  # instead of the data of the others
    "--test-data coco:test.json:images": "DATASETS.TRAIN is empty: .* --train-data",
    "--eval-only --train-data coco:train.json:images": "DATASETS.TEST is empty: .* --test-data",
    "": "instances_train2017.json does not exist; it should be the annotations of coco_2017_train",
    "DATASETS.TRAIN '()'": "DATASETS.TRAIN is empty",
    "DATASETS.TRAIN '(3,)'": "DATASETS.TRAIN = .3,.; allowed: names of data sets",
}
CLASSES = {
    "--classes dog": r"annotations name \['cat'\], .* not among the classes",
    "--classes cat,cat": "--classes has 'cat' more than once",
}

# ---- configuration files ----------------------------------------------------------------------------

CONFIGS = {
    "empty": ("c.yaml: there are no lines KEY: VALUE", write("c.yaml", "")),
    "a list": ("c.yaml: there are no lines KEY: VALUE", write("c.yaml", "- 1\n- 2\n")),
    "a word": ("c.yaml: there are no lines KEY: VALUE", write("c.yaml", "MODEL")),
    "torn": ("c.yaml: while parsing", write("c.yaml", "MODEL: {DEVICE: cpu")),
    "binary": ("c.yaml: ", write("c.yaml", b"\x00\xff\xfe")),
    "tabs": ("c.yaml: .*line 2", write("c.yaml", "MODEL:\n\tDEVICE: cpu\n")),
    "an unknown key": (
        "c.yaml: Non-existent config key: MODEL.MINE.*--import",
        write("c.yaml", "MODEL: {MINE: 1}"),
    ),
    "a wrong type": (
        "c.yaml: Type mismatch .*MODEL.DEVICE",
        write("c.yaml", "MODEL: {DEVICE: [1]}"),
    ),
    "a node as a number": ("c.yaml: .* in a node of it", write("c.yaml", "MODEL: 5")),
    "NaN": (
        "SOLVER.BASE_LR = nan; allowed",
        replace("c.yaml", "SOLVER: {", "SOLVER: {BASE_LR: .nan, "),
    ),
    "no base": ("c.yaml: .*gone.yaml", write("c.yaml", "_BASE_: gone.yaml")),
    "its own base": (
        "c.yaml: it is nested too deeply, or includes itself",
        write("c.yaml", "_BASE_: c.yaml"),
    ),
    "nested deeply": ("c.yaml: it is nested too deeply", write("c.yaml", "A: " + "[" * 5000)),
    "a newer version": ("c.yaml: .*v9 config", write("c.yaml", "VERSION: 9")),
    "LazyConfig": (
        "c.py: this is a LazyConfig.* in YAML",
        write("c.py", "model = None"),
        "--config-file c.py",
    ),
    "a saved LazyConfig": ("c.yaml: this is a LazyConfig", write("c.yaml", "model: {_target_: x}")),
    "a pipe": ("pipe.yaml: no such file", pipe_at("pipe.yaml"), "--config-file pipe.yaml"),
}

# ---- COCO's JSON --------------------------------------------------------------------------------------


def twice(part):
    return edit(lambda data: data[part].append(data[part][0]))


def without(part):
    return edit(lambda data: data.pop(part))


def every_box(box):
    return edit(lambda data: [a.update(bbox=box) for a in data["annotations"]])


COCO_FILES = {
    "text": ("train.json is not in COCO format: ", write("train.json", "hello")),
    "empty": ("train.json is not in COCO format: ", write("train.json", "")),
    "torn": ("train.json is not in COCO format: ", cut("train.json", 200)),
    "binary": ("train.json is not in COCO format: ", write("train.json", b"\xff\xfe\x00")),
    "nested deeply": (
        "train.json is not in COCO format: it is nested too deeply",
        write("train.json", "[" * 100000),
    ),
    "a list": ("train.json is not in COCO format: .*list", write("train.json", "[]")),
    "a pipe": ("train.json is no file", pipe_at("train.json")),
    "no images": ("train.json is not in COCO format: .*'images'", without("images")),
    "no categories": ("train.json is not in COCO format: .*'categories'", without("categories")),
    "no annotations": ("coco:train.json:images: no object is left", without("annotations")),
    "empty categories": (
        "train.json is not in COCO format: .*empty.*'categories'",
        edit(lambda d: d.update(categories=[])),
    ),
    "empty images": (
        "coco:train.json:images.* is empty",
        edit(lambda d: d.update(images=[], annotations=[])),
    ),
    "empty annotations": (
        "coco:train.json:images: no object is left",
        edit(lambda d: d.update(annotations=[])),
    ),
    "images as a dict": (
        "train.json is not in COCO format: .*'images'",
        edit(lambda d: d.update(images={})),
    ),
    "images of numbers": (
        "train.json is not in COCO format: .*'images'",
        edit(lambda d: d.update(images=[1])),
    ),
    "annotations of null": (
        "train.json .*'annotations'",
        edit(lambda d: d.update(annotations=None)),
    ),
    "category id twice": (
        "train.json .*ids that several of the categories have, such as id 1",
        twice("categories"),
    ),
    "image id twice": (
        "train.json .*ids that several of the images have, such as id 1",
        twice("images"),
    ),
    "annotation id twice": ("train.json.* not unique", twice("annotations")),
    "category id null": (
        "train.json .*ids of categories that are no whole numbers, such as None",
        edit(lambda d: d["categories"][0].update(id=None)),
    ),
    "image ids of two kinds": (
        "train.json .*ids of images that are no whole numbers, such as 'b'",
        image(id="b"),
    ),
    "image id a list": ("train.json .*ids of images that are no whole numbers", image(id=[2])),
    "category without a name": (
        "train.json .*categories without 'name'",
        edit(lambda d: d["categories"][0].pop("name")),
    ),
    "category name a number": (
        "train.json: the name of a category is 5",
        edit(lambda d: d["categories"][0].update(name=5)),
    ),
    "image without a file_name": ("train.json .*images without 'file_name'", image(file_name=None)),
    "file_name a number": ("train.json .*file_name.* 7 of image 2", image(file_name=7)),
    "image without a width": ("train.json .*images without 'width'", image(width=None)),
    "width text": ("b.jpg: .*'64'", image(width="64")),
    "width 0": ("b.jpg: .*0", image(width=0)),
    "another width": ("b.jpg: Mismatched image shape.* expect \\(65, 48\\)", image(width=65)),
    "another file": (
        "images that are not there, .*such as images/no.jpg",
        image(file_name="no.jpg"),
    ),
    "a folder as file_name": (
        "images that are not there, or are no files, such as images/",
        image(file_name=""),
    ),
    "annotation without an id": (
        "train.json .*annotations without 'id'.* of b.jpg",
        annotation(id=None),
    ),
    "annotation without an image_id": (
        "train.json .*annotations without 'image_id'",
        annotation(image_id=None),
    ),
    "annotation without a category_id": (
        "train.json .*without 'category_id'.* of b.jpg",
        annotation(category_id=None),
    ),
    "annotation without a bbox": ("train.json .*without 'bbox'.* of b.jpg", annotation(bbox=None)),
    "category not there": (
        "train.json .*category ids .* such as 9, annotation 2 of b.jpg",
        annotation(category_id=9),
    ),
    "category text": (
        "train.json .*category ids .* such as 'cat', annotation 2 of b.jpg",
        annotation(category_id="cat"),
    ),
    "category a list": (
        "train.json .*category ids .* such as \\[1\\]",
        annotation(category_id=[1]),
    ),
    "bbox text": ("train.json .*boxes .*, annotation 2 of b.jpg", annotation(bbox="1 2 3 4")),
    "bbox a dict": ("train.json .*boxes .*, annotation 2 of b.jpg", annotation(bbox={"x": 1})),
    "bbox empty": ("train.json .*boxes .*, annotation 2 of b.jpg", annotation(bbox=[])),
    "bbox of 3": (
        "bbox is not four numbers, such as images/b.jpg: \\[1, 2, 3\\]",
        annotation(bbox=[1, 2, 3]),
    ),
    "bbox of 5": (
        "bbox is not four numbers, such as images/b.jpg",
        annotation(bbox=[1, 2, 3, 4, 5]),
    ),
    "bbox of texts": (
        "bbox is not four numbers, such as images/b.jpg",
        annotation(bbox=["1", "2", "3", "4"]),
    ),
    "bbox of null": (
        "bbox is not four numbers, such as images/b.jpg",
        annotation(bbox=[1, 2, 3, [4]]),
    ),
    "bbox of huge numbers": (
        "bbox is not four numbers, such as images/b.jpg",
        annotation(bbox=[1, 2, 3, 10**400]),
    ),
    "iscrowd text": (
        "iscrowd is neither 0 nor 1, such as images/b.jpg: '0'",
        annotation(iscrowd="0"),
    ),
    "iscrowd 2": ("iscrowd is neither 0 nor 1, such as images/b.jpg: 2", annotation(iscrowd=2)),
    "ignored": ('train.json.*"ignore"', annotation(ignore=1)),
    "segmentation without counts": (
        "train.json.*'counts'",
        annotation(segmentation={"size": [48, 64]}),
    ),
    "all boxes not finite": (
        "coco:train.json:images: no object is left.*3 boxes that are not finite.* images/a.jpg",
        every_box([float("nan"), 1, 2, 3]),
    ),
    "all boxes infinite": (
        "no object is left.*3 boxes that are not finite",
        every_box([1, 1, float("inf"), 3]),
    ),
    "all boxes empty": ("no object is left.*3 boxes without an area", every_box([1, 1, 0, 3])),
    "all boxes negative": (
        "no object is left.*3 boxes without an area",
        every_box([20, 20, -5, -5]),
    ),
    "all boxes outside": (
        "no object is left.*3 boxes outside the image",
        every_box([100, 100, 5, 5]),
    ),
    "all crowds": (
        "coco:train.json:images: no object is left",
        edit(lambda d: [a.update(iscrowd=1) for a in d["annotations"]]),
    ),
    "annotations of other images": (
        "coco:train.json:images: no object is left",
        edit(lambda d: [a.update(image_id=77) for a in d["annotations"]]),
    ),
    "other classes in the test data": (
        "must share their classes",
        edit(lambda d: d["categories"][0].update(name="dog"), "test"),
    ),
    "test data without area": (
        "test.json .*annotations without 'area'.* of a.jpg",
        edit(lambda d: d["annotations"][0].pop("area"), "test"),
    ),
    "test data without iscrowd": (
        "test.json .*annotations without 'iscrowd'",
        edit(lambda d: d["annotations"][0].pop("iscrowd"), "test"),
    ),
    "area text in the test data": (
        "test.json .*area or iscrowd is no number",
        edit(lambda d: d["annotations"][0].update(area="6"), "test"),
    ),
    "image of the test data gone": (
        "coco:test.json:images: .*not there.* images/no.jpg",
        edit(lambda d: d["images"][0].update(file_name="no.jpg"), "test"),
    ),
}
LEFT_OUT = {  # The training goes on, and this is said before it begins.
    "a box not finite": (
        "coco:train.json:images: 1 boxes that are not finite, which are left out, such as images/b.jpg: \\[nan",
        annotation(bbox=[float("nan"), 1, 2, 3]),
    ),
    "an infinite box": (
        "1 boxes that are not finite, .* images/b.jpg: \\[1, 1, inf",
        annotation(bbox=[1, 1, float("inf"), 3]),
    ),
    "a box without an area": (
        "1 boxes without an area, .* images/b.jpg",
        annotation(bbox=[1, 1, 0, 3]),
    ),
    "a negative box": ("1 boxes without an area, .* images/b.jpg", annotation(bbox=[9, 9, -3, 3])),
    "a box outside": ("1 boxes outside the image, .* images/b.jpg", annotation(bbox=[64, 1, 3, 3])),
    "a box left of the image": (
        "1 boxes outside the image, .* images/b.jpg",
        annotation(bbox=[-9, 1, 9, 3]),
    ),
    "a crowd not finite": (
        "1 boxes that are not finite, .* images/b.jpg",
        add(
            "annotations",
            {
                "id": 9,
                "image_id": 2,
                "category_id": 1,
                "iscrowd": 1,
                "area": 1,
                "bbox": [float("nan")] * 4,
            },
        ),
    ),
    "an annotation of no image": (
        "3 annotations, but only 2 of them match",
        annotation(image_id=77),
    ),
    "a box of the test data": (
        "coco:test.json:images: 1 boxes without an area",
        edit(lambda d: d["annotations"][0].update(bbox=[1, 1, 0, 0]), "test"),
    ),
}

# ---- images --------------------------------------------------------------------------------------------

IMAGES = {
    "torn": ("images/b.jpg: .*(?i:truncated)", cut("images/b.jpg", 500)),
    "only a head": ("images/b.jpg: ", cut("images/b.jpg", 30)),
    "empty": ("images/b.jpg: .*cannot identify", write("images/b.jpg", "")),
    "text": ("images/b.jpg: .*cannot identify", write("images/b.jpg", "no picture")),
    "gone": ("not there, .* images/b.jpg", remove("images/b.jpg")),
    "a folder": ("are no files, such as images/b.jpg", folder_at("images/b.jpg")),
    "a pipe": ("are no files, such as images/b.jpg", pipe_at("images/b.jpg")),
    "a dangling link": (
        "not there, .* images/b.jpg",
        each(remove("images/b.jpg"), lambda f: (f / "images/b.jpg").symlink_to("no")),
    ),
    "of another size": (
        "images/b.jpg.*got \\(8, 8\\), expect \\(64, 48\\)",
        write("images/b.jpg", np.zeros((8, 8, 3), np.uint8)),
    ),
    "turned by its head": (
        "images/b.jpg.*got \\(48, 64\\), expect \\(64, 48\\)",
        write("images/b.jpg", np.zeros((64, 48, 3), np.uint8)),
    ),
    "a torn PNG": (
        "images/b.png: ",
        each(
            write("images/b.png", np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)),
            cut("images/b.png", 900),
            image(file_name="b.png"),
        ),
    ),
    "a bomb": (
        "images/b.png: DecompressionBombError",
        each(
            lambda f: bomb(f / "images/b.png"), image(file_name="b.png", width=20000, height=20000)
        ),
    ),
    "no folder": ("not there", image(file_name="x/b.jpg")),
}


def bomb(path):
    """A PNG that claims to be of 20,000 x 20,000 pixels."""
    import struct
    import zlib

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


# ---- Pascal VOC -----------------------------------------------------------------------------------------

XML = "voc/Annotations/b.xml"


def number(text):
    return replace(XML, "<xmin>11<", f"<xmin>{text}<")


VOC_FILES = {
    "not XML": ("b.xml is not XML", write(XML, "hello")),
    "empty": ("b.xml is not XML", write(XML, "")),
    "torn": ("b.xml is not XML", cut(XML, 100)),
    "another encoding": (
        "b.xml is not XML",
        write(XML, '<?xml version="1.0" encoding="klingon"?><a/>'),
    ),
    "an entity bomb": (
        "b.xml is not XML|b.xml is not in Pascal VOC format",
        write(XML, "<!DOCTYPE a [<!ENTITY x 'xxxx'>]><a>&y;</a>"),
    ),
    "another root": (
        "b.xml is not in Pascal VOC format: <size/width> is None",
        write(XML, "<html/>"),
    ),
    "no size": ("b.xml .*<size/width> is None", replace(XML, "<width>64</width>", "")),
    "another size": ("b.jpg.*expect \\(65, 48\\)", replace(XML, "<width>64<", "<width>65<")),
    "no name": ("b.xml .*the <name> of an <object> is empty", replace(XML, ">cat<", "><")),
    "no pose": ("b.xml .*no <pose>", replace(XML, "<pose>Unspecified</pose>", "")),
    "no box": ("b.xml .*<bndbox/ymax> is None", replace(XML, "<ymax>30</ymax>", "")),
    "a number with a comma": ("b.xml .*<bndbox/xmin> is '1,5'", number("1,5")),
    "a number of another alphabet": ("b.xml .*<bndbox/xmin> is '²'", number("²")),
    "two signs": ("b.xml .*<bndbox/xmin> is '--5'", number("--5")),
    "a fraction": ("b.xml .*<bndbox/xmin> is '1.5'", number("1.5")),
    "NaN": ("b.xml .*<bndbox/xmin> is 'nan'", number("nan")),
    "a pipe": ("b.xml is no file", pipe_at(XML)),
    "a folder": ("b.xml is no file", folder_at(XML)),
    "annotation gone": (
        "b.xml does not exist; it should be the annotation of b, listed in",
        remove(XML),
    ),
    "image gone": (
        "voc:voc:test: .*not there, .*voc/JPEGImages/b.jpg",
        remove("voc/JPEGImages/b.jpg"),
    ),
    "torn image": ("voc/JPEGImages/b.jpg: .*(?i:truncated)", cut("voc/JPEGImages/b.jpg", 500)),
    "list gone": (
        "train.txt does not exist; it should be the list of images",
        remove("voc/ImageSets/Main/train.txt"),
    ),
    "list empty": ("train.txt lists 0 image", write("voc/ImageSets/Main/train.txt", "")),
    "list of one": (
        "train.txt lists 1 image; Detectron2 reads two or more",
        write("voc/ImageSets/Main/train.txt", "a"),
    ),
    "list of two columns": (
        "Annotations/-1.xml does not exist",
        write("voc/ImageSets/Main/train.txt", "a -1\nb 1\n"),
    ),
    "list a folder": ("train.txt", folder_at("voc/ImageSets/Main/train.txt")),
    "all boxes outside": (
        "no object is left.*boxes outside the image",
        lambda f: [
            replace(
                f"voc/Annotations/{n}.xml",
                "<xmin>11</xmin><ymin>11</ymin><xmax>40<",
                "<xmin>111</xmin><ymin>11</ymin><xmax>140<",
            )(f)
            for n in "abc"
        ],
    ),
    "no annotations": (
        "voc/Annotations does not exist",
        lambda f: (f / "voc/Annotations").rename(f / "voc/other"),
    ),
}

# ---- checkpoints ------------------------------------------------------------------------------------------

WEIGHTS = {
    "a list": ("w.pth cannot be loaded", write("w.pth", [1, 2])),
    "a number": ("w.pth cannot be loaded", write("w.pth", 5)),
    "model None": ("w.pth cannot be loaded", write("w.pth", {"model": None})),
    "model a list": ("w.pth cannot be loaded", write("w.pth", {"model": [1]})),
    "parameters that are numbers": (
        "w.pth cannot be loaded",
        write("w.pth", {"model": {"backbone.fpn_output2.weight": 5}}),
    ),
    "empty": ("w.pth cannot be loaded", write("w.pth", "")),
    "text": ("w.pth cannot be loaded", write("w.pth", "no weights at all")),
    "torn": ("w.pth cannot be loaded", each(write("w.pth", {"model": {}}), cut("w.pth", 300))),
    "a pipe": ("w.pth is no file", pipe_at("w.pth")),
}

# ---- while it trains, and in processes of their own --------------------------------------------------

LATER = {
    "in a worker": (
        "images/b.jpg: .*(?i:truncated)",
        cut("images/b.jpg", 500),
        "DATALOADER.NUM_WORKERS 2",
    ),
    "in the evaluation": (
        "images/z.jpg: .*cannot identify",
        each(
            write("images/z.jpg", "no picture"),
            edit(lambda d: d["images"][0].update(file_name="z.jpg"), "test"),
        ),
    ),
    "in the evaluation alone": (
        "images/z.jpg: .*cannot identify",
        each(
            write("images/z.jpg", "no picture"),
            edit(lambda d: d["images"][0].update(file_name="z.jpg"), "test"),
        ),
        "--eval-only",
    ),
}

# ---- --check, which lists all that it finds ----------------------------------------------------------

CHECKED = {
    "nothing": ("coco:train.json:images: 3 images\n(?s:.*)found nothing", lambda folder: None),
    "boxes": (
        "1 boxes that are not finite, which are left out\n    images/b.jpg: \\[nan",
        annotation(bbox=[float("nan"), 1, 2, 3]),
    ),
}
CHECKED_FAULTS = {
    "images": (
        "images/a.jpg: .*\n    images/b.jpg: (?s:.*)kinds: 2",  # of both data sets
        each(cut("images/a.jpg", 500), write("images/b.jpg", "")),
    ),
    "keys": (
        "SEED = .*\n    SOLVER.MAX_ITER = 0; (?s:.*)kinds: 1",
        lambda folder: None,
        "SEED 9999999999 SOLVER.MAX_ITER 0",
    ),
    "data and keys": (
        "SOLVER.MAX_ITER = 0(?s:.*)ids that several of the images have\n    id 1\n(?s:.*)kinds: 3",
        each(twice("images"), remove("images/c.jpg")),
        "SOLVER.MAX_ITER 0",
    ),
    "all of JSON": (
        "images without 'height'\n(?s:.*)without 'bbox'\n(?s:.*)kinds: 2",
        each(annotation(bbox=None), image(height=None)),
    ),
    "a data set that is gone": (
        "gone.json does not exist(?s:.*)kinds: 1",
        lambda folder: None,
        "--train-data coco:gone.json:images",
    ),
    "no object": ("data sets without an object", every_box([1, 1, 0, 0])),
    "the first of many": (
        "21 images that are not there(?s:.*)and 1 more",
        edit(
            lambda d: d["images"].extend(
                {**d["images"][0], "id": 10 + i, "file_name": f"{i}.jpg"} for i in range(21)
            )
        ),
    ),
}
CHECKED_VOC = {
    "all files": (
        "a.xml (?s:.*)b.xml (?s:.*)kinds: 2",
        each(cut("voc/Annotations/a.xml", 9), cut(XML, 9)),
    ),
    "images": ("voc/JPEGImages/b.jpg: ", cut("voc/JPEGImages/b.jpg", 500)),
}

# ---- the tools -----------------------------------------------------------------------------------------

INSPECT = ["-m", "ohem_d2", "inspect", "--config-file", "c.yaml"]
INSPECTED = {
    "torn image": (
        "images/b.jpg: .*(?i:truncated)",
        cut("images/b.jpg", 500),
        "--dataset coco:train.json:images",
    ),
    "category twice": (
        "categories have, such as id 1",
        twice("categories"),
        "--dataset coco:train.json:images",
    ),
    "bbox of 3": (
        "four numbers, such as images/b.jpg",
        annotation(bbox=[1, 2, 3]),
        "--dataset coco:train.json:images",
    ),
    "iscrowd text": (
        "iscrowd is neither 0 nor 1",
        annotation(iscrowd="0"),
        "--dataset coco:train.json:images",
    ),
    "a pipe": (
        "images/p.jpg is no file",
        pipe_at("images/p.jpg"),
        "--image images/p.jpg --no-objects",
    ),
    "a bomb": (
        "images/p.png: DecompressionBombError",
        lambda f: bomb(f / "images/p.png"),
        "--image images/p.png --no-objects",
    ),
    "XML with another alphabet": (
        "b.xml .*'²'",
        number("²"),
        f"--image images/b.jpg --annotations {XML} --classes cat",
    ),
    "classes with blanks": (
        "dog: .* --classes ...,dog",
        lambda f: None,
        "--dataset x --classes cat dog",
    ),
    "weights a list": (
        "w.pth cannot be loaded",
        write("w.pth", [1]),
        "--image images/a.jpg --no-objects --weights w.pth",
    ),
    "weights of model None": (
        "w.pth cannot be loaded",
        write("w.pth", {"model": None}),
        "--image images/a.jpg --no-objects --weights w.pth",
    ),
    "weights a pipe": (
        "w.pth is no file",
        pipe_at("w.pth"),
        "--image images/a.jpg --no-objects --weights w.pth",
    ),
    "an unknown key": (
        "Non-existent key: MODEL.MINE",
        lambda f: None,
        "--image images/a.jpg --no-objects MODEL.MINE 1",
    ),
    "output in a file": (
        "c.yaml.* cannot be written: .*--output",
        lambda f: None,
        "--image images/a.jpg --no-objects --output c.yaml/x",
    ),
}
REPORT = ["-m", "ohem_d2", "report", "run", "--images", "0"]


def metrics(*lines):
    return write("run/metrics.json", "\n".join(lines))


ROWS = [f'{{"iteration": {i}, "total_loss": %s, "ohem/cut": %s}}' for i in (19, 39)]
REPORTED_FAULTS = {
    "no folder": ("run/metrics.json does not exist", lambda folder: None),
    "empty": ("run/metrics.json has no complete line", metrics("")),
    "binary": ("run/metrics.json has no complete line", write("run/metrics.json", b"\xff\x00")),
    "nested deeply": ("run/metrics.json has no complete line", metrics("[" * 100000)),
    "a list": ("run/metrics.json has no complete line", metrics("[1, 2]")),
    "a pipe": (
        "run/metrics.json does not exist|is no file",
        each(metrics(""), pipe_at("run/metrics.json")),
    ),
    "output in a folder": (
        "run/report.html cannot be written",
        each(metrics(ROWS[0] % (1, 1)), lambda f: (f / "run/report.html").mkdir()),
    ),
}
REPORTED = {
    "huge values": ("report  run/report.html", metrics(*(row % (1e308, -1e308) for row in ROWS))),
    "values that are none": (
        "report  run/report.html",
        metrics(*(row % ('"x"', 1) for row in ROWS)),
    ),
    "NaN": ("report  run/report.html", metrics(*(row % ("NaN", "Infinity") for row in ROWS))),
    "a line nested deeply": (
        "1 line\\(s\\) of metrics.json",
        metrics(*(row % (1, 1) for row in ROWS), "[" * 100000),
    ),
    "a configuration that is none": (
        "Without classes and hardest images: .*config.yaml",
        each(
            metrics(*(row % (1, 1) for row in ROWS)),
            write("run/config.yaml", ""),
            write("run/model_final.pth", {}),
        ),
        "--images 2",
    ),
}

# ---- the project of the paper --------------------------------------------------------------------------

DATA = "DATASETS.TRAIN '(\"coco:train.json:images\",)' DATASETS.TEST '(\"coco:test.json:images\",)'"
PAPER = [ROOT / "projects/paper/train.py", "--num-gpus", "0", "--config-file", "c.yaml"]
PAPERS = {
    "no configuration": ("gone.yaml: no such file", lambda f: None, "--config-file gone.yaml"),
    "empty": ("c.yaml: there are no lines KEY: VALUE", write("c.yaml", "")),
    "an unknown key": ("Non-existent key: MINE", lambda f: None, "MINE.OWN 1"),
    "a trainer that is none": (
        "SOLVER.TRAINER = 'No'; allowed: ",
        lambda f: None,
        "SOLVER.TRAINER No",
    ),
    "data that is gone": (
        "gone.json does not exist",
        lambda f: None,
        "DATASETS.TRAIN '(\"coco:gone.json:images\",)'",
    ),
    "classes that differ": (
        "share their classes",
        edit(lambda d: d["categories"][0].update(name="dog"), "test"),
        DATA,
    ),
    "torn image": ("images/b.jpg: .*(?i:truncated)", cut("images/b.jpg", 500), DATA),
    "all boxes outside": ("no object is left", every_box([100, 100, 5, 5]), DATA),
    "no GPU": (
        "MODEL.DEVICE = 'cuda', and there is no GPU",
        lambda f: None,
        f"{DATA} MODEL.DEVICE cuda",
    ),
    "no weights": ("gone.pth does not exist", lambda f: None, f"{DATA} MODEL.WEIGHTS gone.pth"),
    "scales": (
        "TEST.MULTI_SCALE.MAX_SIZE|MULTI_SCALE",
        lambda f: None,
        f"{DATA} TEST.MULTI_SCALE.ENABLED True TEST.MULTI_SCALE.MAX_SIZE 0",
    ),
    "output": (
        "OUTPUT_DIR = 'c.yaml' cannot be written to",
        lambda f: None,
        f"{DATA} OUTPUT_DIR c.yaml",
    ),
    "no proposals": ("PROPOSAL_FILES_TRAIN", lambda f: None, f"{DATA} MODEL.LOAD_PROPOSALS True"),
}

TABLE = [
    *(Case(args, said, args) for args, said in OVERRIDES.items()),
    *(Case(args, said, args, status=2) for args, said in USAGE.items()),
    *(Case(f"alone {args}", said, args, command=tuple(BASE)) for args, said in ALONE.items()),
    *(Case(f"VOC {a}", said, a, command=tuple(TRAIN_VOC)) for a, said in CLASSES.items()),
    *cases(CONFIGS, group="config:"),
    *cases(COCO_FILES, group="COCO:"),
    *cases(LEFT_OUT, status=0, group="left out:"),
    *cases(IMAGES, group="image:"),
    *cases(VOC_FILES, TRAIN_VOC, group="VOC:"),
    *cases(WEIGHTS, [*TRAIN, "MODEL.WEIGHTS", "w.pth"], group="weights:"),
    *cases(LATER, group="later:"),
    *cases(CHECKED, [*TRAIN, "--check"], 0, group="check:"),
    *cases(CHECKED_FAULTS, [*TRAIN, "--check"], group="check finds:"),
    *cases(CHECKED_VOC, [*TRAIN_VOC, "--check"], group="check finds of VOC:"),
    *cases(INSPECTED, INSPECT, group="inspect:"),
    *cases(REPORTED_FAULTS, REPORT, group="report:"),
    *cases(REPORTED, REPORT, 0, group="report goes on:"),
    *cases(PAPERS, PAPER, group="paper:"),
]
