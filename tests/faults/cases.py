"""
Wrong input and what is said of it, as a table. A line of it is a test; whoever finds a new fault
adds one.
"""

import pickle
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from inputs import (
    INF,
    NAN,
    all_annotations,
    all_boxes,
    all_turned_round,
    annotation,
    bomb,
    box,
    by_code,
    category,
    cut,
    data,
    each,
    folder_at,
    image,
    link_at,
    many_images,
    metrics,
    move,
    named,
    noise,
    nothing,
    of_test,
    one_more,
    pipe_at,
    proposals,
    registered,
    remove,
    replace,
    rows,
    torn_png,
    torn_two,
    trained,
    twice,
    write,
    xmin,
)
from models import ROOT


@dataclass(frozen=True)
class Case:
    name: str  # of the test
    said: str  # a regular expression of the last line; of all that is printed if it is `listed`
    args: str = ""  # after those of the command
    spoil: Callable[[Path], object] = nothing  # the folder that the command is run in
    command: tuple = ()
    status: int = 1

    @property
    def words(self) -> list[str]:
        return [*self.command, *shlex.split(self.args)]

    @property
    def listed(self) -> bool:
        return self.status == 0 or "--check" in self.command


BASE = (ROOT / "train_net.py", "--num-gpus", "0", "--config-file", "c.yaml")
TRAIN = (*BASE, "--train-data", "coco:train.json:images", "--test-data", "coco:test.json:images")
TRAIN_VOC = (*BASE, "--train-data", "voc:voc:train", "--test-data", "voc:voc:test")
TEST = "--eval-only MODEL.WEIGHTS w.pth"  # see trained()
TABLE = []


def cases(group, command, rows, status=1):
    """
    Args:
        rows: by name what is said; or a tuple of that, how the folder is spoilt, and further
            arguments. Without a way to spoil the name is the further arguments.
    """
    for name, row in rows.items():
        said, spoil, args = (row, nothing, name) if isinstance(row, str) else (*row, "")[:3]
        TABLE.append(Case(f"{group} {name}", said, args, spoil, command, status))


cases(
    "train:",
    TRAIN,
    {
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
        "SOLVER.BASE_LR 1e30": "Lower SOLVER.BASE_LR or set",
        "SOLVER.MOMENTUM -1.0": "momentum",
        "SOLVER.WEIGHT_DECAY -1.0": "weight_decay",
        "SOLVER.STEPS '(2,1)'": r"SOLVER.STEPS = \(2, 1\); allowed: rising",
        "SOLVER.STEPS '(3,)'": r"SOLVER.STEPS = \(3,\); .* without SOLVER.MAX_ITER",
        """SOLVER.STEPS '("a",)'""": r"SOLVER.STEPS = \('a',\); allowed",
        "SOLVER.WARMUP_ITERS -1": "SOLVER.WARMUP_ITERS = -1; allowed",
        "SOLVER.WARMUP_METHOD x": "SOLVER.WARMUP_METHOD = 'x'; allowed: 'constant' or 'linear'",
        "SOLVER.LR_SCHEDULER_NAME No": "Unknown LR scheduler: No",
        "SOLVER.ACCUMULATION_STEPS 2": "ACCUMULATION_STEPS = 2: .*moved .*; .*projects/paper/train",
        "MODEL.ROI_BOX_HEAD.FOCAL_LOSS_GAMMA 1.5": "GAMMA = 1.5: .*; add --import projects.focal",
        "MODEL.ROI_KEYPOINT_HEAD.OHKM_TOPK 9": "TOPK = 9: .*; add --import projects.keypoints",
        "MODEL.ROI_HEADS.NAME OHEMFocalROIHeads": "moved .*; add --import projects.focal",
        'SOLVER.CLIP_GRADIENTS \'{"ENABLED": True, "CLIP_TYPE": "x"}\'': "CLIP_",
        "SOLVER.REFERENCE_WORLD_SIZE 8": "REFERENCE_WORLD_SIZE",
        "SEED x": "Type mismatch .* SEED",
        "SEED 99999999999": "SEED = 99999999999; allowed: a whole number below",
        "OUTPUT_DIR ''": "OUTPUT_DIR = ''; allowed: the name of a folder",
        "OUTPUT_DIR c.yaml": "OUTPUT_DIR = 'c.yaml' cannot be written to: .*exists",
        "OUTPUT_DIR c.yaml/out": "OUTPUT_DIR = 'c.yaml/out' cannot be written to: ",
        "OUTPUT_DIR /proc/nowhere": "OUTPUT_DIR = '/proc/nowhere' cannot be written to: ",
        "DATALOADER.NUM_WORKERS -1": "DATALOADER.NUM_WORKERS = -1; allowed",
        "DATALOADER.SAMPLER_TRAIN No": "Unknown training sampler: No",
        "DATALOADER.SAMPLER_TRAIN WeightedTrainingSampler": "takes DATASETS.TRAIN_REPEAT_FACTOR",
        "resuming, with nothing there": (
            "^train_net.py: w.pth cannot be loaded",
            write("w.pth", b"no weights"),
            "--resume MODEL.WEIGHTS w.pth",
        ),
        "INPUT.FORMAT XYZ": "INPUT.FORMAT = 'XYZ'; allowed: 'BGR'",
        "INPUT.MIN_SIZE_TRAIN '()'": r"INPUT.MIN_SIZE_TRAIN = \(\); allowed: one or more",
        "INPUT.MIN_SIZE_TRAIN '(-1,)'": r"INPUT.MIN_SIZE_TRAIN = \(-1,\)",
        "INPUT.MIN_SIZE_TRAIN 48": "Type mismatch .* INPUT.MIN_SIZE_TRAIN",
        "INPUT.MIN_SIZE_TEST -3": "INPUT.MIN_SIZE_TEST = -3",
        "INPUT.MAX_SIZE_TRAIN 0": "INPUT.MAX_SIZE_TRAIN = 0",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING all": "SAMPLING = 'all'; allowed: 'choice' or 'range'",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING range": r"INPUT.MIN_SIZE_TRAIN = \(48,\); allowed: two",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING range INPUT.MIN_SIZE_TRAIN '(48,32)'": "the smaller first",
        "INPUT.RANDOM_FLIP both": "INPUT.RANDOM_FLIP = 'both'; allowed: 'horizontal'",
        "INPUT.MASK_FORMAT rle": "INPUT.MASK_FORMAT = 'rle'; allowed: 'polygon'",
        "INPUT.CROP.ENABLED True INPUT.CROP.TYPE x": "CROP.TYPE = 'x'; allowed: 'relative' or",
        "INPUT.CROP.ENABLED True INPUT.CROP.SIZE None": "INPUT.CROP.SIZE = None; allowed",
        "INPUT.CROP.ENABLED True INPUT.CROP.TYPE absolute_range INPUT.CROP.SIZE '[9,8]'": "smaller",
        "INPUT.CROP.ENABLED True INPUT.CROP.SIZE '[2,0.5]'": "allowed with 'relative_range': two",
        "INPUT.CROP.ENABLED True INPUT.CROP.TYPE absolute": "allowed with 'absolute': two whole",
        "MODEL.PIXEL_STD '[1.0,0.0,1.0]'": r"MODEL.PIXEL_STD = \[1.0, 0.0, 1.0\]; allowed",
        "MODEL.PIXEL_MEAN '[1.0]'": "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD differ in length",
        "MODEL.DEVICE abacus": "MODEL.DEVICE = 'abacus': .*abacus",
        "MODEL.META_ARCHITECTURE No": "No object named 'No' found in 'META_ARCH' registry",
        "MODEL.BACKBONE.NAME No": "No object named 'No' found in 'BACKBONE' registry",
        "MODEL.PROPOSAL_GENERATOR.NAME No": "No object named 'No' found in 'PROPOSAL_GENERATOR'",
        "MODEL.ROI_HEADS.NAME No": "No object named 'No' found in 'ROI_HEADS' registry",
        "MODEL.ROI_BOX_HEAD.NAME No": "No object named 'No' found in 'ROI_BOX_HEAD' registry",
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE No": "Unknown pooler type: No",
        "MODEL.RESNETS.DEPTH 77": "key 77",
        "MODEL.RESNETS.DEPTH 18": "MODEL.RESNETS.RES2_OUT_CHANNELS = 64 for R18",
        "MODEL.RESNETS.NORM No": "'No'",
        "MODEL.ROI_HEADS.IN_FEATURES '(\"p9\",)'": "p9",
        "MODEL.FPN.IN_FEATURES '(\"res9\",)'": "res9",
        "MODEL.ANCHOR_GENERATOR.SIZES '[[8],[16]]'": "(?i:anchor)",
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 0": "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 0",
        "MODEL.ROI_HEADS.OHEM 5": "MODEL.ROI_HEADS.OHEM",
        "MODEL.ROI_HEADS.OHEM.NMS_TRESH 0.5": "NMS_TRESH.*did you mean NMS_THRESH",
        "MODEL.ROI_HEADS.OHEM.NMS_THRESH 2.0": "MODEL.ROI_HEADS.OHEM.NMS_THRESH = 2.0; allowed",
        "MODEL.ROI_HEADS.OHEM.WARMUP_ITERS 3": "WARMUP_ITERS = 3; allowed: below SOLVER.MAX_ITER",
        "MODEL.ROI_HEADS.OHEM.BUDGET none": "MODEL.ROI_HEADS.OHEM.BUDGET = 'none'; allowed",
        "MODEL.MASK_ON True": "without a segmentation of three points .*, such as images/a.jpg",
        "MODEL.KEYPOINT_ON True": "keypoint",
        "MODEL.LOAD_PROPOSALS True": "DATASETS has no proposal file for coco:train.json:images",
        "TEST.EXPECTED_RESULTS '[[\"bbox\"]]'": "TEST.EXPECTED_RESULTS = .*; allowed: a list",
        'TEST.EXPECTED_RESULTS \'[["bbox","AP",3,1,5]]\'': "EXPECTED_RESULTS = .*; allowed: a",
        "TEST.PRECISE_BN.NUM_ITER 0": "TEST.PRECISE_BN.NUM_ITER = 0; allowed: a whole number >= 1",
        "SOLVER.LR_SCHEDULER_NAME WarmupStepWithFixedGammaLR": "fails after the last iteration",
        "MODEL.WEIGHTS gone.pth": "gone.pth does not exist; it should be MODEL.WEIGHTS",
        "MODEL.WEIGHTS images": "images is not a file; it should be MODEL.WEIGHTS",
        "MODEL.WEIGHTS images/a.jpg": "images/a.jpg cannot be loaded",
        "MODEL.WEIGHTS nope://x.pkl": "nope://x.pkl cannot be loaded",
        "--classes cat dog SEED 1": "dog: .* this is not a key.* --classes ...,dog",
        "--classes cat dog": "dog: .* --classes ...,dog",
        "--classes cat dog --resume": "dog: .* --classes ...,dog",
        "--import no_such_module": "--import no_such_module: .* PYTHONPATH",
        "--train-data gone": "Data set 'gone' is not registered. Name it coco:.*--import",
        "--test-data gone": "Data set 'gone' is not registered",
        "--train-data coco:train.json": "coco:train.json' is not of the form coco:",
        "--train-data coco:gone.json:images": "gone.json does not exist; it should be the annot",
        "--train-data coco:train.json:gone": "gone does not exist; it should be the folder of",
        "--train-data coco:images:images": "images is not a file; it should be the annotations",
        "--train-data coco:c.yaml:images": "c.yaml is not in COCO format",
        "--train-data coco_2017_val": "instances_val2017.json does not exist",
        "--test-data images:images": "images:images: there is nothing to evaluate on; .* coco:ANN",
        "--config-file gone.yaml": "--config-file: gone.yaml: no such file, and no such name",
        "--config-file images": "images: no such file",
        "--config-file images/a.jpg": "images/a.jpg: ",
    },
)
cases(
    "usage:",  # argparse's own errors
    TRAIN,
    {
        "--classes ''": "argument --classes: '' has an empty name; allowed: cat,traffic light",
        "--classes cat,,dog": "argument --classes: 'cat,,dog' has an empty name",
        "--classes": "argument --classes: expected one argument",
        "--num-gpus x": "argument --num-gpus: invalid int value: 'x'",
    },
    status=2,
)
cases(
    "without data:",
    BASE,
    {
        "--test-data coco:test.json:images": "DATASETS.TRAIN is empty: .* --train-data",
        "--eval-only --train-data coco:train.json:images": "DATASETS.TEST is empty: .*--test-data",
        "": "instances_train2017.json does not exist; it should be the annotations of coco_2017_tr",
        "DATASETS.TRAIN '()'": "DATASETS.TRAIN is empty",
        "DATASETS.TRAIN '(3,)'": "DATASETS.TRAIN = .3,.; allowed: names of data sets",
    },
)
cases(
    "config:",
    TRAIN,
    {
        "empty": ("c.yaml: there are no lines KEY: VALUE", write("c.yaml", "")),
        "a list": ("c.yaml: there are no lines KEY: VALUE", write("c.yaml", "- 1\n- 2\n")),
        "a word": ("c.yaml: there are no lines KEY: VALUE", write("c.yaml", "MODEL")),
        "torn": ("c.yaml: while parsing", write("c.yaml", "MODEL: {DEVICE: cpu")),
        "binary": ("c.yaml: ", write("c.yaml", b"\x00\xff\xfe")),
        "tabs": ("c.yaml: .*line 2", write("c.yaml", "MODEL:\n\tDEVICE: cpu\n")),
        "unknown key": ("c.yaml: .*key: MODEL.MINE.*--import", write("c.yaml", "MODEL: {MINE: 1}")),
        "wrong type": ("c.yaml: Type .*MODEL.DEVICE", write("c.yaml", "MODEL: {DEVICE: [1]}")),
        "no node": ("c.yaml: .* in a node of it", write("c.yaml", "MODEL: 5")),
        "NaN": ("BASE_LR = nan", replace("c.yaml", "MAX_ITER: 3", "MAX_ITER: 3, BASE_LR: .nan")),
        "no base": ("c.yaml: .*gone.yaml", write("c.yaml", "_BASE_: gone.yaml")),
        "its own base": ("c.yaml: .*or includes itself", write("c.yaml", "_BASE_: c.yaml")),
        "nested": ("c.yaml: it is nested too deeply", write("c.yaml", "A: " + "[" * 5000)),
        "a newer version": ("c.yaml: .*v9 config", write("c.yaml", "VERSION: 9")),
        "a LazyConfig": ("c.py: this is a Lazy", write("c.py", "m = 1"), "--config-file c.py"),
        "one saved": ("c.yaml: this is a LazyConfig", write("c.yaml", "model: {_target_: x}")),
        "a pipe": ("p.yaml: no such file", pipe_at("p.yaml"), "--config-file p.yaml"),
    },
)
EARLIER = """
_BASE_: d.yaml
MODEL:
  ROI_HEADS: {OHEM: {BG_IOU_LOW: 0.0, IMPLEMENTATION: readonly, MAX_CANDIDATES: 0}}
  ROI_BOX_HEAD: {FOCAL_LOSS_TYPE: softmax, FOCAL_LOSS_GAMMA: 2.0, FOCAL_LOSS_ALPHA: -1.0}
  ROI_KEYPOINT_HEAD: {OHKM_TOPK: 8}
SOLVER: {ACCUMULATION_STEPS: 1}
"""
EARLIER_FOCAL = EARLIER.replace("2.0", "1.5").replace("OHEM: {", "NAME: FocalROIHeads, OHEM: {")
cases(
    "config goes on, of an earlier version:",
    (*BASE, "--config-file", "e.yaml"),
    {
        "as it saved it": ("OHEM is active", write("e.yaml", EARLIER)),
        "with its focal loss": (
            "FocalROIHeads|FocalLossOutputLayers",
            write("e.yaml", EARLIER_FOCAL),
            "--import projects.focal",
        ),
    },
    status=0,
)
FORMAT = "train.json is not in COCO format: "
cases(
    "COCO:",
    TRAIN,
    {
        "text": (FORMAT, write("train.json", "hello")),
        "empty": (FORMAT, write("train.json", "")),
        "torn": (FORMAT, cut("train.json", 200)),
        "binary": (FORMAT, write("train.json", b"\xff\xfe\x00")),
        "nested": (
            FORMAT + "it is nested too deeply",
            write("train.json", '{"x": ' + "[" * 100_000),
        ),
        "a list": (FORMAT + "Expected `object`, got `array`", write("train.json", "[]")),
        "a pipe": ("train.json is not a file", pipe_at("train.json")),
        "no images": (FORMAT + ".*`images`", data(images=None)),
        "no categories": (FORMAT + ".*`categories`", data(categories=None)),
        "no annotations": ("coco:train.json:images: no object is left", data(annotations=None)),
        "empty categories": (FORMAT + r".*length >= 1 - at `\$.categories`", data(categories=[])),
        "empty images": ("coco:train.json:images.* is empty", data(images=[], annotations=[])),
        "empty annotations": ("coco:train.json:images: no object is left", data(annotations=[])),
        "images in a dict": (FORMAT + r".*got `object` - at `\$.images`", data(images={})),
        "images that are numbers": (
            FORMAT + r".*got `int` - at `\$.images\[0\]`",
            data(images=[1]),
        ),
        "annotations that are text": (FORMAT + r".*at `\$.annotations`", data(annotations="x")),
        "category id twice": (
            "train.json: 1 .*several of the categories.* id 1",
            twice("categories"),
        ),
        "image id twice": (
            "train.json: .*several of the images have, such as id 1",
            twice("images"),
        ),
        "category id 1.5": (
            "3 annotations whose category_id is not among .* such as 1, anno",
            category(id=1.5),
        ),
        "image ids of two kinds": (
            "1 ids of the images that are text, .* such as 'b'",
            image(id="b"),
        ),
        "image id a list": (FORMAT + r".*got `array` - at `\$.images\[1\].id`", image(id=[2])),
        "category without a name": (
            FORMAT + r".*`name` - at `\$.categories\[0\]`",
            category(name=None),
        ),
        "category name 5": (FORMAT + r".*at `\$.categories\[0\].name`", category(name=5)),
        "image without a name": (
            FORMAT + r".*`file_name` - at `\$.images\[1\]`",
            image(file_name=None),
        ),
        "image name 7": (FORMAT + r".*at `\$.images\[1\].file_name`", image(file_name=7)),
        "width text": (FORMAT + r".*got `str` - at `\$.images\[1\].width`", image(width="64")),
        "width -1": (r"above 0, such as images/b.jpg: \(-1, 48\)", image(width=-1)),
        "another width": (r"b.jpg: Mismatched image .* expect \(65, 48\)", image(width=65)),
        "another file": ("images that are not there, .*images/no.jpg", image(file_name="no.jpg")),
        "a file in no folder": ("that are not there, .*images/x/b", image(file_name="x/b.jpg")),
        "a folder": ("not there, or are no files, such as images/", image(file_name="")),
        "no image_id": (
            FORMAT + r".*`image_id` - at `\$.annotations\[1",
            annotation(image_id=None),
        ),
        "no category_id": (FORMAT + ".*`category_id` - at", annotation(category_id=None)),
        "no bbox": (FORMAT + r".*`bbox` - at `\$.annotations\[1\]`", annotation(bbox=None)),
        "category 9": (r"such as 9, annotations\[1\] of b.jpg", annotation(category_id=9)),
        "category text": (
            r"such as 'cat', annotations\[1\] of b.jpg",
            annotation(category_id="cat"),
        ),
        "category list": (FORMAT + r".*\[1\].category_id", annotation(category_id=[1])),
        "bbox text": (FORMAT + r".*at `\$.annotations\[1\].bbox`", annotation(bbox="1 2 3 4")),
        "bbox dict": (FORMAT + r".*at `\$.annotations\[1\].bbox`", annotation(bbox={"x": 1})),
        "bbox empty": (FORMAT + r".*at `\$.annotations\[1\].bbox`", annotation(bbox=[])),
        "bbox of 3": (FORMAT + r".*length >= 4 - at `\$.annotations\[1\].bbox`", box(1, 2, 3)),
        "bbox of 5": (
            FORMAT + r".*length <= 4 - at `\$.annotations\[1\].bbox`",
            box(1, 2, 3, 4, 5),
        ),
        "bbox of text": (FORMAT + r".*at `\$.annotations\[1\].bbox\[0\]`", box("1", "2", 3, 4)),
        "bbox of null": (FORMAT + r".*at `\$.annotations\[1\].bbox\[3\]`", box(1, 2, 3, None)),
        "bbox nested": (FORMAT + r".*at `\$.annotations\[1\].bbox\[3\]`", box(1, 2, 3, [4])),
        "bbox huge": (FORMAT + r".*at `\$.annotations\[1\].bbox\[3\]`", box(1, 2, 3, 10**400)),
        "iscrowd text": (FORMAT + r".*at `\$.annotations\[1\].iscrowd`", annotation(iscrowd="0")),
        "iscrowd 2": ("iscrowd is neither 0 nor 1, .* images/b.jpg: 2", annotation(iscrowd=2)),
        "all not finite": ("no object is left.*3 boxes .* images/a.jpg", all_boxes(NAN, 1, 2, 3)),
        "all infinite": ("no object is left.*3 boxes that are not fin", all_boxes(1, 1, INF, 3)),
        "all empty": ("no object is left.*3 boxes without an area", all_boxes(1, 1, 0, 3)),
        "all negative": ("no object is left.*3 boxes without an area", all_boxes(20, 20, -5, -5)),
        "all outside": ("no object is left.*3 boxes outside the image", all_boxes(99, 99, 5, 5)),
        "all crowds": ("coco:train.json:images: no object is left", all_annotations(iscrowd=1)),
        "all of no image": ("images: no object is left", all_annotations(image_id=77)),
        "test: other classes": ("must share their classes", of_test(category(name="dog"))),
        "test: no file": (
            "coco:test.json:images: .*images/n.jpg",
            of_test(image(file_name="n.jpg")),
        ),
    },
)
cases(
    "COCO goes on:",  # What only an evaluation reads does not stop a training.
    TRAIN,
    {
        "annotation id twice": ("Evaluation results for bbox", annotation(id=1)),
        "no id": ("Evaluation results for bbox", annotation(id=None)),
        "no area": ("Evaluation results for bbox", annotation(area=None)),
        "no counts": ("Evaluation results for bbox", annotation(segmentation={"size": [48, 64]})),
        "ignored": (r"1 annotations with ignore: 1, .*\[1\] of b.jpg", annotation(ignore=1)),
        "image without a width": ("1 images without width and height", image(width=None)),
        "image of no size": ("1 images without width .* from the images", image(width=0, height=0)),
        "test: annotation id twice": (
            r"coco:test.json:images: 2 annotations whose id is .*\[0\] of a.jpg: 1",
            of_test(annotation(id=1)),
        ),
        "test: no id": (
            r"1 annotations whose id .*\[1\] of b.jpg: None",
            of_test(annotation(id=None)),
        ),
        "test: no area": (
            r"1 annotations whose area .*\[1\] of b.jpg: None",
            of_test(annotation(area=None)),
        ),
        "test: area text": (
            r"1 annotations whose area .*\[1\] of b.jpg: '6'",
            of_test(annotation(area="6")),
        ),
        "test: no iscrowd": ("1 annotations without iscrowd", of_test(annotation(iscrowd=None))),
        "test: trained on": ("coco:test.json:images: 3 images that are trained on, too", nothing),
    },
    status=0,
)
cases(
    "masks:",
    (*BASE, "--train-data", "coco:train.json:images", "MODEL.MASK_ON", "True"),
    {
        "RLE": (
            r"1 annotations whose segmentation is RLE, .*MASK_FORMAT bitmask, .* images/b.jpg: \{",
            each(
                all_annotations(segmentation=[[10, 10, 40, 10, 40, 30]]),
                annotation(segmentation={"counts": [0, 48 * 64], "size": [48, 64]}),
            ),
        ),
        "no counts": (
            "1 annotations whose segmentation has no counts and size, .* images/b.jpg: {'size'",
            each(
                all_annotations(segmentation=[[10, 10, 40, 10, 40, 30]]),
                annotation(segmentation={"size": [48, 64]}),
            ),
        ),
    },
)
KEYPOINTS = ["nose", "left_eye", "right_eye"]
PEOPLE = all_annotations(keypoints=[20, 15, 2, 15, 14, 2, 25, 14, 1], num_keypoints=3)
POSE = """
_BASE_: c.yaml
MODEL:
  KEYPOINT_ON: True
  ROI_KEYPOINT_HEAD: {NUM_KEYPOINTS: 3, CONV_DIMS: [8]}
TEST: {KEYPOINT_OKS_SIGMAS: [0.03, 0.03, 0.03]}
"""


def pose(*spoils, names=KEYPOINTS):
    """Both files have keypoints and their names."""
    spoil = each(PEOPLE, category(keypoints=names), *spoils)
    return each(spoil, of_test(spoil), write("pose.yaml", POSE))


POSED = (*TRAIN, "--config-file", "pose.yaml")
cases(
    "keypoints:",
    POSED,
    {
        "no names": ('train.json, .* to each: "keypoints": ', pose(names=None)),
        "names that are numbers": ("add their names to the categories", pose(names=[1, 2, 3])),
        "a name twice": ("add their names to the categories", pose(names=["nose"] * 3)),
        "no partner": (
            "keypoint 'left_eye' has no partner 'right_eye' in train.json",
            pose(names=["nose", "left_eye", "right_ear"]),
        ),
        "sigmas": (
            r"TEST.KEYPOINT_OKS_SIGMAS = \[1.0\]; allowed: as many numbers as .*, which is 3",
            pose(),
            "TEST.KEYPOINT_OKS_SIGMAS [1.0]",
        ),
        "registered": (
            "mine: MODEL.KEYPOINT_ON is True; its metadata need keypoint_names and",
            each(pose(), registered(nothing)),
            "--import my_data --train-data mine",
        ),
    },
)
cases(
    "keypoints go on:",
    POSED,
    {
        "all": (r"trade places .*\('left_eye', 'right_eye'\)", pose()),
        "negatives": ("3 of 6 images show no object", pose(), "--negatives images"),
        "no numbers": (
            r"test.json.* 1 annotations without num_keypoints, such as annotations\[1\] of b.jpg",
            each(pose(), of_test(annotation(num_keypoints=None))),
        ),
        "evaluation": (
            "Evaluation results for keypoints",
            each(pose(), trained("pose.yaml")),
            TEST,
        ),
    },
    status=0,
)
cases(
    "keypoints go on, without training data:",
    (*BASE, "--config-file", "pose.yaml", "--test-data", "coco:test.json:images"),
    {
        "evaluation": (
            "Evaluation results for keypoints",
            each(pose(names=None), trained("pose.yaml")),
            TEST,
        ),
    },
    status=0,
)
cases(
    "left out:",  # The training goes on, and this is said before it begins.
    TRAIN,
    {
        "NaN": (r"coco:train.json:images: 1 boxes .*left out, .*b.jpg: \[nan", box(NAN, 1, 2, 3)),
        "infinite": (r"1 boxes that are not finite, .*b.jpg: \[1.0, 1.0, inf", box(1, 1, INF, 3)),
        "without an area": ("1 boxes without an area, .* images/b.jpg", box(1, 1, 0, 3)),
        "negative": ("1 boxes without an area, .* images/b.jpg", box(9, 9, -3, 3)),
        "outside": ("1 boxes outside the image, .* images/b.jpg", box(64, 1, 3, 3)),
        "left of the image": ("1 boxes outside the image, .* images/b.jpg", box(-9, 1, 9, 3)),
        "a crowd": ("1 boxes that are not finite", one_more(iscrowd=1, bbox=[NAN, 1, 2, 3])),
        "of no image": (
            r"1 annotations of images that are not among the images, which .*\[1\] of image 77",
            annotation(image_id=77),
        ),
        "of the test data": ("coco:test.json:images: 1 boxes without", of_test(box(1, 1, 0, 0))),
    },
    status=0,
)
PROPOSALS = [w for s in ("TRAIN", "TEST") for w in (f"DATASETS.PROPOSAL_FILES_{s}", "('p.pkl',)")]
TWO = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
TORN = "images/b.jpg: .*(?i:truncated)"
cases(
    "image:",
    TRAIN,
    {
        "torn": (TORN, cut("images/b.jpg", 500)),
        "torn, in a worker": (TORN, cut("images/b.jpg", 500), "DATALOADER.NUM_WORKERS 2"),
        "only a head": ("images/b.jpg: ", cut("images/b.jpg", 30)),
        "empty": ("images/b.jpg: .*cannot identify", write("images/b.jpg", "")),
        "text": ("images/b.jpg: .*cannot identify", write("images/b.jpg", "no picture")),
        "gone": ("not there, .* images/b.jpg", remove("images/b.jpg")),
        "a folder": ("are no files, such as images/b.jpg", folder_at("images/b.jpg")),
        "a pipe": ("are no files, such as images/b.jpg", pipe_at("images/b.jpg")),
        "a dangling link": ("not there, .* images/b.jpg", link_at("images/b.jpg", "no")),
        "of another size": (r"b.jpg.*got \(8, 8\), expect", write("images/b.jpg", noise(8, 8))),
        "turned": (r"b.jpg.*got \(48, 64\), expect", write("images/b.jpg", noise(64, 48))),
        "a torn PNG": ("images/n.png: ", named("n.png", torn_png("images/n.png"))),
        "a bomb": ("n.png: DecompressionBomb", named("n.png", bomb("images/n.png"), width=20000)),
        "of the test data": (
            "images/n: .*cannot identify",
            of_test(named("n", write("images/n", "x"))),
        ),
        "of a test": (
            "images/n: .*cannot identify",
            each(of_test(named("n", write("images/n", "x"))), trained("c.yaml")),
            TEST,
        ),
    },
)
cases(
    "proposals:",
    (*TRAIN, "MODEL.LOAD_PROPOSALS", "True", *PROPOSALS),
    {
        "none": ("p.pkl does not exist; it should be the proposals for coco:train", nothing),
        "text": ("p.pkl is no pickle that can be read: ", write("p.pkl", "text")),
        "a pipe": ("p.pkl is not a file", pipe_at("p.pkl")),
        "a list": ("p.pkl: ", write("p.pkl", pickle.dumps([1, 2]))),
        "of other images": ("p.pkl: key '1' is missing", proposals(ids=[7, 8, 9])),
        "without ids": ("p.pkl: ", proposals(ids=None)),
        "lists": ("p.pkl: ", proposals(objectness_logits=[[0], [0], [0]])),
        "not finite": (
            "3 images with proposals",
            proposals(boxes=[np.float32([[0, 0, NAN, 9]])] * 3),
        ),
        "of 3 numbers": ("3 images with proposals", proposals(boxes=[np.float32([[0, 0, 9]])] * 3)),
    },
)
cases(
    "registered:",
    (*BASE, "--import", "my_data", "--train-data", "mine", "--test-data", "mine"),
    {
        "more classes": (
            "1 annotations whose category_id is no whole number from 0 to 0, .* images/b.jpg: 1",
            registered(each(data(categories=TWO), annotation(category_id=2))),
        ),
        "no file": ("train.json does not exist", registered(remove("train.json"))),
        "no JSON": ("mine .train.json.: Expecting prop", registered(write("train.json", "{"))),
        "bbox of 3": ("mine .train.json.: .*images/b.jpg", registered(box(1, 2, 3))),
        "no bbox": (
            r"mine .train.json.: 1 annotations whose bbox is not four .* images/b.jpg: None",
            registered(annotation(bbox=None)),
        ),
        "all outside": (
            "mine .train.json.: .*no object .*3 boxes outside",
            registered(all_boxes(99, 99, 5, 5)),
        ),
        "torn": (TORN, registered(cut("images/b.jpg", 500))),
    },
)
cases(
    "test data registered by code:",
    (*BASE, "--import", "my_data", "--train-data", "coco:train.json:images", "--test-data", "mine"),
    {
        "no classes": ("mine: its evaluation needs .* or thing_classes there", by_code("{}")),
        "no sizes": (
            "mine: its evaluation needs .* width and height of each image",
            by_code("{'thing_classes': ['cat']}", "del record['width']"),
        ),
    },
)
XML, LIST = "voc/Annotations/b.xml", "voc/ImageSets/Main/train.txt"
cases(
    "VOC:",
    TRAIN_VOC,
    {
        "--classes dog": r"annotations name \['cat'\], .* not among the classes",
        "--classes cat,cat": "--classes has 'cat' more than once",
        "not XML": ("b.xml is not XML", write(XML, "hello")),
        "empty": ("b.xml is not XML", write(XML, "")),
        "torn": ("b.xml is not XML", cut(XML, 100)),
        "an encoding": ("b.xml is not XML", write(XML, '<?xml version="1.0" encoding="x"?><a/>')),
        "an entity": ("b.xml is not XML", write(XML, "<!DOCTYPE a [<!ENTITY x 'x'>]><a>&y;</a>")),
        "another root": (
            "b.xml is not in .* format: it is <a>, no <annotation>",
            write(XML, "<a/>"),
        ),
        "another size": (r"b.jpg.*expect \(65, 48\)", replace(XML, "<width>64<", "<width>65<")),
        "no name": ("b.xml .*the <name> of an <object> is empty", replace(XML, ">cat<", "><")),
        "no box": ("b.xml .*<bndbox/ymax> is ''", replace(XML, "<ymax>30</ymax>", "")),
        "a comma": ("b.xml .*<bndbox/xmin> is '1,5'", xmin("1,5")),
        "two": ("b.xml .*<bndbox/xmin> is '²'", xmin("²")),
        "two signs": ("b.xml .*<bndbox/xmin> is '--5'", xmin("--5")),
        "NaN": ("b.xml .*<bndbox/xmin> is 'nan'", xmin("nan")),
        "a pipe": ("b.xml is not a file", pipe_at(XML)),
        "a folder": ("b.xml is not a file", folder_at(XML)),
        "annotation gone": ("b.xml does not exist; it should be the annotation of b", remove(XML)),
        "no folder": ("voc/Annotations does not exist", move("voc/Annotations", "x")),
        "image gone": ("test: .*not there, .*Images/b.jpg", remove("voc/JPEGImages/b.jpg")),
        "torn image": ("JPEGImages/b.jpg: .*(?i:truncated)", cut("voc/JPEGImages/b.jpg", 500)),
        "no list": ("train.txt does not exist; it should be the list of images", remove(LIST)),
        "empty list": ("train.txt lists no image", write(LIST, "")),
        "a folder as the list": ("train.txt", folder_at(LIST)),
        "all turned round": (
            "no object .*3 boxes without an area, .*voc/JPEGImages/a.jpg",
            all_turned_round,
        ),
    },
)
cases(
    "VOC goes on:",
    TRAIN_VOC,
    {
        "no size": ("Evaluation results for bbox", replace(XML, "<width>64</width>", "")),
        "no pose": ("Evaluation results for bbox", replace(XML, "<pose>Unspecified</pose>", "")),
        "a fraction": (
            "1 images with corners at 0 or in fractions, such as b. .* voc0:",
            xmin("1.5"),
        ),
        "corners from 0": ("1 images with corners at 0 or in fractions, such as b.", xmin("0")),
        "list of one": ("Evaluation results for bbox", write(LIST, "a")),
        "two columns": ("lists of images with flags of one class", write(LIST, "a -1\nb 1\n")),
        "extensions": ("1 lists of images with .* file extensions", write(LIST, "a.jpg\nb.jpg\n")),
        "hidden files": (
            "NUM_CLASSES is 1, as in the data: cat",
            each(write("voc/Annotations/._a.xml", "x"), write("voc/JPEGImages/._a.jpg", "x")),
        ),
        "torn, of no split": (
            "NUM_CLASSES is 1, as in the data: cat",
            write("voc/Annotations/x.xml", "<torn"),
        ),
    },
    status=0,
)
cases(
    "weights:",
    (*TRAIN, "MODEL.WEIGHTS", "w.pth"),
    {
        "a list": ("w.pth cannot be loaded", write("w.pth", [1, 2])),
        "a number": ("w.pth cannot be loaded", write("w.pth", 5)),
        "of None": ("w.pth cannot be loaded", write("w.pth", {"model": None})),
        "of a list": ("w.pth cannot be loaded", write("w.pth", {"model": [1]})),
        "of numbers": ("w.pth cannot", write("w.pth", {"model": {"backbone.fpn_output2.bias": 5}})),
        "empty": ("w.pth cannot be loaded", write("w.pth", "")),
        "text": ("w.pth cannot be loaded", write("w.pth", "no weights at all")),
        "torn": ("w.pth cannot be loaded", each(write("w.pth", {}), cut("w.pth", 300))),
        "a pipe": ("w.pth is not a file", pipe_at("w.pth")),
    },
)
cases(
    "check:",
    (*TRAIN, "--check"),
    {
        "nothing": (r"coco:train.json:images: 3 images\n(?s:.*)found nothing", nothing),
        "trained on": (
            r"coco:test.json:images: 3 images that .*: leave .*\n    images/a.jpg\n",
            nothing,
        ),
        "left out": (r"1 boxes .* which are left out\n    images/b.jpg: \[nan", box(NAN, 1, 2, 3)),
        "of a test": (
            r"^coco:test.json:images: 3 images\n--check found nothing",
            each(image(file_name="gone.jpg"), trained("c.yaml")),
            f"{TEST} SOLVER.MAX_ITER 0",
        ),
        "a run to go on with": ("found nothing", write("out/metrics.json", "{}"), "--resume"),
        "a run to set aside": ("found nothing", write("out/metrics.json", "{}"), "--overwrite"),
        "of a test in a run": (
            "found nothing",
            each(write("out/metrics.json", "{}"), trained("c.yaml")),
            TEST,
        ),
        "keypoints": ("found nothing", pose(), "--config-file pose.yaml --negatives images"),
    },
    status=0,
)
cases(
    "check finds:",
    (*TRAIN, "--check"),
    {
        "images": (r"a.jpg: .*\n    images/b.jpg: (?s:.*)kinds: 2", torn_two),
        "SEED 9999999999 SOLVER.MAX_ITER 0": r"SEED = .*\n    SOLVER.MAX_ITER = 0; (?s:.*)kinds: 1",
        "data and keys": (
            r"SEED = (?s:.*)several .*\n    id 1\n",
            twice("images"),
            "SEED 9999999999",
        ),
        "both files": (
            r"train.json is not .*`bbox` - at(?s:.*)test.json is not .*`file_name`(?s:.*)kinds: 2",
            each(
                annotation(bbox=None),
                write(
                    "test.json", '{"categories": [{"id": 1, "name": "cat"}], "images": [{"id": 1}]}'
                ),
            ),
        ),
        "--train-data coco:gone.json:images": "gone.json does not exist(?s:.*)kinds: 1",
        "--train-data gone": "gone: 1 error\n    Data set 'gone' is not reg(?s:.*)kinds: 1",
        "--test-data gone": "gone: 1 error\n    Data set 'gone' is not reg(?s:.*)kinds: 1",
        "--test-data images:images": "there is nothing to evaluate on(?s:.*)kinds: 1",
        "MODEL.ROI_HEADS.OHEM.BUDGT batch": r"\n    The model .*did you mean BUDGET(?s:.*)kinds: 1",
        "MODEL.ROI_HEADS.NAME No": r"\n    The model .*'No' found in 'ROI_HEADS'(?s:.*)kinds: 1",
        "SOLVER.LR_SCHEDULER_NAME No": r"\n    The training .*LR scheduler: No\n(?s:.*)kinds: 1",
        "MODEL.ROI_HEADS.NAME FocalROIHeads": "FocalROIHeads' was moved (?s:.*)kinds: 1",
        "DATALOADER.SAMPLER_TRAIN No": r"\n    The training .* sampler: No\n(?s:.*)kinds: 1",
        "MODEL.ROI_HEADS.NAME No, and an image": (
            "images/b.jpg: (?s:.*)'No' found in 'ROI_HEADS'(?s:.*)kinds: 3",
            cut("images/b.jpg", 500),
            "MODEL.ROI_HEADS.NAME No",
        ),
        "OUTPUT_DIR c.yaml/out": r"\n    OUTPUT_DIR = 'c.yaml/out' cannot be (?s:.*)kinds: 1",
        "a run": (
            r"\n    OUTPUT_DIR .*/out has a run already \(metrics.json\)(?s:.*)kinds: 1",
            write("out/metrics.json", "{}"),
        ),
        "keypoints without names": (
            r"\n    coco:train.json:images: .* add their names(?s:.*)kinds: 1",
            pose(names=None),
            "--config-file pose.yaml",
        ),
        "no object": ("1 data set without an object", all_boxes(1, 1, 0, 0)),
        "a name that moves the cursor": (
            r"not there.*\n    images/\\x1b\[2J\\nb.jpg\n(?s:.*)kinds: 1",
            image(file_name="\x1b[2J\nb.jpg"),
        ),
        "the first of many": ("21 images that are not there(?s:.*)and 1 more", many_images(21)),
    },
)
cases(
    "check finds without data:",
    (*BASE, "--check"),
    {
        "DATASETS.TEST '(3,)'": r"DATASETS.TEST = \(3,\); allowed: names(?s:.*)kinds: 2",
        "--eval-only DATASETS.TEST '()'": r"DATASETS.TEST is empty(?s:.*)kinds: 1",
    },
)
cases(
    "check finds of VOC:",
    (*TRAIN_VOC, "--check"),
    {
        "all files": ("a.xml (?s:.*)b.xml ", each(cut("voc/Annotations/a.xml", 9), cut(XML, 9))),
        "images": ("voc/JPEGImages/b.jpg: ", cut("voc/JPEGImages/b.jpg", 500)),
    },
)
INSPECT = ("-m", "ohem_d2", "inspect", "--config-file", "c.yaml")
cases(
    "inspect:",
    (*INSPECT, "--dataset", "coco:train.json:images"),
    {
        "torn image": (TORN, cut("images/b.jpg", 500)),
        "category twice": ("several of the categories have, such as id 1", twice("categories")),
        "bbox of 3": (r"length >= 4 - at `\$.annotations\[1\].bbox`", box(1, 2, 3)),
        "iscrowd text": (r"at `\$.annotations\[1\].iscrowd`", annotation(iscrowd="0")),
        "--classes cat dog": "dog: .* --classes ...,dog",
    },
)
cases(
    "inspect one:",
    (*INSPECT, "--image", "images/a.jpg", "--no-objects", "--weights", "w.pth"),
    {
        "weights that are a list": ("w.pth cannot be loaded", write("w.pth", [1])),
        "weights of None": ("w.pth cannot be loaded", write("w.pth", {"model": None})),
        "weights in a pipe": ("w.pth is not a file", pipe_at("w.pth")),
    },
)
cases(
    "inspect one:",
    (*INSPECT, "--image"),
    {
        "a pipe": ("p.jpg is not a file", pipe_at("images/p.jpg"), "images/p.jpg --no-objects"),
        "a bomb": ("p.png: DecompressionBomb", bomb("images/p.png"), "images/p.png --no-objects"),
        "images/a.jpg --no-objects MODEL.MINE 1": "Non-existent key: MODEL.MINE",
        "images/a.jpg --no-objects --output c.yaml/x": "c.yaml.* cannot be written: .*--output",
    },
)
GOOD = metrics(*rows(1, 1))
REPORT = ("-m", "ohem_d2", "report", "run", "--images", "0")
cases(
    "report:",
    REPORT,
    {
        "no folder": ("run/metrics.json does not exist", nothing),
        "empty": ("run/metrics.json has no complete line", metrics("")),
        "binary": ("run/metrics.json has no complete line", write("run/metrics.json", b"\xff\x00")),
        "nested": ("run/metrics.json has no complete line", metrics("[" * 100_000)),
        "a list": ("run/metrics.json has no complete line", metrics("[1, 2]")),
        "a pipe": ("metrics.json does not exist", each(metrics(""), pipe_at("run/metrics.json"))),
        "output in a folder": (
            "run/report.html cannot be written",
            each(GOOD, folder_at("run/report.html")),
        ),
    },
)
cases(
    "report goes on:",
    REPORT,
    {
        "huge values": ("above 1e.38, are not drawn", metrics(*rows(1e308, -1e308))),
        "no values": ("report  run/report.html", metrics(*rows('"x"', 1))),
        "NaN": ("report  run/report.html", metrics(*rows("NaN", "Infinity"))),
        "a line that is nested": (r"1 line\(s\) of metrics", metrics(*rows(1, 1), "[" * 100_000)),
        "no weights": (
            "Without classes and .*model_final.pth",
            each(GOOD, write("run/config.yaml", "")),
            "--images 2",
        ),
    },
    status=0,
)
cases(
    "paper:",
    (ROOT / "projects/paper/train.py", "--num-gpus", "0", "--config-file", "d.yaml"),
    {
        "--config-file gone.yaml": "gone.yaml: no such file",
        "empty": ("d.yaml: there are no lines KEY: VALUE", write("d.yaml", "")),
        "MINE.OWN 1": "Non-existent key: MINE",
        "SOLVER.TRAINER No": "SOLVER.TRAINER = 'No'; allowed: ",
        "data gone": ("train.json does not exist", remove("train.json")),
        "classes that differ": ("share their classes", of_test(category(name="dog"))),
        "torn image": (TORN, cut("images/b.jpg", 500)),
        "all boxes outside": ("no object is left", all_boxes(99, 99, 5, 5)),
        "MODEL.WEIGHTS gone.pth": "gone.pth does not exist",
        "BOOTSTRAP.ROUNDS 0": "BOOTSTRAP.ROUNDS = 0; allowed",
        "OUTPUT_DIR c.yaml": "OUTPUT_DIR = 'c.yaml' cannot be written to",
        "MODEL.LOAD_PROPOSALS True": "PROPOSAL_FILES_TRAIN",
    },
)
