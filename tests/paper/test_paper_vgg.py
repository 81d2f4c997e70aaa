"""The networks of the paper."""

import pickle

import numpy as np
import pytest
import torch
import torchvision
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.roi_heads import build_box_head
from detectron2.utils.events import EventStorage
from models import ROOT, batch
from torch import nn

import ohem_d2
from projects.paper.ohem_paper.networks import vgg

RGB = ShapeSpec(channels=3)


def backbone(name, freeze_at=0):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = f"build_{name}_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    return build_backbone(cfg, RGB).eval()


def test_vgg16_computes_what_torchvisions_does():
    theirs = torchvision.models.vgg16().eval().features[:30]
    ours = backbone("vgg16")
    source = [m for m in theirs if isinstance(m, nn.Conv2d)]
    target = [m for m in ours.modules() if isinstance(m, nn.Conv2d)]
    assert len(source) == len(target) == 13
    for a, b in zip(source, target):
        b.load_state_dict(a.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)["conv5"], theirs(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg16", "vgg_m"])
@pytest.mark.parametrize("size", [97, 100, 112, 127])
def test_sizes_are_caffes(name, size):
    def conv(n, kernel, stride, pad):
        return (n + 2 * pad - kernel) // stride + 1

    def pool(n, kernel, stride):
        return -(-(n - kernel) // stride) + 1

    n = size
    if name == "vgg16":
        for _ in range(4):
            n = pool(n, 2, 2)
    else:
        n = pool(conv(n, 7, 2, 0), 3, 2)
        n = pool(conv(n, 5, 2, 1), 3, 2)
    net = backbone(name)
    with torch.no_grad():
        assert net(torch.zeros(1, 3, size, size))["conv5"].shape == (1, 512, n, n)
    assert net.output_shape()["conv5"] == ShapeSpec(channels=512, stride=16)


def test_local_response_normalization():
    """Caffe's: each channel over (k + alpha / n * sum of squares of its n neighbours) ^ beta."""
    layer = vgg.NormalizedConv(3, 7, 1)
    x = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        found = layer(x).numpy()
        a = nn.functional.conv2d(x, layer.weight, layer.bias).relu().numpy()
    normalized = np.zeros_like(a)
    for c in range(7):
        near = a[:, max(c - 2, 0) : c + 3]
        normalized[:, c] = a[:, c] / (2.0 + 5e-4 / 5 * (near**2).sum(axis=1)) ** 0.75
    for i in range(2):
        for j in range(2):
            window = normalized[..., 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            np.testing.assert_allclose(found[..., i, j], window.max(axis=(2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "freeze_at", "trained"),
    [("vgg16", 2, {"conv3", "conv4", "conv5"}), ("vgg_m", 1, {"conv2", "conv3", "conv4", "conv5"})],
)
def test_freezing(name, freeze_at, trained):
    net = backbone(name, freeze_at)
    blocks = {n.removeprefix("stem.").split(".")[0]: [] for n, _ in net.named_parameters()}
    for n, p in net.named_parameters():
        blocks[n.removeprefix("stem.").split(".")[0]].append(p.requires_grad)
    assert {n for n, flags in blocks.items() if all(flags)} == trained
    assert {n for n, flags in blocks.items() if any(flags)} == trained


def test_freezing_more_than_there_is_names_the_key():
    with pytest.raises(ValueError, match="FREEZE_AT = 6; allowed: 0 to 5"):
        backbone("vgg16", 6)


def small_head():
    cfg = get_cfg()
    vgg.add_vgg_config(cfg)
    cfg.MODEL.ROI_BOX_HEAD.NAME = "VGGBoxHead"
    cfg.MODEL.ROI_BOX_HEAD.VGG_FC_DIMS = [12, 8]
    return build_box_head(cfg, ShapeSpec(channels=512, height=2, width=2))


def test_box_head():
    head = small_head()
    assert head.output_shape == ShapeSpec(channels=8)
    x = torch.randn(5, 512, 2, 2)
    dropped = head.train()(x)
    assert dropped.shape == (5, 8) and not torch.equal(dropped, head(x))
    head.eval()
    fc6 = torch.relu(x.flatten(1) @ head.fc1.weight.T + head.fc1.bias)
    fc7 = torch.relu(fc6 @ head.fc2.weight.T + head.fc2.bias)
    torch.testing.assert_close(head(x), fc7)


@pytest.mark.parametrize("name", ["vgg16", "vgg_m"])
def test_weights_of_detectron_load_by_name(name, tmp_path):
    model = nn.Module()
    model.backbone, model.box_head = backbone(name), small_head()
    expected, blobs = {}, {}
    for key, value in model.state_dict().items():
        expected[key] = torch.randn_like(value)
        blob = key.replace("backbone.", "").replace("stem.", "")
        blob = blob.replace("box_head.fc1", "fc6").replace("box_head.fc2", "fc7")
        blob = blob.replace(".weight", "_w").replace(".bias", "_b").replace(".", "_")
        blobs[blob] = expected[key].numpy()
    assert ("conv1_1_w" in blobs) == (name == "vgg16") and "fc6_w" in blobs
    with open(tmp_path / "weights.pkl", "wb") as file:
        pickle.dump({"blobs": blobs}, file)
    left = DetectionCheckpointer(model).load(str(tmp_path / "weights.pkl"))
    assert not left.get("missing_keys") and not left.get("unexpected_keys")
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_the_readmes_configuration_trains():
    """Shrunk: the fully connected layers alone have 120 million weights."""
    text = (ROOT / "projects/paper/README.md").read_text()
    settings = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    cfg = get_cfg()
    ohem_d2.add_ohem_config(cfg)
    vgg.add_vgg_config(cfg)
    cfg.merge_from_other_cfg(CfgNode(settings))
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu"),
            *("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
            *("MODEL.ROI_BOX_HEAD.VGG_FC_DIMS", [16, 8]),
            *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
        ]
    )
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    model = build_model(cfg).train()
    with EventStorage() as storage:
        sum(model(batch(cfg)).values()).backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trained
    assert not any(n.startswith(("backbone.stem", "backbone.conv2")) for n in trained)
    latest = storage.latest()
    assert latest["ohem/num_fg"][0] + latest["ohem/num_bg"][0] == 16
