"""
A model trained with OHEM deploys as a plain one does: Detectron2's exporters, same outputs.
TorchScript takes the plain heads, whose parameters are the same.
"""

import inspect

import pytest
import torch
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from models import batch, config, detector

# That of v0.6 imports caffe2, which PyTorch has dropped.
export = pytest.importorskip("detectron2.export")

ALL_DETECTIONS = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)

# For scripting: the fields of Instances that inference uses, of whatever branch
FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": torch.Tensor,
    "pred_boxes": Boxes,
    "scores": torch.Tensor,
    "pred_classes": torch.Tensor,
    "pred_masks": torch.Tensor,
    "pred_keypoints": torch.Tensor,
    "pred_keypoint_heatmaps": torch.Tensor,
}


def trained(name):
    """A model after steps with OHEM, the plain one with its weights, and images."""
    cfg = config(name, *ALL_DETECTIONS)
    model, inputs = detector(cfg), batch(cfg)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with EventStorage() as storage:
        for _ in range(2):
            losses = model(inputs)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            storage.step()
    plain = detector(config(name, *ALL_DETECTIONS, plain=True))
    plain.load_state_dict(model.state_dict(), strict=True)
    return model.eval(), plain.eval(), [x["image"] for x in inputs]


def tracing_adapter(model, image):
    def inference(model, inputs):
        return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]

    return export.TracingAdapter(model, [{"image": image}], inference).eval()


def eager(model, image):
    with torch.no_grad():
        return tracing_adapter(model, image)(image)


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["keypoint", "c4", "cascade"])
def test_torchscript_by_tracing(name):
    ours, plain, (image, other) = trained(name)
    traced = torch.jit.trace(tracing_adapter(ours, image), (image,), check_trace=False)
    # Without the optimizer, which takes seconds for each module.
    with torch.no_grad(), torch.jit.optimized_execution(False):
        results = traced(other)
    assert len(results[0]) == 100
    assert_equal(results, eager(plain, other))


# Detectron2's scripting takes neither a plain cascade nor a plain C4 model without masks.
@pytest.mark.parametrize("name", ["mask", "c4-mask"])
def test_torchscript_by_scripting_takes_the_plain_heads(name):
    ours, plain, images = trained(name)
    inputs = [{"image": x} for x in images]
    scripted = export.scripting_with_instances(plain, FIELDS)
    with torch.no_grad(), torch.jit.optimized_execution(False):
        results = scripted.inference(inputs, do_postprocess=False)
        expected = ours.inference(inputs, do_postprocess=False)
    for a, b in zip(results, expected):
        assert len(a) == 100
        for field, value in b.get_fields().items():
            value, other = (getattr(v, "tensor", v) for v in (value, getattr(a, field)))
            assert torch.equal(value, other), field


# Detectron2 does not export the plain keypoint model to ONNX.
@pytest.mark.parametrize("name", ["fpn", "mask", "c4", "cascade"])
def test_onnx(name, tmp_path):
    pytest.importorskip("onnx", reason="exporting to ONNX needs the package onnx")
    runtime = pytest.importorskip("onnxruntime", reason="comparing outputs needs onnxruntime")
    ours, plain, (image, _) = trained(name)
    # The exporter for traced modules, which newer versions of PyTorch do not take by default
    legacy = "dynamo" in inspect.signature(torch.onnx.export).parameters
    results = []
    for model in (ours, plain):
        file = str(tmp_path / "model.onnx")
        torch.onnx.export(
            tracing_adapter(model, image),
            (image,),
            file,
            opset_version=16,
            **({"dynamo": False} if legacy else {}),
        )
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        results.append([torch.as_tensor(x) for x in outputs])
    assert len(results[0][0]) == 100
    assert_equal(*results)
    assert results[0][0].shape == eager(plain, image)[0].shape
