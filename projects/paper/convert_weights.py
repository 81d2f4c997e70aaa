"""
Convert published weights of the paper's networks to a file for ``MODEL.WEIGHTS``. ::

    export PYTHONPATH=.
    python projects/paper/convert_weights.py vgg16 vgg16-397923af.pth vgg16.pth     # torchvision
    python projects/paper/convert_weights.py vgg16 VGG_ILSVRC_16_layers.caffemodel vgg16.pth
    python projects/paper/convert_weights.py vgg_m VGG_CNN_M_1024.caffemodel vgg_m.pth

Torchvision's weights are converted to input like Caffe's: BGR, 0 to 255, minus the mean, which is
``PIXEL_MEAN: [103.53, 116.28, 123.675]``. No file runs code when it is read, unless by --trust.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from ohem_d2.tools.cli import add_shared_arguments
from ohem_d2.tools.errors import InputError, errors_in_one_line
from ohem_d2.tools.files import must_exist, write_atomically
from ohem_d2.tools.training.checkpoints import load_torch
from ohem_d2.tools.trust import trusting
from projects.paper.ohem_paper.networks import vgg

# Shapes of fc6 and fc7: (outputs, inputs)
NETWORKS = {
    "vgg16": (vgg.vgg16_blocks, {"fc6": (4096, 512 * 7 * 7), "fc7": (4096, 4096)}),
    "vgg_m": (vgg.vgg_m_blocks, {"fc6": (4096, 512 * 6 * 6), "fc7": (1024, 4096)}),
}
# Standard deviations of torchvision's input, in BGR, to convert it to Caffe's
TORCHVISION_STD = torch.tensor([0.225, 0.224, 0.229]) * 255

Layers = Mapping[tuple[str, str], torch.Tensor]  # by Caffe's name, and "weight" or "bias"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Convert weights; see the docstring.")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    add_shared_arguments(parser, "--trust")
    args = parser.parse_args(argv)
    with errors_in_one_line("convert_weights.py"), trusting(args.trust):
        weights = convert(args.network, args.source)
    checkpoint = {"model": weights, "__author__": args.source.name}
    write_atomically(args.target, lambda file: torch.save(checkpoint, file))
    print(f"{args.target}: {len(weights)} tensors")


def convert(network: str, source: Path) -> dict[str, torch.Tensor]:
    """
    The parameters of "vgg16" or "vgg_m", from a state dict of torchvision's vgg16 (.pth) or a
    .caffemodel. Raises InputError, which names the file and what is missing, has another shape or
    is not allowed.
    """
    must_exist(source, "the weights to convert")
    readers = {".pth": read_torchvision, ".caffemodel": read_caffe}
    if source.suffix not in readers:
        raise InputError(f"{source} is none of {', '.join(readers)}")
    layers = readers[source.suffix](source, network)
    weights = {}
    for layer, shape in layer_shapes(network).items():
        name = {"fc6": "roi_heads.box_head.fc1", "fc7": "roi_heads.box_head.fc2"}.get(layer)
        name = name or f"backbone.{'stem.' * layer.startswith('conv1')}{layer.replace('_', '.')}"
        for kind, wanted in (("weight", shape), ("bias", shape[:1])):
            value = layers.get((layer, kind))
            if value is None:
                raise InputError(f"{source} has no {kind} of layer {layer} of {network}")
            # Caffe and OpenCV keep axes of length one: (1, 1, outputs, inputs), (outputs, 1)
            if [n for n in value.shape if n > 1] == [n for n in wanted if n > 1]:
                value = value.reshape(wanted)
            if tuple(value.shape) != wanted:
                shapes = f"{tuple(value.shape)}, in {network} it is {wanted}"
                raise InputError(f"{source}: the {kind} of layer {layer} has shape {shapes}")
            weights[f"{name}.{kind}"] = value.float().contiguous()
    return weights


def layer_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """The shape of each layer's weight, by Caffe's name of the layer."""
    make_blocks, shapes = NETWORKS[network]
    with torch.device("meta"):
        blocks, _ = make_blocks()
    weights = {n: p.shape for n, p in torch.nn.ModuleDict(blocks).named_parameters() if p.dim() > 1}
    names = {n: n.removesuffix(".weight").replace(".", "_") for n in weights}
    return {**{names[n]: tuple(shape) for n, shape in weights.items()}, **shapes}


def read_torchvision(source: Path, network: str) -> Layers:
    if network != "vgg16":
        raise InputError(f"{source}: torchvision has no {network}; use its .caffemodel")
    try:
        state = load_torch(str(source))
    except (RuntimeError, EOFError) as e:
        raise InputError(f"{source} cannot be read: {e}") from e
    if not isinstance(state, dict):
        raise InputError(f"{source} is no state dict")
    # Its layers are numbered, those of activation and pooling included.
    names = {"classifier.0": "fc6", "classifier.3": "fc7"}
    numbers = sorted({int(k.split(".")[1]) for k in state if k.startswith("features.")})
    convolutions = [layer for layer in layer_shapes(network) if layer.startswith("conv")]
    names |= {f"features.{n}": layer for n, layer in zip(numbers, convolutions)}
    parts = ((*key.rpartition(".")[::2], value) for key, value in state.items())
    layers = {(names[prefix], kind): value for prefix, kind, value in parts if prefix in names}
    first = layers.get(("conv1_1", "weight"))
    if first is not None and first.dim() == 4 and first.shape[1] == 3:
        layers["conv1_1", "weight"] = first.flip(1) / TORCHVISION_STD[:, None, None]
    return layers


def read_caffe(source: Path, network: str) -> Layers:
    shapes = layer_shapes(network)
    with tempfile.TemporaryDirectory() as folder:
        prototxt = Path(folder) / "net.prototxt"
        prototxt.write_text(prototxt_of(shapes))
        try:
            net = cv2.dnn.readNetFromCaffe(str(prototxt), str(source))
        except cv2.error as e:
            raise InputError(f"{source} does not fit {network}: {e.err}") from e
    layers = {}
    for layer in shapes:
        for index, kind in enumerate(("weight", "bias")):
            try:
                blob = net.getParam(layer, index)
            except cv2.error:
                continue
            if blob is not None and blob.size:
                layers[layer, kind] = torch.from_numpy(np.array(blob))
    return layers


def prototxt_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Only the layers with parameters, in a row: enough for OpenCV to read them by name."""
    rows = ['input: "data"', "input_dim: 1 input_dim: 3 input_dim: 64 input_dim: 64"]
    below = "data"
    for layer, shape in shapes.items():
        if len(shape) == 4:
            what = f"num_output: {shape[0]} kernel_size: {shape[2]}"
            row = f'type: "Convolution" convolution_param {{ {what} }}'
        else:
            row = f'type: "InnerProduct" inner_product_param {{ num_output: {shape[0]} }}'
        rows.append(f'layer {{ name: "{layer}" bottom: "{below}" top: "{layer}" {row} }}')
        below = layer
    return "\n".join(rows)


if __name__ == "__main__":
    main()
