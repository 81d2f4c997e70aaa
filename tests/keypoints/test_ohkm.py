import math

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_keypoint_head
from detectron2.structures import Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st
from models import batch, config, detector

from projects.keypoints import OHKMKeypointHead, add_ohkm_config, hardest_joints, per_joint_losses

OHKM = ("MODEL.ROI_KEYPOINT_HEAD.NAME", "OHKMKeypointHead")
BY_VISIBLE = "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS"


def people(num, seed=0, num_joints=17):
    """RoIs with joints, some of them invisible and some out of the box."""
    generator = torch.Generator().manual_seed(seed)
    xy = 10 + 20 * torch.rand(num, 2, generator=generator)
    boxes = torch.cat([xy, xy + 20 + 20 * torch.rand(num, 2, generator=generator)], dim=1)
    places = 2 + 60 * torch.rand(num, num_joints, 2, generator=generator)
    visibility = torch.randint(0, 3, (num, num_joints, 1), generator=generator).float()
    return Instances(
        (96, 128),
        proposal_boxes=Boxes(boxes),
        gt_keypoints=Keypoints(torch.cat([places, visibility], dim=2)),
    )


def loops(logits, images, topk):
    """Losses of the hardest joints, RoI by RoI and joint by joint, and how many are visible."""
    boxes = np.concatenate([x.proposal_boxes.tensor.numpy() for x in images])
    joints = np.concatenate([x.gt_keypoints.tensor.numpy() for x in images])
    hard, num_visible = [], 0
    for heatmaps, (x0, y0, x1, y1), points in zip(logits.numpy(), boxes, joints):
        side = heatmaps.shape[1]
        losses = []
        for heatmap, (x, y, visibility) in zip(heatmaps, points):
            if visibility == 0 or not (x0 <= x <= x1 and y0 <= y <= y1):
                continue
            column = min(int((x - x0) / (x1 - x0) * side), side - 1)
            row = min(int((y - y0) / (y1 - y0) * side), side - 1)
            shifted = heatmap.astype(np.float64) - heatmap.max()
            losses.append(math.log(np.exp(shifted).sum()) - shifted[row, column])
        num_visible += len(losses)
        hard += sorted(losses, reverse=True)[:topk]
    return hard, num_visible


def head(topk=8, *overrides):
    cfg = config("keypoint", *OHKM)
    add_ohkm_config(cfg)
    cfg.merge_from_list(["MODEL.ROI_KEYPOINT_HEAD.OHKM_TOPK", topk, *overrides])
    return build_keypoint_head(cfg, ShapeSpec(channels=4, height=14, width=14))


@pytest.mark.parametrize("topk", [1, 3, 8, 17])
@pytest.mark.parametrize("by_visible", [True, False])
def test_loss_is_that_of_the_loops(topk, by_visible, storage):
    torch.manual_seed(1)
    images = [people(5), people(0), people(3, seed=1)]
    ours = head(topk, BY_VISIBLE, by_visible, "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT", 0.5)
    features = torch.randn(8, 4, 14, 14)
    logits = ours.layers(features).detach()
    hard, num_visible = loops(logits, images, topk)
    loss = ours(features, images)["loss_keypoint"]
    # Detectron2's fixed number is 17 joints of a quarter of 16 RoIs in each image.
    count = len(hard) if by_visible else 3 * 17 * 16 * 0.25
    assert float(loss) == pytest.approx(0.5 * sum(hard) / count, rel=1e-5)
    assert storage.latest()["ohkm/mean_hard"][0] == pytest.approx(np.mean(hard), rel=1e-5)
    losses, visible = per_joint_losses(logits, images)
    assert int(visible.sum()) == num_visible and losses.shape == visible.shape == (8, 17)
    loss.backward()
    assert all(p.grad is not None for p in ours.parameters())


def test_all_joints_are_the_parents_loss(storage):
    torch.manual_seed(1)
    images, features = [people(4), people(2, seed=3)], torch.randn(6, 4, 14, 14)
    ours = head(17)
    plain = build_keypoint_head(config("keypoint"), ShapeSpec(channels=4, height=14, width=14))
    plain.load_state_dict(ours.state_dict(), strict=True)
    theirs = plain(features, images)["loss_keypoint"]
    torch.testing.assert_close(ours(features, images)["loss_keypoint"], theirs, rtol=0, atol=0)
    assert head(3)(features, images)["loss_keypoint"] != theirs


def test_easy_joints_get_no_gradient(storage):
    images = [people(4, seed=5)]
    ours = head(2)
    logits = torch.randn(4, 17, 56, 56, requires_grad=True)
    ours.layers = lambda x: x
    ours(logits, images)["loss_keypoint"].backward()
    trained = (logits.grad != 0).flatten(2).any(dim=2)
    losses, visible = per_joint_losses(logits.detach(), images)
    for of_roi, seen, loss in zip(trained, visible, losses):
        joints = sorted(seen.nonzero().flatten().tolist(), key=lambda k: -float(loss[k]))
        assert of_roi.nonzero().flatten().tolist() == sorted(joints[:2])
    assert torch.equal(images[0].gt_keypoints.tensor, people(4, seed=5).gt_keypoints.tensor)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from([0.0, 1.0, 2.5, math.inf, math.nan]), st.booleans()),
            min_size=5,
            max_size=5,
        ),
        max_size=4,
    ),
    st.integers(1, 5),
)
def test_hardest_joints(rows, topk):
    losses = torch.tensor([[x for x, _ in row] for row in rows]).view(-1, 5)
    visible = torch.tensor([[v for _, v in row] for row in rows], dtype=torch.bool).view(-1, 5)
    chosen = hardest_joints(losses, visible, topk)
    assert chosen.shape == visible.shape
    for row, of_roi in zip(rows, chosen.tolist()):
        seen = [k for k in range(5) if row[k][1]]
        seen.sort(key=lambda k: -row[k][0] if math.isfinite(row[k][0]) else -math.inf)
        assert [k for k in range(5) if of_roi[k]] == sorted(seen[:topk])


@pytest.mark.parametrize("images", [[], [people(0)], [people(2)]])
def test_nothing_to_learn_from(images, storage):
    for image in images:
        image.gt_keypoints.tensor[:, :, 2] = 0
    ours = head()
    num = sum(len(x) for x in images)
    loss = ours(torch.randn(num, 4, 14, 14), images)["loss_keypoint"]
    loss.backward()
    assert float(loss) == 0 and all(p.grad is not None for p in ours.parameters())


def test_a_detector_mines_rois_and_joints():
    cfg = config("keypoint", *OHKM)
    model, inputs = detector(cfg), batch(cfg)
    assert isinstance(model.roi_heads.keypoint_head, OHKMKeypointHead)
    with EventStorage() as storage:
        losses = model(inputs)
        sum(losses.values()).backward()
    latest = storage.latest()
    assert latest["ohkm/mean_hard"][0] > latest["ohkm/mean_all"][0] > 0
    assert latest["ohem/num_fg"][0] > 0
    with torch.no_grad():
        plain = detector(config("keypoint")).eval()
        plain.load_state_dict(model.state_dict(), strict=True)
        for a, b in zip(model.eval()(inputs), plain(inputs)):
            assert torch.equal(a["instances"].pred_keypoints, b["instances"].pred_keypoints)


@pytest.mark.parametrize("topk", [0, 18, 2.5, True])
def test_impossible_numbers_of_joints(topk):
    with pytest.raises(ValueError, match=f"OHKM_TOPK = {topk}.* from 1 to .* which is 17"):
        OHKMKeypointHead(
            ShapeSpec(channels=4, height=14, width=14), num_keypoints=17, conv_dims=[4], topk=topk
        )


def test_a_config_without_the_key_means_the_default():
    cfg = get_cfg()
    cfg.MODEL.ROI_KEYPOINT_HEAD.NAME = "OHKMKeypointHead"
    assert build_keypoint_head(cfg, ShapeSpec(channels=4, height=14, width=14)).topk == 8
    add_ohkm_config(cfg)
    cfg.MODEL.ROI_KEYPOINT_HEAD.OHKM_TOPK = 3
    add_ohkm_config(cfg)
    assert build_keypoint_head(cfg, ShapeSpec(channels=4, height=14, width=14)).topk == 3
