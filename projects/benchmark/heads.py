"""
ROI heads and whole models to measure: every variant runs on the same parameters, feature maps or
images, proposals and ground truth.

Shape shorthand: R RoIs and B/N mined ones an image, N images, C channels.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import Boxes, ImageList, Instances
from measure import Step
from torch import Generator, Tensor, nn
from torch.profiler import record_function
from torchvision.ops import nms

from ohem_d2 import add_ohem_config
from ohem_d2.mining.scoring import by_location, in_chunks
from ohem_d2.tools.comparison import proxy
from projects.paper.ohem_paper import loss_layer  # noqa: F401  registers heads

IMAGE = (800, 1216)  # pixels: most of COCO at Detectron2's default scale
OBJECTS = 8  # per image

FPN, C4 = (f"COCO-Detection/faster_rcnn_R_50_{kind}_1x.yaml" for kind in ("FPN", "C4"))
# VGG16 as in the paper: RoI max pooling of conv5_3, two layers of 4096 channels
VGG16 = [
    *("MODEL.ROI_HEADS.IN_FEATURES", ["conv5"], "MODEL.ROI_HEADS.NUM_CLASSES", 20),
    *("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool", "MODEL.ROI_BOX_HEAD.FC_DIM", 4096),
]
# name: model of the zoo, overrides, feature maps as name -> (stride, C)
HEADS: dict[str, tuple[str, list, dict[str, tuple[int, int]]]] = {
    "fpn": (FPN, [], {f"p{level}": (2**level, 256) for level in range(2, 6)}),
    "c4": (C4, [], {"res4": (16, 1024)}),
    "vgg16": (FPN, VGG16, {"conv5": (16, 512)}),
}

# As mmdetection's OHEMSampler chooses, see against_mmdetection.py
MMDETECTIONS = {"OHEM.BUDGET": "quota", "OHEM.NMS_SCOPE": "none", "OHEM.RANK_LOC_WEIGHT": 0.0}
# What a variant sets in Detectron2's own configuration: the prefix of the name of the ROI heads
# ("": the plain ones), and keys of MODEL.ROI_HEADS
VARIANTS: dict[str, tuple[str, dict]] = {
    "plain": ("", {}),
    "plain 512": ("", {"BATCH_SIZE_PER_IMAGE": 512}),
    "readonly": ("OHEM", {}),
    "screening": ("OHEM", {"OHEM.SCREENING": 2.5}),
    "bfloat16": ("OHEM", {"OHEM.READONLY_PRECISION": "bfloat16"}),
    "loss_layer": ("LossLayer", {}),
    "all RoIs": ("", {"BATCH_SIZE_PER_IMAGE": 10**6, "POSITIVE_FRACTION": 1.0}),
    "quota": ("OHEM", {"OHEM.BUDGET": "quota"}),
}


def config_of(file: str, *overrides: Any) -> CfgNode:
    """The configuration of a file or of a name in Detectron2's model zoo, with overrides."""
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_file(file if os.path.isfile(file) else model_zoo.get_config_file(file))
    cfg.merge_from_list(list(overrides))
    return cfg


def with_variant(plain: CfgNode, variant: str, budget: int) -> CfgNode:
    """The configuration of a plain detector with the ROI heads of a variant."""
    cfg, (kind, settings) = plain.clone(), VARIANTS[variant]
    name = cfg.MODEL.ROI_HEADS.NAME
    name = kind + name.removeprefix("Standard") if kind else name
    for key, value in {"NAME": name, "BATCH_SIZE_PER_IMAGE": budget, **settings}.items():
        cfg.merge_from_list([f"MODEL.ROI_HEADS.{key}", value])
    return cfg


def build(head: str, variants: list[str], budget: int, device: str) -> dict[str, nn.Module]:
    """ROI heads for each variant, all with the very same parameters."""
    file, overrides, _ = HEADS[head]
    cfg, built = config_of(file, "MODEL.DEVICE", "cpu", *overrides), {}
    for variant in variants:
        heads = build_roi_heads(with_variant(cfg, variant, budget), shapes_of(head))
        first = next(iter(built.values()), heads)
        for name, child in first.named_children():
            setattr(heads, name, child)
        built[variant] = heads.to(device).train()
    return built


def shapes_of(head: str) -> dict[str, ShapeSpec]:
    maps = HEADS[head][2]
    return {name: ShapeSpec(channels=c, stride=stride) for name, (stride, c) in maps.items()}


class Inputs:
    """Feature maps, proposals and ground truth of N images, and the precision of the training."""

    def __init__(
        self, head: str, num_images: int, num_rois: int, device: str, precision: str = "float32"
    ):
        generator = Generator().manual_seed(0)
        self.precision, self.features = precision, {}
        for name, (stride, c) in HEADS[head][2].items():
            size = (num_images, c, *(side // stride for side in IMAGE))
            features = torch.randn(size, generator=generator).to(device, getattr(torch, precision))
            self.features[name] = features.requires_grad_()
        self.images = ImageList(torch.empty(0, device=device), [IMAGE] * num_images)
        self.targets = [random_target(generator).to(device) for _ in range(num_images)]
        self._proposals = [_proposals(t, num_rois, generator, device) for t in self.targets]

    @property
    def proposals(self) -> list[Instances]:
        """New ones for each use, as heads add fields to them."""
        return [Instances(p.image_size, **p.get_fields()) for p in self._proposals]


def training_step(heads: nn.Module, inputs: Inputs) -> Callable[[], None]:
    """Forward and backward of the ROI heads, down to the feature maps."""

    def step() -> None:
        with mixed(inputs.precision, inputs.images.device.type):
            _, losses = heads(inputs.images, inputs.features, inputs.proposals, inputs.targets)
        with record_function("step/backward"):
            sum(losses.values()).backward()

    return step


def scoring_forward(heads: nn.Module, inputs: Inputs, chunk_size: int) -> Callable[[], None]:
    """
    The least that a read-only pass has to do: the head's forward over all R RoIs, tile by tile, and
    nothing else.
    """
    rois = [p[by_location(p.proposal_boxes.get_centers())] for p in inputs.proposals]

    @torch.no_grad()
    def forward() -> None:
        with mixed(inputs.precision, inputs.images.device.type):
            for chunk in in_chunks(rois, chunk_size):
                heads.score_rois(inputs.features, chunk)

    return forward


def mixed(precision: str, device: str) -> contextlib.AbstractContextManager:
    """Mixed precision as Detectron2's trainer has it, without the scaling of the loss."""
    half = precision != "float32"
    return torch.autocast(device, getattr(torch, precision)) if half else contextlib.nullcontext()


def clear_gradients(heads: nn.Module, inputs: Inputs) -> None:
    for tensor in (*heads.parameters(), *inputs.features.values()):
        tensor.grad = None


def random_target(generator: Generator, image=IMAGE, num_classes: int = 20) -> Instances:
    """The ground truth of an image of this height and width."""
    boxes = Boxes(random_boxes(OBJECTS, generator) * (image[0] / IMAGE[0]))
    boxes.clip(image)
    classes = torch.randint(0, num_classes, (OBJECTS,), generator=generator)
    return Instances(image, gt_boxes=boxes, gt_classes=classes)


def _proposals(target: Instances, num: int, generator: Generator, device: str) -> Instances:
    """Some are near objects. No two have an IoU above 0.7, as after the NMS of an RPN."""
    objects = target.gt_boxes.tensor.cpu()
    near = torch.randint(0, len(objects), (4 * num,), generator=generator)
    side = (objects[:, 2:] - objects[:, :2])[near]
    shift = torch.randn(4 * num, 2, generator=generator) * 0.2 * side
    scale = 2 ** (torch.randn(4 * num, 1, generator=generator) * 0.3)
    center = (objects[near, :2] + objects[near, 2:]) / 2 + shift
    at_objects = torch.cat([center - side * scale / 2, center + side * scale / 2], dim=1)
    boxes = Boxes(torch.cat([at_objects, random_boxes(8 * num, generator)]))
    boxes.clip(IMAGE)
    boxes = boxes[boxes.nonempty(4.0)].tensor
    boxes = boxes[nms(boxes, torch.rand(len(boxes), generator=generator), 0.7)]
    if len(boxes) < num:
        raise ValueError(f"{num} proposals do not fit an image without overlaps above 0.7")
    logits = torch.randn(num, generator=generator).to(device)
    fields = {"proposal_boxes": Boxes(boxes[:num].to(device)), "objectness_logits": logits}
    return Instances(IMAGE, **fields)


def random_boxes(num: int, generator: Generator) -> Tensor:
    """Boxes with sides of 16 to 400 pixels, uniform on a logarithmic scale."""
    height, width = IMAGE
    side = 16 * 25 ** torch.rand(num, 1, generator=generator)
    ratio = 2 ** (torch.rand(num, 1, generator=generator) * 2 - 1)
    size = torch.cat([side * ratio.sqrt(), side / ratio.sqrt()], dim=1)
    size = torch.minimum(size, torch.tensor([width - 2.0, height - 2.0]))
    room = torch.tensor([float(width), float(height)]) - size
    corner = torch.rand(num, 2, generator=generator) * room
    return torch.cat([corner, corner + size], dim=1)


# name: configuration, image
MODELS = {"R50-FPN": (FPN, IMAGE), "demo": (str(proxy.CONFIG), (320, 320))}
# What is compared: Detectron2's default of 512 RoIs an image, random sampling of as many as OHEM,
# and OHEM; with their variants of heads
STEPS = {
    "plain 512": "plain 512",
    "plain 128": "plain",
    "readonly 128": "readonly",
    "readonly 128, screening": "screening",
    "loss layer 128": "loss_layer",
    "quota 128": "quota",
}


@dataclass(frozen=True)
class Whole:
    """A model to measure, its number of images, and its RoIs per image."""

    model: str
    R: int
    N: int = 1
    precision: str = "float32"

    def __str__(self) -> str:
        height, width = MODELS[self.model][1]
        size = f"N = {self.N} of {height} x {width}, R = {self.R}"
        return f"{self.model}, {size}, {self.precision}"


def model_steps(whole: Whole, device: str) -> tuple[dict[str, Step], Step]:
    """A step for each variant, and what has to be called before each."""
    models, batch = models_and_batch(whole, device, list(STEPS))
    steps = {name: step_of(model, batch, whole, device) for name, model in models.items()}
    # any of them clears the gradients that all have in common
    reset = next(iter(steps.values()))[1]
    return {name: step for name, (step, _) in steps.items()}, reset


def step_of(
    model: nn.Module, batch: list[dict], whole: Whole, device: str
) -> tuple[Callable[[], Tensor], Step]:
    """A step, which returns its loss, and what has to be called before each."""
    # A learning rate of 0: the optimizer works as ever, and every step finds the same parameters.
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)

    def step() -> Tensor:
        with mixed(whole.precision, device):
            loss = sum(model(batch).values())
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, functools.partial(optimizer.zero_grad, set_to_none=True)


def models_and_batch(
    whole: Whole, device: str, names: Sequence[str]
) -> tuple[dict[str, nn.Module], list[dict]]:
    """A model for each variant of STEPS, all with the very same parameters."""
    file, image = MODELS[whole.model]
    cfg = config_of(file, "MODEL.WEIGHTS", "", "MODEL.DEVICE", device)
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = whole.R
    generator, batch = torch.Generator().manual_seed(0), []
    for _ in range(whole.N):
        target = random_target(generator, image, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        pixels = torch.randint(0, 256, (3, *image), generator=generator, dtype=torch.uint8)
        batch.append({"image": pixels, "instances": target})
    models, first = {}, None
    for name in names:
        torch.manual_seed(0)
        model = models[name] = build_model(with_variant(cfg, STEPS[name], 128)).train()
        # With frozen norms, activations of random weights are not rescaled, and all proposals
        # of the RPN become alike.
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("running_var") and whole.model == "R50-FPN":
                buffer.fill_(4.0)
        first = first or model
        for part, source in ((model, first), (model.roi_heads, first.roi_heads)):
            for child, module in source.named_children():  # the very same parameters
                if child != "roi_heads":
                    setattr(part, child, module)
    return models, batch
