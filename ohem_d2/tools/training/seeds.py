"""
Random numbers that depend on the seed of a run and a place in it, but not on earlier draws. So
there is no random state to save: a resumed run draws what it would have drawn without the stop.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

# Purposes of random numbers. Different purposes have independent numbers.
SAMPLER, IMAGE, ITERATION = 1, 2, 3


def run_seed(cfg: CfgNode) -> int:
    """``SEED``, or if it is negative a random seed, the same in all processes."""
    return cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()


def seed_at(seed: int, purpose: int, *place: int) -> int:
    """A seed from 0 to 2^32 - 1, for a purpose (see above) and a place (whole numbers >= 0)."""
    return int(np.random.SeedSequence((seed, purpose, *place)).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, on all devices."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed them within the context, except on GPUs. Restores their states afterwards."""
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
