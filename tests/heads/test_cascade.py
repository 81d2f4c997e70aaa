import pytest
import torch
from models import batch, config, detector, gradients
from steps import assert_same, logged, prove, train_heads

from ohem_d2 import OHEMSettings


@pytest.mark.parametrize("implementation", ["readonly", "loss_layer"])
def test_cascade_mines_at_all_stages(implementation):
    """Later stages train on hard RoIs among all refined ones, not on the first stage's."""
    settings = {"cascade_stages": "all", "implementation": implementation}
    model = detector(config("cascade", ohem=settings, budget=8))
    heads = model.roi_heads
    seen = []
    for stage, predictor in enumerate(heads.box_predictor):
        losses_of = predictor.losses

        def spy(predictions, proposals, stage=stage, losses_of=losses_of):
            seen.append((stage, [len(p) for p in proposals], len(predictions[0])))
            return losses_of(predictions, proposals)

        predictor.losses = spy
    prove(model, batch(config("cascade")))
    seen.clear()
    _, _, storage = train_heads(model, batch(config("cascade")))
    assert [stage for stage, _, _ in seen] == [0, 1, 2]
    for _, sizes, num_predictions in seen:
        assert sizes == [8, 8] and num_predictions == 16
    scalars = logged(storage)
    for stage in range(3):
        # 60 proposals and the objects of each image, 3 and 4, reach every stage.
        assert scalars[f"stage{stage}/ohem/num_candidates"] == [63.5]
        # What Detectron2 logs counts what is trained on, once.
        prefix = f"stage{stage}/" if stage else ""
        (fg,), (bg,) = (scalars[f"{prefix}roi_head/num_{kind}_samples"] for kind in ("fg", "bg"))
        assert fg + bg == 8 and [fg] == scalars[f"stage{stage}/ohem/num_fg"]


def test_cascade_all_equals_its_loss_layer():
    inputs = batch(config("cascade"))
    results = []
    for implementation in ("readonly", "loss_layer"):
        settings = {"cascade_stages": "all", "implementation": implementation}
        model = detector(config("cascade", ohem=settings))
        losses, _, _ = train_heads(model, inputs)
        results.append((losses, gradients(model)))
    assert_same(results[0][0], results[1][0])
    assert_same(results[0][1], results[1][1])


def test_a_cascade_goes_on_without_boxes_that_are_not_finite():
    model = detector(config("cascade", ohem={"cascade_stages": "all"}))
    score = model.roi_heads.score_rois

    def broken(features, proposals, stage=0):
        predictor, (scores, deltas) = score(features, proposals, stage)
        deltas[5] = float("nan") if stage == 0 and not torch.is_grad_enabled() else deltas[5]
        return predictor, (scores, deltas)

    model.roi_heads.score_rois = broken
    model.roi_heads.ohem = OHEMSettings(cascade_stages="all", rank_loc_weight=0.0)
    losses, _, storage = train_heads(model, batch(config("cascade")))
    assert all(torch.isfinite(loss) for loss in losses.values())
    latest = storage.latest()
    before, after = (latest[f"stage{k}/ohem/num_candidates"][0] for k in (0, 1))
    assert after <= before - 0.5
