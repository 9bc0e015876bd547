"""What happens to broken input: it stops the preparation, or it is skipped, counted and listed."""

from __future__ import annotations

from collections import Counter

from mdf_detectron.errors import SourceDataError

LISTED = 20
"""Messages of one kind that the report lists; further ones are counted only."""


class Problems:
    """Collects broken input.

    Args:
        skip: False raises at the first problem (``--on-error stop``); True counts it and goes on (``skip``).
    """

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.counts: Counter[str] = Counter()
        self.listed: dict[str, list[str]] = {}

    def add(self, kind: str, message: str) -> None:
        """One problem of a ``kind`` (a short phrase that the report counts by).

        ``message`` names file, row and value, what was expected and what to do.

        Raises:
            SourceDataError: the message, unless problems are skipped.
        """
        if not self.skip:
            raise SourceDataError(f"{message} (--on-error skip counts such entries and goes on without them)")
        self.counts[kind] += 1
        listed = self.listed.setdefault(kind, [])
        if len(listed) < LISTED:
            listed.append(message)

    def as_dict(self) -> dict[str, dict]:
        """Kind → ``count`` and the first messages, for the report."""
        return {kind: {"count": n, "first": self.listed[kind]} for kind, n in self.counts.items()}
