import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from ohem_d2.config import OHEMSettings
from ohem_d2.mining import labelling

K = 3


def test_classes():
    matched, labels = torch.tensor([0, 1, 1, 0]), torch.tensor([1, 0, -1, 1], dtype=torch.int8)
    found = labelling.classes_of(matched, labels, torch.tensor([2, 1]), K)
    assert found.tolist() == [2, K, -1, 2]
    assert labelling.classes_of(matched, labels, torch.tensor([]), K).tolist() == [K] * 4


def rois(classes, gt=None):
    n = len(classes)
    image = Instances((100, 100), proposal_boxes=Boxes(torch.arange(4.0 * n).reshape(n, 4)))
    image.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if gt is not None:
        image.gt_boxes = Boxes(gt)
    return image


def test_candidates_are_all_but_the_ignored():
    images = [rois([0, -1, K]), rois([]), rois([-1, K, K, 2])]
    targets = [Instances((100, 100))] * 3
    kept = labelling.candidates(images, targets, K, OHEMSettings())
    assert [index.tolist() for index in kept] == [[0, 2], [], [1, 2, 3]]


def test_background_below_the_lowest_iou_is_none():
    image = rois([0, K, K])
    boxes = image.proposal_boxes.tensor
    image.gt_boxes = Boxes(torch.stack([boxes[0], boxes[1] + 0.1, boxes[2] + 50]))
    kept = labelling.candidates([image], [Instances((9, 9))], K, OHEMSettings(bg_iou_low=0.1))
    assert kept[0].tolist() == [0, 1]
    image = rois([K, K])  # no object in the image, which would be left without candidates
    kept = labelling.candidates([image], [Instances((9, 9))], K, OHEMSettings(bg_iou_low=0.1))
    assert kept[0].tolist() == [0, 1]


def masks(kind):
    if kind is BitMasks:
        return BitMasks(torch.rand(3, 8, 8) > 0.5)
    return PolygonMasks([[np.arange(6.0) + i] for i in range(3)])


@pytest.mark.parametrize("kind", [BitMasks, PolygonMasks])
def test_deferred_masks_are_what_was_meant(kind):
    target = Instances((8, 8), gt_classes=torch.tensor([0, 1, 2]), gt_masks=masks(kind))
    (light,) = labelling.with_deferred_masks([target])
    assert type(target.gt_masks) is kind  # the ground truth is as it was
    deferred = light.gt_masks
    assert isinstance(deferred, kind) and len(deferred) == 3
    many = deferred[torch.tensor([2, 0, 0, 1, 2])]
    some = many[torch.tensor([True, False, False, True, True])][1:]
    assert len(many) == 5 and len(some) == 2

    def content(found):
        return (
            found.tensor.tolist() if kind is BitMasks else [p[0].tolist() for p in found.polygons]
        )

    expected = content(target.gt_masks[torch.tensor([1, 2])])
    roi = Instances((8, 8), gt_masks=some, gt_classes=torch.tensor([1, 2]))
    copied = labelling.with_copied_masks(roi)
    assert type(copied.gt_masks) is kind and content(copied.gt_masks) == expected
    # Whoever looks at them finds masks.
    assert content(some) == expected
    assert len(deferred[1]) == 1
    joined = Instances.cat([roi, copied])
    assert content(joined.gt_masks) == expected * 2
    assert torch.equal(
        some.area() if kind is PolygonMasks else some.nonempty(),
        copied.gt_masks.area() if kind is PolygonMasks else copied.gt_masks.nonempty(),
    )


def test_deferred_masks_are_not_copied_before(monkeypatch):
    target = Instances((8, 8), gt_classes=torch.tensor([0, 1, 2]), gt_masks=masks(BitMasks))
    (light,) = labelling.with_deferred_masks([target])
    monkeypatch.setattr(BitMasks, "__getitem__", lambda *_: pytest.fail("copied"))
    many = light[torch.zeros(10**6, dtype=torch.int64)]
    assert len(many.gt_masks[torch.arange(5)]) == 5


def test_the_most_objectlike():
    image = rois([0, 0, 0])
    image.objectness_logits = torch.tensor([0.1, 0.9, 0.9])
    assert labelling.most_objectlike(image, 2).objectness_logits.tolist() == pytest.approx(
        [0.9, 0.9]
    )
    assert (
        labelling.most_objectlike(image, 0) is image
        and labelling.most_objectlike(image, 3) is image
    )
    image.remove("objectness_logits")
    with pytest.raises(ValueError, match="MAX_CANDIDATES = 1"):
        labelling.most_objectlike(image, 1)
