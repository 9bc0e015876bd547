"""Put the clinical record on an image-only checkpoint without training: late fusion in its class logits."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from torch import nn

from mdf_detectron.checkpoint.checkpoint import CONFIG_KEY, CONTENTS_KEY, Checkpoint, save_checkpoint_file, signed
from mdf_detectron.checkpoint.contents import check_dataset, training_contents
from mdf_detectron.config import columns_read, without_paths
from mdf_detectron.config_checks import check_config
from mdf_detectron.data.loaders import records_of, train_clinical_records
from mdf_detectron.errors import CheckpointError, ConfigError, shorten
from mdf_detectron.evaluation.late_fusion import Exponents, RecordOdds, fit_exponents
from mdf_detectron.model_zoo.publishing import predictions_on
from mdf_detectron.modeling.logit_fusion import LogitFusion
from mdf_detectron.modeling.meta_arch import build_model

NEW_PARTS = ("clinical_encoder.", "record_model.", "logit_fusion.")


def write_late_fusion(
    checkpoint: Checkpoint, path: Path, columns: Sequence[str] | None = None
) -> tuple[RecordOdds, Exponents]:
    """Write the network of an image-only checkpoint with a record model that is added to its class logits.

    The record model is fitted on the training's train split, the exponent on the model's own detections on its
    validation split; both must be registered.

    Args:
        columns: to read; None for those of the config, or all of the schema if it names none.

    Raises:
        ConfigError: the model reads a record already, or its parts cannot.
        CheckpointError: the data set has other classes, or a weight of the network is absent.
    """
    cfg = checkpoint.saved_cfg.clone()
    if reads := columns_read(cfg):
        raise ConfigError(f"{checkpoint.path} reads {shorten(reads)} already; late fusion is of an image-only model")
    train, clinical = cfg.DATASETS.TRAIN[0], cfg.MODEL.CLINICAL
    val = next(iter(cfg.DATASETS.VAL), f"{train.removesuffix('_train')}_val")
    records_of([train, val])  # registers the classes
    check_dataset(checkpoint.contents, train, checkpoint.path)
    odds = RecordOdds(train, columns or [*clinical.NUMERIC, *clinical.CATEGORICAL] or None)
    _read_by_logits(cfg, odds)
    run = cfg.clone()
    run.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    run.SOLVER.AMP.ENABLED &= torch.cuda.is_available()
    check_config(run)
    model = _with_record(run, checkpoint, odds)
    with tempfile.TemporaryDirectory() as folder:  # exponents are 0 so far
        truth, alone = predictions_on(run, model, val, Path(folder))
    # one for all: classes compete in a softmax, where exponents of their own disturb each other
    exponents = fit_exponents(truth, alone, odds.of_split(val, truth), by_class=False)
    _set_exponents(model, torch.from_numpy(exponents.values))
    config = without_paths(cfg).dump()
    data = {"model": model.cpu().state_dict(), CONFIG_KEY: config, CONTENTS_KEY: training_contents(cfg)}
    save_checkpoint_file(signed(data), path)
    return odds, exponents


def _read_by_logits(cfg: CfgNode, odds: RecordOdds) -> None:
    """Make a config read the columns of a record model by logit fusion, and by nothing that is learned."""
    clinical, schema = cfg.MODEL.CLINICAL, odds.schema
    clinical.NUMERIC, clinical.CATEGORICAL = ([c.name for c in kind] for kind in (schema.numeric, schema.categorical))
    clinical.VOCABULARIES = [list(column.vocabulary) for column in schema.categorical]
    clinical.FUSION_3D, clinical.FUSION_1D, clinical.FUSION_LOGITS, clinical.LOGITS_HIDDEN = False, False, True, 0
    clinical.DROPOUT_RECORD, clinical.DROPOUT_VALUE = 0.0, 0.0


def _with_record(cfg: CfgNode, checkpoint: Checkpoint, odds: RecordOdds) -> nn.Module:
    """Build the network with the checkpoint's weights, the record model, and exponents of 0."""
    model = build_model(cfg)
    absent, unknown = model.load_state_dict(checkpoint.weights, strict=False)
    wrong = [*unknown, *(name for name in absent if not any(part in name for part in NEW_PARTS))]
    if wrong:
        raise CheckpointError(f"{checkpoint.path} does not hold the model of its config: {shorten(wrong)}")
    backbone = model.backbone
    backbone.clinical_encoder.fit(*(x.to(model.device) for x in train_clinical_records(cfg)))
    backbone.record_model.load_state_dict(odds.model.state_dict())
    _set_exponents(model, torch.zeros(len(odds.class_names)))
    return model.eval()


def _set_exponents(model: nn.Module, values: torch.Tensor) -> None:
    for part in model.modules():
        if isinstance(part, LogitFusion):
            part.exponent.copy_(values)
