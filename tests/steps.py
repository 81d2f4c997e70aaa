"""Training steps of small detectors, and what they are compared with."""

import copy
import itertools

import torch
from detectron2.utils.events import EventStorage
from models import batch, config, detector, gradients, roi_inputs
from torch import nn

from ohem_d2 import per_roi_losses, select_hard_examples

# Relative errors of gradients in float32 that pass through a whole network.
CLOSE = {"rtol": 2e-3, "atol": 1e-5}


def train_heads(model, inputs):
    """Forward and backward through backbone and ROI heads; returns losses and trained RoIs."""
    trained = []
    seam = model.roi_heads.label_and_sample_proposals

    def spy(*args):
        trained.append(seam(*args))
        return trained[-1]

    model.roi_heads.label_and_sample_proposals = spy
    model.zero_grad()
    with EventStorage() as storage:
        _, losses = model.roi_heads(*roi_inputs(model, inputs))
        sum(losses.values()).backward()
    del model.roi_heads.label_and_sample_proposals
    return losses, trained[0], storage


def logged(storage):
    """Every value that was logged, by name; of the latest alone it would not be seen."""
    return {name: [v for v, _ in history.values()] for name, history in storage.histories().items()}


def boxes_of(images):
    return [image.proposal_boxes.tensor for image in images]


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **CLOSE, msg=lambda m: f"{name}: {m}")  # noqa: B023


def pair(name, *overrides, **kwargs):
    """An OHEM model and a plain one of the same weights, and inputs for them."""
    cfg = config(name, *overrides, **kwargs)
    ours = detector(cfg)
    kwargs.pop("ohem", None)
    plain = detector(config(name, *overrides, plain=True, **kwargs))
    plain.load_state_dict(ours.state_dict())
    return ours, plain, batch(cfg)


class Fixed:
    """Makes plain heads train on given RoIs: image by image, indices among all proposals."""

    def __init__(self, heads, chosen):
        self.heads, self.chosen = heads, iter(chosen)

    def __enter__(self):
        def sample(matched_idxs, matched_labels, gt_classes):
            classes = torch.full_like(matched_idxs, self.heads.num_classes)
            if len(gt_classes):
                foreground = matched_labels == 1
                classes[foreground] = gt_classes[matched_idxs[foreground]]
            index = next(self.chosen)
            return index, classes[index]

        self.heads._sample_proposals = sample

    def __exit__(self, *_):
        del self.heads._sample_proposals


def indices_of(trained, inputs):
    """Where the trained RoIs stand among the proposals with the ground truth appended."""
    result = []
    for image, x in zip(trained, inputs):
        boxes = torch.cat([x["proposals"].proposal_boxes.tensor, x["instances"].gt_boxes.tensor])
        same = (image.proposal_boxes.tensor[:, None] == boxes[None]).all(dim=2)
        assert same.any(dim=1).all()
        result.append(same.int().argmax(dim=1))
    return result


def step(model, inputs, seed=3):
    """A training step: its losses, and the RoIs that it trains on as they were sampled."""
    trained, heads = [], model.roi_heads
    seam = heads.label_and_sample_proposals

    def spy(*args, **kwargs):
        sampled = seam(*args, **kwargs)
        # Instances are changed later on by train_on_pred_boxes.
        trained.append([copy.copy(image) for image in sampled])
        for image, kept in zip(sampled, trained[-1]):
            kept._fields = dict(image.get_fields())
        return sampled

    heads.label_and_sample_proposals = spy
    model.zero_grad()
    torch.manual_seed(seed)  # an RPN samples, PointRend draws points
    try:
        with EventStorage() as storage:
            losses = model(inputs)
            sum(losses.values()).backward()
    finally:
        del heads.label_and_sample_proposals
    return losses, trained[0], storage.latest()


def assert_trains_on_the_mined_batch(ours, plain, inputs, select=select_hard_examples):
    """
    The choice is remade by hand, from the plain model on all RoIs; then the plain model, made to
    train on this choice, has the losses and the gradients of ours.
    """
    budget = ours.roi_heads.batch_size_per_image
    losses, trained, events = step(ours, inputs)
    assert events["ohem/num_candidates"][0] > budget
    predictor = plain.roi_heads.box_predictor
    predictor = predictor[0] if isinstance(predictor, nn.ModuleList) else predictor
    seen = []
    hook = predictor.register_forward_hook(lambda *args: seen.append(args[2]))
    with Fixed(plain.roi_heads, itertools.repeat(slice(None))):
        _, everything, _ = step(plain, inputs)
    hook.remove()
    ranking = per_roi_losses(predictor, [p.detach() for p in seen[0]], everything)
    ranking = sum(ranking.values()).split([len(image) for image in everything])
    chosen = [
        select(loss, boxes, image.gt_classes, budget)
        for loss, boxes, image in zip(ranking, boxes_of(everything), everything)
    ]
    for hard, boxes, index in zip(boxes_of(trained), boxes_of(everything), chosen):
        assert len(hard) <= budget and torch.equal(hard, boxes[index])
    with Fixed(plain.roi_heads, chosen):
        plain_losses, _, _ = step(plain, inputs)
    assert_same(losses, plain_losses)
    assert_same(gradients(ours), gradients(plain))


def train_and_compare_predictions(ours, plain, inputs):
    parameters = [p for p in ours.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    for seed in range(2):
        losses, trained, events = step(ours, inputs, seed)
        assert all(torch.isfinite(loss) for loss in losses.values())
        mined = events["ohem/num_fg"][0] + events["ohem/num_bg"][0]
        assert mined * len(trained) == sum(len(image) for image in trained)
        optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, parameters))
    plain.load_state_dict(ours.state_dict(), strict=True)
    inputs = [{k: v for k, v in x.items() if k != "instances"} for x in inputs]
    with torch.no_grad():
        torch.manual_seed(0)
        outputs = ours.eval()(inputs)
        torch.manual_seed(0)
        assert_equal(outputs, plain.eval()(inputs))
    assert sum(len(x["instances"]) for x in outputs) > 0


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs):
        assert a.keys() == b.keys()
        if "sem_seg" in a:
            assert torch.equal(a["sem_seg"], b["sem_seg"])
            assert torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0])
        fields = a["instances"].get_fields()
        assert fields.keys() == b["instances"].get_fields().keys()
        for name, value in fields.items():
            value, other = (getattr(v, "tensor", v) for v in (value, b["instances"].get(name)))
            assert torch.equal(value, other), name


def pair_of(cfg, plain_name):
    """A model and the plain one of the same weights."""
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    ours = detector(cfg)
    cfg = cfg.clone()
    cfg.MODEL.ROI_HEADS.NAME = plain_name
    plain = detector(cfg)
    plain.load_state_dict(ours.state_dict(), strict=True)
    return ours, plain
