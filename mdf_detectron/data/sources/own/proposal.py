"""Propose a schema for undescribed columns: kinds, vocabularies, ranges, and questions for the user.

The proposal is a commented schema file; the user edits it and prepares again with ``--schema``.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import yaml

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema, TableRecipe
from mdf_detectron.data.sources.kit.collection import ColumnSpec
from mdf_detectron.data.sources.kit.values import (
    DECIMAL_COMMA,
    GROUPS_OR_DECIMALS,
    OTHER_UNIT,
    SEX_WORDS,
    YES_NO_WORDS,
    fold,
    is_age,
    is_empty,
    is_grouped,
    is_unit,
    parse_age,
    parse_number,
    unit_key,
    unit_of,
)
from mdf_detectron.data.sources.own import suspicions

MOST_CATEGORIES = 12
FENCE = 6.0
"""Values this many interquartile ranges outside the quartiles are asked about."""
FEW_CODES = 6

_IN_BRACKETS = re.compile(r"[\[(]\s*([^\])]+?)\s*[\])]\s*$")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d.*)?$")


@dataclass
class Proposal:
    """A proposed schema, and by column: reasons, questions for the user, and why a column is left out."""

    columns: list[ClinicalColumn] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    questions: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    recipe: TableRecipe = field(default_factory=TableRecipe)

    @property
    def schema(self) -> ClinicalSchema:
        return ClinicalSchema(tuple(self.columns), table=self.recipe)

    def to_yaml(self) -> str:
        lines = [
            "# Proposed from the data. Edit it where you know better, then prepare again with --schema THIS_FILE.",
            "# kind: numeric (minimum, maximum: a value outside becomes missing) or categorical (vocabulary).",
            "# missing: values that mean a missing one. mapping: {spelling: value}. source: column of the table.",
            "version: 1",
            "columns:" if self.columns else "columns: []  # no clinical record: for image-only models",
        ]
        for column in self.columns:
            lines += [f"  # {text}" for text in self.reasons.get(column.name, ())]
            lines += [f"  # DECIDE: {text}" for text in self.questions.get(column.name, ())]
            lines.append(f"  - {_flow(column.to_dict())}")
        if self.left_out:
            lines.append("# Left out; add a column here to use it:")
            lines += [f"#   {name}: {reason}" for name, reason in self.left_out.items()]
        if table := self.recipe.to_dict():
            lines += ["# How the table was read, and a table of new patients will be:", f"table: {_flow(table)}"]
        return "\n".join(lines) + "\n"


def _flow(entries: dict[str, Any]) -> str:
    text = yaml.safe_dump([entries], sort_keys=False, allow_unicode=True, default_flow_style=True, width=10_000)
    return text.strip()[1:-1]


def propose(specs: Sequence[ColumnSpec], values: dict[str, list[Any]], recipe: TableRecipe) -> Proposal:
    """Propose a schema for ``specs`` from name → raw values of the table's rows or the DICOM tags."""
    proposal = Proposal(recipe=recipe)
    for spec in specs:
        column = _column(spec, values[spec.name], proposal)
        if column is not None:
            source = "" if spec.source == spec.name else spec.source
            proposal.columns.append(replace(column, source=source, mapping=spec.mapping))
    return proposal


def _column(spec: ColumnSpec, values: list[Any], proposal: Proposal) -> ClinicalColumn | None:
    name, filled, recipe = spec.name, [v for v in values if not is_empty(v)], proposal.recipe
    reasons, questions = proposal.reasons.setdefault(name, []), proposal.questions.setdefault(name, [])
    reasons.append(f"{name}: from '{spec.source}', {len(values) - len(filled)} of {len(values)} values empty.")
    if not filled:
        proposal.left_out[name] = "all values are empty"
        return None
    if spec.mapping:
        reasons.append("Vocabulary: the values that --columns maps to.")
        return ClinicalColumn(name, "categorical", vocabulary=tuple(dict.fromkeys(spec.mapping.values())))
    units = Counter() if is_age(name, spec.source) else _units(spec.source, filled)
    unit = next(iter(units), "")
    read = [parse_age(v) if is_age(name, spec.source)
            else parse_number(v, recipe.decimal_comma, recipe.thousands, unit) for v in filled]  # fmt: skip
    numbers, why_not = np.array([n for n, _ in read if n is not None]), Counter(how for n, how in read if n is None)
    if why_not[OTHER_UNIT] and len(numbers) + why_not[OTHER_UNIT] >= suspicions.MOSTLY * len(filled):
        proposal.left_out[name] = f"numbers in several units ({', '.join(units)}); convert them to one in the table"
        return None
    if len(numbers) >= suspicions.MOSTLY * len(filled):
        plain = numbers[~np.isin(numbers, list(suspicions.missing_codes(numbers)))]
        if not is_age(name, spec.source) and (reason := suspicions.no_measurement(name, plain, map(str, filled))):
            proposal.left_out[name] = reason
            return None
        _ask_about_notation(filled, why_not, recipe, questions)
        return _numeric(spec, numbers, unit, proposal)
    commas = why_not[DECIMAL_COMMA] + why_not[GROUPS_OR_DECIMALS]
    if len(numbers) + commas >= suspicions.MOSTLY * len(filled):
        decimal = "numbers with a decimal comma; prepare again with --decimal-comma"
        proposal.left_out[name] = decimal if why_not[DECIMAL_COMMA] else f"numbers with {GROUPS_OR_DECIMALS}"
        return None
    folded = Counter(fold(v) for v in filled)
    if sum(bool(_DATE.match(str(v))) for v in filled) >= suspicions.MOSTLY * len(filled):
        proposal.left_out[name] = "dates; a model reads numbers: compute an age or a number of days from it"
        return None
    if folded.keys() <= SEX_WORDS.keys() and len(folded) <= 8:
        reasons.append("Sex, in spellings that are folded to one letter.")
        words = {SEX_WORDS[word] for word in folded}
        return ClinicalColumn(name, "categorical", vocabulary=tuple(sorted(words | {"F", "M"})))
    if len(numbers) >= 0.3 * len(filled):
        questions.append(f"{len(numbers)} of {len(filled)} values are numbers, the others text; taken as categories.")
    if nones := sum(isinstance(v, str) and fold(v) == "none" for v in values):
        questions.append(f"None ({nones} times) is read as missing. If it is a value, add it to the vocabulary.")
    return _categorical(name, filled, folded, proposal)


def _units(source: str, filled: Sequence[Any]) -> Counter[str]:
    """Count the units in the brackets of a header and after numbers, most frequent first; in one spelling each."""
    header = _IN_BRACKETS.search(source)
    found = Counter(u for value in filled if isinstance(value, str) if (u := unit_of(value)))
    if header and is_unit(header[1]):
        found[header[1]] += len(filled)
    merged: dict[str, str] = {}
    return Counter(merged.setdefault(unit_key(unit), unit) for unit, _ in found.most_common())


def _ask_about_notation(
    filled: Sequence[Any], why_not: Counter[str | None], recipe: TableRecipe, questions: list[str]
) -> None:
    if why_not:
        listed = "; ".join(f"{reason}: {n}" for reason, n in why_not.most_common())
        questions.append(f"{why_not.total()} values become missing: {listed}.")
    for mark in ",." if recipe.decimal_comma else ".":
        marked = [v for v in filled if isinstance(v, str) and mark in v]
        if mark != recipe.thousands and len(marked) > 1 and all(is_grouped(v, mark) for v in marked):
            option = "--thousands , instead of --decimal-comma" if mark == "," else "--thousands . --decimal-comma"
            questions.append(f"{len(marked)} values have three digits after each '{mark}'. If it separates thousands, "
                             f"prepare again with {option}.")  # fmt: skip


def _numeric(spec: ColumnSpec, numbers: np.ndarray, unit: str, proposal: Proposal) -> ClinicalColumn | None:
    name, questions, reasons = spec.name, proposal.questions[spec.name], proposal.reasons[spec.name]
    if len(set(numbers)) == 1:
        proposal.left_out[name] = f"only one value, {numbers[0]:g}"
        return None
    alike = suspicions.missing_codes(numbers)  # one that is there once may be the sickest patient's value
    codes = {value: count for value, count in alike.items() if count > 1}
    values = numbers[~np.isin(numbers, list(codes))]
    span = f"{values.min():g} to {values.max():g}"
    if codes:
        listed = ", ".join(f"{code:g} ({count} times)" for code, count in codes.items())
        questions.append(f"{listed} is apart from all others ({span}) and taken as "
                         "a code for a missing value. If it is a value, remove it from 'missing'.")  # fmt: skip
    missing = tuple(int(code) if code.is_integer() else code for code in codes)
    if is_age(name, spec.source):
        reasons.append("An age: 0 to 120 years.")
        if outside := int(((values < 0) | (values > 120)).sum()):
            questions.append(f"{outside} ages are outside and become missing.")
        return ClinicalColumn(name, "numeric", "years", 0, 120, missing=missing)
    if text := suspicions.mixed_units(values):
        questions.append(f"{text}.")
    fitting = suspicions.possible_units(f"{spec.name} {spec.source}", unit, values)
    if fitting:
        low, high = min(r[0] for r in fitting.values()), max(r[1] for r in fitting.values())
        reasons.append(f"Range: what is possible in a patient, by the name of the column. Found: {span}.")
        if len(fitting) > 1:
            questions.append(f"the unit is {' or '.join(fitting)}? Name it with unit: ... and narrow the range.")
        elif not unit:
            questions.append(f"the unit is {next(iter(fitting))} by name and values. Correct it if it is another.")
        unit = next(iter(fitting)) if len(fitting) == 1 else ""
    else:
        low, high = suspicions.wide_range(values)
        reasons.append(f"Range: ten times as wide as the values ({span}), since the column is not known.")
        questions.append(f"write the possible range in a patient{'' if unit else ' and its unit'}.")
    _ask_about_values(values, low, high, list(alike), questions)
    return ClinicalColumn(name, "numeric", unit, low, high, missing=missing)


def _ask_about_values(values: np.ndarray, low: float, high: float, alike: list[float], questions: list[str]) -> None:
    """Ask about values outside the range, far from all others or like a code, and whole numbers that may be ids."""
    first, third = np.percentile(values, [25, 75])
    reach = FENCE * max(third - first, 0.05 * max(abs(first), abs(third)), 1e-9)
    outside = (values < low) | (values > high)
    far = ~outside & ((values < first - reach) | (values > third + reach) | np.isin(values, alike))
    for chosen, text in ((outside, "outside the range, and missing"), (far, "far from all others, but kept")):
        if chosen.any():
            found = Counter(values[chosen].tolist()).most_common(5)
            listed = ", ".join(f"{v:g}" + (f" ({n} times)" if n > 1 else "") for v, n in found)
            questions.append(f"{text}: {listed}. An error, a code, or another unit? Else correct the range.")
    distinct = sorted(set(values[~outside].tolist()))
    if all(v.is_integer() for v in distinct) and len(distinct) <= FEW_CODES:
        codes = ", ".join(f"{v:g}" for v in distinct)
        questions.append(f"only the whole numbers {codes}: if codes, make it categorical with that vocabulary.")
    elif all(v.is_integer() for v in distinct) and len(distinct) == len(values) >= 20:
        questions.append("whole numbers, another one in each row. If they are identifiers, remove the column.")


def _categorical(name: str, filled: list[Any], folded: Counter[str], proposal: Proposal) -> ClinicalColumn | None:
    if len(folded) == 1:
        proposal.left_out[name] = f"only one value, {str(filled[0])[:40]!r}"
        return None
    if folded.keys() <= YES_NO_WORDS.keys():
        proposal.reasons[name].append("Yes or no.")
        return ClinicalColumn(name, "categorical", vocabulary=("no", "yes"))
    if len(folded) > MOST_CATEGORIES:
        kind = "an identifier or free text" if len(folded) > 0.5 * len(filled) else "too many categories"
        proposal.left_out[name] = f"{len(folded)} distinct texts in {len(filled)} values: {kind}"
        return None
    spellings: dict[str, Counter[str]] = {}
    for value in filled:
        spellings.setdefault(fold(value), Counter())[" ".join(str(value).split())] += 1
    words = sorted(counts.most_common(1)[0][0] for counts in spellings.values())
    proposal.reasons[name].append("Vocabulary: the values found, each in its most frequent spelling.")
    if near := suspicions.near_names(words):
        text = f"nearly the same: {'; '.join(near[:5])}. One value? Then add mapping: {{one: other}}."
        proposal.questions[name].append(text)
    if rare := [word for word in words if folded[fold(word)] < 3]:
        listed = ", ".join(rare[:5])
        proposal.questions[name].append(f"rare: {listed}. A misspelling? Then add mapping: {{misspelled: right}}.")
    return ClinicalColumn(name, "categorical", vocabulary=tuple(words))
