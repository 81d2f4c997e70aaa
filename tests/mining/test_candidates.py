import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from ohem_d2.mining.candidates import (
    IgnoreRegions,
    candidates,
    labels_of_all,
    with_masks,
    without_masks,
)

K = 3


def test_labels():
    matched, labels = torch.tensor([0, 1, 1, 0]), torch.tensor([1, 0, -1, 1], dtype=torch.int8)
    assert labels_of_all(matched, labels, torch.tensor([2, 1]), K).tolist() == [2, K, -1, 2]
    assert labels_of_all(matched, labels, torch.tensor([]), K).tolist() == [K] * 4


def rois(classes):
    n = len(classes)
    image = Instances((100, 100), proposal_boxes=Boxes(torch.arange(4.0 * n).reshape(n, 4)))
    image.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return image


def test_candidates_are_all_but_the_ignored():
    images = [rois([0, -1, K]), rois([]), rois([-1, K, K, 2])]
    kept = candidates(images, [Instances((100, 100))] * 3, K, 0.5)
    assert [index.tolist() for index in kept] == [[0, 2], [], [1, 2, 3]]


@pytest.mark.parametrize("thresh, expected", [(0.5, [0, 3]), (0.6, [0, 2, 3]), (1.0, [0, 2, 3])])
def test_background_in_a_region_is_none(thresh, expected):
    boxes = [[0.0, 0, 10, 10], [1, 1, 9, 9], [0, 0, 10, 20], [50, 50, 60, 60]]
    image = Instances((100, 100), proposal_boxes=Boxes(torch.tensor(boxes)))
    image.gt_classes = torch.tensor([1, K, K, K])  # foreground may lie in a region
    target = Instances((100, 100))
    target.ignore_regions = IgnoreRegions(Boxes(torch.tensor([[0.0, 0, 10, 10]])), 0)
    (kept,) = candidates([image], [target], K, thresh)
    assert kept.tolist() == expected


def masks(kind):
    if kind is BitMasks:
        return BitMasks(torch.rand(3, 8, 8) > 0.5)
    return PolygonMasks([[np.arange(6.0) + i] for i in range(3)])


@pytest.mark.parametrize("kind", [BitMasks, PolygonMasks])
def test_masks_come_back_for_their_objects(kind):
    target = Instances((8, 8), gt_classes=torch.tensor([0, 1, 2]), gt_masks=masks(kind))
    light = without_masks(target, (kind,))
    assert type(target.gt_masks) is kind and not light.has("gt_masks")
    mined = with_masks(light[torch.tensor([2, 0, 0])], target, (kind,))
    assert not mined.has("gt_index")

    def content(found):
        return (
            found.tensor.tolist() if kind is BitMasks else [p[0].tolist() for p in found.polygons]
        )

    assert content(mined.gt_masks) == content(target.gt_masks[torch.tensor([2, 0, 0])])
    every = without_masks(target, ())
    assert content(every.gt_masks) == content(target.gt_masks)


def test_rois_of_an_image_without_objects_stay_as_they_are():
    target = Instances((8, 8), gt_classes=torch.tensor([], dtype=torch.int64))
    target.gt_masks = BitMasks(torch.zeros(0, 8, 8))
    background = rois([K, K])
    assert with_masks(background, target, (BitMasks,)) is background
    assert not background.has("gt_masks")
