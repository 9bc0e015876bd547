"""Predict the findings of a study with a checkpoint.

    predictor = Predictor("model.pth")
    findings = predictor("image.dcm", {"age": 71, "gender": "F"})
    findings.draw("findings.png"); findings.to_dict(); findings.to_coco(image_id=1)

A record may be full, partial or absent; absent values are missing to the model, as in training. A model trained without
clinical dropout (``MODEL.CLINICAL.DROPOUT_RECORD`` 0) saw missing values only where its training data had them. For a
column that was never missing, its response to a missing value is untrained, and a note says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from detectron2.structures import Instances
from PIL import Image

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.checkpoint.checkpointer import load_model
from mdf_detectron.checkpoint.published import open_weights
from mdf_detectron.config import columns_read, learns_from_record, num_classes
from mdf_detectron.config_checks import check_device
from mdf_detectron.data.mapper import MultimodalDatasetMapper
from mdf_detectron.data.readers import OpenImage, input_of_samples, to_eight_bits
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit.values import read_given
from mdf_detectron.errors import CheckpointError, ConfigError, DatasetError, ImageReadError, shorten
from mdf_detectron.inference.findings import StudyFindings
from mdf_detectron.threads import one_thread_in_forks

DEFAULT_THRESHOLD = 0.5
"""Operating threshold if none is given and the checkpoint holds none."""

MODALITIES = ("CR", "DX", "RG", "XA", "RF")
"""DICOM modalities of projection radiographs."""

ImageLike = str | Path | bytes | IO[bytes] | OpenImage | np.ndarray | torch.Tensor | Image.Image


@dataclass(frozen=True)
class PreparedStudy:
    """A study, ready for the model.

    Attributes:
        model_input: Detectron2's input dict with the clinical tensors.
        image, pixels, record, missing, notes: as in :class:`~mdf_detectron.inference.findings.StudyFindings`.
        image_notes: notes that do not depend on the record.
    """

    model_input: dict[str, Any]
    image: str
    pixels: np.ndarray
    record: dict[str, Any]
    missing: list[str]
    notes: list[str]
    image_notes: list[str]


class Predictor:
    """Predict studies with the model of a checkpoint.

    Args:
        weights: a ``.pth`` file of this project, the name of a zoo model with published weights
            ("synthetic_cxr/logit_fusion" ships with the package), or an opened checkpoint.
        device: "cpu", "cuda" or a ``torch.device``; by default the GPU if there is one.
        threshold: one operating threshold of 0 to 1 for all classes, or one by class name; by default the
            checkpoint's, else 0.5.
        force: accept DICOM files of other modalities than :data:`MODALITIES`, with a note.
        half: run the model in float16 (torch's autocast), on a GPU only; by default ``SOLVER.AMP.ENABLED`` there.

    Attributes:
        cfg, contents, digest: of the checkpoint.
        model: in evaluation mode.
        mapper: makes the model's inputs.
        schema: of the training data, including columns that the model does not read.
        columns, read_columns: names and schema columns that the model reads, in input order.
        thresholds, threshold_source, temperature: as in :class:`~mdf_detectron.inference.findings.StudyFindings`.

    Raises:
        ConfigError: no such device, float16 on a CPU, or a threshold for an unknown class or outside 0 to 1.
        CheckpointError: the file is absent or damaged, or lacks what a predictor needs.
    """

    def __init__(
        self,
        weights: str | Path | Checkpoint,
        *,
        device: str | torch.device | None = None,
        threshold: float | Mapping[str, float] | None = None,
        force: bool = False,
        half: bool | None = None,
    ):
        checkpoint = weights if isinstance(weights, Checkpoint) else open_weights(weights)
        self.contents, self.digest, self.cfg = checkpoint.contents, checkpoint.digest, checkpoint.cfg
        self.cfg.MODEL.DEVICE = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        check_device(self.cfg.MODEL.DEVICE)
        one_thread_in_forks()
        self.half = self.cfg.SOLVER.AMP.ENABLED and self.cfg.MODEL.DEVICE != "cpu" if half is None else half
        if self.half and self.cfg.MODEL.DEVICE == "cpu":
            raise ConfigError("float16 needs a GPU, the model is on the CPU; leave it out there")
        self.schema = ClinicalSchema.from_dict(self.contents["schema"])
        self.columns: list[str] = list(self.contents["columns"])
        by_name = {column.name: column for column in self.schema.columns}
        self.read_columns = [by_name[name] for name in self.columns]
        self.class_names: list[str] = list(self.contents["class_names"])
        self._check_agreement(checkpoint.path)
        self.force = force
        self.model = load_model(self.cfg, checkpoint)
        clinical = self.cfg.MODEL.CLINICAL
        self.mapper = MultimodalDatasetMapper(
            self.cfg, is_train=False, schema=self.schema.subset(clinical.NUMERIC, clinical.CATEGORICAL)
        )
        self.thresholds, self.threshold_source = self._thresholds(threshold)
        calibration = self.contents["calibration"]
        self.temperature: float | None = calibration and calibration["temperature"]

    def _check_agreement(self, path: Path) -> None:
        reads, count = columns_read(self.cfg), num_classes(self.cfg)[1]
        if self.columns != reads or len(self.class_names) != count:
            raise CheckpointError(
                f"{path}: its config reads the columns {shorten(reads)} and has {count} classes, its contents name "
                f"{shorten(self.columns)} and {len(self.class_names)}; the file was edited, publish it again"
            )

    def __call__(self, image: ImageLike, record: Mapping[str, Any] | None = None) -> StudyFindings:
        """Predict one study.

        Args:
            image: path, content or open binary file of a DICOM or raster image; a Pillow image, an array or a tensor,
                read as its file would be, see :func:`~mdf_detectron.data.readers.input_of_samples`.
            record: a mapping or a pandas Series, column → value in the schema's unit, a text in the notation of the
                training table; absent columns, None, NaN, empty texts and the columns' codes (``missing``) are missing.

        Raises:
            ImageReadError: the input is no image, or a DICOM file of another modality.
            DatasetError: the schema lacks a column of the record, or does not allow a value.
            ConfigError: a forked process cannot use the GPU of its parent; on CPUs it predicts, with one thread.
        """
        return self.predict([self.prepare(image, record)])[0]

    def predict_batch(
        self, images: Sequence[ImageLike], records: Sequence[Mapping[str, Any] | None] | None = None
    ) -> list[StudyFindings]:
        """Predict several studies in one forward pass; raises as a single call does if one study is invalid.

        Scores can differ from those of single calls in their last digits.
        """
        records = [None] * len(images) if records is None else list(records)
        if len(records) != len(images):
            raise DatasetError(f"{len(images)} image(s), but {len(records)} record(s); give one a study, or None")
        if not len(images):
            return []
        return self.predict([self.prepare(i, r) for i, r in zip(images, records, strict=True)])

    def prepare(
        self, image: ImageLike, record: Mapping[str, Any] | None = None, name: str | None = None
    ) -> PreparedStudy:
        """Read, check and map one study; may run in another thread.

        Args:
            name: of the image in the findings; by default its path.
        """
        name = name or (str(image) if isinstance(image, (str, Path)) else "image")
        pixels, notes = self._read(image)
        height, width = pixels.shape[:2]
        tensor, _ = self.mapper.image_tensor(pixels)
        model_input = {"file_name": name, "height": height, "width": width, "image": tensor}
        study = PreparedStudy(model_input, name, to_eight_bits(pixels), {}, [], notes, notes)
        return self.with_record(study, record)

    def predict(self, studies: Sequence[PreparedStudy]) -> list[StudyFindings]:
        """Predict prepared studies in one batch."""
        try:
            with torch.inference_mode(), torch.autocast("cuda", dtype=torch.float16, enabled=self.half):
                outputs = self.model([study.model_input for study in studies])
        except RuntimeError as error:
            if "forked subprocess" not in str(error):
                raise
            text = "a forked process cannot use the GPU of its parent: make the Predictor in it, or start it by spawn"
            raise ConfigError(text) from None
        return [self._findings(s, o["instances"].to("cpu")) for s, o in zip(studies, outputs, strict=True)]

    def with_record(self, study: PreparedStudy, record: Mapping[str, Any] | None) -> PreparedStudy:
        """Return the same image with another record; raises DatasetError for an unknown column or an illegal value."""
        parsed = read_given(record, self.schema, where=study.image)
        tensors = self.mapper.clinical_tensors({"file_name": study.image, "clinical": parsed})
        read = {name: parsed[name] for name in self.columns}
        missing = [name for name, value in read.items() if value is None]
        unread = [name for name, value in parsed.items() if name not in self.columns and value is not None]
        notes = [f"the model does not read {', '.join(unread)}"] if unread else []
        return replace(
            study,
            model_input={**study.model_input, **tensors},
            record=read,
            missing=missing,
            notes=[*study.image_notes, *notes, *self._range_notes(read), *self._missing_notes(missing)],
        )

    def _range_notes(self, read: Mapping[str, Any]) -> list[str]:
        notes = []
        for name, value in read.items():
            seen = self.contents["training"]["columns"][name]
            if value is None or isinstance(value, str):
                if value is not None and not seen["frequencies"][value]:
                    notes.append(f"{name} {value} was in no training record")
                continue
            quantiles = seen["quantiles"]
            if quantiles and not quantiles[0] <= value <= quantiles[-1]:
                notes.append(
                    f"{name} {value:g} is outside the training range [{quantiles[0]:g}, {quantiles[-1]:g}]; "
                    "the model extrapolates"
                )
        return notes

    def _missing_notes(self, missing: Sequence[str]) -> list[str]:
        trained = self.contents["missing_records"]
        if not missing or not learns_from_record(self.cfg) or trained["dropout_record"] or trained["dropout_value"]:
            return []
        total, columns = self.contents["training"]["images"], self.contents["training"]["columns"]
        never = [name for name in missing if columns[name]["count"] == total]
        if not never:
            return []
        return [
            f"{', '.join(never)}: never missing in training, and the model was trained without clinical dropout; "
            "what it makes of the missing value is untrained"
        ]

    def _modality_notes(self, image: OpenImage) -> list[str]:
        modality = image.tags(["Modality"])["Modality"] if image.is_dicom else MODALITIES[0]
        if modality in MODALITIES:
            return []
        message = (
            f"a DICOM file of modality {modality or 'unknown'}, the model reads radiographs ({', '.join(MODALITIES)})"
        )
        if not self.force:
            raise ImageReadError(f"{image.path}: {message}; use --force (Predictor(force=True)) to predict from it")
        return [message]

    def _read(self, image: ImageLike) -> tuple[np.ndarray, list[str]]:
        """Return pixels (H, W, C), uint8 or (of more than eight bits) float32 in 0–255, and notes about the file."""
        if isinstance(image, torch.Tensor):
            image = (image.float() if image.is_floating_point() else image).detach().cpu().numpy()
        if isinstance(image, (np.ndarray, Image.Image)):
            return input_of_samples(image, self.cfg.INPUT.FORMAT)
        if not isinstance(image, OpenImage):
            with OpenImage(image) as file:
                return self._read(file)
        notes = self._modality_notes(image)
        pixels = image.pixels(self.cfg.INPUT.FORMAT)
        return pixels, [*notes, *image.notes]

    def _thresholds(self, given: float | Mapping[str, float] | None) -> tuple[dict[str, float], str]:
        stored = self.contents["operating_point"]
        for value in given.values() if isinstance(given, Mapping) else [] if given is None else [given]:
            if not 0 <= value <= 1:  # NaN neither
                raise ConfigError(f"the threshold is {value}: scores are from 0 to 1, give a number of that range")
        if isinstance(given, Mapping):
            if unknown := sorted(set(given) - set(self.class_names)):
                raise ConfigError(f"thresholds for unknown classes {unknown}; the model has {self.class_names}")
            base, _ = self._thresholds(None)
            return {**base, **{name: float(value) for name, value in given.items()}}, "given"
        if given is not None:
            return dict.fromkeys(self.class_names, float(given)), "given"
        if stored is None:
            return dict.fromkeys(self.class_names, DEFAULT_THRESHOLD), f"{DEFAULT_THRESHOLD:g}, not chosen on data"
        points = stored["classes"]
        limits = {name: points[name]["threshold"] for name in self.class_names}
        return {name: math.inf if t is None else t for name, t in limits.items()}, stored["source"]

    def _findings(self, study: PreparedStudy, instances: Instances) -> StudyFindings:
        instances.scores = instances.scores.float()  # may be float16
        return StudyFindings(
            image=study.image,
            pixels=study.pixels,
            record=study.record,
            missing=study.missing,
            notes=study.notes,
            thresholds=self.thresholds,
            threshold_source=self.threshold_source,
            instances=instances,
            class_names=self.class_names,
            category_ids=self.contents["category_ids"],
            columns=self.read_columns,
            temperature=self.temperature,
        )
