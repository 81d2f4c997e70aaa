from detectron2 import model_zoo

from ohem_d2 import CrowdDatasetMapper, OHEMROIHeads

_zoo = model_zoo.get_config("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py")
model, dataloader, train = _zoo.model, _zoo.dataloader, _zoo.train
optimizer, lr_multiplier = _zoo.optimizer, _zoo.lr_multiplier

model.roi_heads._target_ = OHEMROIHeads
model.roi_heads.ohem = dict(warmup_iters=1000)
model.roi_heads.batch_size_per_image = 128
model.roi_heads.box_predictor.smooth_l1_beta = 1.0
dataloader.train.mapper._target_ = CrowdDatasetMapper
