"""Small detectors and inputs for tests: Detectron2's own architectures with few channels."""

import copy
from pathlib import Path

import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints

from ohem_d2 import add_ohem_config

ROOT = Path(__file__).resolve().parents[1]

# Overrides that make any R-CNN of the zoo small enough for a CPU to train a step in a second.
SHRINK = [
    *("MODEL.DEVICE", "cpu"),
    *("MODEL.WEIGHTS", ""),
    *("MODEL.RESNETS.DEPTH", 50),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (8,)),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 300),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 200),
    *("INPUT.MASK_FORMAT", "bitmask"),
]

ZOO = {
    "fpn": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", "OHEMROIHeads"),
    "mask": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "OHEMROIHeads"),
    "keypoint": ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", "OHEMROIHeads"),
    "dc5": ("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", "OHEMROIHeads"),
    "c4": ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", "OHEMRes5ROIHeads"),
    "c4-mask": ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml", "OHEMRes5ROIHeads"),
    "cascade": ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", "OHEMCascadeROIHeads"),
}


def config(name="fpn", *overrides, budget=16, ohem=None, plain=False):
    """
    Args:
        name: of ZOO.
        overrides: KEY, VALUE, KEY, VALUE...
        ohem: values of the keys of OHEM, in lower case.
        plain: Detectron2's own heads.
    """
    cfg = get_cfg()
    add_ohem_config(cfg)
    file, heads = ZOO[name]
    cfg.merge_from_file(model_zoo.get_config_file(file))
    cfg.merge_from_list(SHRINK)
    cfg.MODEL.ROI_HEADS.NAME = heads
    if plain:
        cfg.MODEL.ROI_HEADS.NAME = {
            "OHEMROIHeads": "StandardROIHeads",
            "OHEMRes5ROIHeads": "Res5ROIHeads",
            "OHEMCascadeROIHeads": "CascadeROIHeads",
        }[heads]
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = budget
    for key, value in (ohem or {}).items():
        cfg.MODEL.ROI_HEADS.OHEM[key.upper()] = value
    cfg.merge_from_list(overrides)
    return cfg


def detector(cfg, seed=0):
    """
    A detector to train, the same for the same seed.

    Its frozen batch norms, which leave the activations of random weights as large as they come,
    are given statistics that tame them.
    """
    torch.manual_seed(seed)
    model = build_model(cfg).train()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(4.0)
    return model


def ground_truth(num=3, size=(96, 128), classes=80, seed=0, masks=False, keypoints=False):
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(num, 2, generator=generator) * torch.tensor([size[1] - 50.0, size[0] - 50.0])
    boxes = torch.cat([xy, xy + 15 + torch.rand(num, 2, generator=generator) * 30], dim=1)
    target = Instances(size, gt_boxes=Boxes(boxes))
    target.gt_classes = torch.randint(0, classes, (num,), generator=generator)
    if masks:
        target.gt_masks = BitMasks(torch.rand(num, *size, generator=generator) > 0.5)
    if keypoints:
        xy = boxes[:, None, :2] + 10 * torch.rand(num, 17, 2, generator=generator)
        target.gt_keypoints = Keypoints(torch.cat([xy, torch.full((num, 17, 1), 2.0)], dim=2))
    return target


def random_proposals(target, num=60, seed=0):
    """Some at objects, the others anywhere."""
    generator = torch.Generator().manual_seed(seed)
    height, width = target.image_size
    xy = torch.rand(num, 2, generator=generator) * torch.tensor([width - 9.0, height - 9.0])
    boxes = torch.cat([xy, xy + 4 + torch.rand(num, 2, generator=generator) * 50], dim=1)
    for i in range(min(num // 3, 8 * len(target))):
        jitter = torch.rand(4, generator=generator) * 8 - 4
        boxes[i] = target.gt_boxes.tensor[i % len(target)] + jitter
    boxes = Boxes(boxes)
    boxes.clip(target.image_size)
    proposals = Instances(target.image_size, proposal_boxes=boxes)
    proposals.objectness_logits = torch.randn(num, generator=generator)
    return proposals


def batch(cfg, num_objects=(3, 4), size=(96, 128), num_proposals=60):
    """Inputs of a detector: images, ground truth and proposals for it."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for i, num in enumerate(num_objects):
        target = ground_truth(
            num,
            size,
            cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            seed=i,
            masks=cfg.MODEL.MASK_ON,
            keypoints=cfg.MODEL.KEYPOINT_ON,
        )
        inputs.append(
            {
                "image": torch.randint(0, 256, (3, *size), generator=generator).float(),
                "instances": target,
                "proposals": random_proposals(target, num_proposals, seed=i),
                "height": size[0],
                "width": size[1],
            }
        )
    return inputs


def roi_inputs(model, inputs):
    """What a detector's ROI heads are called with; the proposals are those of the inputs."""
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    return (
        images,
        features,
        [copy.copy(x["proposals"]) for x in inputs],
        [x["instances"] for x in inputs],
    )


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def autocasts_to(dtype):
    """Whether autocast takes it on a CPU. That of PyTorch 2.0 takes bfloat16 alone."""
    try:
        with torch.autocast("cpu", dtype=dtype):
            return True
    except RuntimeError:
        return False
