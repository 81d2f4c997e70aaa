"""The miner without any heads: a table of losses in the place of a network."""

import dataclasses

import pytest
import reference
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import nn

from ohem_d2 import per_roi_losses, select_hard_examples
from ohem_d2.config import OHEMSettings
from ohem_d2.mining.miner import Miner
from ohem_d2.mining.scoring import Scorer

K = 4


class Table(nn.Module):
    """Its predictions are the fields of the RoIs."""


@per_roi_losses.register(Table)
def _(table, predictions, proposals):
    return {"loss_cls": predictions[0], "loss_box_reg": predictions[1]}


def images(sizes=(40, 0, 25), seed=0):
    generator = torch.Generator().manual_seed(seed)
    result = []
    for n in sizes:
        xy = torch.rand(n, 2, generator=generator) * 60
        boxes = torch.cat([xy, xy + 10 + torch.rand(n, 2, generator=generator) * 30], dim=1)
        image = Instances((100, 100), proposal_boxes=Boxes(boxes), gt_boxes=Boxes(boxes))
        image.gt_classes = torch.randint(-1, K + 1, (n,), generator=generator)
        image.cls = torch.rand(n, generator=generator)
        image.loc = torch.rand(n, generator=generator)
        result.append(image)
    return result


def scorer(chunk_size=1000, look=None, **kwargs):
    table = Table()

    def score(rois):
        return table, tuple(torch.cat([r.get(f) for r in rois]) for f in ("cls", "loc"))

    return Scorer(table, score, chunk_size=chunk_size, look=look, **kwargs)


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.0), (0.2, 3.0)])
def test_mines_as_the_plain_loops(chunk_size, weights, storage):
    settings = OHEMSettings(nms_thresh=0.3, rank_cls_weight=weights[0], rank_loc_weight=weights[1])
    rois = images()
    targets = [Instances((100, 100)) for _ in rois]
    record = Miner(settings, 10, K).mine(scorer(chunk_size), rois, targets)
    for image, mined in zip(rois, record.mined()):
        losses = (weights[0] * image.cls + weights[1] * image.loc).tolist()
        boxes, classes = image.proposal_boxes.tensor.numpy(), image.gt_classes.tolist()
        expected = reference.select(losses, boxes, classes, 10, 0.3)
        assert torch.equal(mined.proposal_boxes.tensor, image.proposal_boxes.tensor[expected])
        ranking = torch.tensor(losses)
        by_hand = select_hard_examples(
            ranking, image.proposal_boxes.tensor, image.gt_classes, 10, nms_thresh=0.3
        )
        assert by_hand.tolist() == expected
    assert len(record.ranking) == sum(int((r.gt_classes >= 0).sum()) for r in rois)
    assert torch.equal(record.is_foreground, torch.cat([r.gt_classes for r in record.rois]) < K)


def test_background_that_looks_like_an_object_is_left_out(storage):
    settings = OHEMSettings(max_bg_loss=0.4, rank_loc_weight=0.0, nms_scope="none")
    rois = images((40, 25))
    record = Miner(settings, 40, K).mine(scorer(), rois, [Instances((9, 9))] * 2)
    for image, mined in zip(rois, record.mined()):
        labelled = zip(image.cls.tolist(), image.gt_classes.tolist())
        left = [loss for loss, c in labelled if 0 <= c < K or (c == K and loss <= 0.4)]
        assert len(left) < int((image.gt_classes >= 0).sum())
        assert mined.cls.tolist() == sorted(left, reverse=True)
    assert len(record.ranking) == len(record.losses["loss_box_reg"]) == len(record.image_index)


@pytest.mark.parametrize("budget", ["image", "batch"])
def test_draws_among_the_hardest(budget, storage):
    settings = OHEMSettings(draw_from=2.0, rank_loc_weight=0.0, nms_scope="none", budget=budget)
    rois = images((40, 25))
    hardest = Miner(dataclasses.replace(settings, draw_from=1.0), 10, K)
    hardest = [set(m.cls.tolist()) for m in hardest.mine(scorer(), rois, rois).mined()]
    hardest_20 = Miner(dataclasses.replace(settings, draw_from=1.0), 20, K)
    pool = [set(m.cls.tolist()) for m in hardest_20.mine(scorer(), rois, rois).mined()]
    assert sum(map(len, pool)) == 2 * sum(map(len, hardest)) == 40
    drawn = [set() for _ in rois]
    for _ in range(100):
        mined = Miner(settings, 10, K).mine(scorer(), rois, rois).mined()
        assert sum(map(len, mined)) == 20 and (budget == "batch" or len(mined[0]) == 10)
        for image, seen, allowed in zip(mined, drawn, pool):
            losses = image.cls.tolist()
            assert losses == sorted(losses, reverse=True) and set(losses) <= allowed
            seen |= set(losses)
    assert drawn == pool  # in 100 draws each of them was there


def test_screening_scores_the_promising_alone(storage):
    rois, scored = images((40,)), []
    exact = scorer()
    coarse = Scorer(
        exact.network,
        lambda chunk: scored.append(sum(len(r) for r in chunk)) or exact.score(chunk),
        coarse_score=lambda chunk: (exact.network, (1 - chunk[0].cls, chunk[0].loc * 0)),
    )
    settings = OHEMSettings(screening=2.0, rank_loc_weight=0.0, nms_scope="none")
    record = Miner(settings, 5, K).mine(coarse, rois, [Instances((9, 9))])
    candidates = rois[0].cls[rois[0].gt_classes >= 0]
    promising = candidates.sort().values[:10]  # the stand-in finds low losses hard
    assert scored == [10]
    assert record.mined()[0].cls.tolist() == promising.sort(descending=True).values[:5].tolist()


def test_a_weight_of_zero_leaves_out_even_nan():
    losses = {"loss_cls": torch.ones(2), "loss_box_reg": torch.full((2,), float("nan"))}
    assert Miner(OHEMSettings(rank_loc_weight=0.0), 5, K).rank(losses).tolist() == [1.0, 1.0]


def test_what_is_looked_at_and_how_many_passes_are_made(storage):
    seen, calls = [], []
    rois = images((9,))
    plain = scorer(4, look=lambda predictor, predictions, chunk: seen.append(len(chunk[0])))
    idle = Scorer(
        plain.network,
        lambda chunk: calls.append(len(chunk[0])) or plain.score(chunk),
        chunk_size=4,
        look=plain.look,
        agreed=lambda number: number + 2,
    )
    losses = idle.losses(rois)
    assert seen == [4, 4, 1] and calls == [4, 4, 1, 0, 0]
    assert torch.equal(losses["loss_cls"], rois[0].cls)


def test_losses_of_a_wrong_shape_are_told(storage):
    class Wrong(Table):
        pass

    @per_roi_losses.register(Wrong)
    def _(table, predictions, proposals):
        return {"loss_cls": torch.ones(1), "loss_box_reg": torch.ones(1)}

    wrong = Wrong()
    with pytest.raises(TypeError, match="per_roi_losses of Wrong returned"):
        Scorer(wrong, lambda rois: (wrong, None)).losses(images((5,)))
    layers = FastRCNNOutputLayers(
        ShapeSpec(channels=2), box2box_transform=Box2BoxTransform((1, 1, 1, 1)), num_classes=K
    )
    assert per_roi_losses.dispatch(type(layers)) is not per_roi_losses.dispatch(Wrong)
