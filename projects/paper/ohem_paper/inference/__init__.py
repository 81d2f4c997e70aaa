"""
The paper's test-time extras for any R-CNN of Detectron2: multi-scale testing ("+M") and iterative
box regression with box voting ("+B"), by the keys of ``TEST.MULTI_SCALE`` and ``TEST.BOX_VOTING``
(see ``settings.py``), which are off by default. ::

    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    model = with_test_time_extras(cfg, model)   # the same model if nothing is enabled
"""
