"""What differs between versions of Detectron2 and PyTorch: each feature is looked for in a line."""

import contextlib

import torch

# Run as plain Python where torch.compile comes by. PyTorch 2.0 has it elsewhere.
if hasattr(torch, "compiler"):
    not_compiled = torch.compiler.disable
else:
    from torch._dynamo import disable as not_compiled  # noqa: F401


def has_compiled_ops() -> bool:
    """Whether Detectron2's compiled ops, which rotated boxes need, are there and load."""
    with contextlib.suppress(ImportError, OSError):
        import detectron2._C  # noqa: F401
    return hasattr(torch.ops.detectron2, "nms_rotated")  # v0.6 registers no other there


def autocasts() -> bool:
    """Whether autocast is on."""
    return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()
