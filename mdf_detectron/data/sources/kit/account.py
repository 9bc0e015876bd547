"""Keep account of a preparation: broken entries, changed values, images and boxes kept and dropped."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.kit.image_files import ImageFile
from mdf_detectron.errors import SourceDataError, shorten

LISTED = 20
"""Messages of each kind that an error or a report lists; the rest are only counted."""


class ProblemList:
    """Collect broken input so that one error reports all of it.

    Args:
        skip: count broken entries and continue without them (``--on-error skip``); else :meth:`stop_if_any` raises.
        show_values: report messages and examples of values too, which may name patients.
    """

    def __init__(self, skip: bool = False, show_values: bool = False) -> None:
        self.skip, self.show_values = skip, show_values
        self.counts: Counter[str] = Counter()
        self.listed: dict[str, list[str]] = {}

    def add(self, kind: str, message: str) -> None:
        """Add a problem of a ``kind`` (a short phrase); the message gives file, row, value, expectation and remedy."""
        self.counts[kind] += 1
        listed = self.listed.setdefault(kind, [])
        if len(listed) < LISTED:
            listed.append(message)

    def stop_if_any(self) -> None:
        """Raise :class:`SourceDataError` listing all problems so far, one per line, unless they are skipped."""
        if self.skip or not self.counts:
            return
        if sum(self.counts.values()) == 1:
            (kind,) = self.counts
            raise SourceDataError(f"{self.listed[kind][0]} (--on-error skip counts such entries and leaves them out)")
        lines = [f"{sum(self.counts.values())} problems (--on-error skip counts such entries and leaves them out):"]
        for kind, count in self.counts.items():
            lines += [f"  {message}" for message in self.listed[kind]]
            if count > LISTED:
                lines.append(f"  … and {count - LISTED} more of the kind '{kind}'")
        raise SourceDataError("\n".join(lines))

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return kind → ``count``, and the ``first`` messages if values may be shown."""
        shown = {kind: {"first": messages} for kind, messages in self.listed.items() if self.show_values}
        return {kind: {"count": n, **shown.get(kind, {})} for kind, n in self.counts.items()}

    def tell(self) -> None:
        """Log the first messages of each kind as warnings."""
        for kind, messages in self.listed.items():
            for message in messages[:LISTED]:
                logging.getLogger(__name__).warning(f"left out, {kind}: {message}")


class ValueLog:
    """Counts values changed (kept, but not as written) and removed (made missing), with examples."""

    EXAMPLES = 5

    def __init__(self) -> None:
        self.changed: Counter[tuple[str, str]] = Counter()
        self.removed: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], list[str]] = {}

    def change(self, column: str, reason: str, example: Any = None, count: int = 1) -> None:
        self._count(self.changed, column, reason, example, count)

    def remove(self, column: str, reason: str, example: Any = None, count: int = 1) -> None:
        self._count(self.removed, column, reason, example, count)

    def _count(self, counter: Counter, column: str, reason: str, example: Any, count: int) -> None:
        if not count:
            return
        counter[column, reason] += int(count)
        known = self.examples.setdefault((column, reason), [])
        if example is not None and len(known) < self.EXAMPLES and shorten(example, 30) not in known:
            known.append(shorten(example, 30))

    def dropped(self) -> dict[str, int]:
        """Return "<column>: <reason>" → number of removed values."""
        return {f"{column}: {reason}": n for (column, reason), n in sorted(self.removed.items())}

    def rows(self) -> list[tuple[str, str, str, int, str]]:
        """Return (column, "changed" or "removed", reason, count, examples) for each column and reason."""
        return [
            (column, what, reason, n, ", ".join(self.examples[column, reason]))
            for what, counter in (("changed", self.changed), ("removed", self.removed))
            for (column, reason), n in sorted(counter.items())
        ]

    def as_dict(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return "changed" or "removed" → column → reason → count."""
        counts: dict[str, dict[str, dict[str, int]]] = {"changed": {}, "removed": {}}
        for column, what, reason, n, _ in self.rows():
            counts[what].setdefault(column, {})[reason] = n
        return counts


@dataclass
class Account:
    """Account of what happened to the input.

    Attributes:
        flow, log: what was read and kept, by stage; values changed and removed.
        image_drops, box_changes: images left out and boxes changed, by reason.
        patients_known: False if the source has no patient ids; then each image counts as a patient.
        files: name → the image that is kept, as it was read.
    """

    problems: ProblemList
    flow: Flow = field(default_factory=Flow)
    log: ValueLog = field(default_factory=ValueLog)
    notes: list[str] = field(default_factory=list)
    image_drops: Counter[str] = field(default_factory=Counter)
    box_changes: Counter[str] = field(default_factory=Counter)
    patients_known: bool = True
    files: dict[str, ImageFile] = field(default_factory=dict)

    def say_patients_unknown(self, remedy: str = "") -> None:
        self.patients_known = False
        self.notes.append("**Patients are not known: each image counts as a patient of its own.** Images of one "
                          f"patient may be in several splits and the results too good{remedy}.")  # fmt: skip

    def drop(self, reason: str, message: str) -> None:
        self.image_drops[reason] += 1
        self.problems.add(reason, message)
