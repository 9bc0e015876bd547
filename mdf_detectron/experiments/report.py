"""Write the report of a study: answer, figures of the plan, tests, ensembles, speed, and the score of each training."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mdf_detectron.evaluation.estimates import estimate, number
from mdf_detectron.evaluation.power import answer_in_words, shown_by
from mdf_detectron.evaluation.statistics import NUM_RESAMPLES
from mdf_detectron.evaluation.subgroups import RECORD, Subgroup, list_subgroups
from mdf_detectron.experiments.estimates import Comparison, Side, StudyEstimator, corrected
from mdf_detectron.experiments.figures import FigureMaker, Tests, comparison_table
from mdf_detectron.experiments.late_fusion import exponents_table, with_late_fusion
from mdf_detectron.experiments.plan import CHANGES, FULL, Plan, is_share, share_kept, state_words
from mdf_detectron.experiments.record_section import record_section
from mdf_detectron.experiments.study_data import OWN_SPLITS
from mdf_detectron.experiments.trainings import STUDY_FILE_NAME, StudyResults
from mdf_detectron.fileio import write_json
from mdf_detectron.report.html import Section, write_report
from mdf_detectron.report.panels import differences_chart
from mdf_detectron.report.tables import Table

SubgroupTest = tuple[Subgroup, Comparison]
"""Model minus baseline on the images of a subgroup; the p value is corrected for the number of subgroups."""

RESAMPLES_A_TEST = 100
"""Bootstrap resamples per test of a report, so that the smallest possible p value stays small after correction."""

SHOWN = ("AP50", "AR50")
"""Metrics in the table of ensembles."""


def write_study_report(out: str | Path, results: StudyResults, num_resamples: int = NUM_RESAMPLES) -> Path:
    """Write ``report.html``, ``report.md``, ``figures/``, ``tables/`` and ``study.json``; return the page's path."""
    out, results = Path(out), with_late_fusion(results)
    plan = results.plan
    estimator = StudyEstimator(results, num_resamples)
    tests = compare_all(estimator)
    maker = FigureMaker(estimator, tests)
    verdicts: list[str] = []
    groups: list[SubgroupTest] = []
    record: Mapping[str, Any] = {}
    sections = [maker.section(figure) for figure in plan.figures]
    if plan.question and {plan.model, plan.baseline} <= set(results.variants):
        groups = compare_subgroups(estimator)
        verdicts = answer(results, tests, groups, estimator.metric)
        verdicts[1:1] = [*of_shares(estimator), *of_power(estimator, tests)]
        told, record = record_section(estimator, maker.intervals)
        sections += [*told, *([_subgroup_section(groups, estimator, maker.intervals)] if groups else [])]
    elif plan.question:
        verdicts = ["The question is open: no training of the model, or of its baseline, is finished."]
    if tests:
        table = comparison_table("comparisons", list(tests.values()), results.title, estimator.metric)
        sections.append(Section("All comparisons", tables=[table]))
    tables = (exponents_table(results), _ensembles(estimator), _speed(results), _trainings(results))
    sections += [Section(table.title, tables=[table]) for table in tables if table.rows]
    write_json(out / STUDY_FILE_NAME, {**_as_json(estimator, tests, groups, verdicts), "record_alone": record})
    write_report(out, f"Study: {plan.name}", verdicts, _facts(results), sections)
    return out / "report.html"


def planned_comparisons(plan: Plan, results: StudyResults) -> list[tuple[Side, Side]]:
    """List the pairs to test, each once: the question, comparisons of figures, and states of the records.

    States "share N" are a curve with intervals and not tested: more tests would make the others' p values larger.
    """
    wanted: list[tuple[Side, Side]] = []
    if plan.question:
        wanted.append(((plan.baseline, FULL), (plan.model, FULL)))
        if results.late:
            wanted += [
                ((plan.baseline, FULL), (results.late.name, FULL)),
                ((results.late.name, FULL), (plan.model, FULL)),
            ]
    for figure in plan.figures:
        if figure.show == "comparison":
            wanted += [((figure.reference, FULL), (name, FULL)) for name in figure.variants if name != figure.reference]
    readers = [plan.model] if plan.question else []
    readers += [name for figure in plan.figures if figure.show == "records" for name in figure.variants]
    for name in readers:
        wanted += [((name, s), (name, FULL)) for s in results.states(name) if s != FULL and not is_share(s)]
    if results.late:  # without a record it is its source, which is compared with it above
        wanted = [pair for pair in wanted if pair[0] != (results.late.name, "removed")]
    finished = set(results.variants)
    return [pair for pair in dict.fromkeys(wanted) if {pair[0][0], pair[1][0]} <= finished]


def compare_all(estimator: StudyEstimator) -> dict[tuple[Side, Side], Comparison]:
    """Run every planned test and correct all p values together."""
    pairs = planned_comparisons(estimator.results.plan, estimator.results)
    resamples = max(estimator.num_resamples, RESAMPLES_A_TEST * len(pairs))
    tests = corrected([estimator.compare(*pair, num_resamples=resamples) for pair in tqdm(pairs, "tests", unit="test")])
    return dict(zip(pairs, tests, strict=True))


def compare_subgroups(estimator: StudyEstimator) -> list[SubgroupTest]:
    """Compare the model with the baseline in the subgroups of the plan's columns, else of all categories and ages."""
    plan, schema = estimator.results.plan, estimator.results.data.schema
    columns = plan.subgroups
    if columns is None:
        columns = [c.name for c in schema.columns if c.unit == "years" or c.kind == "categorical"]
    groups = [one for one in list_subgroups(estimator.images, [*columns, RECORD]) if not one.members.all()]
    sides = (plan.baseline, FULL), (plan.model, FULL)
    tests = corrected([estimator.compare(*sides, group.members) for group in groups])
    return list(zip(groups, tests, strict=True))


def answer(results: StudyResults, comparisons: Tests, groups: Sequence[SubgroupTest], metric: str) -> list[str]:
    """Return two paragraphs: the answer, whose first sentence is the verdict, and what was not tested."""
    plan, late = results.plan, results.late.name if results.late else ""
    pairs = [(plan.baseline, plan.model), *([(plan.baseline, late), (late, plan.model)] if late else [])]
    tests = [comparisons[(first, FULL), (second, FULL)].verdict for first, second in pairs]
    numbers = [
        f"{metric} of {results.title(second)} minus {results.title(first)} is {one.numbers}"
        for (first, second), one in zip(pairs, tests, strict=True)
    ]
    best = next((one for one in tests[:2] if one.direction == 1 and one.certain), tests[0])
    text = [best.of_record()]
    if best.direction is not None:
        text += [f"{numbers[0]} (95 % interval in brackets).", *(f"{one}." for one in numbers[1:2])]
    if late:
        text.append(tests[2].of_more(results.title(plan.model), results.title(late)))
        text += [f"{numbers[2]}."] if tests[2].direction is not None else []
    for state in plan.records:
        change = comparisons.get(((plan.model, state), (plan.model, FULL)))
        if change is not None:
            text.append(change.verdict.of_change(state_words(state)))
    shown = "; ".join(
        f"{group.column} {group.group} ({estimate(one.row)})"
        for group, one in groups
        if one.verdict.direction and one.verdict.certain and not group.warning
    )
    by_group = f"By subgroup a difference is shown in {shown}"
    if not shown:
        by_group = f"In none of {len(groups)} subgroups is a difference shown after correction"
    small = sum(bool(group.warning) for group, _ in groups)
    text.append(f"{by_group}; {small} of {len(groups)} groups are too small to rely on.")
    return [" ".join(text), f"Not tested: {'; '.join(not_tested(results))}."]


MOST_LOST = 1.0
"""Points by which a model with few values of a record may be below the one without a record before it is said."""


def of_shares(estimator: StudyEstimator) -> list[str]:
    """Say in a paragraph what the model reaches with a part of each record's values; none without such a state."""
    results, plan = estimator.results, estimator.results.plan
    shares = sorted(filter(is_share, results.states(plan.model)), key=share_kept, reverse=True)
    values = {share_kept(s): estimator.estimates(plan.model, s)[estimator.metric]["value"] for s in shares}
    alone = estimator.estimates(plan.baseline)[estimator.metric]["value"]
    if not shares or alone is None or None in values.values():
        return []
    text = f"With {', '.join(map(str, values))} % of each record's values {results.title(plan.model)} has "
    text += (
        f"{estimator.metric} {', '.join(map(number, values.values()))}; {results.title(plan.baseline)} {number(alone)}."
    )
    below = [str(share) for share, value in values.items() if value < alone - MOST_LOST]
    return [
        text
        + (f" With {', '.join(below)} % it is more than a point below that, which was not tested." if below else "")
    ]


def of_power(estimator: StudyEstimator, tests: Tests) -> list[str]:
    """Name variants that have learned nothing; else say what difference the study's own interval could show."""
    results, plan = estimator.results, estimator.results.plan
    row = tests[(plan.baseline, FULL), (plan.model, FULL)].row
    if untrained := [name for name in (plan.baseline, plan.model) if estimator.untrained(name)]:
        values = [f"{results.title(name)}: {number(estimator.estimates(name)['AP50']['value'])}" for name in untrained]
        return [f"No better than chance (the same boxes on other patients' images) is AP50 of {'; '.join(values)}. "
                "Train longer (SOLVER.MAX_ITER), or with another learning rate."]  # fmt: skip
    of = f"{len(plan.seeds)} seeds" if len(plan.seeds) > 1 else "one seed (the chance of training left out)"
    of = f", {of} and this study's own interval"
    return [answer_in_words(estimator.images.truths, shown_by(row), of, results.data.patients_to_test,
                            estimator.metric)]  # fmt: skip


def not_tested(results: StudyResults) -> list[str]:
    """List the questions that the study leaves open."""
    plan, data = results.plan, results.data
    failed, partly = sum(run.scores is None for run in results.runs), any(map(is_share, plan.records))
    found = {
        "the chance of training (one seed: the intervals leave it out)": len(plan.seeds) < 2,
        "other divisions of the patients (no folds)": set(data.splits) == {OWN_SPLITS},
        **{
            f"the model {words}": state not in plan.records and not (state == "half" and partly)
            for state, words in CHANGES.items()
        },
        f"{failed} of {len(results.runs)} trainings, which did not finish": failed,
        "anything about patients, as the data are synthetic": data.synthetic,
        "whether the difference differs between subgroups": True,
        "other hospitals, devices and patients": True,
        "what a reader does with the findings": True,
    }
    return [text for text, is_open in found.items() if is_open]


def _facts(results: StudyResults) -> list[str]:
    plan, data = results.plan, results.data
    folds = [fold for fold in data.splits if fold != OWN_SPLITS]
    done = sum(run.scores is not None for run in results.runs)
    steps = max((run.scores["iterations"] for run in results.runs if run.scores), default=0)
    lines = [plan.description] if plan.description else []
    lines.append(
        f"Data: {data.name}; {len(results.test.patients)} test images of {len(np.unique(results.test.patients))} "
        f"patients with {results.test.boxes.sum()} ground-truth boxes{f', over folds {folds}' if folds else ''}. "
        f"Trainings: {done} of {len(results.runs)} finished; seeds {plan.seeds}; up to {steps} steps. The checkpoint "
        "of each is its best by validation; the test images were predicted once, with it."
    )
    if data.synthetic:
        lines.append("The data are synthetic: what is shown here is no clinical evidence.")
    if results.with_published:
        lines.append(
            "Published values are shown for orientation: they are of one run on 101 readings of other splits, in "
            "which readings of one image are on both sides."
        )
    elif plan.published_on:
        lines.append(f"Published values are left out: {'; '.join(results.unlike_published)}.")
    return lines


def _subgroup_section(groups: Sequence[SubgroupTest], estimator: StudyEstimator, of: str) -> Section:
    plan, title = estimator.results.plan, estimator.results.title
    label = f"{estimator.metric}, {title(plan.model)} minus {title(plan.baseline)}"
    chart = differences_chart(
        {f"{g.column}: {g.group} ({g.patients} / {g.boxes})": one.row for g, one in groups},
        label,
        f"{of}; in brackets: patients / ground-truth boxes; hollow: small group",
        [bool(group.warning) for group, _ in groups],
    )
    rows = [
        [g.column, g.group, str(g.patients), str(g.images), str(g.boxes), estimate(one.row),
         number(one.row["corrected"], 3), "small group" if g.warning else ""]
        for g, one in groups
    ]  # fmt: skip
    header = ["column", "group", "patients", "images", "ground-truth boxes", label, "corrected p", "note"]
    note = "× 100; p corrected by Holm's method for the number of groups."
    table = Table("subgroups", "Subgroup analysis", header, rows, note)
    return Section(table.title, [], {"subgroups": chart}, [table])


def _ensembles(estimator: StudyEstimator) -> Table:
    """Compare the ensemble of each variant's seeds with the mean of its single trainings."""
    rows, results = [], estimator.results
    for name in results.variants:
        seeds, fused = estimator.ensemble(name)
        if seeds:
            single = estimator.estimates(name, folds=seeds)
            values = (text for m in SHOWN for text in (number(single[m]["value"]), estimate(fused[m])))
            rows.append([results.title(name), str(sum(seeds.values())), *values])
    header = ["variant", "trainings", *(text for m in SHOWN for text in (f"{m}, mean of one", f"{m}, ensemble"))]
    note = (
        "The boxes of a fold's seeds on an image, fused by weighted box fusion (IoU 0.5). Folds are predicted by their "
        "own trainings, as the others have learned from its images; folds with a single finished training are left out "
        "of both columns. × 100, 95 % intervals over patients."
    )
    return Table("ensembles", "Ensembles over the seeds of each fold", header, rows, note)


def _speed(results: StudyResults) -> Table:
    rows = []
    for name in results.trained:
        scores = [run.scores for run in results.finished(name)]
        step, images = (_median([one[key] for one in scores]) for key in ("step_seconds", "images_per_second"))
        seconds = _median([one["states"][FULL]["seconds_per_image"] for one in scores])
        rows.append([results.title(name), f"{scores[0]['parameters'] / 1e6:.2f}", number(step, 3), number(images, 1),
                     number(1 / seconds if seconds else None, 1),
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
    estimator: StudyEstimator, tests: Tests, groups: Sequence[SubgroupTest], verdicts: Sequence[str]
) -> Mapping[str, Any]:
    results = estimator.results
    return {
        "plan": results.plan.name,
        "data": {"name": results.data.name, "fingerprint": results.data.fingerprint},
        "metric": results.plan.metric,
        "answer": list(verdicts),
        "estimates": {name: estimator.estimates(name) for name in results.variants},
        "comparisons": [_test_json(one) for one in tests.values()],
        "subgroups": [{"column": group.column, "group": group.group, **_test_json(one)} for group, one in groups],
        "trainings": [{"training": run.training.label, "state": run.failure or "finished"} for run in results.runs],
    }


def _test_json(one: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON; "first" and "second" are its sides and replace the values of the row."""
    sides = {"first": one.first, "second": one.second, "trainings": one.trainings}
    return {**one.row, **sides, "verdict": one.verdict.word}
