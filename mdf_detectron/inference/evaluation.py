"""Run a saved model on records, as they are or shuffled across patients."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from torch import nn

from mdf_detectron.data.loaders import build_test_loader, records_of
from mdf_detectron.data.record_changes import permute_records
from mdf_detectron.evaluation.evaluator import CXREvaluator


def evaluate_records(
    cfg: CfgNode,
    model: nn.Module,
    dataset_name: str,
    records: list[dict[str, Any]],
    output_dir: str | Path | None = None,
) -> OrderedDict:
    """Evaluate a model on a dataset whose clinical records may differ from the registered ones."""
    loader = build_test_loader(cfg, dataset_name, records=records)
    evaluator = CXREvaluator(dataset_name, output_dir=output_dir, max_dets=cfg.TEST.DETECTIONS_PER_IMAGE)
    return inference_on_dataset(model, loader, evaluator)


def evaluate_with_shuffled_rows(
    cfg: CfgNode, model: nn.Module, dataset_name: str, output_dir: str | Path, seed: int = 0
) -> OrderedDict:
    """Evaluate with every image given another patient's record: what the model gains from it must vanish."""
    records = permute_records(records_of([dataset_name]), seed=seed)
    return evaluate_records(cfg, model, dataset_name, records, output_dir)
