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
    for variant in ("plain", "readonly", "screening", "bfloat16", "quota", "loss_layer"):
        assert number[variant] == [32, 32]
    assert number["all RoIs"] == number["plain 512"] == [150 + 8, 150 + 8]
    num_objects = {
        variant: [int((rois.gt_classes < heads[variant].num_classes).sum()) for rois in images]
        for variant, images in trained.items()
    }
    assert num_objects["quota"] == [8, 8]  # a quarter
    assert min(num_objects["readonly"]) > 8


def test_half_precision_is_that_of_training():
    from heads import Inputs, build, scoring_forward, training_step

    heads = build("fpn", ["readonly"], 32, "cpu")["readonly"]
    seen = set()
    heads.box_head.register_forward_hook(
        lambda *args: seen.add((torch.is_grad_enabled(), args[-1].dtype))
    )
    for precision in (torch.float32, torch.bfloat16):
        inputs = Inputs("fpn", 2, 150, "cpu", str(precision).split(".")[1])
        assert {f.dtype for f in inputs.features.values()} == {precision}
        with EventStorage():
            training_step(heads, inputs)()
        assert all(f.grad.dtype == precision for f in inputs.features.values())
        assert seen == {(False, precision), (True, precision)}
        seen.clear()
        scoring_forward(heads, inputs, 10**6)()
        assert seen == {(False, precision)}
        assert all(p.dtype == torch.float32 for p in heads.parameters())
        seen.clear()


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


def test_a_run_leaves_a_report(tmp_path, monkeypatch, capsys):
    import bench
    import heads

    monkeypatch.setattr(heads, "IMAGE", (256, 320))
    monkeypatch.setattr(bench, "SMOKE", [bench.Point("fpn", 60, B=16)])
    bench.main(["--smoke", "--output", str(tmp_path)])
    report = json.loads((tmp_path / "bench.json").read_text())
    (point,) = report["points"]
    assert set(point["times"]) == set(point["peak"]) == set(bench.VARIANTS)
    assert all(len(taken) == 1 and taken[0] > 0 for taken in point["times"].values())
    scoring = point["scoring"][point["fastest"]][0]
    assert set(point["scoring"]) == {bench.ALL, bench.CHUNKS}
    assert scoring == min(x for (x,) in point["scoring"].values())
    assert point["bound"] == [scoring + point["times"]["plain"][0]]
    # every part of mining was found, and the head ran in both passes
    names = ("mine", "label", "loss", "nms")
    expected = {f"ohem/{name}" for name in names} | {"step/backward"}
    for name in ("box_pooler", "box_head", "box_predictor"):
        expected |= {f"forward/scoring/{name}", f"forward/training/{name}"}
    found = point["parts"]["readonly"]
    assert expected <= set(found) and min(found.values()) > 0
    assert set(point["parts"]) == set(bench.VARIANTS)
    assert not any(name.startswith("forward/scoring") for name in point["parts"]["plain"])
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert "readonly" in capsys.readouterr().out


def test_a_setting_without_room_is_left_out(tmp_path, monkeypatch, capsys):
    import bench

    def fail(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(bench, "measure", fail)
    monkeypatch.setattr(bench, "measure_model", fail)
    bench.main(["--gpu", "--output", str(tmp_path)])
    out = capsys.readouterr().out
    for setting in (
        "fpn head, R = 2000, N = 16, B/N = 128, bfloat16",
        "R50-FPN, N = 16 of 800 x 1216, R = 2000, float16",
    ):
        assert f"{setting}: left out" in out
    bench.main(["--gpu", "--only", "steps", "--output", str(tmp_path)])
    assert "head" not in (out := capsys.readouterr().out) and "R50-FPN, N = 2" in out


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_whole_steps_of_one_model(precision):
    from heads import STEPS, Whole, models_and_batch, step_of

    whole = Whole("demo", 300, 2, precision)
    names = list(STEPS) if precision == "float32" else ["plain 128", "readonly 128"]
    models, batch = models_and_batch(whole, "cpu", names)
    seen = []

    def see(heads, args):
        _, features, proposals, _ = args
        seen.append((features["p3"].dtype, len(proposals), max(map(len, proposals))))

    with EventStorage() as storage:
        for model in models.values():
            model.roi_heads.register_forward_pre_hook(see)
            step, reset = step_of(model, batch, whole, "cpu")
            reset()
            assert step() > 0
    assert len(seen) >= len(names) and set(seen) == {(getattr(torch, precision), 2, 300)}
    assert storage.latest()["ohem/num_candidates"][0] > 128
    first, *others = ({id(p) for p in model.parameters()} for model in models.values())
    assert all(parameters == first for parameters in others)


def test_settings_are_measured_as_they_are(monkeypatch):
    import bench
    from heads import Whole

    asked = []

    def see(*args):
        asked.append(args)
        raise InterruptedError

    monkeypatch.setattr(bench, "build", lambda *args: asked.append(args) or {})
    monkeypatch.setattr(bench, "Inputs", see)
    monkeypatch.setattr(bench, "model_steps", see)
    with pytest.raises(InterruptedError):
        bench.measure(bench.Point("vgg16", 700, 2, 64, "bfloat16"), 1, "cpu")
    (head, _, budget, _), inputs = asked
    assert (head, budget) == ("vgg16", 64) and inputs == ("vgg16", 2, 700, "cpu", "bfloat16")
    whole = Whole("demo", 300, 2, "float16")
    with pytest.raises(InterruptedError):
        bench.measure_model(whole, 1, "cpu")
    assert asked[-1] == (whole, "cpu")


def test_objectness_stays_with_its_rois():
    from agreement import agreement, rois_of

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

    time, *shares = agreement(model.roi_heads, [(maps, rois)], len(rois) // 2)
    assert float(time) > 0 and shares[-2:] == ["100.0 %", "100.0 %"]  # all of them are promising
    (share, *_) = agreement(model.roi_heads, [(maps, rois)], 8)[1:]
    assert 0 < float(share.removesuffix(" %")) <= 100
