"""The whole training step of a detector: backbone, proposals, heads, optimizer."""

import functools
from pathlib import Path

import torch
from detectron2.modeling import build_model
from heads import IMAGE, random_target, with_variant
from measure import Step

from ohem_d2.tools.load_model import default_cfg, find_config_file
from ohem_d2.trust import merge_file

TREE_CROWNS = Path(__file__).resolve().parents[1] / "tree_crowns"
# name: configuration, image
MODELS = {
    "R50-FPN": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", IMAGE),
    "demo": (str(TREE_CROWNS / "configs/random.yaml"), (320, 320)),
}
# What is compared: Detectron2's default of 512 RoIs an image, random sampling of as many as OHEM,
# and OHEM; with their variants of heads
STEPS = {
    "plain 512": "plain 512",
    "plain 128": "plain",
    "readonly 128": "readonly",
    "readonly 128, screening": "screening",
}


def model_steps(name: str, device: str) -> tuple[dict[str, Step], Step]:
    """
    A step for each variant, the first being what the others are compared with, and what has to be
    called before each.
    """
    from projects.tree_crowns import backbone  # noqa: F401  registers EfficientNet-Lite0

    file, image = MODELS[name]
    cfg = default_cfg()
    merge_file(cfg, find_config_file(file))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", device
    generator = torch.Generator().manual_seed(0)
    target = random_target(generator, image, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    batch = [{"image": torch.rand(3, *image, generator=generator) * 255, "instances": target}]
    models, first = {}, None
    for step_name, variant in STEPS.items():
        torch.manual_seed(0)
        model = build_model(with_variant(cfg, variant, 128)).train()
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
        models[step_name] = model

    # A learning rate of 0: the optimizer works as ever, and every step finds the same parameters.
    trained = [p for p in first.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)

    def step(model: torch.nn.Module) -> None:
        sum(model(batch).values()).backward()
        optimizer.step()

    steps = {name: functools.partial(step, model) for name, model in models.items()}
    return steps, functools.partial(optimizer.zero_grad, set_to_none=True)
