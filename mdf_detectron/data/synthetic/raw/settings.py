"""What the generator of the raw tree is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mdf_detectron.data.synthetic.cohort import CohortSettings

FILMS_PER_PATIENT = 377_110 / 300_000
"""Films of the full-size table over its patients."""
READ_SHARE = 2_616 / 377_110
"""Share of the full-size table's films that were read."""

# Dirt in the triage table, as shares: of visits (the share without vitals is the cohort's).
CELSIUS, DECIMAL_SLIP, O2_ABOVE_100, SWAPPED_PRESSURES, ODD_PAIN = 0.002, 0.0002, 0.0002, 0.0002, 0.03
# What readers do: shares of the regions (missed, class swapped within the pair, several labels), the spread of a box
# edge as a share of the box, and the share of coordinates that lie off the image.
MISS, SWAP, SEVERAL_LABELS, JITTER, OFF_IMAGE = 0.15, 0.05, 0.15, 0.06, 0.01


@dataclass(frozen=True)
class RawSettings:
    """The cohort, its size as tables, and how dirty it is.

    Attributes:
        cohort: seed, patients, signal, ambiguity and film size; its ``missing`` is the share of visits without vitals.
        num_films: rows of the film table, lateral films too; None is :data:`FILMS_PER_PATIENT` a patient.
        dirt: factor on the shares of celsius, decimal slips, saturations above 100 and odd pain; 0 is a clean table.
        reader_noise: factor on everything that readers do wrong; 0 gives clean readers.
        tables_only: no image and no MIMIC-Eye view, and few read films (:data:`READ_SHARE`).
    """

    cohort: CohortSettings
    num_films: int | None = None
    dirt: float = 1.0
    reader_noise: float = 1.0
    tables_only: bool = False

    def __post_init__(self) -> None:
        if self.num_films is not None and self.num_films < 20:
            raise ValueError(f"num_films must be at least 20, got {self.num_films}")
        if self.num_films is None and self.films < 20:
            raise ValueError(f"num_patients must be at least 16 for a raw tree, got {self.cohort.num_patients}")
        for name, top in (("dirt", 1 / ODD_PAIN), ("reader_noise", 1 / MISS)):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= top):
                raise ValueError(f"{name} must be a factor between 0 and {top:.3g}, got {value}")

    @property
    def films(self) -> int:
        """Rows of the film table."""
        return self.num_films or round(FILMS_PER_PATIENT * self.cohort.num_patients)

    @property
    def read_share(self) -> float:
        """Share of the studies whose frontal film is read."""
        return min(1.0, READ_SHARE / FIRST_FILM_SHARE) if self.tables_only else 0.9


FIRST_FILM_SHARE = 0.62
"""Share of the films that open a study; the others are further views of it."""
