"""Make report sections from the figures of a plan: what the paper shows, for these data, with intervals."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mdf_detectron.evaluation.estimates import estimate, number
from mdf_detectron.evaluation.metrics import COUNT_THRESHOLD, METRICS
from mdf_detectron.evaluation.scoring import counts_per_image
from mdf_detectron.evaluation.summary import ALL, OUTCOMES, SWEEP, count_rows
from mdf_detectron.experiments.correlation import correlations
from mdf_detectron.experiments.estimates import Comparison, Side, StudyEstimator
from mdf_detectron.experiments.plan import FULL, PlannedFigure, is_share, share_kept, state_words
from mdf_detectron.experiments.trainings import TRAIN_PART
from mdf_detectron.fileio import finite_or_none
from mdf_detectron.report import panels
from mdf_detectron.report.charts import counts as counts_chart
from mdf_detectron.report.charts import threshold_sweep as sweep_chart
from mdf_detectron.report.html import Section
from mdf_detectron.report.tables import Table, difference_table

SCORE_THRESHOLD = 0.1
"""Lowest score of a counted detection, as in the paper's figure 2b."""

Tests = Mapping[tuple[Side, Side], Comparison]


class FigureMaker:
    """Make the report sections of a plan's figures; ``comparisons`` are all tests of the plan, corrected together."""

    def __init__(self, estimator: StudyEstimator, comparisons: Tests) -> None:
        self.estimator, self.comparisons = estimator, comparisons
        self.results, self.metric = estimator.results, estimator.metric

    def section(self, figure: PlannedFigure) -> Section:
        """Make the section of a figure; a note names the variants and folds without a finished training."""
        results = self.results
        shown = [name for name in figure.variants if name in results.variants]
        absent = [results.title(name) for name in figure.variants if name not in shown]
        comparable = results.with_published or not results.plan.published_on  # a note is on what was published
        notes = [figure.note] if figure.note and comparable else []
        if absent:
            notes.append(f"Without a finished training: {', '.join(absent)}.")
        for name in shown:
            if folds := results.absent_folds(name):
                notes.append(
                    f"{results.title(name)} has no finished training of fold(s) {', '.join(map(str, folds))}: its "
                    "means are over the others, its counts are sums over fewer images."
                )
        if figure.variants and not shown:
            return Section(figure.title, notes)
        chart, tables, *more = getattr(self, f"_{figure.show}")(figure, shown)
        return Section(figure.title, notes, {figure.name: chart, **(more[0] if more else {})}, tables)

    @property
    def intervals(self) -> str:
        """Sources of variation that the intervals cover, as text."""
        chance = "patients and trainings" if self.estimator.spread else "patients (the chance of training not)"
        return f"95 % intervals over {chance}"

    def published(self, variant: str) -> Mapping[str, float]:
        """Return the published values of a variant; empty with other data than the published ones."""
        return self.results.plan.variant(variant).published if self.results.with_published else {}

    def _title(self, name: str) -> str:
        return self.results.title(name)

    def _published_row(self, name: str, keys: Sequence[str], digits: int = 1) -> list[list[str]]:
        known = self.published(name)
        return [[f"{self._title(name)}, published", *(number(known.get(key), digits) for key in keys)]] if known else []

    def _comparison(self, figure: PlannedFigure, shown: list[str]):
        rows = {name: self.estimator.estimates(name) for name in shown}
        overall = [metric.name for metric in METRICS if metric.charted and metric.name != "AP"]
        published = {metric: [self.published(name).get(metric) for name in shown] for metric in overall}
        chart = panels.metric_panels(
            [self._title(name) for name in shown],
            {metric: {"this study": [rows[name][metric] for name in shown]} for metric in overall},
            self.intervals,
            published if any(map(self.published, shown)) else None,
        )
        classes = self.results.data.class_names
        keys, values = [*(f"AP50-{name}" for name in classes), *overall], []
        for name in shown:
            values.append([self._title(name), *(estimate(rows[name][key]) for key in keys)])
            values += self._published_row(name, keys)
        header = ["variant", *(f"AP50, {name}" for name in classes), *overall]
        tables = [Table(f"{figure.name}_metrics", "Metrics", header, values, f"By IoBB, × 100; {self.intervals}.")]
        pairs = [((figure.reference, FULL), (name, FULL)) for name in shown]
        return chart, tables + self._tests(figure, [self.comparisons[p] for p in pairs if p in self.comparisons])

    def _tests(self, figure: PlannedFigure, tested: list[Comparison]) -> list[Table]:
        return [comparison_table(f"{figure.name}_tests", tested, self._title, self.metric)] if tested else []

    def _records(self, figure: PlannedFigure, shown: list[str]):
        rows = {
            name: {state: self.estimator.estimates(name, state)[self.metric] for state in self.results.states(name)}
            for name in shown
        }
        states = list(dict.fromkeys(state for one in rows.values() for state in one))
        values = [
            [self._title(name), *(estimate(one[s]) if s in one else "" for s in states)] for name, one in rows.items()
        ]
        meanings = "; ".join(f"{state}: {state_words(state)}" for state in states if state != FULL)
        table = Table(f"{figure.name}_states", f"{self.metric} by state of the test records", ["variant", *states],
                      values, f"{self.intervals}. {meanings}.")  # fmt: skip
        tested = [one for name in shown for one in self.comparisons.values() if one.first[0] == one.second[0] == name]
        titled = {self._title(n): one for n, one in rows.items()}
        by_state = {name: {s: row for s, row in one.items() if not is_share(s)} for name, one in titled.items()}
        chart = panels.metrics_by_state(by_state, self.metric, self.intervals)
        losses = {f"{self._title(one.first[0])} ({state_words(one.first[1])})": one.row for one in tested}
        label = f"loss of {self.metric} (× 100)"
        more = {f"{figure.name}_losses": panels.differences_chart(losses, label, self.intervals)} if losses else {}
        if any(map(is_share, states)):
            shares = {name: {share_kept(s): row for s, row in one.items() if share_kept(s) is not None}
                      for name, one in titled.items()}  # fmt: skip
            curves = {name: one for name, one in shares.items() if len(one) > 1}
            lines = {name: one[100] for name, one in shares.items() if len(one) == 1}
            more[f"{figure.name}_shares"] = panels.shares_chart(curves, lines, self.metric, self.intervals)
        return chart, [table, *self._tests(figure, tested)], more

    def _counts(self, figure: PlannedFigure, shown: list[str]):
        about = {"boxes": self._boxes(), "patients_with_boxes": int(self.estimator.sizes[0])}
        models, values = {}, []
        for name in shown:
            rows = self._count(name)
            models[self._title(name)] = {"counts": {"bbox_iobb": rows}, "dataset": about,
                                         "protocol": {"score_threshold": SCORE_THRESHOLD}}  # fmt: skip
            ends = {o: " to ".join(number(end, 0) for end in rows[ALL]["interval"][o]) for o in OUTCOMES}
            values.append([self._title(name), *(f"{rows[ALL][o]:g} ({ends[o]})" for o in OUTCOMES)])
            values += self._published_row(name, ("TP", "FP", "FN"), 0)
        note = (
            f"IoBB {COUNT_THRESHOLD:g}, score ≥ {SCORE_THRESHOLD:g}; mean over seeds, summed over folds; 95 % "
            "intervals over patients."
        )
        title, header = "TP, FP and FN of all classes", ["variant", "TP", "FP", "FN"]
        return counts_chart(models), [Table(f"{figure.name}_counts", title, header, values, note)]

    def _boxes(self) -> dict[str, int]:
        truths = self.results.test.truths.values()
        names = self.results.data.class_names
        counts = sum(np.bincount(one.category[~one.crowd], minlength=len(names)) for one in truths)
        return dict(zip(names, counts.tolist(), strict=True))

    def _count(self, variant: str) -> dict:
        """Count TP, FP and FN per class: mean over seeds, sum over folds, intervals over patients."""
        test, names = self.results.test, self.results.data.class_names
        per_image = np.zeros((len(OUTCOMES), len(names), len(test.patients)))
        for fold, of_fold in self.estimator.matches(variant).items():
            counts = [counts_per_image(one, SCORE_THRESHOLD) for one in of_fold]
            per_image[:, :, test.places[fold]] = np.mean(counts, axis=0)
        return count_rows(self.estimator, per_image, names)

    def _threshold_sweep(self, figure: PlannedFigure, shown: list[str]):
        swept = {table: self.estimator.sweep(shown, table) for table in ("bbox_iobb", "bbox")}
        about = {"boxes": {"all": sum(self._boxes().values())}, "patients_with_boxes": int(self.estimator.sizes[0])}
        models = {
            self._title(name): {
                "sweep": {"thresholds": list(SWEEP), **{table: one[name] for table, one in swept.items()}},
                "dataset": about,
            }
            for name in shown
        }
        curves = [swept["bbox_iobb"][name]["AP"] for name in shown]
        values = [
            [f"{threshold:g}", *(estimate({key: one[key][t] for key in one}) for one in curves)]
            for t, threshold in enumerate(SWEEP)
        ]
        table = Table(f"{figure.name}_sweep", "AP by overlap threshold (IoBB)", ["threshold", *models], values,
                      f"× 100, mean over classes; {self.intervals}.")  # fmt: skip
        return sweep_chart(models), [table]

    def _generalization(self, figure: PlannedFigure, shown: list[str]):
        on_train = StudyEstimator(self.results, self.estimator.num_resamples, self.estimator.seed, TRAIN_PART)
        rows, values = {}, []
        for name in shown:
            train, test = (one.estimates(name)[self.metric] for one in (on_train, self.estimator))
            rows[self._title(name)] = (train, test)
            gap = None if train["value"] is None or test["value"] is None else train["value"] - test["value"]
            values.append([self._title(name), estimate(train), estimate(test), number(gap)])
        table = Table(f"{figure.name}_generalization", f"{self.metric} on training and test images",
                      ["variant", "training images", "test images", "gap"], values,
                      f"{self.intervals}. There are as many training images as test images, the same for all "
                      "variants.")  # fmt: skip
        return panels.train_against_test(rows, self.metric, self.intervals), [table]

    def _correlation(self, figure: PlannedFigure, shown: list[str]):
        splits = next(iter(self.results.data.splits.values()))
        found = correlations(splits, self.results.data.schema, self.estimator.num_resamples, self.estimator.seed)
        values = []
        for q, column in enumerate(found.columns):
            of_classes = zip(found.values[q], found.low[q], found.high[q], strict=True)
            rows = [finite_or_none(dict(zip(("value", "low", "high"), map(float, r), strict=True))) for r in of_classes]
            values.append([column, str(found.images[q]), *(estimate(row, 2) for row in rows)])
        of = "the largest certainty of its boxes on an image, 0 without one" if found.certainty else "its presence"
        note = (
            f"Pearson's r of a column and a class ({of}), all splits; 95 % intervals over patients, not corrected for "
            "their number. Bold in the chart: the interval leaves out 0."
        )
        header = ["column", "images", *found.classes]
        table = Table(f"{figure.name}_correlation", "Columns and classes", header, values, note)
        clear = (found.low > 0) | (found.high < 0)
        return panels.draw_matrix(found.values, found.columns, found.classes, bold=clear), [table]


def comparison_table(name: str, comparisons: Sequence[Comparison], titles: Callable[[str], str], metric: str) -> Table:
    """Make the table of tests of the plan's metric."""

    def side(one: Side) -> str:
        return titles(one[0]) if one[1] == FULL else f"{titles(one[0])} ({state_words(one[1])})"

    rows = {f"{side(one.second)} minus {side(one.first)}": one.row for one in comparisons}
    note = (
        f"{metric}, × 100, second minus first. Paired over the same patients. p is two-sided; corrected by Holm's "
        "method for all comparisons of this report."
    )
    trainings = [f"{one.trainings[0]} / {one.trainings[1]}" for one in comparisons]
    title = f"Differences of {metric}"
    return difference_table(name, title, "compared", rows, ("first", "second"), note, trainings)
