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


def test_a_quota_is_the_hardest_of_each_kind(built):
    heads, inputs = built
    quota = heads["quota"]
    with EventStorage(), torch.no_grad():
        found, _ = quota(inputs.images, inputs.features, inputs.proposals, inputs.targets)
        everything = heads["all RoIs"].label_and_sample_proposals(inputs.proposals, inputs.targets)
        for i, (mined, rois) in enumerate(zip(found, everything)):
            maps = [inputs.features[f][i : i + 1] for f in quota.box_in_features]
            pooled = quota.box_pooler(maps, [rois.proposal_boxes])
            scores, _ = quota.box_predictor(quota.box_head(pooled))
            loss = torch.nn.functional.cross_entropy(scores, rois.gt_classes, reduction="none")
            foreground = rois.gt_classes < quota.num_classes
            expected = []
            for kind, num in ((foreground, 8), (~foreground, 32 - 8)):
                assert kind.sum() >= num
                index = torch.nonzero(kind).squeeze(1)
                hardest = index[loss[index].topk(num).indices]
                expected += rois.proposal_boxes.tensor[hardest].tolist()
            assert sorted(mined.proposal_boxes.tensor.tolist()) == sorted(expected)


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


def test_the_table_of_targets_reads_a_report():
    from bench_tables import targets_table
    from heads import VARIANTS

    point = {
        "point": {"head": "fpn", "R": 2000, "N": 1, "B": 128, "precision": "float32"},
        "times": {v: [2.0, 2.0] for v in VARIANTS} | {"loss_layer": [5.0, 5.0]},
        "bound": [1.0, 2.0],
        "peak": {v: 100 for v in VARIANTS},
        "held": 100,
        "parts": {"readonly": {"forward/scoring/box_head": 1.0, "ohem/mine": 1.03}},
    }
    step = {
        "step": {"model": "R50-FPN", "R": 1000, "N": 16, "precision": "float16"},
        "times": {"plain 512": [4.0, 4.0], "readonly 128": [3.0, 3.0]},
    }
    table = targets_table({"points": [point], "steps": [step]})
    of = "fpn head, R = 2000, N = 1, B/N = 128"
    assert f"| `readonly` over the bound, {of} | ≤ 1.05 | 1.50 ± 0.25 |" in table
    of = "R50-FPN, N = 16 of 800 x 1216, R = 1000, float16"
    assert f"| whole step over Detectron2's default, {of} | ≤ 1.00 | 0.75 ± 0.00 |" in table
    assert "| ≤ 1.05 | 1.00; without parameters and maps 1.00 |" in table
    assert "| ≥ 2.2 | 2.50 ± 0.00 |" in table
    assert "3.0 %" in table


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
    from whole_step import STEPS, Whole, models_and_batch, step_of

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
    from whole_step import Whole

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


def test_a_time_line_tells_waits_and_gaps():
    from timeline import summary

    def event(cat, name, ts, dur, tid=1):
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": tid}

    found = summary(
        [
            {"ph": "M", "name": "process_name"},
            event("user_annotation", "ohem/mine", 0, 9000),
            event("cpu_op", "aten::nonzero", 1000, 2000),
            event("user_annotation", "ohem/nms", 4000, 1000),
            event("cpu_op", "aten::add", 10_000, 1000),
            event("cuda_runtime", "cudaStreamSynchronize", 2000, 10),
            event("cuda_runtime", "cudaStreamSynchronize", 4500, 10),
            event("cuda_runtime", "cudaStreamSynchronize", 10_500, 10),
            event("cuda_runtime", "cudaStreamSynchronize", 20_000, 10),
            event("cuda_runtime", "cudaLaunchKernel", 20, 10),
            event("gpu_user_annotation", "ohem/mine", 0, 9000, tid=7),
            # on two streams, the second kernel within the first
            event("kernel", "gemm", 1000, 3500, tid=7),
            event("kernel", "relu", 2000, 1000, tid=8),
            event("gpu_memcpy", "Memcpy DtoH", 5000, 5500, tid=7),
            event("kernel", "gemm", 12_500, 500, tid=7),
        ]
    )
    assert found["kernels"] == 3
    assert (found["span"], found["busy"]) == (12.0, 9.5)
    waits = {"ohem/mine": 1, "ohem/nms": 1, "aten::add": 1, "between operators": 1}
    assert found["waits"] == waits
    assert found["gaps"] == {"ohem/nms": 0.5, "aten::add": 2.0}
    assert found["time"] == {"gemm": 4.0, "relu": 1.0, "Memcpy DtoH": 5.5}
    assert summary([])["span"] == 0


def test_a_time_line_of_a_real_step(tmp_path, capsys):
    import timeline

    small = ["--model", "demo", "--images", "1", "--rois", "300", "--variants", "readonly 128"]
    found = timeline.main([*small, "--output", str(tmp_path)])
    trace = json.loads((tmp_path / "readonly_128.json").read_text())
    assert "ohem/mine" in {event.get("name") for event in trace["traceEvents"]}
    assert (found["readonly 128"]["kernels"] > 0) == torch.cuda.is_available()
    assert "| readonly 128 | " in capsys.readouterr().out


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
