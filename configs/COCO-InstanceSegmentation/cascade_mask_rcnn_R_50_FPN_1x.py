from detectron2 import model_zoo
from detectron2.config import LazyConfig

from ohem_d2 import OHEMCascadeROIHeads

_mask = LazyConfig.load_rel("mask_rcnn_R_50_FPN_1x.py")
dataloader, train = _mask.dataloader, _mask.train
optimizer, lr_multiplier = _mask.optimizer, _mask.lr_multiplier

model = model_zoo.get_config("common/models/cascade_rcnn.py").model
model.backbone.bottom_up.freeze_at = 2
model.proposal_generator.post_nms_topk = (2000, 1000)
model.roi_heads._target_ = OHEMCascadeROIHeads
model.roi_heads.ohem = dict(warmup_iters=1000)
model.roi_heads.batch_size_per_image = 128
for _predictor in model.roi_heads.box_predictors:
    _predictor.smooth_l1_beta = 1.0
