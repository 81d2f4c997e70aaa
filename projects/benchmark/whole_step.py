"""The whole training step of a detector: backbone, proposals, heads, optimizer."""

from collections.abc import Callable
from pathlib import Path

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from heads import IMAGE, OBJECTS, random_boxes

import ohem_d2

TREE_CROWNS = Path(__file__).resolve().parents[1] / "tree_crowns"
MODELS = ("R50-FPN", "demo")

Step = Callable[[], None]


def model_steps(name: str, device: str) -> tuple[dict[str, Step], Step]:
    """
    Returns:
        a step for each variant, the first being what the others are compared with, and what has to
        be called before each.
    """
    variants, image, classes = {"R50-FPN": _r50_fpn, "demo": _demo}[name](device)
    generator = torch.Generator().manual_seed(0)
    boxes = Boxes(random_boxes(OBJECTS, generator) * (image[0] / IMAGE[0]))
    boxes.clip(image)
    target = Instances(image, gt_boxes=boxes)
    target.gt_classes = torch.randint(0, classes, (OBJECTS,), generator=generator)
    batch = [{"image": torch.rand(3, *image, generator=generator) * 255, "instances": target}]
    models, first = {}, None
    for variant, cfg in variants.items():
        torch.manual_seed(0)
        model = build_model(cfg).train()
        # Frozen norms leave the activations of random weights as large as they come, and all
        # proposals of an RPN on them are alike.
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("running_var"):
                buffer.fill_(4.0)
        if first is not None:  # the very same parameters
            for child, module in first.named_children():
                if child != "roi_heads":
                    setattr(model, child, module)
            for child, module in first.roi_heads.named_children():
                setattr(model.roi_heads, child, module)
        first = first or model
        models[variant] = model

    # A learning rate of 0: the optimizer works as ever, and every step finds the same parameters.
    trained = [p for p in first.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)

    def step_of(model: torch.nn.Module) -> Step:
        def step() -> None:
            sum(model(batch).values()).backward()
            optimizer.step()

        return step

    def reset() -> None:
        optimizer.zero_grad(set_to_none=True)

    return {variant: step_of(model) for variant, model in models.items()}, reset


def _r50_fpn(device: str) -> tuple[dict[str, CfgNode], tuple[int, int], int]:
    cfg = get_cfg()
    ohem_d2.add_ohem_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = device
    return _samplers(cfg), IMAGE, 80


def _demo(device: str) -> tuple[dict[str, CfgNode], tuple[int, int], int]:
    from projects.tree_crowns import backbone  # noqa: F401  registers EfficientNet-Lite0

    cfg = get_cfg()
    ohem_d2.add_ohem_config(cfg)
    cfg.merge_from_file(str(TREE_CROWNS / "configs" / "random.yaml"))
    cfg.MODEL.DEVICE = device
    return _samplers(cfg), (320, 320), 1


def _samplers(cfg: CfgNode) -> dict[str, CfgNode]:
    """Detectron2's default of 512 RoIs an image, random sampling of as many as OHEM, and OHEM."""
    variants = {}
    for variant, heads, budget in (
        ("plain 512", "StandardROIHeads", 512),
        ("plain 128", "StandardROIHeads", 128),
        ("readonly 128", "OHEMROIHeads", 128),
    ):
        variants[variant] = cfg.clone()
        variants[variant].MODEL.ROI_HEADS.NAME = heads
        variants[variant].MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = budget
    screening = variants["readonly 128"].clone()
    screening.MODEL.ROI_HEADS.OHEM.SCREENING = 2.5
    variants["readonly 128, screening"] = screening
    return variants
