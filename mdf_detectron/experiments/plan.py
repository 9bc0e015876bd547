"""A plan: which models are trained, with which seeds, on which folds of which data set, and what the report shows.

A plan is a YAML file, the package's own (``paper``, ``does_it_help``, ``fusions``) or anyone's::

    name: does_it_help
    dataset: mimic_eye                      # a prepared folder, by name or path
    config: mimic_eye/mdf_net.yaml          # of every variant that names none
    seeds: [1, 2, 3]
    folds: available                        # or all, or [0, 1]; left out: the folder's own splits
    overrides: {SOLVER.MAX_ITER: 9000}      # of every training
    variants:
      - {name: image_only, title: Image-only, overrides: {MODEL.CLINICAL.FUSION_3D: false}}
      - {name: fused, columns: [age, gender]}
    records: [half, removed, shuffled]      # changes of the test records that models with a record are scored with
    figures:
      - {name: places, show: comparison, variants: [image_only, fused]}
    question: {baseline: image_only, model: fused}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mdf_detectron.data.record_changes import hide_values, permute_records, remove_records
from mdf_detectron.errors import ConfigError

PLANS = Path(__file__).parent / "plans"
"""Plans that ship with the package."""

FULL = "full"

RECORD_STATES = {
    FULL: list,
    "half": lambda records: hide_values(records, 0.5),
    "removed": remove_records,
    "shuffled": permute_records,
}
"""Changes of the test records: none, half of the values hidden, all hidden, exchanged between patients."""

SHOWS = ("counts", "comparison", "records", "correlation", "generalization", "threshold_sweep")
"""What a figure of the report can show."""

MOST_IN_A_CHART = 4
"""Variants that a chart of curves or counts tells apart by color."""

COLUMN_SETS = "sets"

NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
"""Of names that become folders and files."""

FOLD_WORDS = ("all", "available")
"""All folds of the folder, which must have some; or all where it has some, else its own splits."""


@dataclass(frozen=True)
class Variant:
    """A model: a config and what is changed in it.

    Attributes:
        name: of its folder, and in figures.
        title: in the report.
        config: name or path of the config file.
        overrides: config keys and values.
        columns: clinical columns that it reads; None: those of the config, where the data have them, else all;
            "sets" stands for several variants, one for each set of :func:`column_sets`.
        published: {"AP50", "AR50", "AP50-<class>", ..., "TP", "FP", "FN": value} as published.
    """

    name: str
    config: str
    title: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] | str | None = None
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedFigure:
    """A part of the report.

    Attributes:
        name: in the report's file names.
        show: one of :data:`SHOWS`.
        variants: names, in order; empty for what no model is needed for.
        reference: the variant that the others of a comparison are tested against; the first by default.
        title: heading.
        note: a paragraph below, on what was published for one.
    """

    name: str
    show: str
    variants: tuple[str, ...] = ()
    reference: str = ""
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """See the module; every attribute is a key of the file.

    Attributes:
        metric: "<table>/<metric>" that is tested.
        baseline, model: of the question whether the record helps; empty: it is not asked.
        subgroups: clinical columns by which the answer is divided; None: age and those of two or more categories.
        published_on: data set that the published values are of; with another they are left out.
        description: first paragraph of the report.
    """

    name: str
    dataset: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    folds: tuple[int, ...] | str = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[str, ...] = ()
    figures: tuple[PlannedFigure, ...] = ()
    metric: str = "bbox_iobb/AP50"
    baseline: str = ""
    model: str = ""
    subgroups: tuple[str, ...] | None = None
    published_on: str = ""
    description: str = ""

    def variant(self, name: str) -> Variant:
        """Return the variant of a name."""
        return next(variant for variant in self.variants if variant.name == name)


def column_sets(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Choose sets of clinical columns to compare with all of them: the paper's where its columns are there.

    Args:
        names: of the data's columns.

    Returns:
        set's name → columns; with other columns than the paper's each one alone.
    """
    if set(_PAPER_LETTERS.values()) <= set(names):
        return {letters: tuple(_PAPER_LETTERS[letter] for letter in letters) for letters in _PAPER_SETS}
    return {name: (name,) for name in names}


_PAPER_LETTERS = {"A": "age", "T": "temperature", "H": "heartrate", "R": "resprate", "O": "o2sat", "G": "gender"}
_PAPER_SETS = ("ATHRO", "G", "GA", "GT", "GH", "GR", "GAT", "GAH", "GAR")


def first_doubled(names: Sequence[str]) -> str | None:
    """Return the first of the names that stands twice, if one does."""
    return next((name for name in names if names.count(name) > 1), None)


def with_column_sets(plan: Plan, names: Sequence[str]) -> Plan:
    """Put a variant for each set of columns in the place of one that asks for "sets", in figures too.

    Raises:
        ConfigError: two variants would have one name.
    """
    made: dict[str, list[Variant]] = {}
    for variant in plan.variants:
        if variant.columns == COLUMN_SETS:
            made[variant.name] = [
                replace(
                    variant,
                    name=f"{variant.name}_{''.join(c if c in NAME_CHARACTERS else '-' for c in key)}",
                    title=", ".join(columns),
                    columns=columns,
                    published=variant.published.get(key, {}),
                )
                for key, columns in column_sets(names).items()
            ]
    figures = tuple(
        replace(figure, variants=tuple(new for old in figure.variants for new in _names(made, old)))
        for figure in plan.figures
    )
    variants = tuple(new for old in plan.variants for new in made.get(old.name, [old]))
    found = [variant.name for variant in variants]
    if doubled := first_doubled(found):
        raise ConfigError(f"two variants are named '{doubled}', one for a set of columns; rename the other")
    return replace(plan, variants=variants, figures=figures)


def _names(made: Mapping[str, Sequence[Variant]], name: str) -> list[str]:
    return [variant.name for variant in made[name]] if name in made else [name]
