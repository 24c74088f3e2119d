"""Random dates, texts and values of the wrong type, for random_records.py."""

from __future__ import annotations

import datetime
import random
from typing import Any

DATES = (
    "0001-01-01",
    "9999-12-31T23:59:60.999999999Z",
    "2024-02-29",
    "2000-02-29T00:00:00z",
    "1969-12-31t23:59:59.5Z",
    "2026-03-29T02:30:00.000+0000",
    "2026-01-15T12:00:00.000-00:00",
)
WRONG: tuple[Any, ...] = (
    "",
    "yesterday",
    "2023-02-29",
    "1900-02-29",
    "2026-13-01",
    "2026-1-1",
    "0000-01-01",
    "2026-01-01T00:00:00",
    "2026-01-01 00:00:00Z",
    "2026-01-01T24:00:00Z",
    "2026-01-01T00:00:61Z",
    "2026-01-01T00:00:00.Z",
    "2026-01-01T00:00:00.1234567890Z",
    "2026-01-01T00:00:00+24:00",
    "2026-01-01T00:00:00+0160",
    " 2026-01-01",
    "2026-01-01Z",
    "\uff12026-01-01",
    "2026-01-01\n",
    " 12 ",
    "-0.5e3",
    "1,000",
    "0x10",
    "012",
    "+1",
    "1.",
    "NaN",
    "\t7\r\n",
    "\u00a07",
    True,
    17,
    -2.5,
    [],
    ["2026-01-01"],
    {"value": 3},
)
PARTS = (
    "the pump",
    "Login",
    "FAILS",
    "don't",
    "can\u2019t",
    "\u00c9T\u00c9",
    "Stra\u00dfe",
    "\u0130stanbul",
    "\u039f\u0394\u039f\u03a3",
    "e\u0301t\u00e9",
    "\u6771\u4eac\u90fd",
    "\u3053\u3093\u306b\u3061\u306f\u3002",
    "\U0001f69a\ufe0f",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0645\u0631\u062d\u0628\u0627",
    "order 4711",
    "v2.10.3",
    "a",
    "\u2122\u00b5m\u00b2",
    "\u0141\u00f3d\u017a",
    "x" * 40,
    "_snake_case_",
    "\ufeff",
    "\u212aelvin \u212b",
    "\uff26\uff55\uff4c\uff4c",
)
GAPS = (" ", " ", " ", "  ", "\n", "\t", ", ", "; ", "\u2014", "\u00a0", "\u3000", "/", "")


def date(draw: random.Random) -> str:
    if draw.random() < 0.15:
        return draw.choice(DATES)
    day = datetime.date(2026, 1, 15) + datetime.timedelta(days=draw.randint(-900, 400))
    if draw.random() < 0.4:
        return day.isoformat()
    clock = f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}:{draw.randint(0, 59):02}"
    digits = draw.choice((0, 0, 1, 3, 3, 6, 9))
    fraction = "." + "".join(draw.choice("0123456789") for _ in range(digits)) if digits else ""
    zone = draw.choice(("Z", "Z", "+0000", "+01:00", "-0830", "+14:00", "-23:59"))
    return f"{day.isoformat()}T{clock}{fraction}{zone}"


def text(draw: random.Random) -> str:
    """Now and then longer than what is read of a field."""
    kind = draw.random()
    if kind < 0.05:
        return draw.choice(("", " ", "...", "\U0001f69a"))
    count = 900 if kind > 0.995 else draw.randint(1, 25)
    return "".join(draw.choice(PARTS) + draw.choice(GAPS) for _ in range(count))


def wrong(draw: random.Random) -> Any:
    """Of another type, or a word that is no date, or a number in a string."""
    return draw.choice(WRONG)
