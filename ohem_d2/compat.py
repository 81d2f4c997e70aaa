"""
What differs between versions of Detectron2: v0.6, its main branch of April 2024, and today's.

Nothing asks for a version number, which main does not change: each feature is looked for where it
would be. The rest of the package asks here.
"""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import nn


def uses_sigmoid_ce(box_predictor: nn.Module) -> bool:
    """Whether its classes have a binary cross entropy each (not in v0.6)."""
    return getattr(box_predictor, "use_sigmoid_ce", False)


def uses_fed_loss(box_predictor: nn.Module) -> bool:
    """Whether it trains on the federated loss (not in v0.6)."""
    return getattr(box_predictor, "use_fed_loss", False)


def has_compiled_ops() -> bool:
    """
    Whether Detectron2's compiled part is there and fits this PyTorch. Rotated boxes and deformable
    convolution need it; OHEM does not.
    """
    with contextlib.suppress(ImportError, OSError):
        import detectron2._C  # noqa: F401
    return hasattr(torch.ops.detectron2, "nms_rotated")  # v0.6 registers no other there


def run_after_backward(trainer: Any) -> None:
    """The trainer's hook between gradients and optimizer (not in v0.6)."""
    getattr(trainer, "after_backward", lambda: None)()


def mixed_precision(trainer: Any) -> torch.dtype:
    """What it trains in; v0.6 leaves no choice."""
    return getattr(trainer, "precision", torch.float16)


def write_metrics(trainer: Any, losses: dict[str, torch.Tensor], data_time: float) -> None:
    """As the trainer does in its own steps: in its thread, if it was made so (not in v0.6)."""
    if getattr(trainer, "async_write_metrics", False):
        trainer.concurrent_executor.submit(
            trainer._write_metrics, losses, data_time, iter=trainer.iter
        )
    else:
        trainer._write_metrics(losses, data_time)


def copy_options(trainer: Any, other: Any) -> None:
    """Give the other trainer what this one was made with, beside model, data and optimizer."""
    for name in ("gather_metric_period", "precision", "async_write_metrics"):  # none in v0.6
        if hasattr(trainer, name):
            setattr(other, name, getattr(trainer, name))


def features() -> dict[str, bool]:
    """The features by name, and whether this Detectron2 has them."""
    from detectron2.engine import DefaultTrainer  # imports much that the heads do not need

    arguments = inspect.signature(FastRCNNOutputLayers.__init__).parameters
    return {
        "compiled operators": has_compiled_ops(),
        "sigmoid cross entropy": "use_sigmoid_ce" in arguments,
        "federated loss": "use_fed_loss" in arguments,
        # Where it does not (v0.6), a resumed run of DefaultTrainer begins without momentum.
        "checkpoints with the optimizer": "state_dict" in vars(DefaultTrainer),
    }


def not_compiled(function: Callable, recursive: bool = True) -> Callable:
    """Run as plain Python where ``torch.compile`` comes by; what it calls, too, if recursive."""
    if hasattr(torch, "compiler"):
        return torch.compiler.disable(function, recursive=recursive)
    import torch._dynamo as dynamo  # PyTorch 2.0

    return dynamo.disable(function) if recursive else dynamo.skip(function)


def nothing_compiled() -> contextlib.AbstractContextManager:
    """Within the context, modules that were compiled run as plain ones (since PyTorch 2.6)."""
    set_stance = getattr(getattr(torch, "compiler", None), "set_stance", None)
    return set_stance("force_eager") if set_stance else contextlib.nullcontext()


def in_backward() -> bool:
    """Whether gradients are being computed, as when a checkpoint runs a forward pass again."""
    return getattr(torch._C, "_current_graph_task_id", lambda: -1)() != -1
