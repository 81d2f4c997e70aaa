"""
Classic bootstrapping, which OHEM takes the place of (paper Sec. 1 and 2): train on a fixed working
set of RoIs, freeze the model, run it over the whole data set, add its false positives to the
set, and go on (Sung and Poggio 1994; Felzenszwalb et al. 2010, Sec. 4).

It takes a Fast R-CNN with precomputed proposals and Detectron2's own heads. SOLVER.MAX_ITER is
split evenly over BOOTSTRAP.ROUNDS rounds, with one learning rate schedule and one optimizer
throughout; between them are sweeps. The heads sample from the working set and the objects.
"""
