"""Bootstrapping: its steps against plain loops, then real rounds on real photographs."""

import copy
import json
import pickle
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from hostile import Payload
from models import ROOT, config, detector

from ohem_d2 import IgnoreRegions
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.training.trainer import OHEMTrainer
from ohem_d2.tools.trust import UntrustedFile
from projects.paper.ohem_paper import bootstrapping as training
from projects.paper.ohem_paper import working_set as steps
from projects.paper.ohem_paper.bootstrapping import BootstrapTrainer
from projects.paper.ohem_paper.experiment import add_settings, check_settings, load_config
from projects.paper.ohem_paper.working_set import WorkingSet, score_proposals, sweep


def overlap(a, b):
    """Intersection over union, and intersection over the area of b."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    area_a, area_b = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return inter / (area_a + area_b - inter), inter / area_b


def label(box, objects, crowds):
    if any(overlap(o, box)[0] >= 0.5 for o in objects):
        return 1
    return -1 if any(overlap(c, box)[1] >= 0.5 for c in crowds) else 0


# ---- data: a few tiles, with jittered objects and random boxes as proposals ----


def xyxy(annotation):
    x, y, w, h = annotation["bbox"]
    return [x, y, x + w, y + h]


@pytest.fixture(scope="module")
def data(tree_crowns, tmp_path_factory):
    """KEY, VALUE... of three tiles with proposals; some of the crowns are at the edge: crowds."""
    folder = tmp_path_factory.mktemp("tiles")
    full = json.loads((tree_crowns / "train.json").read_text())
    of = {image["id"]: [] for image in full["images"]}
    for annotation in full["annotations"]:
        of[annotation["image_id"]].append(annotation)

    def kinds(image):
        crowds = sum(a["iscrowd"] for a in of[image["id"]])
        return len(of[image["id"]]) - crowds, crowds

    images = [i for i in full["images"] if 6 <= kinds(i)[0] <= 12 and kinds(i)[1] > 0][:3]
    assert len(images) == 3
    full.update(images=images, annotations=[a for i in images for a in of[i["id"]]])
    (folder / "few.json").write_text(json.dumps(full))
    rng = np.random.default_rng(0)
    boxes = []
    for image in images:
        near = np.array([xyxy(a) for a in of[image["id"]]])
        near = (near[:, None] + rng.normal(0, 4, (len(near), 6, 4))).reshape(-1, 4)
        xy = rng.uniform(0, 1, (200, 2)) * [image["width"] - 15, image["height"] - 15]
        far = np.concatenate([xy, xy + rng.uniform(15, 90, (200, 2))], axis=1)
        outside = np.array([[-0.9, -0.9, -0.1, 20.0]])  # which the mapper drops
        inside = np.concatenate([near, far]).clip(0, image["height"])  # tiles are square
        inside = inside[(inside[:, 2:] > inside[:, :2]).all(axis=1)]
        boxes.append(np.concatenate([outside, inside]).astype("float32"))
    proposals = {
        "ids": [image["id"] for image in images],
        "boxes": boxes,
        "objectness_logits": [rng.permutation(len(b)).astype("float32") for b in boxes],
        "bbox_mode": 0,
    }
    with open(folder / "proposals.pkl", "wb") as file:
        pickle.dump(proposals, file)
    name = f"coco:{folder / 'few.json'}:{tree_crowns / 'tiles'}"
    return [
        *("DATASETS.TRAIN", (name,), "DATASETS.TEST", (name,)),
        *("DATASETS.PROPOSAL_FILES_TRAIN", (str(folder / "proposals.pkl"),)),
        *("DATASETS.PROPOSAL_FILES_TEST", (str(folder / "proposals.pkl"),)),
    ]


def overrides(data, output, *more):
    return [
        *data,
        *("MODEL.LOAD_PROPOSALS", True, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
        *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64),
        *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 64),
        *("INPUT.MIN_SIZE_TRAIN", (128,), "INPUT.MIN_SIZE_TEST", 128),
        *("SOLVER.IMS_PER_BATCH", 1, "SOLVER.STEPS", (), "SEED", 1, "OUTPUT_DIR", str(output)),
        *("BOOTSTRAP.INITIAL_BACKGROUND", 5, "BOOTSTRAP.SCORE_THRESH", 0.3),
        *("MODEL.ROI_HEADS.OHEM.WARMUP_ITERS", 0),
        *more,
    ]


QUICK = str(ROOT / "configs/quick_schedules/faster_rcnn_R_50_FPN_cpu.yaml")


def setup(data, output, *more, resume=False):
    args = default_argument_parser().parse_args(["--resume"] if resume else [])
    cfg = load_config(QUICK, overrides(data, output, *more))
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def same(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second))


# ---- the steps ----


@pytest.mark.parametrize("num_objects", [0, 1, 4])
@pytest.mark.parametrize("num_crowds", [0, 2])
def test_labels(num_objects, num_crowds):
    def random_boxes(num):
        xy = torch.rand(num, 2) * 40
        return torch.cat([xy, xy + 5 + torch.rand(num, 2) * 25], dim=1)

    objects, crowds, boxes = map(random_boxes, (num_objects, num_crowds, 200))
    boxes = torch.cat([boxes, objects + torch.rand(num_objects, 4) - 0.5])
    target = Instances((80, 80), gt_boxes=Boxes(objects))
    target.ignore_regions = IgnoreRegions(Boxes(crowds), num_objects)
    matcher = Matcher([0.5], [0, 1])
    found = steps.label_proposals(Boxes(boxes), target, matcher, 0.5).tolist()
    assert found == [label(b, objects.tolist(), crowds.tolist()) for b in boxes.tolist()]
    assert set(found) == {0} | {1 for _ in objects[:1]} | {-1 for _ in crowds[:1]}


@pytest.mark.parametrize("num_background", [0, 5, 1000])
def test_initial_set(num_background):
    labels = torch.randint(-1, 2, (100,))

    def choose(seed):
        generator = torch.Generator().manual_seed(seed)
        return steps.initial_set(labels, num_background, generator)

    chosen = choose(0).tolist()
    assert chosen == sorted(set(chosen)) and torch.equal(choose(0), choose(0))
    assert [i for i in chosen if labels[i] == 1] == [i for i in range(100) if labels[i] == 1]
    background = [i for i in chosen if labels[i] == 0]
    assert len(background) == min(num_background, (labels == 0).sum())
    assert len(chosen) == len(background) + (labels == 1).sum()
    if num_background == 5:  # all places come up, by and by
        seen = {i for seed in range(300) for i in choose(seed).tolist() if labels[i] == 0}
        assert seen == {i for i in range(100) if labels[i] == 0}


@pytest.mark.parametrize("max_added", [0, 3, 1000])
def test_sets_grow(max_added):
    labels, scores = torch.randint(-1, 2, (60,)), torch.randint(0, 20, (60,)) / 20
    before = [i for i in range(60) if labels[i] >= 0 and i % 3 == 0]
    hard = [i for i in range(60) if labels[i] == 0 and scores[i] > 0.5]
    hard.sort(key=lambda i: (-scores[i], i))
    new = [i for i in hard if i not in before]
    after = sorted(before + (new if max_added == 0 else new[:max_added]))

    found = steps.find_false_positives(scores, labels, 0.5)
    assert found.tolist() == hard and len(hard) > 4
    working_set = torch.tensor(before)
    assert steps.merge(working_set, found, max_added).tolist() == after
    assert steps.merge(working_set, found[:0], max_added).tolist() == before
    assert steps.merge(working_set[:0], found[:0], max_added).tolist() == []


@pytest.mark.parametrize(("max_iter", "rounds"), [(12, 3), (10, 4), (7, 7), (5, 1)])
def test_rounds_are_even(max_iter, rounds):
    found = [steps.round_of(i, max_iter, rounds) for i in range(max_iter)]
    sizes = [found.count(r) for r in range(rounds)]
    assert found == sorted(found) and sum(sizes) == max_iter and max(sizes) - min(sizes) <= 1


# ---- configuration ----


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ROUNDS", 0, "whole number >= 1"),
        ("ROUNDS", 41, "up to SOLVER.MAX_ITER, which is 40"),
        ("INITIAL_BACKGROUND", -1, "whole number >= 0"),
        ("MAX_PER_IMAGE", -1, "whole number >= 0"),
        ("SCORE_THRESH", 1.0, "a score, 0 to below 1"),
        ("SCORE_THRESH", float("nan"), "a score, 0 to below 1"),
    ],
)
def test_impossible_values(key, value, message):
    cfg = get_cfg()
    add_settings(cfg)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.TRAINER = 40, "bootstrapping"
    check_settings(cfg)
    cfg.merge_from_list([f"BOOTSTRAP.{key}", value])
    with pytest.raises(ValueError, match=f"BOOTSTRAP.{key} = .*allowed: .*{message}"):
        check_settings(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.LOAD_PROPOSALS", False),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "RPN"),
        ("MODEL.ROI_HEADS.NAME", "OHEMROIHeads"),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads"),
    ],
)
def test_other_detectors_are_refused(data, tmp_path, key, value):
    cfg = setup(data, tmp_path, key, value)
    with pytest.raises(ValueError, match=f"{key} = .*allowed: "):
        BootstrapTrainer(cfg)


def test_data_without_proposals_is_refused(data, tmp_path):
    cfg = setup(data, tmp_path, "DATASETS.PROPOSAL_FILES_TRAIN", ())
    with pytest.raises(ValueError, match="DATASETS has no proposal file for"):
        BootstrapTrainer(cfg)


# ---- the working set ----


def raw(data):
    """Objects, crowds and ordered proposals of each tile, read without Detectron2."""
    coco = json.loads(Path(data[1][0].split(":")[1]).read_text())
    with open(data[5][0], "rb") as file:
        proposals = pickle.load(file)
    for image in coco["images"]:
        i = proposals["ids"].index(image["id"])
        order = np.argsort(-proposals["objectness_logits"][i])
        own = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        parts = [[xyxy(a) for a in own if a["iscrowd"] == crowd] for crowd in (0, 1)]
        yield image, *parts, proposals["boxes"][i][order]


@pytest.mark.parametrize("topk", [2000, 100])
def test_working_set_of_real_tiles(data, tmp_path, topk):
    cfg = setup(data, tmp_path, "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", topk)
    found = WorkingSet(cfg)
    num_fg = num_bg = 0
    for (image, objects, crowds, boxes), record, labels, indices in zip(
        raw(data), found.records, found.labels, found.indices
    ):
        lower, upper = np.maximum(boxes[:, :2], 0), boxes[:, 2:]
        upper = np.minimum(upper, [image["width"], image["height"]])
        inside = boxes[(upper > lower).all(axis=1)][:topk].tolist()
        assert len(inside) < len(boxes)
        np.testing.assert_allclose(record["proposal_boxes"], inside)
        expected = [label(b, objects, crowds) for b in inside]
        assert labels.tolist() == expected and -1 in expected
        of_set = labels[indices].tolist()
        assert of_set.count(1) == expected.count(1) and of_set.count(0) == 5
        assert len(of_set) == expected.count(1) + 5
        num_fg, num_bg = num_fg + of_set.count(1), num_bg + 5
    assert found.count() == {"num_foreground": num_fg, "num_background": num_bg}
    assert same(found.indices, WorkingSet(cfg).indices)
    other = WorkingSet(setup(data, tmp_path, "SEED", 2))
    assert not same(found.indices, other.indices)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_of_the_set_and_of_its_round(data, tmp_path, num_workers):
    cfg = setup(
        *(data, tmp_path, "DATALOADER.NUM_WORKERS", num_workers, "INPUT.RANDOM_FLIP", "none"),
        *("SOLVER.IMS_PER_BATCH", 2),
    )
    loader = BootstrapTrainer.build_train_loader(cfg)
    working_set, batches = loader.working_set, iter(loader)
    records = {r["image_id"]: (r, i) for i, r in enumerate(working_set.records)}

    def check():
        seen = set()
        for _ in range(6):
            for x in next(batches):
                record, place = records[x["image_id"]]
                height, width = x["proposals"].image_size
                boxes = record["proposal_boxes"][working_set.indices[place].numpy()]
                scale = np.array([width / record["width"], height / record["height"]] * 2)
                expected = (boxes * scale).clip(0, [width, height] * 2)
                found = x["proposals"].proposal_boxes.tensor.numpy()
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
                seen.add(place)
        assert seen == {0, 1, 2}

    check()
    working_set.indices = [torch.arange(10 + i) for i in range(3)]
    working_set.round = 1
    check()


def test_the_working_set_runs_nothing_from_proposals(data, tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([Payload(tmp_path / "canary")]))
    cfg = load_config(QUICK, overrides(data, tmp_path))
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(tmp_path / "x.pkl"),)
    with pytest.raises(UntrustedFile, match="x.pkl holds posix.mkdir"):
        WorkingSet(cfg)
    assert not (tmp_path / "canary").exists()


def test_state_of_a_working_set(data, tmp_path):
    cfg = setup(data, tmp_path)
    first = WorkingSet(cfg)
    second = WorkingSet(setup(data, tmp_path, "SEED", 2))
    first.indices[1] = torch.zeros(0, dtype=torch.int64)
    first.round = 2
    torch.save(first.state_dict(), tmp_path / "state.pth")
    second.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert same(first.indices, second.indices) and second.round == 2
    second.records[0]["proposal_boxes"][0, 0] += 1
    with pytest.raises(ValueError, match="of other proposals.*PROPOSAL_FILES_TRAIN"):
        second.load_state_dict(first.state_dict())


# ---- the sweep ----


@pytest.fixture
def tiny(data, tmp_path):
    """A model that finds some objects in everything, its configuration, and a working set."""
    cfg = config("fpn", "MODEL.ROI_HEADS.NUM_CLASSES", 3, plain=True)
    add_settings(cfg)
    cfg.merge_from_list(overrides(data, tmp_path))
    register_datasets(cfg.DATASETS.TRAIN)
    model = detector(cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=1.0)
    return cfg, model, WorkingSet(cfg)


def test_scores_are_those_of_inference(tiny):
    cfg, model, working_set = tiny
    logits, seen = [], []
    model.eval()
    predictor = model.roi_heads.box_predictor
    handle = predictor.register_forward_hook(lambda *args: logits.append(args[-1][0]))
    images = list(map(DatasetMapper(cfg, is_train=False), working_set.records))
    with torch.no_grad():
        for start in range(0, len(images), 2):
            inputs = images[start : start + 2]
            model.inference(inputs)
            expected = logits.pop().softmax(dim=1)[:, :3].max(dim=1).values
            seen += score_proposals(model, inputs)
            torch.testing.assert_close(torch.cat(seen[-len(inputs) :]), expected)
    handle.remove()
    assert [len(s) for s in seen] == [len(r["proposal_boxes"]) for r in working_set.records]
    assert torch.cat(seen).std() > 0.01


def test_sweep_counts_and_leaves_no_trace(tiny):
    cfg, model, working_set = tiny
    cfg.BOOTSTRAP.SCORE_THRESH, cfg.BOOTSTRAP.MAX_PER_IMAGE = 0.4, 20
    model.roi_heads.box_head.eval()  # it was put so; the rest is in training mode
    model.train()
    before = copy.deepcopy(model.state_dict())
    indices = [part.clone() for part in working_set.indices]
    scores = {}
    score = score_proposals

    def record(model, inputs):
        assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
        found = score(model, inputs)
        scores.update({x["place"]: s for x, s in zip(inputs, found)})
        return found

    with pytest.MonkeyPatch.context() as patch, EventStorage() as storage:
        patch.setattr("projects.paper.ohem_paper.working_set.score_proposals", record)
        after, counts = sweep(cfg, model, working_set)
        assert not storage.latest()

    expected = dict.fromkeys(("num_false_positives", "num_added"), 0)
    for place, labels in enumerate(working_set.labels):
        s = scores[place].tolist()
        hard = [i for i in range(len(s)) if labels[i] == 0 and s[i] > 0.4]
        kept = indices[place].tolist()
        new = sorted((i for i in hard if i not in kept), key=lambda i: -s[i])[:20]
        assert after[place].tolist() == sorted(kept + new)
        expected["num_false_positives"] += len(hard)
        expected["num_added"] += len(new)
    assert counts == expected and all(expected.values())

    assert same(working_set.indices, indices) and working_set.round == 0
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def sweep_in_process(rank, data, folder):
    """A part of the sweep; module-level, so that another process can be started with it."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2
    )
    cfg = setup(data, folder / str(rank))
    torch.manual_seed(0)
    model = BootstrapTrainer.build_model(cfg)
    result = sweep(cfg, model, WorkingSet(cfg))
    torch.save((model.state_dict(), *result), folder / f"{rank}.pth")
    torch.distributed.destroy_process_group()


def test_processes_share_a_sweep(data, tmp_path):
    thresh = ("BOOTSTRAP.SCORE_THRESH", 0.45, "SEED", 3)
    forked.spawn(sweep_in_process, [*data, *thresh], tmp_path)
    parts = [torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1)]
    assert same(parts[0][1], parts[1][1]) and parts[0][2] == parts[1][2]
    cfg = setup([*data, *thresh], tmp_path / "one")
    model = BootstrapTrainer.build_model(cfg)
    model.load_state_dict(parts[0][0])
    indices, counts = sweep(cfg, model, WorkingSet(cfg))
    assert same(indices, parts[0][1]) and counts == parts[0][2]


# ---- rounds ----


def test_learns_what_the_sweeps_find(data, tmp_path):
    """Only RoIs of the working set are trained on; false positives become fewer."""
    cfg = setup(data, tmp_path, "SOLVER.MAX_ITER", 90, "BOOTSTRAP.ROUNDS", 3)
    trainer = BootstrapTrainer(cfg)
    heads = trainer.model.roi_heads
    sampled, sets = [], []
    label_and_sample = heads.label_and_sample_proposals

    def record(proposals, targets):
        found = label_and_sample(proposals, targets)
        of_set = [p.proposal_boxes.tensor for p in proposals]
        objects = [t.gt_boxes.tensor for t in targets]
        sampled.append((of_set[0], objects[0], found[0].proposal_boxes.tensor))
        sets.append((trainer.working_set.round, [len(i) for i in trainer.working_set.indices]))
        return found

    heads.label_and_sample_proposals = record
    trainer.resume_or_load(resume=False)
    trainer.train()

    assert [r for r, _ in sets] == [0] * 30 + [1] * 30 + [2] * 30
    for (of_set, objects, boxes), (_, sizes) in zip(sampled, sets):
        assert len(of_set) in sizes
        allowed = torch.cat([of_set, objects])
        assert (boxes[:, None] == allowed).all(dim=2).any(dim=1).all()
    records = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    logged = {r["iteration"]: r for r in records if "bootstrap/num_background" in r}
    assert sorted(logged) == [29, 59, 89]
    first, second = (
        {key.removeprefix("bootstrap/"): value for key, value in logged[i].items()}
        for i in (29, 59)
    )
    assert 0 < second["num_false_positives"] < 0.5 * first["num_false_positives"]
    assert second["num_foreground"] == first["num_foreground"]
    assert second["num_background"] == first["num_background"] + first["num_added"]
    assert first["sweep_seconds"] > 0 and second["sweep_seconds"] > 0
    assert trainer.last_results["bbox"]["AP50"] > 5


def command(data, output, *more, flags=()):
    values = [str(v) for v in overrides(data, output, *more)]
    script = str(ROOT / "projects/paper/train.py")
    values += ["SOLVER.TRAINER", "bootstrapping"]
    return [script, "--config-file", QUICK, *flags, *values]


def run(data, output, *more, flags=()):
    output.mkdir(exist_ok=True)
    return forked.printed(command(data, output, *more, flags=flags), output)


@pytest.mark.skipif("state_dict" not in vars(DefaultTrainer), reason="v0.6 saves no optimizer")
def test_killed_after_a_sweep_and_resumed_as_if_never_interrupted(data, tmp_path):
    """With images, flips and RoIs at random: a round starts from a random state of its own."""
    settings = ["SOLVER.MAX_ITER", 30, "BOOTSTRAP.ROUNDS", 3, "DATASETS.TEST", ()]
    settings += ["DATASETS.PROPOSAL_FILES_TEST", ()]
    out = run(data, tmp_path / "whole", *settings)
    assert "3 rounds; the first working set has" in out
    marker = tmp_path / "killed/last_checkpoint"
    forked.kill_when(
        lambda: marker.exists() and marker.read_text() == "model_round_1.pth",
        command(data, tmp_path / "killed", *settings),
        tmp_path,
    )
    assert not (tmp_path / "killed/model_final.pth").exists()
    run(data, tmp_path / "killed", *settings, flags=["--resume"])

    whole, resumed = (
        torch.load(tmp_path / folder / "model_final.pth") for folder in ("whole", "killed")
    )
    for name in whole["model"]:
        assert torch.equal(whole["model"][name], resumed["model"][name]), name
    states = [run["trainer"]["bootstrap"] for run in (whole, resumed)]
    sets = [state["working_set"] for state in states]
    assert torch.equal(sets[0]["indices"], sets[1]["indices"]) and sets[0]["round"] == 2


def test_stopped_in_a_sweep(data, tmp_path, monkeypatch):
    """The sweep comes first when the run is resumed; here with two batches an iteration."""
    settings = ["SOLVER.MAX_ITER", 6, "BOOTSTRAP.ROUNDS", 2, "SOLVER.CHECKPOINT_PERIOD", 3]
    settings += ["SOLVER.ACCUMULATION_STEPS", 2, "DATASETS.TEST", ()]
    swept = []

    def stop(*args):
        swept.append(sweep(*args))
        raise KeyboardInterrupt

    trainer = BootstrapTrainer(setup(data, tmp_path, *settings))
    trainer.resume_or_load(resume=False)
    monkeypatch.setattr(training, "sweep", stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    monkeypatch.undo()
    assert trainer.iter == 2 and trainer.working_set.round == 0

    resumed = BootstrapTrainer(setup(data, tmp_path, *settings, resume=True))
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3
    resumed.train()
    assert same(resumed.working_set.indices, swept[0][0]) and resumed.working_set.round == 1
    assert swept[0][1]["num_added"] > 0


def test_checkpoint_of_another_run(data, tmp_path):
    settings = ["SOLVER.MAX_ITER", 2, "BOOTSTRAP.ROUNDS", 1, "DATASETS.TEST", ()]
    cfg = setup(data, tmp_path, *settings)
    plain = OHEMTrainer(cfg)
    plain.resume_or_load(resume=False)
    plain.train()
    with pytest.raises(ValueError, match="has no working set"):
        BootstrapTrainer(cfg).resume_or_load(resume=True)
