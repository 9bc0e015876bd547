"""Choose what a new training takes from another model: what fits, classes by name, the record's path by its columns."""

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from mdf_detectron.checkpoint.checkpoint import CONFIG_KEY, CONTENTS_KEY, Checkpoint
from mdf_detectron.config import columns_read, num_classes, reads_record
from mdf_detectron.errors import shorten
from mdf_detectron.modeling.meta_arch import build_model

_IMAGE_ONLY = [word for key in ("3D", "1D", "LOGITS") for word in (f"MODEL.CLINICAL.FUSION_{key}", False)]


def clinical_signature(cfg: CfgNode, contents: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what models that share the record's weights have in common: columns in order, values, units if known."""
    c, names = cfg.MODEL.CLINICAL, columns_read(cfg)
    signature = {"numeric": c.NUMERIC, "categorical": c.CATEGORICAL, "vocabularies": c.VOCABULARIES}
    signature = {key: [list(v) if isinstance(v, tuple) else v for v in value] if names else []
                 for key, value in signature.items()}  # fmt: skip
    units = {column["name"]: column.get("unit", "") for column in contents["schema"]["columns"]} if contents else {}
    return {**signature, "units": [units.get(name) for name in names]}


def starting_weights(
    checkpoint: Checkpoint, own: Mapping[str, Tensor], cfg: CfgNode, contents: Mapping[str, Any] | None
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of a checkpoint that a new model may take, and what was matched or left out, one text each.

    Columns, vocabularies or units that differ leave out all that reads the record: its statistics and layers are of
    other numbers. Classes that differ are matched by name, without case; new ones keep the model's own weights, and so
    does then the record model, whose parts are fitted together.

    Args:
        own: the new model's state.
        contents: what its checkpoints will say of its data; None matches by shape alone.
    """
    weights, texts, there = dict(checkpoint.weights), [], checkpoint.data.get(CONTENTS_KEY) and checkpoint.contents
    if CONFIG_KEY in checkpoint.data:
        known = (there, contents) if there and contents else (None, None)
        theirs, ours = map(clinical_signature, (checkpoint.saved_cfg, cfg), known)
        if theirs != ours and any(theirs.values()) and reads_record(cfg):
            of_image = _shapes(cfg, *_IMAGE_ONLY)
            weights = {name: value for name, value in weights.items() if name in of_image}
            key = next(key for key in ours if theirs[key] != ours[key])
            differ = f"{key} are {shorten(theirs[key])} there and {shorten(ours[key])} here"
            texts.append(f"what reads the record starts anew, as {differ}")
    if there and contents and there["class_names"] != contents["class_names"]:
        theirs, ours = ([name.casefold() for name in one["class_names"]] for one in (there, contents))
        if new := [name for name in contents["class_names"] if name.casefold() not in theirs]:
            weights = {name: value for name, value in weights.items() if ".record_model." not in name}
        weights |= _by_class(weights, own, _shapes(cfg, num_classes(cfg)[0], len(ours) + 1), theirs, ours)
        texts.append(f"classes by name, {len(new)} of {len(ours)} are new{f': {shorten(new)}' if new else ''}")
    return weights, texts


def _shapes(cfg: CfgNode, *opts: Any) -> dict[str, torch.Size]:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *opts])
    with torch.random.fork_rng(devices=[]):
        return {name: value.shape for name, value in build_model(cfg).state_dict().items()}


def _by_class(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], grown: Mapping[str, torch.Size], theirs: list, ours: list
) -> dict[str, Tensor]:
    """Copy the classes that both have into the new model's weights; an axis with classes is longer in ``grown``."""
    taken = {}
    for name in weights.keys() & own.keys():
        new, old = own[name].detach().cpu(), weights[name]
        axis = next((a for a, size in enumerate(grown[name]) if size != new.shape[a]), None)
        if axis is None:
            continue
        each = grown[name][axis] - new.shape[axis]  # entries of a class; the background's come last
        rest = new.shape[axis] - each * len(ours)
        if old.shape != (*new.shape[:axis], each * len(theirs) + rest, *new.shape[axis + 1 :]):
            continue
        shared = [(to, theirs.index(label)) for to, label in enumerate(ours) if label in theirs]
        to, source = (
            torch.tensor([p for pair in shared for p in _places(name, pair[side], each, len(names))]
                         + list(range(each * len(names), each * len(names) + rest)), dtype=torch.long)
            for side, names in enumerate((ours, theirs))
        )  # fmt: skip
        taken[name] = new.index_copy(axis, to, old.index_select(axis, source).to(new.dtype))
    return taken


def _places(name: str, k: int, each: int, count: int) -> list[int]:
    """Return the entries of class k: side by side in a box head's deltas, one for each anchor in a dense head."""
    return [k * each + j if ".bbox_pred." in name else j * count + k for j in range(each)]
