"""
Random numbers that follow from the seed of a run and a place in it, whatever was drawn before. So
there is no random state to save: a run that goes on at some place draws what it would have drawn.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

# What the numbers are for; different ones are independent of each other.
SAMPLER, IMAGE, ITERATION = 1, 2, 3


def run_seed(cfg: CfgNode) -> int:
    """``SEED``; where that is negative a random one, the same in all processes."""
    return cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()


def seed_at(seed: int, purpose: int, *place: int) -> int:
    """From 0 to 2^32 - 1, for one of the purposes above and a place, whole numbers from 0 on."""
    return int(np.random.SeedSequence((seed, purpose, *place)).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Python, NumPy and PyTorch, on all devices, draw from this seed on."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the context they draw from the seed, but for GPUs; after it they go on as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
