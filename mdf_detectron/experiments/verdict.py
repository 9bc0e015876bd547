"""The plain answer of a study: does the record help, by how much, how sure, for whom, and what was not tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mdf_detectron.evaluation.subgroups import MIN_BOXES, MIN_PATIENTS, RECORD, groups_of
from mdf_detectron.experiments.estimates import UNSURE, Comparison, Estimator, Side, corrected
from mdf_detectron.experiments.plan import FULL
from mdf_detectron.experiments.results import StudyResults
from mdf_detectron.experiments.study_data import OWN_SPLITS
from mdf_detectron.report.tables import estimate, number, p_text

CHANGES = {
    "half": "with half of its values hidden",
    "removed": "without any record",
    "shuffled": "with another patient's record",
}


@dataclass(frozen=True)
class Subgroup:
    """The model minus the baseline on the images of a subgroup.

    Attributes:
        column, group: clinical column and the group's name.
        patients, images, boxes: how many there are.
        comparison: of the group; corrected for the number of groups.
    """

    column: str
    group: str
    patients: int
    images: int
    boxes: int
    comparison: Comparison

    @property
    def small(self) -> bool:
        """Whether the group is too small to rely on."""
        return self.patients < MIN_PATIENTS or self.boxes < MIN_BOXES


def subgroups(estimator: Estimator) -> list[Subgroup]:
    """Compare the model with the baseline in every subgroup that the plan, or the schema, names."""
    results, test = estimator.results, estimator.results.test
    plan, schema = results.plan, results.data.schema
    columns = plan.subgroups
    if columns is None:
        columns = [c.name for c in schema.columns if c.name == "age" or c.kind == "categorical"]
    boxes = np.concatenate(
        [np.bincount(truth.image[~truth.crowd], minlength=truth.num_images) for truth in test.truths.values()]
    )
    groups = [(column, name, members) for column in (*columns, RECORD)
              for name, members in groups_of(test.whole, column).items() if not members.all()]  # fmt: skip
    tests = corrected([estimator.compare((plan.baseline, FULL), (plan.model, FULL), m) for _, _, m in groups])
    return [
        Subgroup(
            column, name, len(np.unique(test.patients[members])), int(members.sum()), int(boxes[members].sum()), one
        )
        for (column, name, members), one in zip(groups, tests, strict=True)
    ]


def answer(results: StudyResults, comparisons: Mapping[tuple[Side, Side], Comparison], groups: Sequence[Subgroup],
           metric: str) -> list[str]:  # fmt: skip
    """Write the paragraph; the first sentence is the answer.

    Args:
        comparisons: of the whole report, corrected together.
        groups: of :func:`subgroups`.

    Returns:
        the sentences that answer, then the one that says what was not tested.
    """
    plan = results.plan
    main = comparisons[(plan.baseline, FULL), (plan.model, FULL)]
    text = [_helps(main, results.title(plan.baseline), results.title(plan.model), metric)]
    for state, words in CHANGES.items():
        one = comparisons.get(((plan.model, state), (plan.model, FULL)))
        if one is not None:
            text.append(_change(one, words, metric))
    text.append(_for_whom(groups))
    return [" ".join(text), f"Not tested: {'; '.join(not_tested(results))}."]


def _helps(main: Comparison, baseline: str, model: str, metric: str) -> str:
    if main.verdict == "not tested":
        return f"Whether the record helps was not tested: {model} and {baseline} cannot be compared on these data."
    how = f"{metric} of {model} minus {baseline} is {estimate(main.row)} points"
    p_value = f"p {p_text(main.row['p_value'], main.row['least_p'])}, {number(main.row['corrected'], 3)} corrected for "
    how += f" (95 % interval in brackets; {p_value}the number of comparisons)."
    if main.verdict == "no difference shown":
        return f"No difference shown: these data do not show that the record helps, nor that it harms. {how}"
    word = "helps" if main.verdict.startswith("better") else "harms"
    if main.verdict.endswith(UNSURE):
        return f"Not sure: the interval says that the record {word}; with so many comparisons that can be chance. {how}"
    return f"The record {word}. {how}"


def _change(one: Comparison, words: str, metric: str) -> str:
    if one.verdict == "not tested":
        return f"The loss {words} was not tested."
    said = {
        "better": f"the same model loses {estimate(one.row)} points",
        "worse": f"the same model is better, by {estimate(_negative(one))} points",
        "no difference shown": f"no difference is shown ({estimate(one.row)} points lost)",
    }
    verdict = one.verdict.removesuffix(UNSURE)
    return f"{words[0].upper()}{words[1:]} {said[verdict]}{UNSURE if one.verdict != verdict else ''}."


def _negative(one: Comparison) -> dict[str, float]:
    return {"value": -one.row["value"], "low": -one.row["high"], "high": -one.row["low"]}


def _for_whom(groups: Sequence[Subgroup]) -> str:
    told = [g for g in groups if g.comparison.verdict in ("better", "worse") and not g.small]
    small = sum(g.small for g in groups)
    if not told:
        text = f"In none of {len(groups)} subgroups is a difference shown after correction"
    else:
        text = "By subgroup a difference is shown in " + "; ".join(
            f"{g.column} {g.group} ({estimate(g.comparison.row)})" for g in told
        )
    return f"{text}; {small} of {len(groups)} groups are too small to rely on."


def not_tested(results: StudyResults) -> list[str]:
    """List what the study leaves open."""
    plan, data = results.plan, results.data
    found = []
    if len(plan.seeds) < 2:
        found.append("the chance of training (one seed: the intervals leave it out)")
    if set(data.splits) == {OWN_SPLITS}:
        found.append("other divisions of the patients (no folds)")
    for state, words in CHANGES.items():
        if state not in plan.records:
            found.append(f"the model {words}")
    failed = sum(run.scores is None for run in results.runs)
    if failed:
        found.append(f"{failed} of {len(results.runs)} trainings, which did not finish")
    if data.synthetic:
        found.append("anything about patients, as the data are synthetic")
    found += [
        "whether the difference differs between subgroups",
        "other hospitals, devices and patients",
        "what a reader does with the findings",
    ]
    return found
