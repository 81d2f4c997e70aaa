"""
Classic bootstrapping, which OHEM takes the place of (paper Sec. 1 and 2): train on a fixed working
set of RoIs, freeze the model, run it over the whole data set, add its false positives to the
set, and go on (Sung and Poggio 1994; Felzenszwalb et al. 2010, Sec. 4).

It takes a Fast R-CNN with precomputed proposals and Detectron2's own heads. SOLVER.MAX_ITER is
split evenly over BOOTSTRAP.ROUNDS rounds, with one learning rate schedule and one optimizer
throughout; after each round but the last comes a sweep. In a round the heads sample from the
working set with their BATCH_SIZE_PER_IMAGE and POSITIVE_FRACTION; they add the objects to it.

``metrics.json`` has, under ``bootstrap/``, for each round: ``num_foreground`` and
``num_background`` RoIs trained on, ``train_seconds``, and of the sweep after it ``sweep_seconds``,
``num_false_positives``, ``num_added`` and ``num_dropped``; at the end ``sweep_share``, the part of
the time that went into sweeps. Every checkpoint has the working set in it; ``model_round_N.pth`` is
saved after the N-th sweep.
"""
