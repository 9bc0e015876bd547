"""The embedded synthetic set: radiographs whose look-alike findings only the clinical record can tell apart.

mdf prepare synthetic --out datasets/synthetic_cxr --num-patients 700 --seed 1 --signal 1.0
"""

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mdf_detectron.child_processes import parallel_map
from mdf_detectron.data import prepared
from mdf_detectron.data.raster import write_image
from mdf_detectron.data.sources.kit.collection import Collection
from mdf_detectron.data.sources.mimic.schema import MIMIC_CLASSES, mimic_clinical_schema
from mdf_detectron.data.splits import train_val_test
from mdf_detectron.data.synthetic.cohort import CARDIAC_CLASS, CohortSettings, Patient, Visit, make_cohort
from mdf_detectron.data.synthetic.oracle import TRUTH_FILE_NAME
from mdf_detectron.data.synthetic.scene import draw_radiograph, ellipse_box, ellipse_polygon, heart_ellipse
from mdf_detectron.fileio import sha256_of, write_json

NOTE = (
    "This data set is synthetic. It shows whether a model uses the table at all; its numbers are no clinical "
    "evidence. At signal 1 the vitals of the confusable classes lie 1.7 to 1.9 standard deviations apart; the "
    "correlations published for real patients correspond to about 0.3 to 0.4 only."
)
INTERACTION_NOTE = (
    "Interaction {}: sex decides what a look and a site mean, acuity what a faint contrast means, so that the "
    "scores of an image-only model updated by the record alone stay below those of a model of both."
)


def prepare_synthetic(out: str | Path, settings: CohortSettings, num_workers: int = 2) -> bool:
    """Draw the cohort into ``out``; return False if an identical folder exists."""
    arguments = asdict(settings)
    if not settings.interaction:
        del arguments["interaction"]  # the same folder as before there was one
    if prepared.is_up_to_date(out, arguments):
        return False
    patients = make_cohort(settings)
    visits = [(patient, visit) for patient in patients for visit in patient.visits]
    with prepared.staged_folder(out) as folder:
        (folder / "images").mkdir()
        draw = partial(_draw, folder=folder / "images")
        digests = list(parallel_map(draw, [visit for _, visit in visits], num_workers, "drawing"))
        records = [_record(*visit, digest) for visit, digest in zip(visits, digests, strict=True)]
        strata = [tuple(sorted({a["category_id"] for a in r.annotations})) for r in records]
        names = train_val_test([r.patient_id for r in records], strata, settings.seed)
        splits = {s: [r for r, n in zip(records, names, strict=True) if n == s] for s in ("train", "val", "test")}
        schema = mimic_clinical_schema()
        prepared.write_annotations(
            folder, splits, MIMIC_CLASSES, schema, "Synthetic chest radiographs with clinical records"
        )
        _write_truth(folder, visits, settings)
        notes = [NOTE, *([INTERACTION_NOTE.format(settings.interaction)] if settings.interaction else [])]
        body = {"synthetic": True, "notes": notes, "splits": prepared.summarize_splits(splits, MIMIC_CLASSES, schema)}
        prepared.write_report(folder, "Synthetic radiographs", arguments, _account(visits, records), body)
    return True


def file_name(visit: Visit) -> str:
    return f"film_{visit.visit_id:08d}.png"


def _draw(visit: Visit, folder: Path) -> str:
    """Draw a visit's image and return the SHA-256 of its file."""
    path = folder / file_name(visit)
    write_image(path, draw_radiograph(visit))
    return sha256_of(path)


def _labeled_ellipses(visit: Visit) -> list[tuple[str, tuple, tuple]]:
    ellipses = [(f.label, f.center, f.radii) for f in visit.findings if f.label is not None]
    if visit.cardiothoracic_ratio > 0.5:
        ellipses.append((CARDIAC_CLASS, *heart_ellipse(visit.cardiothoracic_ratio)))
    return ellipses


def _record(patient: Patient, visit: Visit, digest: str) -> prepared.PreparedImage:
    size = visit.width, visit.height
    annotations = [
        {
            "bbox": [round(v, 2) for v in ellipse_box(center, radii, *size)],
            "category_id": MIMIC_CLASSES.index(label) + 1,
            "segmentation": [ellipse_polygon(center, radii, *size)],
        }
        for label, center, radii in _labeled_ellipses(visit)
    ]
    return prepared.PreparedImage(
        file_name(visit), *size, str(patient.subject_id), visit.row, annotations, sha256=digest
    )


def _write_truth(folder: Path, visits: list[tuple[Patient, Visit]], settings: CohortSettings) -> None:
    """Write what the oracle knows, apart from the records, so that no model can see it."""
    radiographs: dict[str, Any] = {}
    for _, visit in visits:
        size = visit.width, visit.height
        heart = heart_ellipse(visit.cardiothoracic_ratio)
        radiographs[file_name(visit)] = {
            "vitals": None if visit.vitals_missing else list(visit.latent_vitals),
            "cardiac_box": ellipse_box(*heart, *size) if visit.cardiothoracic_ratio > 0.5 else None,
            "findings": [
                {"archetype": f.archetype, "appearance": f.appearance, "bbox": ellipse_box(f.center, f.radii, *size)}
                | ({"signs": f.signs} if f.signs else {})
                for f in visit.findings
            ],
        }
    write_json(folder / TRUTH_FILE_NAME, {"signal": settings.vitals_signal, "images": radiographs}, indent=None)


def _account(visits: list[tuple[Patient, Visit]], records: list[prepared.PreparedImage]) -> prepared.Flow:
    flow = prepared.Flow()
    flow.add("images", len(visits), len(records))
    drawn = sum(len(v.findings) for _, v in visits)
    distractors = sum(f.label is None for _, v in visits for f in v.findings)
    flow.add("findings", drawn, drawn - distractors, {"distractor, not annotated": distractors})
    without = sum(v.vitals_missing for _, v in visits)
    flow.add("rows with vitals", len(visits), len(visits) - without, {"vitals missing (row kept)": without})
    return flow


def write_synthetic(out: str | Path, *, num_workers: int = 2, **settings: Any) -> bool:
    return prepare_synthetic(out, CohortSettings(**settings), num_workers)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-patients", type=int, required=True, help="patients (about 1.5 images each)")
    parser.add_argument("--seed", type=int, required=True, help="everything follows from it")
    parser.add_argument("--signal", type=float, default=1.0, help="lambda: 0 makes the record useless (default 1)")
    parser.add_argument("--ambiguity", type=float, default=0.8, help="share of findings without a visual cue")
    parser.add_argument("--missing", type=float, default=0.1, help="share of visits without vitals")
    parser.add_argument("--image-size", type=int, default=512, help="longer side of an image, pixels")
    parser.add_argument("--num-workers", type=int, default=2, help="drawing processes")


def _add_all_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument(
        "--interaction", type=float, default=0.0, help="0 to 1: how much the record decides what an image means"
    )


COLLECTION = Collection(
    "synthetic",
    __doc__,
    schema=mimic_clinical_schema(),
    options=_add_all_options,
    example="--num-patients 700 --seed 1",
    write=write_synthetic,
)
