"""What a boundary is, and the outcomes that its inputs are counted by."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCEPTED, REFUSED = "accepted", "refused"
FAILURES = ("accepted wrongly", "unnamed", "traceback", "hang", "memory", "code or file")
"""Outcomes that must not happen: accepted although it is not sound; a message that is not one short line, an exception
that no user could correct (a crash of the process too), more than 20 s, more than 2 GB, code executed or a file outside
of the input's folder opened."""


class NotSound(Exception):
    """An input that was accepted is not what the boundary promises, or reads as another one than it is."""


@dataclass(frozen=True)
class Boundary:
    """One place at which something of unknown origin comes in.

    Attributes:
        name: on the command line and in the table.
        setup: makes what all inputs share (sound seeds, a model), once, in a folder.
        make: (random generator, folder, state) → one mutated input, an argument of ``check``.
        check: (input, state): read it as the program does; returns if it is accepted and was verified to be sound,
            raises :class:`~mdf_detectron.errors.UserError` if it is refused, :class:`NotSound` if it should have been.
        attacks: hostile inputs by hand, (folder, state) → input; they come before the mutated ones.
    """

    name: str
    setup: Callable[[Path], Any]
    make: Callable[[random.Random, Path, Any], Any]
    check: Callable[[Any, Any], None]
    attacks: Sequence[Callable[[Path, Any], Any]] = ()

    def input(self, number: int, seed: int, folder: Path, state: Any) -> Any:
        """Write and return the input of a number, which follows from the seed."""
        if number < len(self.attacks):
            return self.attacks[number](folder, state)
        return self.make(random.Random(f"{seed} {self.name} {number}"), folder, state)


@dataclass(frozen=True)
class Outcome:
    """What became of one input: one of the outcomes above, and the message or traceback."""

    kind: str
    text: str = ""
    seconds: float = 0.0


def expect(sound: bool, text: str) -> None:
    """Raise :class:`NotSound` unless ``sound``."""
    if not sound:
        raise NotSound(text)
