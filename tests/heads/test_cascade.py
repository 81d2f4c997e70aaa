import pytest
import torch
from models import batch, config, detector
from steps import logged, train_heads

from ohem_d2 import OHEMSettings


@pytest.mark.parametrize("num_objects", [(3, 4), (3, 0), (0, 0)])
def test_cascade_mines_at_all_stages(num_objects):
    """Later stages train on hard RoIs among all refined ones, not on the first stage's."""
    model = detector(config("cascade", ohem={"cascade_stages": "all"}, budget=8))
    heads = model.roi_heads
    seen = []
    for stage, predictor in enumerate(heads.box_predictor):
        losses_of = predictor.losses

        def spy(predictions, proposals, stage=stage, losses_of=losses_of):
            seen.append((stage, [len(p) for p in proposals], len(predictions[0])))
            return losses_of(predictions, proposals)

        predictor.losses = spy
    _, _, storage = train_heads(model, batch(config("cascade"), num_objects))
    assert [stage for stage, _, _ in seen] == [0, 1, 2]
    for _, sizes, num_predictions in seen:
        assert sizes == [8, 8] and num_predictions == 16
    scalars = logged(storage)
    for stage in range(3):
        # 60 proposals and the objects of each image reach every stage.
        reaching = 60 + sum(num_objects) / 2
        assert scalars[f"stage{stage}/ohem/num_candidates"] == [reaching]
        # What Detectron2 logs counts what is trained on, once.
        prefix = f"stage{stage}/" if stage else ""
        (fg,), (bg,) = (scalars[f"{prefix}roi_head/num_{kind}_samples"] for kind in ("fg", "bg"))
        assert fg + bg == 8 and [fg] == scalars[f"stage{stage}/ohem/num_fg"]


def test_a_cascade_goes_on_without_boxes_that_are_not_finite():
    model = detector(config("cascade", ohem={"cascade_stages": "all"}))
    run_stage = model.roi_heads._run_stage

    def broken(features, proposals, stage):
        scores, deltas = run_stage(features, proposals, stage)
        deltas[5] = float("nan") if stage == 0 and not torch.is_grad_enabled() else deltas[5]
        return scores, deltas

    model.roi_heads._run_stage = broken
    model.roi_heads.ohem = OHEMSettings(cascade_stages="all", rank_loc_weight=0.0)
    losses, _, storage = train_heads(model, batch(config("cascade")))
    assert all(torch.isfinite(loss) for loss in losses.values())
    latest = storage.latest()
    before, after = (latest[f"stage{k}/ohem/num_candidates"][0] for k in (0, 1))
    assert after <= before - 0.5
