"""
Weights of the paper's networks, from where they can be had, to a file for ``MODEL.WEIGHTS``. ::

    export PYTHONPATH=.
    python projects/paper/convert_weights.py vgg16 vgg16-397923af.pth vgg16.pth     # torchvision
    python projects/paper/convert_weights.py vgg16 VGG_ILSVRC_16_layers.caffemodel vgg16.pth
    python projects/paper/convert_weights.py vgg_m VGG_CNN_M_1024.caffemodel vgg_m.pth

Torchvision's are converted to images as Caffe's, BGR in 8-bit units less the mean, which is
``PIXEL_MEAN: [103.53, 116.28, 123.675]``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ohem_d2.tools.cli import add_shared_arguments
from ohem_d2.tools.errors import errors_in_one_line
from ohem_d2.tools.files import write_atomically
from ohem_d2.tools.trust import trusting
from projects.paper.ohem_paper.networks.convert import NETWORKS, convert


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Convert weights; see the file's head.")
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


if __name__ == "__main__":
    main()
