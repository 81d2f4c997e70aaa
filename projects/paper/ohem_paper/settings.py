"""Keys of the project, and the values that they may have."""

from detectron2.config import CfgNode

from ohem_d2.tools.errors import InputError


def add_settings(cfg: CfgNode) -> None:
    """Add the nodes ``BOOTSTRAP`` and ``TRAINING_LOSS`` with their defaults, in place."""
    cfg.BOOTSTRAP, cfg.TRAINING_LOSS = CfgNode(), CfgNode()
    # Rounds of training on a fixed working set; between them are ROUNDS - 1 sweeps.
    cfg.BOOTSTRAP.ROUNDS = 4
    # So many background proposals of each image, chosen at random, are in the first working set;
    # all foreground ones are.
    cfg.BOOTSTRAP.INITIAL_BACKGROUND = 64
    # A background RoI is a false positive if its highest score of an object class is above this.
    cfg.BOOTSTRAP.SCORE_THRESH = 0.1
    # At most so many false positives of an image are added in a sweep, those with the highest
    # scores. 0: all.
    cfg.BOOTSTRAP.MAX_PER_IMAGE = 100
    # Every so many iterations, from before the first to after the last, the loss over all RoIs of
    # the training set is taken. 0: never.
    cfg.TRAINING_LOSS.PERIOD = 0
    # So many images, spread evenly over the data set, instead of all. 0: all.
    cfg.TRAINING_LOSS.NUM_IMAGES = 0


def check_settings(cfg: CfgNode) -> None:
    """Raises InputError for an impossible value, which it names with what is allowed."""
    bootstrap, loss, most = cfg.BOOTSTRAP, cfg.TRAINING_LOSS, cfg.SOLVER.MAX_ITER
    least = {"BOOTSTRAP.ROUNDS": (bootstrap.ROUNDS, 1)}
    for key in ("INITIAL_BACKGROUND", "MAX_PER_IMAGE"):
        least[f"BOOTSTRAP.{key}"] = bootstrap[key], 0
    for key in ("PERIOD", "NUM_IMAGES"):
        least[f"TRAINING_LOSS.{key}"] = loss[key], 0
    for key, (value, number) in least.items():
        if type(value) is not int or value < number:
            raise InputError(f"{key} = {value!r}; allowed: a whole number >= {number}")
    thresh, rounds = bootstrap.SCORE_THRESH, bootstrap.ROUNDS
    if not (type(thresh) in (int, float) and 0 <= thresh < 1):
        raise InputError(f"BOOTSTRAP.SCORE_THRESH = {thresh!r}; allowed: a score, 0 to below 1")
    if cfg.SOLVER.get("TRAINER") == "bootstrapping" and rounds > most:
        allowed = f"up to SOLVER.MAX_ITER, which is {most}"
        raise InputError(f"BOOTSTRAP.ROUNDS = {rounds!r}; allowed: {allowed}")
