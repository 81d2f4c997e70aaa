"""The benchmark measures what it says; its figures are not tested."""

import copy
import json
from collections import Counter

import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou
from detectron2.utils.events import EventStorage
from models import batch, config, detector

from ohem_d2 import IgnoreRegions


@pytest.fixture(scope="module")
def built():
    from heads import VARIANTS, Inputs, build

    return build("fpn", list(VARIANTS), 32, "cpu"), Inputs("fpn", 2, 150, "cpu")


def test_proposals_are_like_those_of_an_rpn(built):
    _, inputs = built
    for proposals, target in zip(inputs.proposals, inputs.targets):
        boxes = proposals.proposal_boxes
        assert len(boxes) == 150
        iou = pairwise_iou(boxes, boxes).fill_diagonal_(0)
        assert iou.max() <= 0.7
        best = pairwise_iou(target.gt_boxes, boxes).amax(dim=0)
        assert 0.02 < (best >= 0.5).float().mean() < 0.5


def test_variants_share_parameters_and_train_what_they_say(built):
    from heads import clear_gradients, training_step

    heads, inputs = built
    parameters = list(heads["plain"].parameters())
    trained = {}
    for variant, h in heads.items():
        assert all(a is b for a, b in zip(parameters, h.parameters()))
        seam = h.label_and_sample_proposals

        def spy(*args, seam=seam, variant=variant):
            trained[variant] = seam(*args)
            return trained[variant]

        h.label_and_sample_proposals = spy
        clear_gradients(h, inputs)
        with EventStorage():
            training_step(h, inputs)()
        del h.label_and_sample_proposals
        assert all(p.grad is not None for p in parameters)
    number = {variant: [len(t) for t in rois] for variant, rois in trained.items()}
    for variant in ("plain", "readonly", "screening", "bfloat16", "sampler", "loss_layer"):
        assert number[variant] == [32, 32]
    assert number["all RoIs"] == number["plain 512"] == [150 + 8, 150 + 8]


def test_the_sampler_takes_the_hardest_of_each_kind(built):
    heads, inputs = built
    sampler = heads["sampler"]
    with EventStorage(), torch.no_grad():
        found, _ = sampler(inputs.images, inputs.features, inputs.proposals, inputs.targets)
        everything = heads["all RoIs"].label_and_sample_proposals(inputs.proposals, inputs.targets)
        for i, (mined, rois) in enumerate(zip(found, everything)):
            pooled = sampler.box_pooler(
                [inputs.features[f][i : i + 1] for f in sampler.box_in_features],
                [rois.proposal_boxes],
            )
            scores, _ = sampler.box_predictor(sampler.box_head(pooled))
            loss = torch.nn.functional.cross_entropy(scores, rois.gt_classes, reduction="none")
            foreground = rois.gt_classes < sampler.num_classes
            expected = []
            for kind, num in ((foreground, 8), (~foreground, 32 - 8)):
                assert kind.sum() >= num
                index = torch.nonzero(kind).squeeze(1)
                expected.append(rois.proposal_boxes.tensor[index[loss[index].topk(num).indices]])
            torch.testing.assert_close(mined.proposal_boxes.tensor, torch.cat(expected))


def test_peak_of_live_memory():
    from measure import peak_bytes

    kept = []

    def step():
        a = torch.ones(250_000)  # 1 MB each
        b = a + 1
        del a
        kept.append(b + 1)  # two at a time, of three

    assert peak_bytes(step, "cpu") == pytest.approx(2e6, rel=0.01)


def test_rounds_are_paired_and_shuffled():
    from measure import interleaved, ratio

    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "abcd"}
    times = interleaved(steps, 6, "cpu", lambda: calls.append("reset"))
    assert {name: len(taken) for name, taken in times.items()} == dict.fromkeys("abcd", 6)
    assert Counter(calls) == {"reset": 28, **dict.fromkeys("abcd", 7)}
    rounds = ["".join(calls[i : i + 8]).replace("reset", "") for i in range(0, len(calls), 8)]
    assert all(sorted(r) == list("abcd") for r in rounds) and len(set(rounds)) > 1
    # rounds of double speed change no ratio
    assert ratio([2.0, 1.0, 4.0], [4.0, 2.0, 8.0]) == (0.5, 0.0)
    assert ratio([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]) == (2.0, 0.5)


def test_a_run_leaves_a_report(tmp_path, capsys):
    import bench

    bench.main(["--smoke", "--output", str(tmp_path)])
    report = json.loads((tmp_path / "bench.json").read_text())
    (point,) = report["points"]
    assert set(point["times"]) == set(point["peak"]) == set(bench.VARIANTS)
    assert all(len(taken) == 1 and taken[0] > 0 for taken in point["times"].values())
    scoring = point["scoring"][point["fastest"]][0]
    assert len(point["scoring"]) == 6 and scoring == min(x for (x,) in point["scoring"].values())
    assert point["bound"] == [scoring + point["times"]["plain"][0]]
    # every part of mining was found, and the head ran in both passes
    names = ("mine", "label", "loss", "nms", "cut", "gather", "log")
    expected = {f"ohem/{name}" for name in names} | {"step/backward"}
    for name in ("box_pooler", "box_head", "box_predictor"):
        expected |= {f"forward/scoring/{name}", f"forward/training/{name}"}
    found = point["parts"]["readonly"]
    assert expected <= set(found) and min(found.values()) > 0
    assert set(point["parts"]) == set(bench.VARIANTS)
    assert not any(name.startswith("forward/scoring") for name in point["parts"]["plain"])
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert "readonly" in capsys.readouterr().out


def test_the_table_of_targets_reads_a_report():
    import bench

    point = {
        "point": {"head": "fpn", "R": 2000, "N": 1, "B": 128},
        "times": {v: [2.0, 2.0] for v in bench.VARIANTS} | {"loss_layer": [5.0, 5.0]},
        "bound": [1.0, 2.0],
        "peak": {v: 100 for v in bench.VARIANTS} | {"sampler": 150},
        "held": 100,
        "parts": {"readonly": {"forward/scoring/box_head": 1.0, "ohem/mine": 1.03}},
    }
    table = bench.targets_table({"points": [point], "steps": []})
    assert "| `readonly` over the bound, R = 2000 | ≤ 1.05 | 1.50 ± 0.25 |" in table
    assert "| ≥ 2.2 | 2.50 ± 0.00 |" in table and "| ≥ 1.10 | 1.500 |" in table
    assert "3.0 %" in table


def test_a_setting_without_room_is_left_out(tmp_path, monkeypatch, capsys):
    import bench

    def fail(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(bench, "measure", fail)
    bench.main(["--smoke", "--output", str(tmp_path)])
    assert "fpn head, R = 300, N = 1, B/N = 64: left out" in capsys.readouterr().out


def test_whole_steps_of_one_model():
    from whole_step import model_steps

    steps, reset = model_steps("demo", "cpu")
    assert list(steps)[0] == "plain 512" and "readonly 128" in steps
    with EventStorage() as storage:
        for step in steps.values():
            reset()
            step()
    assert storage.latest()["ohem/num_candidates"][0] > 128


def test_a_process_tells_its_own_peak():
    import bench

    ballast = torch.ones(2**30 // 4)  # 1 GB of this process, not of that one
    assert 2**28 < bench.in_own_process("plain") < bench.process_peak_bytes()
    del ballast


def test_objectness_stays_with_its_rois():
    from agreement import rois_of, table

    cfg = config("fpn", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals")
    model = detector(cfg)
    inputs = batch(cfg)[0]
    crowd = Boxes(torch.tensor([[0.0, 0.0, 64.0, 96.0]]))
    inputs["instances"].ignore_regions = IgnoreRegions(crowd, len(inputs["instances"]))
    proposals = inputs["proposals"]
    logit = dict(
        zip(map(tuple, proposals.proposal_boxes.tensor.tolist()), proposals.objectness_logits)
    )
    model.proposal_generator = lambda images, features, targets: ([copy.copy(proposals)], {})
    maps, rois = rois_of(model, inputs)
    assert 3 < len(rois) < len(proposals)
    found = dict(zip(map(tuple, rois.proposal_boxes.tensor.tolist()), rois.objectness_logits))
    assert all(found[box] == logit[box] for box in found if box in logit)
    # objects are the most objectlike
    assert min(found[box] for box in found if box not in logit) > max(logit.values())

    with torch.no_grad():
        lines = table("model.pth", model.roi_heads, [(maps, rois)], 8).splitlines()
    assert lines[0].startswith(f"model.pth: 1 tiles, {len(rois)} RoIs a tile, B/N = 8")
    assert lines[4] == "| exact | 1.00" + 5 * " | 100.0" + " |" and len(lines) == 4 + 12
