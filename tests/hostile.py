"""Files that make a folder when they are read as their kind may be."""

import os
import pickle

import numpy as np
import torch


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def configuration(folder, canary):
    """One whose base has the tag, in its second line."""
    base = f"VERSION: 2\nOUTPUT_DIR: !!python/object/apply:os.mkdir ['{canary}']\n"
    (folder / "base.yaml").write_text(base)
    (folder / "tagged.yaml").write_text("_BASE_: base.yaml\n")
    return folder / "tagged.yaml"


def weights(path, canary, model=None):
    """Sound but for the payload."""
    data = {"model": model or {}, "__author__": "a stranger", "more": Payload(canary)}
    torch.save(data, path) if path.suffix == ".pth" else path.write_bytes(pickle.dumps(data))
    return path


def proposals(path, canary, ids):
    """Sound but for the payload."""
    corners = np.random.default_rng(0).uniform(0, 60, (len(ids), 40, 2)).astype(np.float32)
    data = {
        "ids": ids,
        "boxes": [np.concatenate([c, c + 30], axis=1) for c in corners],
        "objectness_logits": [np.zeros(40, np.float32) for _ in ids],
        "bbox_mode": 0,
        "more": Payload(canary),
    }
    path.write_bytes(pickle.dumps(data))
    return path
