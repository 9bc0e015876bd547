"""Late fusion of a study's image-only baseline: a further variant, of its detections and the record alone."""

from dataclasses import replace

from mdf_detectron.config import columns_read
from mdf_detectron.data.loaders import records_of
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.late_fusion import Exponents, RecordOdds, fit_exponents, fuse_scores
from mdf_detectron.experiments.plan import (
    FULL,
    MOST_IN_A_CHART,
    Plan,
    PlannedFigure,
    Variant,
    change_records,
    split_state,
)
from mdf_detectron.experiments.trainings import VAL_PART, LateVariant, Run, StudyResults, predictions_file
from mdf_detectron.report.tables import Table

SHOWN_IN = ("comparison", "records", "counts", "threshold_sweep")
"""Kinds of figures in which late fusion is shown next to its source."""


def with_late_fusion(results: StudyResults) -> StudyResults:
    """Add late fusion of the question's baseline, if that is image-only and finished, to results and figures.

    It uses the columns of the question's model, with every state of the records. A record model is fitted on the train
    split of each fold, the exponents on the validation predictions of each training.
    """
    plan = results.plan
    runs = [run for run in results.finished(plan.baseline) if not columns_read(run.training.cfg)]
    model = next((run.training.cfg for run in results.finished(plan.model)), None)
    if not runs or not results.data.schema.names or results.late:
        return results
    columns = columns_read(model) if model else results.data.schema.names
    name = f"{plan.baseline}_late_fusion"
    states = (FULL, *(state for state in plan.records if split_state(state)[0] in ("", *columns)))
    odds = {fold: RecordOdds(results.data.dataset_names(fold)["train"], columns)
            for fold in {run.training.fold for run in runs}}  # fmt: skip
    exponents = {run.training.label: _exponents(results, run, odds[run.training.fold]) for run in runs}
    fused = [_fused(results, run, odds[run.training.fold], exponents[run.training.label], states) for run in runs]
    fused = [replace(run, training=replace(run.training, variant=name, states=states)) for run in fused]
    late = LateVariant(name, plan.baseline, fused, exponents)
    return replace(results, plan=_with_variant(plan, name), late=late)


def _exponents(results: StudyResults, run: Run, odds: RecordOdds) -> Exponents:
    fold, file = run.training.fold, predictions_file(run.training.folder, VAL_PART)
    truth = GroundTruth.load(results.data.splits[fold]["val"])
    if not file.is_file():
        return Exponents.one(truth.num_classes, "the validation split was not predicted; run the study again")
    ratios = odds.of_split(run.training.datasets["val"], truth)
    return fit_exponents(truth, Detections.load(file, truth), ratios)


def _fused(results: StudyResults, run: Run, odds: RecordOdds, exponents: Exponents, states: tuple[str, ...]) -> Run:
    truth, records = results.test.truths[run.training.fold], records_of([run.training.datasets["test"]])
    ratios = {state: odds(change_records(state, records), truth.image_ids) for state in states}
    found = {state: fuse_scores(run.detections[FULL], ratio, exponents.values) for state, ratio in ratios.items()}
    return replace(run, detections=found)


def _with_variant(plan: Plan, name: str) -> Plan:
    """Put the variant next to its source, in the plan and in the figures that have room for it."""
    source = plan.variant(plan.baseline)
    variant = source.model_copy(update={"name": name, "title": f"Late fusion of {source.title}", "published": {}})
    variants: list[Variant] = []
    for one in plan.variants:
        variants += [one, variant] if one is source else [one]
    return plan.model_copy(
        update={"variants": variants, "figures": [_figure(one, source.name, name) for one in plan.figures]}
    )


def _figure(figure: PlannedFigure, source: str, name: str) -> PlannedFigure:
    room = figure.show in ("comparison", "records") or len(figure.variants) < MOST_IN_A_CHART
    if source not in figure.variants or figure.show not in SHOWN_IN or not room:
        return figure
    at = figure.variants.index(source) + 1
    return figure.model_copy(update={"variants": [*figure.variants[:at], name, *figure.variants[at:]]})


def exponents_table(results: StudyResults) -> Table:
    """Show the exponents of each training's late fusion, and what they were fitted to."""
    names = results.data.class_names
    made = results.late.exponents if results.late else {}
    rows = [
        [label, *(f"{value:.2f}" for value in one.values), str(one.hits.sum()), one.note] for label, one in made.items()
    ]
    header = ["training", *names, "true positives", "how"]
    note = (
        "The odds of each score are multiplied by the odds ratio of its class given the record, to the power of the "
        "class's exponent: 0 ignores the record, 1 believes it. Fitted on the validation split."
    )
    return Table("late_fusion", "Exponents of late fusion", header, rows, note)
