"""Read the times of images and records, and tell whether a record is later than its image."""

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple


class Moment(NamedTuple):
    """A time as it is written, in its zone if it names one; ``clock``: with a time of day, not a day alone."""

    when: datetime
    clock: bool

    @property
    def utc(self) -> datetime:
        """The time in UTC, or as written if it has no zone; without a zone, so that any two can be ordered."""
        return (self.when.astimezone(timezone.utc) if self.when.tzinfo else self.when).replace(tzinfo=None)

    def __str__(self) -> str:
        return self.when.isoformat() if self.clock else self.when.date().isoformat()


def parse_time(value: Any, time_format: str | None = None) -> Moment | None:
    """Parse a time in a strptime format, or else ISO 8601; None if it is unreadable."""
    try:
        if isinstance(value, datetime):
            when = value.to_pydatetime() if hasattr(value, "to_pydatetime") else value  # a pandas Timestamp
            moment = Moment(when, when.time() != datetime.min.time())
        elif time_format:
            clock = any(code in time_format for code in ("%H", "%I", "%c", "%X"))
            moment = Moment(datetime.strptime(str(value).strip(), time_format), clock)
        else:
            text = re.sub("Z$", "+00:00", str(value).strip())
            moment = Moment(datetime.fromisoformat(text), len(text) > 10)
        return moment if moment.utc else None
    except (ValueError, TypeError, OverflowError):
        return None


def is_later(record: Moment, image: Moment) -> bool | None:
    """Tell whether a record is later than its image, in UTC; None if only one of them names its zone.

    Days as written are compared if one of them has no time of day.
    """
    if (record.when.tzinfo is None) != (image.when.tzinfo is None):
        return None
    if not (record.clock and image.clock):
        return record.when.date() > image.when.date()
    return record.utc > image.utc


def dicom_time(tags: Mapping[str, str | None]) -> Moment | None:
    """Return the time of acquisition, or else of the study; None if unknown."""
    for kind in ("Acquisition", "Study"):
        day, clock = tags.get(f"{kind}Date"), tags.get(f"{kind}Time")
        if day and re.fullmatch(r"\d{8}", day):
            time = f" {clock[:2]}:{clock[2:4]}:{clock[4:6]}" if re.match(r"\d{6}", clock or "") else ""
            return parse_time(f"{day[:4]}-{day[4:6]}-{day[6:]}{time}")
    return None
