from detectron2.config import LazyConfig

_mask = LazyConfig.load_rel("../COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
model, dataloader, train = _mask.model, _mask.dataloader, _mask.train
optimizer, lr_multiplier = _mask.optimizer, _mask.lr_multiplier

for _key in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(_key)
dataloader.train.mapper.use_instance_mask = False
