"""The report of a study: the answer, every figure of the plan, tests, ensemble, speed and what each training gave."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mdf_detectron.evaluation.metrics import metric_values
from mdf_detectron.evaluation.statistics import NUM_RESAMPLES
from mdf_detectron.experiments.ensemble import fuse_detections
from mdf_detectron.experiments.estimates import Comparison, Estimator, Side, corrected, match_table
from mdf_detectron.experiments.figures import FigureMaker, comparison_table
from mdf_detectron.experiments.plan import FULL, Plan
from mdf_detectron.experiments.results import StudyResults
from mdf_detectron.experiments.study_data import OWN_SPLITS
from mdf_detectron.experiments.trainings import STUDY_FILE_NAME
from mdf_detectron.experiments.verdict import Subgroup, answer, subgroups
from mdf_detectron.fileio import write_json
from mdf_detectron.report.html import Section, write_report
from mdf_detectron.report.study_charts import differences_chart
from mdf_detectron.report.tables import Table, estimate, number

RESAMPLES_A_TEST = 100
"""With so many for each test of a report, the least p value stays small when it is corrected for their number."""

SHOWN = ("AP50", "AR50")
"""Metrics of the tables of ensembles."""


def write_study_report(out: str | Path, results: StudyResults, num_resamples: int = NUM_RESAMPLES) -> Path:
    """Write ``report.html``, ``report.md``, ``figures/``, ``tables/`` and ``study.json``; returns the page's path."""
    out, plan = Path(out), results.plan
    estimator = Estimator(results, num_resamples)
    tests = compare_all(estimator)
    maker = FigureMaker(estimator, tests)
    verdicts: list[str] = []
    sections: list[Section] = []
    groups: list[Subgroup] = []
    if plan.model in results.variants and plan.baseline in results.variants:
        groups = subgroups(estimator)
        verdicts = answer(results, tests, groups, estimator.metric)
        sections.append(_subgroup_section(groups, estimator, maker.intervals))
    elif plan.model:
        verdicts = ["The question is open: no training of the model, or of its baseline, is finished."]
    sections = [*(maker.section(figure) for figure in plan.figures), *sections]
    if tests:
        sections.append(_section(comparison_table("comparisons", list(tests.values()), results.title, estimator.metric),
                                 "All comparisons"))  # fmt: skip
    sections += [
        _section(table) for table in (_ensembles(estimator), _speed(results), _trainings(results)) if table.rows
    ]
    write_json(out / STUDY_FILE_NAME, _as_json(estimator, tests, groups, verdicts))
    write_report(out, f"Study: {plan.name}", verdicts, _facts(results), sections)
    return out / "report.html"


def planned_comparisons(plan: Plan, results: StudyResults) -> list[tuple[Side, Side]]:
    """List what is tested, each pair once: the question, the figures' comparisons, and states of the records."""
    wanted: list[tuple[Side, Side]] = []
    if plan.model:
        wanted.append(((plan.baseline, FULL), (plan.model, FULL)))
    for figure in plan.figures:
        if figure.show == "comparison":
            wanted += [((figure.reference, FULL), (name, FULL)) for name in figure.variants if name != figure.reference]
    readers = [plan.model] if plan.model else []
    readers += [name for figure in plan.figures if figure.show == "records" for name in figure.variants]
    for name in readers:
        runs = results.finished(name)
        states = runs[0].training.states if runs else ()
        wanted += [((name, state), (name, FULL)) for state in states if state != FULL]
    there = set(results.variants)
    return [pair for pair in dict.fromkeys(wanted) if {pair[0][0], pair[1][0]} <= there]


def compare_all(estimator: Estimator) -> dict[tuple[Side, Side], Comparison]:
    """Make every planned test, and correct all of them together."""
    pairs = planned_comparisons(estimator.results.plan, estimator.results)
    resamples = max(estimator.num_resamples, RESAMPLES_A_TEST * len(pairs))
    tests = corrected([estimator.compare(*pair, num_resamples=resamples) for pair in tqdm(pairs, "tests", unit="test")])
    return dict(zip(pairs, tests, strict=True))


def _section(table: Table, title: str = "") -> Section:
    return Section(title or table.title, tables=[table])


def _facts(results: StudyResults) -> list[str]:
    plan, data = results.plan, results.data
    folds = [fold for fold in data.splits if fold != OWN_SPLITS]
    truths = results.test.truths.values()
    boxes = sum(int((~truth.crowd).sum()) for truth in truths)
    done = sum(run.scores is not None for run in results.runs)
    lines = [plan.description] if plan.description else []
    lines.append(
        f"Data: {data.name}; {len(results.test.patients)} test images of {len(np.unique(results.test.patients))} "
        f"patients with {boxes} ground-truth boxes{f', over folds {folds}' if folds else ''}. Trainings: {done} of "
        f"{len(results.runs)} finished; seeds {list(plan.seeds)}. The checkpoint of each is its best by validation; "
        "the test images were predicted once, with it."
    )
    if data.synthetic:
        lines.append("The data are synthetic: what is shown here is no clinical evidence.")
    if results.with_published:
        lines.append(
            "Published values stand beside for orientation: they are of one run on 101 readings of other splits, in "
            "which readings of one image are on both sides."
        )
    elif plan.published_on:
        lines.append(f"Published values are left out: they are of {plan.published_on}.")
    return lines


def _subgroup_section(groups: Sequence[Subgroup], estimator: Estimator, of: str) -> Section:
    plan, title = estimator.results.plan, estimator.results.title
    label = f"{estimator.metric}, {title(plan.model)} minus {title(plan.baseline)}"
    names = [f"{g.column}: {g.group} ({g.patients} / {g.boxes})" for g in groups]
    chart = differences_chart(
        {name: g.comparison.row for name, g in zip(names, groups, strict=True)}, [g.small for g in groups], label,
        f"{of}; in brackets: patients / ground-truth boxes; hollow: small group",
    )  # fmt: skip
    rows = [
        [g.column, g.group, str(g.patients), str(g.images), str(g.boxes), estimate(g.comparison.row),
         number(g.comparison.row["corrected"], 3), "small group" if g.small else ""]
        for g in groups
    ]  # fmt: skip
    header = ["column", "group", "patients", "images", "ground-truth boxes", label, "corrected p", "note"]
    note = "× 100; p corrected by Holm's method for the number of groups."
    return Section("For whom", [], {"subgroups": chart}, [Table("subgroups", "For whom", header, rows, note)])


def _ensembles(estimator: Estimator) -> Table:
    """Compare the ensemble of each variant's seeds with the mean of its single trainings."""
    rows, results = [], estimator.results
    table = estimator.table if estimator.table.startswith("bbox") else "bbox_iobb"
    for name in results.variants:
        by_fold: dict[int, list] = {}
        for run in results.finished(name):
            by_fold.setdefault(run.training.fold, []).append(run.detections[FULL])
        by_fold = {fold: found for fold, found in by_fold.items() if len(found) > 1}
        if not by_fold:
            continue
        cells = {}
        for fold, found in by_fold.items():
            truth = results.test.truths[fold]
            matches = match_table(truth, fuse_detections(truth, found), table)
            cells[fold] = [lambda weights, matches=matches: metric_values(matches, weights)[1]]
        fused = estimator.intervals(estimator.names, cells, estimator.sizes)
        single = estimator.estimates(name, folds=by_fold)
        rows.append([results.title(name), str(sum(map(len, by_fold.values()))),
                     *(text for m in SHOWN for text in (number(single[m]["value"]), estimate(fused[m])))])  # fmt: skip
    header = ["variant", "trainings", *(text for m in SHOWN for text in (f"{m}, mean of one", f"{m}, ensemble"))]
    note = (
        "The boxes of a fold's seeds on an image, fused by weighted box fusion (IoU 0.5). Folds are predicted by their "
        "own trainings, as the others have learned from its images; folds with a single finished training are left out "
        "of both columns. × 100, 95 % intervals over patients."
    )
    return Table("ensembles", "Ensembles over the seeds of each fold", header, rows, note)


def _speed(results: StudyResults) -> Table:
    rows = []
    for name in results.variants:
        scores = [run.scores for run in results.finished(name)]
        middle = {key: _median([one[key] for one in scores]) for key in ("step_seconds", "images_per_second")}
        image = _median([one["states"][FULL]["seconds_per_image"] for one in scores])
        rows.append([results.title(name), f"{scores[0]['parameters'] / 1e6:.2f}", number(middle["step_seconds"], 3),
                     number(middle["images_per_second"], 1), number(1 / image if image else None, 1),
                     f"{statistics.mean(one['iterations'] for one in scores):.0f}", scores[0]["device"]])  # fmt: skip
    header = ["variant", "parameters (M)", "s a step", "images/s, training", "images/s, prediction", "steps taken",
              "device"]  # fmt: skip
    return Table("speed", "Speed", header, rows, "Medians over trainings, as they ran; trainings that ran at the same "
                 "time share the machine. Prediction with reading, boxes and scoring.")  # fmt: skip


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _trainings(results: StudyResults) -> Table:
    table, metric = results.plan.metric.split("/")
    rows = []
    for run in results.runs:
        value = None if run.scores is None else run.scores["states"][FULL]["metrics"][table][metric]
        checkpoint = "" if run.scores is None else run.scores["checkpoint"]
        rows.append([run.training.label, run.failure or "finished", number(value), checkpoint])
    return Table("trainings", "Trainings", ["training", "state", f"{metric} (× 100)", "checkpoint"], rows)


def _as_json(
    estimator: Estimator, tests: Mapping[Any, Comparison], groups: Sequence[Subgroup], verdicts: Sequence[str]
) -> dict[str, Any]:
    results = estimator.results
    return {
        "plan": results.plan.name,
        "data": {"name": results.data.name, "fingerprint": results.data.fingerprint},
        "metric": results.plan.metric,
        "answer": list(verdicts),
        "estimates": {name: estimator.estimates(name) for name in results.variants},
        "comparisons": [_test_json(one) for one in tests.values()],
        "subgroups": [{"column": g.column, "group": g.group, **_test_json(g.comparison)} for g in groups],
        "trainings": [{"training": run.training.label, "state": run.failure or "finished"} for run in results.runs],
    }


def _test_json(one: Comparison) -> dict[str, Any]:
    return {"first": one.first, "second": one.second, "trainings": one.trainings, **one.row, "verdict": one.verdict}
