"""
The paper's test-time extras for any R-CNN of Detectron2: multi-scale testing ("+M") and iterative
box regression with box voting ("+B"), each alone or both, by configuration keys that are off by
default. ::

    MultiScale.add_to(cfg)                      # before the file is merged
    BoxVoting.add_to(cfg)
    ...
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    model = with_test_time_extras(cfg, model)   # the same model if nothing is enabled

Multi-scale training needs nothing of this: it is Detectron2's ``INPUT.MIN_SIZE_TRAIN`` with
``MIN_SIZE_TRAIN_SAMPLING: "choice"``, which scales precomputed proposals, too.
"""
