"""The whole training step of a detector: backbone, proposals, heads, optimizer."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling import build_model
from heads import FPN, IMAGE, config_of, mixed, random_target, with_variant
from measure import Step
from torch import Tensor, nn

from ohem_d2.tools.comparison import proxy

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
    """A model to measure, its images and its RoIs of an image."""

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
        # Frozen norms leave the activations of random weights as large as they come, and all
        # proposals of an RPN on them are alike.
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("running_var") and whole.model == "R50-FPN":
                buffer.fill_(4.0)
        first = first or model
        for part, source in ((model, first), (model.roi_heads, first.roi_heads)):
            for child, module in source.named_children():  # the very same parameters
                if child != "roi_heads":
                    setattr(part, child, module)
    return models, batch
