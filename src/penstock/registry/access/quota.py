"""Quotas: how many requests a key may send in a day or a month of the calendar, in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias, cast

Every: TypeAlias = Literal["day", "month"]

_FORM = re.compile(r"(\d{1,12})/(day|month)", re.IGNORECASE)


class Period(NamedTuple):
    """One day or month, such as `2026-11-29` or `2026-11`, and when it is over, in seconds since 1970."""

    name: str
    ends_at: int


class Quota(NamedTuple):
    """So many requests in each day or month."""

    requests: int
    every: Every

    @classmethod
    def parse(cls, text: str) -> Quota:
        """The quota of `5000/day` or `100000/month`. Raises ValueError for anything else, and for none."""
        match = _FORM.fullmatch(text.replace(" ", ""))
        if match is None or not int(match[1]):
            raise ValueError("should be a number of requests in a day or a month, such as 5000/day or 100000/month")
        return cls(int(match[1]), cast(Every, match[2].lower()))

    def period(self, at_s: float) -> Period:
        """The one that holds a time, in seconds since 1970."""
        day = datetime.fromtimestamp(at_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self.every == "day":
            return Period(f"{day:%Y-%m-%d}", int((day + timedelta(days=1)).timestamp()))
        after = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        return Period(f"{day:%Y-%m}", int(after.timestamp()))
