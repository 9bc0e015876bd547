"""Make the section of a study's report that compares record, image and both: is a class in the image?"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from mdf_detectron.config import columns_read
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.evaluation.coco import GroundTruth
from mdf_detectron.evaluation.estimates import Row, estimate
from mdf_detectron.evaluation.record_alone import (
    auc,
    classes_present,
    image_scores,
    pair_sizes,
    record_alone,
    record_scores,
)
from mdf_detectron.experiments.estimates import StudyEstimator
from mdf_detectron.report.html import Section
from mdf_detectron.report.tables import Table, record_alone_table

TITLE, ALONE = "What the record alone tells", "the record alone"


def record_section(estimator: StudyEstimator, intervals: str) -> tuple[list[Section], Mapping[str, Any]]:
    """Return the section, none if the model of the question reads no column, and its numbers as JSON.

    ``intervals`` says what the intervals cover.
    """
    results, plan = estimator.results, estimator.results.plan
    columns = columns_read(results.finished(plan.model)[0].training.cfg)
    if not columns:
        return [], {}
    train = {fold: GroundTruth.load(splits["train"]) for fold, splits in results.data.splits.items()}
    schema = ClinicalSchema(tuple(c for c in results.data.schema.columns if c.name in columns))
    alone = record_alone(next(iter(train.values())), schema, estimator.num_resamples)
    rows = test_rows(estimator, train, schema)
    names = results.data.class_names
    values = [[name, *(estimate(row[name], 2) for row in rows.values())] for name in names]
    note = (
        "AUC on the test images of telling those with a class from those without: by the record model fitted on the "
        f"training images, and by a model's highest score of the class in an image. {intervals}."
    )
    table = Table("record_image_both", "Record, image and both", ["class", *rows], values, note)
    section = Section(TITLE, alone.warnings, tables=[table, record_alone_table(alone)])
    return [section], {"test": rows, "train": alone.rows, "telling": alone.telling}


def test_rows(
    estimator: StudyEstimator, train: Mapping[int, GroundTruth], schema: ClinicalSchema
) -> dict[str, dict[str, Row]]:
    """Estimate the AUC of each class by the record alone and by each model: title → class → row.

    ``train`` maps each fold to its training images.
    """
    results, plan, truths = estimator.results, estimator.results.plan, estimator.images.truths
    present = {fold: classes_present(truth) for fold, truth in truths.items()}
    scores = {ALONE: {fold: [record_scores(train[fold], truth, schema)] for fold, truth in truths.items()}}
    for name in (plan.baseline, *([results.late.name] if results.late else []), plan.model):
        scores[results.title(name)] = {
            fold: [image_scores(truths[fold], one) for one in own] for fold, own in estimator.detections(name).items()
        }
    by_fold = {title: {fold: [partial(auc, one, present[fold]) for one in own] for fold, own in of_title.items()}
               for title, of_title in scores.items()}  # fmt: skip
    spread = estimator.spread_of(by_fold.values())
    sizes = pair_sizes(estimator.images, np.concatenate(list(present.values())))
    rows = {}
    for title, of_title in by_fold.items():
        count = sum(map(len, of_title.values()))
        training = spread.of_mean(count) if spread and title != ALONE else None
        rows[title] = estimator.rows(results.data.class_names, of_title, sizes, training=training, highest=1.0)
    return rows
