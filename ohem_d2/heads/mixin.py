"""OHEM as ROI heads: the sampler hook of Detectron2, handed to the miner."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.profiler import record_function

from ..compat import not_compiled
from ..mining import labelling
from ..mining.miner import Miner
from ..mining.quiet import QuietStorage
from ..mining.record import Mining, Record
from ..mining.selection import BatchedNMS
from ..monitor.scalars import COUNTS, MiningEvents
from . import checks
from .construction import Constructed
from .parallel import reaching
from .proof import Proof
from .scored import Scored
from .training_call import TrainingCall


class OHEMMixin(Constructed, Scored):
    """
    Makes OHEM heads of ROI heads: list it first among the bases. ::

        @ROI_HEADS_REGISTRY.register()
        class MyOHEMHeads(OHEMMixin, MyHeads):
            pass

    It overrides the sampler hook, ``label_and_sample_proposals``: the parent labels all proposals,
    a read-only pass gives each its loss, and the hard ones are kept (paper Sec. 4). The parent's
    ``forward`` then trains on them as it would on a random sample. Inference is the parent's.

    Heads that predict through ``box_pooler``, ``box_head`` and ``box_predictor`` need nothing else;
    docs/other-heads.md has the others. Whether heads are ranked by what they train on is proven in
    the first iteration that mines.
    """

    # NMS of other boxes than upright ones, see ohem_d2.mining.selection.nms_by_loss
    batched_nms: BatchedNMS | None = None
    # values of IMPLEMENTATION
    implementations = ("readonly",)
    # see sampling_at_random
    mines = True

    def __init__(self, *args: Any, **kwargs: Any):
        """See ``ohem_d2.heads.construction.Constructed``."""
        super().__init__(*args, **kwargs)
        self._events, self._proof = MiningEvents(), Proof()
        self._call: TrainingCall | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """
        See the parent's ``forward``. This wraps the call, and ``forward`` itself stays the
        parent's, so that TorchScript compiles that and nothing of OHEM.
        """
        if not self.training:
            return super().__call__(*args, **kwargs)
        return self._training_call(*args, **kwargs)

    @functools.partial(not_compiled, recursive=False)
    def _training_call(self, *args: Any, **kwargs: Any) -> Any:
        before, self._call = self._call, TrainingCall(self, args, kwargs)
        call = self._call
        try:
            with self.register_forward_pre_hook(call.before_forward, with_kwargs=True):
                result = super().__call__(*args, **kwargs)
            self._proof.check(self, call, result)
        finally:
            self._call = before
        return reaching(result, [p for p in self.parameters() if p.requires_grad])

    @not_compiled
    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances], *args: Any, **kwargs: Any
    ) -> list[Instances]:
        """
        Label all proposals and keep the hard ones: one ``Instances`` for each image, with the
        parent's fields, hardest first. In a warm-up, within :func:`ohem_d2.sampling_at_random`,
        and where heads in evaluation mode are asked for a loss, what the parent samples.
        """
        call = self._call
        if call is not None:
            call.shown = proposals, targets
            if call.repeats is not None:
                return call.answer()
        mines = self.training and self.mines
        if not mines or get_event_storage().iter < self.ohem.warmup_iters:
            return super().label_and_sample_proposals(proposals, targets, *args, **kwargs)
        if call is None or call.features is None:
            raise RuntimeError(
                f"{type(self).__name__}.label_and_sample_proposals() scores the proposals on the "
                "feature maps, so it works only when called by forward(images, features, ...), and "
                "that by calling the heads themselves"
            )
        with record_function("ohem/mine"):
            most = self.ohem.max_candidates
            proposals = [labelling.most_objectlike(p, most) for p in proposals]
            light = labelling.with_deferred_masks(targets)
            # They would count all RoIs.
            with record_function("ohem/label"), QuietStorage(only=COUNTS):
                call.num_labelled = 0
                rois = super().label_and_sample_proposals(proposals, light, *args, **kwargs)
                checks.check_labelled(self, rois, call.num_labelled)
                call.num_labelled = None
            mined = self.choose_rois(rois, targets)
            with record_function("ohem/gather"):
                mined = [labelling.with_copied_masks(p) for p in mined]
        call.mined.append([labelling.shallow_copy(p) for p in mined])
        return mined

    def _sample_proposals(self, matched_idxs, matched_labels, gt_classes, *args, **kwargs):
        """See the parent, which samples at random. Where its labels are to be mined, all RoIs."""
        matched = (matched_idxs, matched_labels, gt_classes)
        if self._call is None or self._call.num_labelled is None:
            return super()._sample_proposals(*matched, *args, **kwargs)
        self._call.num_labelled += 1
        every = torch.arange(len(matched_idxs), device=matched_idxs.device)
        return every, labelling.classes_of(*matched, self.num_classes)

    def miner(self) -> Miner:
        """Of the settings as they are. No property, which TorchScript would compile."""
        return Miner(self.ohem, self.batch_size_per_image, self.num_classes, self.batched_nms)

    def choose_rois(
        self, rois: list[Instances], targets: list[Instances], stage: int = 0
    ) -> list[Instances]:
        """
        Of the RoIs of each image, labelled by the parent, those that are trained on, hardest first.
        ``stage`` is that of a cascade; else 0.
        """
        record = self.miner().mine(self.scorer(self._call, len(rois), stage), rois, targets)
        self.report(record, stage)
        return record.mined()

    def report(self, record: Record, stage: int = 0) -> None:
        """Log what was mined, and show it to the watcher."""
        call = self._call
        with record_function("ohem/log"):
            self._events.log(record, stage, self.prefix_of_scalars(stage))
            if call.images is not None and self.watcher is not None and self.watcher.due():
                proposals, targets = call.shown
                boxes = (proposals if stage == 0 else record.rois)[0].proposal_boxes
                args = (call.images[0], boxes, targets[0], stage)
                self.watcher.show(Mining.of_first_image(record, *args))

    def prefix_of_scalars(self, stage: int) -> str:
        """What the names of the scalars of a selection begin with."""
        return ""


@contextlib.contextmanager
def sampling_at_random(model: nn.Module) -> Iterator[None]:
    """
    Within the context the OHEM heads of a model sample as their parents do. For a validation loss,
    which in training mode would be that of the hardest RoIs, larger by construction and no measure
    of the model::

        with torch.no_grad(), ohem_d2.sampling_at_random(model):
            losses = model(batch)

    It is the parents' loss on a random sample: with the budget and the foreground fraction of the
    configuration.
    """
    heads = [m for m in model.modules() if isinstance(m, OHEMMixin) and m.mines]
    for module in heads:
        module.mines = False
    try:
        yield
    finally:
        for module in heads:
            module.mines = True
