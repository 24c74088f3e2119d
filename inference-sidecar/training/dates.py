"""Moments of RFC 3339, and the time between two of them."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

UNITS = {"seconds": 1.0, "minutes": 60.0, "hours": 3_600.0, "days": 86_400.0}
EPOCH_DAY = datetime.date(1970, 1, 1).toordinal()
SHAPE = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})"
    r"(?:[Tt](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d{2}):?(\d{2})))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Moment:
    """Since 1970-01-01T00:00:00Z, leap seconds not counted; `nanos` in 0..10^9."""

    seconds: int
    nanos: int

    def since(self, other: Moment, unit: float) -> float:
        """Each step in float64: seconds, then the fraction, then the unit."""
        return (float(self.seconds - other.seconds) + float(self.nanos - other.nanos) / 1e9) / unit


def parse(text: str) -> Moment | None:
    """A date is its midnight in UTC; None where the text is no date."""
    match = SHAPE.fullmatch(text)
    if not match:
        return None
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = match.groups(default="")
    try:
        days = datetime.date(int(year), int(month), int(day)).toordinal() - EPOCH_DAY
    except ValueError:
        return None
    if not hour:
        return Moment(days * 86_400, 0)
    clock = int(hour) * 3_600 + int(minute) * 60 + int(second)
    if int(hour) > 23 or int(minute) > 59 or int(second) > 60:
        return None
    offset = 0
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            return None
        offset = (int(hours) * 3_600 + int(minutes) * 60) * (-1 if sign == "-" else 1)
    return Moment(days * 86_400 + clock - offset, int(fraction.ljust(9, "0") or "0"))
