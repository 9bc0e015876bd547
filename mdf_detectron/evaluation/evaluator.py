"""Detectron2 evaluator: all metrics by IoBB and by IoU, healthy images included."""

import itertools
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from torch import nn

from mdf_detectron.data.catalog import dataset_annotations
from mdf_detectron.data.loaders import build_test_loader
from mdf_detectron.errors import DatasetError
from mdf_detectron.evaluation.coco import PREDICTIONS_FILE_NAME, GroundTruth
from mdf_detectron.evaluation.matching import MAX_DETS
from mdf_detectron.evaluation.scoring import evaluate_coco
from mdf_detectron.fileio import write_json


def annotation_file(dataset_name: str) -> Path:
    """Return the COCO JSON file of a dataset; raise ``DatasetError`` if it has none or is not prepared."""
    known = dataset_name in DatasetCatalog.list()
    if not known and dataset_name not in MetadataCatalog.list():
        ours = [n for n in DatasetCatalog.list() if MetadataCatalog.get(n).get("evaluator_type") == "cxr"]
        names = ", ".join(ours or DatasetCatalog.list()[:5])
        raise DatasetError(f"dataset '{dataset_name}' is not registered; registered are {names}")
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file and known and not Path(json_file).is_file():
        DatasetCatalog.get(dataset_name)
    if not json_file:
        raise DatasetError(
            f"dataset '{dataset_name}' has no json_file in its metadata; register it from a COCO JSON file"
        )
    return Path(json_file)


def ground_truth_of(dataset_name: str) -> GroundTruth:
    """Return the ground truth of a registered dataset; a prepared split is read only once."""
    return GroundTruth.load(dataset_annotations(dataset_name) or annotation_file(dataset_name))


logger = logging.getLogger(__name__)


class CXREvaluator(DatasetEvaluator):
    """Score a model's predictions on a registered COCO-format dataset.

    It does its own matching (:mod:`~mdf_detectron.evaluation.matching`): Detectron2's ``COCOEvaluator`` chooses its
    COCOeval class by ``maxDets`` and can silently ignore a custom overlap.

    Args:
        output_dir: folder for :data:`PREDICTIONS_FILE_NAME`; None writes nothing.
        max_dets: highest-scoring detections to keep for each image and class.

    Raises:
        DatasetError: the dataset has no ``json_file``, or its annotations are invalid.
    """

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, *, max_dets: int = MAX_DETS) -> None:
        self._dataset_name = dataset_name
        self._output_dir = Path(output_dir) if output_dir else None
        self._max_dets = max_dets
        self._ground_truth = ground_truth_of(dataset_name)
        to_contiguous = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
        if to_contiguous is None:
            to_contiguous = {c: i for i, c in enumerate(self._ground_truth.category_ids)}
        self._category_of = {contiguous: category for category, contiguous in to_contiguous.items()}
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: dict[Any, list[dict[str, Any]]] = {}
        self._has_masks = False

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Collect the predictions of a batch.

        Inputs have ``"image_id"``; outputs have ``"instances"`` with ``pred_boxes`` (XYXY, pixels of the original
        image), ``scores``, ``pred_classes`` and, for mask models, ``pred_masks``.
        """
        cpu = torch.device("cpu")
        for one, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to(cpu)
            if instances.has("pred_masks"):
                self._has_masks = True
                instances.pred_masks = instances.pred_masks.numpy()  # numpy 2 warns where Detectron2 converts tensors
            results = instances_to_coco_json(instances, one["image_id"])
            for result in results:
                result["category_id"] = self._category(result["category_id"])
            self._predictions[one["image_id"]] = results

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Score the predictions of all processes; also masks if the model predicts them and every annotation has one.

        Returns:
            table → metric → value times 100 (:func:`evaluate_coco`); empty except in the main process.
        """
        comm.synchronize()
        gathered = comm.gather((self._predictions, self._has_masks), dst=0)
        if not comm.is_main_process():
            return OrderedDict()
        predictions = {image_id: results for part, _ in gathered for image_id, results in part.items()}
        masks = any(has_masks for _, has_masks in gathered) and self._ground_truth.segmentations is not None
        if unseen := set(self._ground_truth.image_ids) - set(predictions):
            logger.warning(
                f"{len(unseen)} of the images of '{self._dataset_name}' were not given to the model; their "
                "ground-truth boxes are false negatives"
            )
        results = list(itertools.chain.from_iterable(predictions.values()))
        if self._output_dir is not None:
            write_json(self._output_dir / PREDICTIONS_FILE_NAME, results, indent=None)
        return evaluate_coco(
            self._ground_truth, results, tasks=("bbox", "segm") if masks else ("bbox",), max_dets=self._max_dets
        )

    def _category(self, contiguous: int) -> Any:
        if contiguous not in self._category_of:
            raise ValueError(
                f"the model predicts class {contiguous}, but dataset '{self._dataset_name}' has "
                f"{len(self._category_of)} classes; MODEL.ROI_HEADS.NUM_CLASSES must be that number"
            )
        return self._category_of[contiguous]


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
