"""The whole training step of a detector: backbone, proposals, heads, optimizer."""

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from heads import IMAGE, random_target
from measure import Step

from ohem_d2.tools.load_model import default_cfg, find_config_file
from ohem_d2.trust import merge_file

TREE_CROWNS = Path(__file__).resolve().parents[1] / "tree_crowns"
# name: configuration, image
MODELS = {
    "R50-FPN": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", IMAGE),
    "demo": (str(TREE_CROWNS / "configs/random.yaml"), (320, 320)),
}


def model_steps(name: str, device: str) -> tuple[dict[str, Step], Step]:
    """
    A step for each variant, the first being what the others are compared with, and what has to be
    called before each.
    """
    variants, image = configurations(name, device)
    classes = variants["plain 512"].MODEL.ROI_HEADS.NUM_CLASSES
    generator = torch.Generator().manual_seed(0)
    target = random_target(generator, image, classes)
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
        first = first or model
        for part, source in ((model, first), (model.roi_heads, first.roi_heads)):
            for child, module in source.named_children():  # the very same parameters
                if child != "roi_heads":
                    setattr(part, child, module)
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


def configurations(name: str, device: str) -> tuple[dict[str, CfgNode], tuple[int, int]]:
    """
    Of Detectron2's default of 512 RoIs an image, random sampling of as many as OHEM, and OHEM; and
    the image's height and width.
    """
    from projects.tree_crowns import backbone  # noqa: F401  registers EfficientNet-Lite0

    cfg = default_cfg()
    merge_file(cfg, find_config_file(MODELS[name][0]))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", device
    variants = {}
    for variant, heads, budget, screening in (
        ("plain 512", "StandardROIHeads", 512, 0.0),
        ("plain 128", "StandardROIHeads", 128, 0.0),
        ("readonly 128", "OHEMROIHeads", 128, 0.0),
        ("readonly 128, screening", "OHEMROIHeads", 128, 2.5),
    ):
        variants[variant] = cfg.clone()
        node = variants[variant].MODEL.ROI_HEADS
        node.NAME, node.BATCH_SIZE_PER_IMAGE, node.OHEM.SCREENING = heads, budget, screening
    return variants, MODELS[name][1]
