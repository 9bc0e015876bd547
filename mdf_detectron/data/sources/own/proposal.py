"""Propose a schema for undescribed columns: kinds, vocabularies, ranges, and questions for the user.

The proposal is a commented schema file; the user edits it and prepares again with ``--schema``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.data.sources.kit.collection import ColumnSpec
from mdf_detectron.data.sources.kit.values import (
    DECIMAL_COMMA,
    SEX_WORDS,
    YES_NO_WORDS,
    fold,
    is_age,
    is_empty,
    parse_age,
    parse_number,
)

MOST_CATEGORIES = 12
MOSTLY = 0.8
"""Least share of numbers among the values of a numeric column."""
FENCE = 6.0
"""Values this many interquartile ranges outside the quartiles count as errors."""
FEW_CODES = 6

_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d.*)?$")


@dataclass
class Proposal:
    """A proposed schema, and by column: reasons, questions for the user, and why a column is left out."""

    columns: list[ClinicalColumn] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    questions: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def schema(self) -> ClinicalSchema:
        return ClinicalSchema(tuple(self.columns))

    def to_yaml(self) -> str:
        lines = [
            "# Proposed from the data. Edit it where you know better, then prepare again with --schema THIS_FILE.",
            "# kind: numeric (minimum, maximum: a value outside becomes missing) or categorical (vocabulary).",
            "version: 1",
            "columns:" if self.columns else "columns: []  # no clinical record: for image-only models",
        ]
        for column in self.columns:
            lines += [f"  # {text}" for text in self.reasons.get(column.name, ())]
            lines += [f"  # DECIDE: {text}" for text in self.questions.get(column.name, ())]
            text = yaml.safe_dump(
                [column.to_dict()], sort_keys=False, allow_unicode=True, default_flow_style=True, width=10_000
            )
            lines.append(f"  - {text.strip()[1:-1]}")
        if self.left_out:
            lines.append("# Left out; add a column here to use it:")
            lines += [f"#   {name}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines) + "\n"


def propose(specs: Sequence[ColumnSpec], values: dict[str, list[Any]], decimal_comma: bool) -> Proposal:
    """Propose a schema for ``specs`` from name → raw values of the table or the DICOM tags, one per image."""
    proposal = Proposal()
    for spec in specs:
        filled = [v for v in values[spec.name] if not is_empty(v)]
        column = _column(spec, filled, len(values[spec.name]), proposal, decimal_comma)
        if column is not None:
            proposal.columns.append(column)
    return proposal


def _column(
    spec: ColumnSpec, filled: list[Any], total: int, proposal: Proposal, decimal_comma: bool
) -> ClinicalColumn | None:
    name = spec.name
    reasons, questions = proposal.reasons.setdefault(name, []), proposal.questions.setdefault(name, [])
    reasons.append(f"{name}: from '{spec.source}', {total - len(filled)} of {total} values empty.")
    if not filled:
        proposal.left_out[name] = "all values are empty"
        return None
    if spec.mapping:
        reasons.append("Vocabulary: the values that --columns maps to.")
        return ClinicalColumn(name, "categorical", vocabulary=tuple(dict.fromkeys(spec.mapping.values())))
    read = [parse_age(v) if is_age(spec.name, spec.source) else parse_number(v, decimal_comma) for v in filled]
    numbers = np.array([n for n, _ in read if n is not None])
    if len(numbers) >= MOSTLY * len(filled):
        return _numeric(spec, numbers, len(filled) - len(numbers), proposal)
    if len(numbers) + sum(how == DECIMAL_COMMA for _, how in read) >= MOSTLY * len(filled):
        proposal.left_out[name] = "numbers with a decimal comma; prepare again with --decimal-comma"
        return None
    folded = Counter(fold(v) for v in filled)
    if sum(bool(_DATE.match(str(v))) for v in filled) >= MOSTLY * len(filled):
        proposal.left_out[name] = "dates; a model reads numbers: compute an age or a number of days from it"
        return None
    if folded.keys() <= SEX_WORDS.keys() and len(folded) <= 8:
        reasons.append("Sex, in spellings that are folded to one letter.")
        words = {SEX_WORDS[word] for word in folded}
        return ClinicalColumn(name, "categorical", vocabulary=tuple(sorted(words | {"F", "M"})))
    if len(numbers) >= 0.3 * len(filled):
        questions.append(f"{len(numbers)} of {len(filled)} values are numbers, the others text; taken as categories.")
    return _categorical(name, filled, folded, proposal)


def _numeric(spec: ColumnSpec, numbers: np.ndarray, unreadable: int, proposal: Proposal) -> ClinicalColumn | None:
    name, questions, reasons = spec.name, proposal.questions[spec.name], proposal.reasons[spec.name]
    if len(set(numbers)) == 1:
        proposal.left_out[name] = f"only one value, {numbers[0]:g}"
        return None
    if unreadable:
        questions.append(f"{unreadable} values are no numbers and become missing; see the report.")
    if is_age(spec.name, spec.source):
        reasons.append("An age: 0 to 120 years.")
        outside = int(((numbers < 0) | (numbers > 120)).sum())
        if outside:
            questions.append(f"{outside} ages are outside and become missing.")
        return ClinicalColumn(name, "numeric", "years", 0, 120)
    low, high = np.percentile(numbers, [25, 75])
    reach = FENCE * max(high - low, 0.05 * max(abs(low), abs(high)), 1e-9)
    inside = numbers[(numbers >= low - reach) & (numbers <= high + reach)]
    suspects = Counter(numbers[(numbers < low - reach) | (numbers > high + reach)].tolist())
    if suspects:
        listed = ", ".join(f"{v:g}" + (f" ({n} times)" if n > 1 else "") for v, n in suspects.most_common(5))
        questions.append(
            f"far from all others and outside the range: {listed}. An error or code? Else widen the range."
        )
    distinct = sorted(set(inside.tolist()))
    if len(distinct) <= FEW_CODES and all(v.is_integer() for v in distinct):
        codes = ", ".join(f"{v:g}" for v in distinct)
        questions.append(f"only the whole numbers {codes}: if codes, make it categorical with that vocabulary.")
    questions.append("the unit is not known; name it with unit: ...")
    minimum, maximum = _widened(float(inside.min()), float(inside.max()))
    reasons.append(f"Range: of the values ({inside.min():g} to {inside.max():g}), widened by a quarter of its width.")
    return ClinicalColumn(name, "numeric", "", minimum, maximum)


def _widened(low: float, high: float) -> tuple[float, float]:
    """Widen a range for new patients, rounded outward to two significant digits; it does not cross zero."""
    room = 0.25 * (high - low)
    step = 10 ** np.floor(np.log10(max(room, 1e-12)))
    minimum = float(np.floor(round((low - room) / step, 9)) * step)
    maximum = float(np.ceil(round((high + room) / step, 9)) * step)
    return (max(minimum, 0.0) if low >= 0 else round(minimum, 10)), round(maximum, 10)


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
    several = sum(len(counts) > 1 for counts in spellings.values())
    proposal.reasons[name].append("Vocabulary: the values found" + (", most frequent spellings." if several else "."))
    if rare := [word for word in words if folded[fold(word)] < 3]:
        listed = ", ".join(rare[:5])
        proposal.questions[name].append(f"rare: {listed}. A misspelling of another? Then map it, as in --columns.")
    return ClinicalColumn(name, "categorical", vocabulary=tuple(words))
