"""What receivers get: the payload of an Alertmanager webhook, version 4, with one alert in it.

Each alert is a group of its own, as with `group_by: ['...']`, so that what a receiver keeps by `groupKey` is one alert.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from penstock.monitor.alerts.states import News, fingerprint

RECEIVER = "penstock"
NEVER = "0001-01-01T00:00:00Z"
"""The end of an alert that fires, as Go writes it."""


class Event(NamedTuple):
    """An alert that begins to fire, still does, or no longer does. Times are seconds since 1970."""

    news: News
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    began: float
    ended: float | None = None

    @property
    def key(self) -> str:
        """The same for the same news: a receiver that knows it may leave a message out."""
        return f"{fingerprint(self.labels)}-{moment(self.began)}-{self.news}"


def payload(event: Event, url: str) -> str:
    """The body of the message, in JSON. `url` is the address of the server."""
    labels, annotations = dict(event.labels), dict(event.annotations)
    alert = {
        "status": event.news,
        "labels": labels,
        "annotations": annotations,
        "startsAt": moment(event.began),
        "endsAt": NEVER if event.ended is None else moment(event.ended),
        "generatorURL": f"{url}/metrics",
        "fingerprint": fingerprint(labels),
    }
    document: dict[str, Any] = {
        "version": "4",
        "groupKey": "{}:{" + ", ".join(f"{name}={_quoted(labels[name])}" for name in sorted(labels)) + "}",
        "truncatedAlerts": 0,
        "status": event.news,
        "receiver": RECEIVER,
        "groupLabels": labels,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": url,
        "alerts": [alert],
    }
    return json.dumps(document, ensure_ascii=False)


def moment(seconds: float) -> str:
    """A time in RFC 3339, in milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# Texts of rules

_PLACE = re.compile(r"\{\{ *\$(?:labels\.(?P<label>\w+)|value(?: *\| *(?P<filter>\w+))?) *\}\}")


def rendered(template: str, labels: Mapping[str, str], value: float) -> str:
    """A text of a rule with its labels and value, as Prometheus writes it."""

    def replaced(match: re.Match[str]) -> str:
        if match["label"]:
            return labels.get(match["label"], "")
        return _FILTERS[match["filter"]](value)

    return _PLACE.sub(replaced, template)


def _plain(value: float) -> str:
    return repr(value).removesuffix(".0") if math.isfinite(value) else f"{value}"


def _percentage(value: float) -> str:
    return f"{value * 100:.4g}%"


def _duration(value: float) -> str:
    sign, value = ("-", -value) if value < 0 else ("", value)
    if value >= 60:
        minutes, seconds = divmod(int(value), 60)
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        parts = {"d": days, "h": hours, "m": minutes, "s": seconds}
        first = next(index for index, count in enumerate(parts.values()) if count)
        return sign + " ".join(f"{count}{unit}" for unit, count in list(parts.items())[first:])
    scale, unit = next((scale for scale in _SCALES if value * scale[0] >= 1), _SCALES[-1] if value else _SCALES[0])
    return f"{sign}{value * scale:.4g}{unit}"


_SCALES = ((1, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns"))
_FILTERS: dict[str | None, Callable[[float], str]] = {
    None: _plain,
    "humanizePercentage": _percentage,
    "humanizeDuration": _duration,
}
