"""Proves that Detectron2 works here: a tiny detector goes forward and backward."""

import sys

HINTS = {
    "detectron2": "Detectron2 is not installed: call `make setup` again, or install it from "
    "https://github.com/facebookresearch/detectron2",
    "pkg_resources": "Detectron2 imports pkg_resources: pip install 'setuptools<81'",
}


def main() -> None:
    try:
        import torch
        from detectron2 import engine, evaluation, model_zoo  # noqa: F401
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model
        from detectron2.structures import Boxes, Instances
        from detectron2.utils.events import EventStorage
    except ImportError as e:
        raise SystemExit(HINTS.get(e.name, f"Detectron2 cannot be imported: {e}")) from e

    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 20
    model = build_model(cfg)
    target = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]])))
    target.gt_classes = torch.tensor([1])
    with EventStorage():
        losses = model([{"image": torch.rand(3, 64, 64) * 255, "instances": target}])
        sum(losses.values()).backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if lacking:
        raise SystemExit(f"Detectron2 gives no gradient for {lacking[0]}: reinstall torch with it")
    device = "with a GPU" if torch.cuda.is_available() else "on the CPU"
    print(f"torch {torch.__version__} and Detectron2 work {device}", file=sys.stderr)


if __name__ == "__main__":
    main()
