"""Measure during training whether the model reads the record: losses with exchanged records, and path magnitudes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.structures import Instances
from torch import Tensor, nn

from mdf_detectron.data.loaders import build_loss_mapper, images_per_process, records_of, train_part
from mdf_detectron.data.record_changes import permute_records
from mdf_detectron.engine.processes import unwrapped
from mdf_detectron.engine.validation import eval_mode, mean_losses
from mdf_detectron.errors import ConfigError

Batches = Sequence[list[dict[str, Any]]]


class ClinicalDiagnostics(HookBase):
    """Write ``clinical/...`` scalars every ``period`` iterations and after the last one.

    All are computed on fixed batches with the network as at inference:

    - ``class_loss``, ``class_loss_shuffled``: :func:`mean_class_loss` with own and with other patients' records;
      ``class_loss_gain``, their difference (nats per ground-truth box), is the scalar to watch. Only for detectors
      with ``roi_heads.box_predictor``.
    - ``loss``, ``loss_shuffled``, ``loss_gain``: the same for the total loss. There background regions and box
      coordinates, which the record does not change, outweigh the classes, and a trained loss weighting rescales them.
    - the norms of :func:`recorded_norms`.

    Args:
        own: batches of mapped training inputs.
        shuffled: the same inputs with other patients' records.
    """

    def __init__(self, *, period: int, own: Batches, shuffled: Batches) -> None:
        self._period, self._own, self._shuffled = period, own, shuffled

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or done % self._period == 0:
            scalars = clinical_scalars(self.trainer.model, self._own, self._shuffled)
            self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)


def fixed_batches(cfg: CfgNode) -> tuple[Batches, Batches]:
    """Return the images of ``CLINICAL_DIAGNOSTICS`` in batches, with own records and with exchanged ones.

    A batch is as large as this process's share of a training batch. Each patient has at most one image, and images with
    findings come first. A train split of one patient is a ``ConfigError``.
    """
    records = train_part(cfg, len(records_of(cfg.DATASETS.TRAIN[:1])))
    records = sorted(records, key=lambda r: not r["annotations"])
    of_patient = {r["patient_id"]: r for r in reversed(records)}
    chosen = [r for r in records if of_patient[r["patient_id"]] is r][: cfg.CLINICAL_DIAGNOSTICS.NUM_IMAGES]
    if len(chosen) < 2:
        raise ConfigError("CLINICAL_DIAGNOSTICS exchanges records between patients: the train split needs two of them")
    mapper = build_loss_mapper(cfg, cfg.DATASETS.TRAIN[0])
    size = images_per_process(cfg)

    def batches(of: Sequence[dict[str, Any]]) -> Batches:
        return [[mapper(r) for r in of[i : i + size]] for i in range(0, len(of), size)]

    return batches(chosen), batches(permute_records(chosen))


def clinical_scalars(model: nn.Module, own: Batches, shuffled: Batches) -> dict[str, float]:
    """Compute the scalars of :class:`ClinicalDiagnostics` for one state of a model."""
    with recorded_norms(model) as norms:
        loss = mean_losses(model, own)["total_loss"]
    exchanged = mean_losses(model, shuffled)["total_loss"]
    losses = {"loss": loss, "loss_shuffled": exchanged, "loss_gain": exchanged - loss}
    bare = unwrapped(model)
    if bare.has_roi_heads and hasattr(bare.roi_heads, "box_predictor"):
        loss, exchanged = mean_class_loss(model, own), mean_class_loss(model, shuffled)
        losses |= {"class_loss": loss, "class_loss_shuffled": exchanged, "class_loss_gain": exchanged - loss}
    return {f"clinical/{name}": value for name, value in {**losses, **norms}.items()}


def mean_class_loss(model: nn.Module, batches: Batches) -> float:
    """Compute the mean cross-entropy of the classes of the ground-truth boxes, in nats per box.

    The ground-truth boxes are the only proposals, so that neither proposal generator nor sampling matters; a cascade's
    last stage counts. The background logit is left out unless there is only one class: a record separates classes far
    better than it separates findings from background.
    """
    model = unwrapped(model)
    total, boxes = 0.0, 0
    with torch.no_grad(), eval_mode(model):
        for batch in batches:
            logits = _logits_of_ground_truth(model, batch)
            classes = torch.cat([x["instances"].gt_classes for x in batch]).to(logits.device)
            if logits.shape[1] > 2:
                logits = logits[:, :-1]
            total += float(F.cross_entropy(logits.float(), classes, reduction="sum"))
            boxes += len(classes)
    return total / boxes if boxes else 0.0


def _logits_of_ground_truth(model: nn.Module, batch: list[dict[str, Any]]) -> Tensor:
    """Return (R, K + 1) logits of a batch's R ground-truth boxes, background last."""
    (images, features, _, record), heads = model.read(batch), model.roi_heads
    proposals = [
        Instances(size, proposal_boxes=x["instances"].gt_boxes, objectness_logits=torch.zeros(len(x["instances"])))
        for x, size in zip(batch, images.image_sizes, strict=True)
    ]
    logits: list[Tensor] = []
    predictor = heads.box_predictor
    last = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
    handles = [last.register_forward_hook(lambda module, inputs, output: logits.append(output[0]))]
    if getattr(heads, "logit_fusion", None) is not None:  # what it adds to them; background, the last one, stays
        handles.append(
            heads.logit_fusion[-1].register_forward_hook(lambda m, given, output: logits.append(F.pad(output, (0, 1))))
        )
    try:
        proposals = [p.to(model.device) for p in proposals]
        heads(images, features, proposals, None, **model.arguments_of_heads(record))
    finally:
        for handle in handles:
            handle.remove()
    return sum(logits)


@contextmanager
def recorded_norms(model: nn.Module) -> Iterator[dict[str, float]]:
    """Record root mean squares of what is joined of image and record, in the last forward within the context.

    - ``fusion_<level>_image``, ``fusion_<level>_record``: the image's map, and the clinical map; for a fusion that
      reads the record directly, what it adds to the image's map.
    - ``roi_image``, ``roi_record``: contributions of region and record to the box head's first layer; for a cascade
      ``roi_stage<i>_image`` and so on.
    """
    norms: dict[str, float] = {}
    handles = []
    for name, module in unwrapped(model).named_modules():
        if hasattr(module, "joined_parts"):
            handles.append(module.register_forward_hook(_hook(norms, name)))
    try:
        yield norms
    finally:
        for handle in handles:
            handle.remove()


def _hook(norms: dict[str, float], name: str):
    """Return a forward hook that records what the module ``name`` joins."""
    *_, level, last = ["", *name.split(".")]
    stage = f"_stage{last}" if last.isdigit() else ""
    key = f"fusion_{level}" if last == "fusion" else f"roi{stage}"

    def record(module, inputs, output) -> None:
        if len(inputs) > 1:  # with a record
            for part, value in zip(("image", "record"), module.joined_parts(inputs, output), strict=True):
                norms[f"{key}_{part}"] = float(value.detach().float().square().mean().sqrt()) if value.numel() else 0.0

    return record
