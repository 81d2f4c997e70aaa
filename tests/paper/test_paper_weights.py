"""Converters of weights, on small files made here."""

import struct

import numpy as np
import pytest
import torch
import torchvision
from convert_weights import NETWORKS, convert, layer_shapes, main
from torch import nn

from projects.paper.ohem_paper.networks import vgg

SMALL = {"fc6": (12, 512 * 4), "fc7": (8, 12)}


@pytest.fixture(autouse=True)
def small_layers(monkeypatch):
    """fc6 alone has 100 million weights; the convolutions are as published."""
    for name, (blocks, _) in list(NETWORKS.items()):
        monkeypatch.setitem(NETWORKS, name, (blocks, SMALL))


def random_layers(network):
    generator = np.random.default_rng(0)
    layers = {}
    for layer, shape in layer_shapes(network).items():
        layers[layer] = (
            generator.standard_normal(shape, dtype=np.float32),
            generator.standard_normal(shape[0], dtype=np.float32),
        )
    return layers


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def caffemodel(layers, old_shape=False):
    """Caffe's NetParameter in protobuf's wire format."""
    net = b""
    for name, blobs in layers.items():
        kind = b"Convolution" if name.startswith("conv") else b"InnerProduct"
        body = field(1, name.encode()) + field(2, kind)
        for blob in blobs:
            shape = (1,) * (4 - blob.ndim) * old_shape + blob.shape
            dims = field(7, field(1, b"".join(varint(d) for d in shape)))
            body += field(7, dims + field(5, blob.astype("<f4").tobytes()))
        net += field(100, body)
    return net


@pytest.mark.parametrize("network", ["vgg16", "vgg_m"])
def test_every_layer_finds_its_place(network, tmp_path):
    layers, source = random_layers(network), tmp_path / "weights.caffemodel"
    source.write_bytes(caffemodel(layers))
    main([network, str(source), str(tmp_path / "out.pth")])
    weights = torch.load(tmp_path / "out.pth", weights_only=True)["model"]

    model = nn.Module()
    blocks, channels = NETWORKS[network][0]()
    model.backbone = vgg.CaffeTrunk(blocks, channels, 0)
    model.roi_heads = nn.Module()
    shape = vgg.ShapeSpec(channels=512, height=2, width=2)
    model.roi_heads.box_head = vgg.VGGBoxHead(shape, fc_dims=(12, 8))
    model.load_state_dict(weights)  # all names, no others
    assert len(weights) == 2 * len(layers)
    by_order = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for (weight, bias), module in zip(layers.values(), by_order):
        np.testing.assert_array_equal(module.weight.detach(), weight)
        np.testing.assert_array_equal(module.bias.detach(), bias)


def test_torchvisions_network_computes_the_same(tmp_path):
    theirs = torchvision.models.vgg16().eval()
    state = {k: v for k, v in theirs.state_dict().items() if k.startswith("features")}
    for i, shape in zip((0, 3), SMALL.values()):
        state[f"classifier.{i}.weight"] = torch.randn(shape)
        state[f"classifier.{i}.bias"] = torch.randn(shape[0])
    torch.save(state, tmp_path / "vgg16.pth")
    weights = convert("vgg16", tmp_path / "vgg16.pth")
    trunk = vgg.CaffeTrunk(*vgg.vgg16_blocks(), 0)
    prefix = "backbone."
    trunk.load_state_dict(
        {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    )
    assert torch.equal(weights["roi_heads.box_head.fc2.bias"], state["classifier.3.bias"])

    rgb = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    bgr = 255 * rgb.flip(1)
    pixel_mean = torch.tensor([103.53, 116.28, 123.675])
    with torch.no_grad():
        expected = theirs.features[:30]((rgb - mean[:, None, None]) / std[:, None, None])
        found = trunk(bgr - pixel_mean[:, None, None])["conv5"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)

    # as many numbers in another order are not the weights
    torch.save(state | {"classifier.3.weight": torch.zeros(12, 8)}, tmp_path / "vgg16.pth")
    with pytest.raises(ValueError, match=r"fc7 has shape \(12, 8\), in vgg16 it is \(8, 12\)"):
        convert("vgg16", tmp_path / "vgg16.pth")


def test_old_caffe_files_keep_fully_connected_layers_in_four_dimensions(tmp_path):
    layers = random_layers("vgg_m")
    path = tmp_path / "old.caffemodel"
    path.write_bytes(caffemodel(layers, old_shape=True))
    found = convert("vgg_m", path)["roi_heads.box_head.fc1.weight"]
    np.testing.assert_array_equal(found, layers["fc6"][0])


class Harmful:
    def __reduce__(self):
        return (print, ("harm",))


def test_wrong_files_are_told(tmp_path, capsys):
    layers, path = random_layers("vgg_m"), tmp_path / "w.caffemodel"
    with pytest.raises(SystemExit, match="w.caffemodel does not exist"):
        main(["vgg_m", str(path), str(tmp_path / "out.pth")])

    path.write_bytes(caffemodel({k: v for k, v in layers.items() if k != "conv4"}))
    with pytest.raises(ValueError, match="w.caffemodel has no weight of layer conv4 of vgg_m"):
        convert("vgg_m", path)
    conv5 = np.zeros((512, 256, 3, 3)), np.zeros(512)
    path.write_bytes(caffemodel({**layers, "conv5": conv5}))
    with pytest.raises(ValueError, match=r"conv5 has shape \(512, 256, 3, 3\), in vgg_m it is"):
        convert("vgg_m", path)
    path.write_bytes(struct.pack("<I", 1234567) * 10)
    with pytest.raises(ValueError, match=str(path)):
        convert("vgg_m", path)
    with pytest.raises(ValueError, match="none of .pth, .caffemodel"):
        path.with_suffix(".h5").touch()
        convert("vgg_m", path.with_suffix(".h5"))


def test_another_object_than_a_state_dict(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth is no state dict"):
        convert("vgg16", tmp_path / "list.pth")


def test_a_file_runs_no_code(tmp_path, capsys):
    path = tmp_path / "harmful.pth"
    torch.save(Harmful(), path)
    with pytest.raises(ValueError, match="harmful.pth"):
        convert("vgg16", path)
    assert "harm\n" not in capsys.readouterr().out
    with pytest.raises(SystemExit):  # it is no network
        main(["vgg16", str(path), str(tmp_path / "out.pth"), "--trust"])
    assert "harm\n" in capsys.readouterr().out
