"""The figures of a plan → sections of the report: what the paper shows, for these data, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mdf_detectron.evaluation.counts import counts_per_image
from mdf_detectron.evaluation.metrics import METRICS
from mdf_detectron.evaluation.statistics import bootstrap, count_patients, interval
from mdf_detectron.evaluation.summary import ALL, COUNT_THRESHOLD, SWEEP, mean_ap_and_ar
from mdf_detectron.evaluation.training_noise import pooled_spread
from mdf_detectron.experiments.correlation import correlations
from mdf_detectron.experiments.estimates import Comparison, Estimator, Side, match_table, of_mean
from mdf_detectron.experiments.plan import FULL, PlannedFigure
from mdf_detectron.experiments.trainings import TRAIN_PART
from mdf_detectron.fileio import finite_or_none
from mdf_detectron.report.charts import counts as counts_chart
from mdf_detectron.report.charts import threshold_sweep as sweep_chart
from mdf_detectron.report.html import Section
from mdf_detectron.report.study_charts import (
    correlation_matrix,
    metrics_by_state,
    metrics_by_variant,
    train_against_test,
)
from mdf_detectron.report.tables import Table, estimate, number, p_text

SCORE_THRESHOLD = 0.1
"""Of counts, as in the paper's figure 2b."""

OUTCOMES = ("tp", "fp", "fn")


class FigureMaker:
    """Makes the sections of a plan's figures.

    Args:
        estimator: of the study's results.
        comparisons: of the plan, p values corrected for their number.
    """

    def __init__(self, estimator: Estimator, comparisons: Mapping[tuple[Side, Side], Comparison]) -> None:
        self.estimator, self.comparisons = estimator, comparisons
        self.results = estimator.results

    def section(self, figure: PlannedFigure) -> Section:
        """Make the section of a figure; it says which variants have no finished training."""
        shown = [name for name in figure.variants if name in self.results.variants]
        absent = [self.results.title(name) for name in figure.variants if name not in shown]
        notes = [figure.note] if figure.note else []
        if absent:
            notes.append(f"Without a finished training: {', '.join(absent)}.")
        for name in shown:
            if folds := self.results.absent_folds(name):
                notes.append(
                    f"{self.results.title(name)} has no finished training of fold(s) {', '.join(map(str, folds))}: its "
                    "means are over the others, its counts are sums over fewer images."
                )
        if figure.variants and not shown:
            return Section(figure.title, notes)
        makers: dict[str, Callable[[PlannedFigure, list[str]], Section]] = {
            "counts": self._counts,
            "comparison": self._comparison,
            "records": self._records,
            "correlation": self._correlation,
            "generalization": self._generalization,
            "threshold_sweep": self._sweep,
        }
        made = makers[figure.show](figure, shown)
        return Section(made.title, [*made.paragraphs, *notes], made.charts, made.tables)

    @property
    def intervals(self) -> str:
        """Say what the intervals cover."""
        chance = "patients and trainings" if self.estimator.spread else "patients (the chance of training not)"
        return f"95 % intervals over {chance}"

    def published(self, variant: str) -> Mapping[str, float]:
        """Return the published values of a variant, where these are the data that they are of."""
        return self.results.plan.variant(variant).published if self.results.with_published else {}

    def _comparison(self, figure: PlannedFigure, shown: list[str]) -> Section:
        titles = {name: self.results.title(name) for name in shown}
        rows = {name: self.estimator.estimates(name) for name in shown}
        overall = [metric.name for metric in METRICS if metric.charted and metric.name != "AP"]
        chart = metrics_by_variant(
            {titles[name]: {m: rows[name][m] for m in overall} for name in shown},
            {titles[name]: self.published(name) for name in shown},
            self.intervals,
        )
        classes = self.results.data.class_names
        header = ["variant", *(f"AP50, {name}" for name in classes), *overall]
        cells = []
        for name in shown:
            cells.append([titles[name], *(estimate(rows[name][f"AP50-{c}"]) for c in classes),
                          *(estimate(rows[name][m]) for m in overall)])  # fmt: skip
            if known := self.published(name):
                keys = [*(f"AP50-{c}" for c in classes), *overall]
                cells.append([f"{titles[name]}, published", *(number(known.get(key)) for key in keys)])
        tables = [Table(f"{figure.name}_metrics", "Metrics", header, cells, f"By IoBB, × 100; {self.intervals}.")]
        tested = [self.comparisons[pair] for name in shown if (pair := ((figure.reference, FULL), (name, FULL)))
                  in self.comparisons]  # fmt: skip
        if tested:
            tables.append(comparison_table(f"{figure.name}_tests", tested, self.results.title, self.estimator.metric))
        return Section(figure.title, [], {figure.name: chart}, tables)

    def _records(self, figure: PlannedFigure, shown: list[str]) -> Section:
        metric, rows = self.estimator.metric, {}
        for name in shown:
            states = self.results.finished(name)[0].training.states
            rows[name] = {state: self.estimator.estimates(name, state)[metric] for state in states}
        states = list(dict.fromkeys(state for one in rows.values() for state in one))
        cells = [[self.results.title(name), *(estimate(one[s]) if s in one else "" for s in states)]
                 for name, one in rows.items()]  # fmt: skip
        table = Table(f"{figure.name}_states", f"{metric} by state of the test records", ["variant", *states], cells,
                      f"{self.intervals}. half: half of the values hidden; removed: no value; shuffled: another "
                      "patient's record.")  # fmt: skip
        tested = [one for name in shown for one in self.comparisons.values() if one.first[0] == one.second[0] == name]
        tables = [table]
        if tested:
            tables.append(comparison_table(f"{figure.name}_tests", tested, self.results.title, metric))
        chart = metrics_by_state({self.results.title(n): one for n, one in rows.items()}, metric, self.intervals)
        return Section(figure.title, [], {figure.name: chart}, tables)

    def _counts(self, figure: PlannedFigure, shown: list[str]) -> Section:
        counted = {name: self._count(name) for name in shown}
        boxes = {name: 0 for name in self.results.data.class_names}
        for truth in self.results.test.truths.values():
            for k, name in enumerate(truth.class_names):
                boxes[name] += int(((truth.category == k) & ~truth.crowd).sum())
        about = {"boxes": boxes, "patients_with_boxes": int(self.estimator.sizes[0])}
        models = {
            self.results.title(name): {"counts": {"bbox_iobb": rows}, "dataset": about,
                                       "protocol": {"score_threshold": SCORE_THRESHOLD}}
            for name, rows in counted.items()
        }  # fmt: skip
        cells = []
        for name, rows in counted.items():
            total = rows[ALL]
            ends = {o: " to ".join(number(end, 0) for end in total["interval"][o]) for o in OUTCOMES}
            cells.append([self.results.title(name), *(f"{total[o]:g} ({ends[o]})" for o in OUTCOMES)])
            if known := self.published(name):
                keys = ("TP", "FP", "FN")
                cells.append([f"{self.results.title(name)}, published", *(number(known.get(k), 0) for k in keys)])
        note = (
            f"IoBB {COUNT_THRESHOLD:g}, score ≥ {SCORE_THRESHOLD:g}; mean over seeds, summed over folds; 95 % "
            "intervals over patients."
        )
        table = Table(
            f"{figure.name}_counts", "TP, FP and FN of all classes", ["variant", "TP", "FP", "FN"], cells, note
        )
        return Section(figure.title, [], {figure.name: counts_chart(models)}, [table])

    def _count(self, variant: str) -> dict[str, dict[str, Any]]:
        """Count TP, FP and FN of each class, mean over seeds and sum over folds, with intervals over patients."""
        places, test = self.results.test.places, self.results.test
        names = [*self.results.data.class_names, ALL]
        flat = np.zeros((len(test.patients), len(OUTCOMES) * len(names)))
        for fold, of_fold in self.estimator.matches(variant).items():
            each = np.mean([counts_per_image(one, SCORE_THRESHOLD, COUNT_THRESHOLD) for one in of_fold], axis=0)
            each = np.concatenate([each, each.sum(axis=1, keepdims=True)], axis=1)
            flat[places[fold]] = each.reshape(-1, each.shape[2]).T
        values = flat.sum(axis=0)
        samples = bootstrap(lambda w: w @ flat, test.patients, self.estimator.num_resamples, self.estimator.seed)
        low, high = interval(samples, values, count_patients(test.patients))
        shape = (len(OUTCOMES), len(names))
        values, low, high = (v.reshape(shape) for v in (values, low, high))
        return finite_or_none({
            name: {**{o: round(float(values[n, k]), 1) for n, o in enumerate(OUTCOMES)},
                   "interval": {o: [float(low[n, k]), float(high[n, k])] for n, o in enumerate(OUTCOMES)}}
            for k, name in enumerate(names)
        })  # fmt: skip

    def _sweep(self, figure: PlannedFigure, shown: list[str]) -> Section:
        models, cells = {}, []
        size = int(self.estimator.sizes[0])
        boxes = {"all": sum(int((~truth.crowd).sum()) for truth in self.results.test.truths.values())}
        swept = {table: self._swept(shown, table, size) for table in ("bbox_iobb", "bbox")}
        for name in shown:
            sweep = {"thresholds": list(SWEEP), **{table: one[name] for table, one in swept.items()}}
            about = {"boxes": boxes, "patients_with_boxes": size}
            models[self.results.title(name)] = {"sweep": sweep, "dataset": about}
        for t, threshold in enumerate(SWEEP):
            of = [one["sweep"]["bbox_iobb"]["AP"] for one in models.values()]
            cells.append([f"{threshold:g}", *(estimate({k: one[k][t] for k in one}) for one in of)])
        table = Table(f"{figure.name}_sweep", "AP by overlap threshold (IoBB)", ["threshold", *models], cells,
                      f"× 100, mean over classes; {self.intervals}.")  # fmt: skip
        return Section(figure.title, [], {figure.name: sweep_chart(models)}, [table])

    def _swept(self, shown: list[str], table: str, size: int) -> dict[str, dict[str, dict[str, list[float | None]]]]:
        """Estimate AP and AR at every threshold: variant → "AP" and "AR" → "value", "low" and "high" → list."""
        cells: dict[str, dict[int, list]] = {name: {} for name in shown}
        for name in shown:
            for run in self.results.finished(name):
                truth = self.results.test.truths[run.training.fold]
                matches = match_table(truth, run.detections[FULL], table, list(SWEEP))
                cells[name].setdefault(run.training.fold, []).append(mean_ap_and_ar(matches))
        ones = {fold: np.ones((1, truth.num_images)) for fold, truth in self.results.test.truths.items()}
        spread = pooled_spread(
            [
                np.array([one(ones[fold])[0] for one in own])
                for by_fold in cells.values()
                for fold, own in by_fold.items()
            ]
        )
        names = [f"{metric}{t}" for metric in ("AP", "AR") for t in range(len(SWEEP))]
        out, keys, places = {}, ("value", "low", "high"), range(len(SWEEP))
        for name, by_fold in cells.items():
            rows = self.estimator.intervals(names, by_fold, size, of_mean(spread, sum(map(len, by_fold.values()))))
            out[name] = {m: {key: [rows[f"{m}{t}"][key] for t in places] for key in keys} for m in ("AP", "AR")}
        return out

    def _generalization(self, figure: PlannedFigure, shown: list[str]) -> Section:
        metric, rows, cells = self.estimator.metric, {}, []
        on_train = Estimator(self.results, self.estimator.num_resamples, self.estimator.seed, TRAIN_PART)
        for name in shown:
            test, train = self.estimator.estimates(name)[metric], on_train.estimates(name)[metric]
            rows[self.results.title(name)] = (train, test)
            gap = None if train["value"] is None or test["value"] is None else train["value"] - test["value"]
            cells.append([self.results.title(name), estimate(train), estimate(test), number(gap)])
        table = Table(f"{figure.name}_generalization", f"{metric} on training and test images",
                      ["variant", "training images", "test images", "gap"], cells,
                      f"{self.intervals}. The training images are as many as the test images, the same for all "
                      "variants.")  # fmt: skip
        chart = train_against_test(rows, metric, self.intervals)
        return Section(figure.title, [], {figure.name: chart}, [table])

    def _correlation(self, figure: PlannedFigure, shown: list[str]) -> Section:
        splits = next(iter(self.results.data.splits.values()))
        found = correlations(splits, self.results.data.schema, self.estimator.num_resamples, self.estimator.seed)
        clear = (found.low > 0) | (found.high < 0)
        cells = []
        for q, column in enumerate(found.columns):
            rows = (finite_or_none({"value": float(found.values[q, k]), "low": float(found.low[q, k]),
                                    "high": float(found.high[q, k])}) for k in range(len(found.classes)))  # fmt: skip
            cells.append([column, str(found.images[q]), *(estimate(row, 2) for row in rows)])
        of = "the largest certainty of its boxes on an image, 0 without one" if found.certainty else "its presence"
        note = (
            f"Pearson's r of a column and a class ({of}), all splits; 95 % intervals over patients, not corrected for "
            "their number. Bold in the chart: the interval leaves out 0."
        )
        table = Table(
            f"{figure.name}_correlation", "Columns and classes", ["column", "images", *found.classes], cells, note
        )
        return Section(
            figure.title,
            [],
            {figure.name: correlation_matrix(found.columns, found.classes, found.values, clear)},
            [table],
        )


def comparison_table(name: str, comparisons: Sequence[Comparison], title: Callable[[str], str], metric: str) -> Table:
    """List tests: difference with interval, p as it is and corrected, and the verdict."""

    def side(one: Side) -> str:
        return title(one[0]) if one[1] == FULL else f"{title(one[0])}, record {one[1]}"

    rows = [
        [f"{side(one.second)} minus {side(one.first)}", f"{one.trainings[0]} / {one.trainings[1]}", estimate(one.row),
         p_text(one.row["p_value"], one.row["least_p"]), number(one.row["corrected"], 3), one.verdict]
        for one in comparisons
    ]  # fmt: skip
    header = ["difference", "trainings", f"{metric} (× 100)", "p", "corrected p", "verdict"]
    note = (
        "Paired over the same patients. p is two-sided; corrected by Holm's method for all comparisons of this report."
    )
    return Table(name, f"Differences of {metric}", header, rows, note)
