"""Settings of servers with more requests than they can answer."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from penstock.options import EngineOptions, option

_HEADER = re.compile(r"header:[a-z0-9!#$%&'*+.^_`|~-]+")


def _caller(value: str) -> str:
    found = value.strip().lower()
    if found not in ("none", "key", "address") and not _HEADER.fullmatch(found):
        raise ValueError("should be none, key, address or header:NAME")
    return found


class OverloadSettings(EngineOptions):
    """Settings of contended models."""

    fair_share_by: Annotated[str, AfterValidator(_caller)] = option(
        "key",
        "Callers that share a contended model fairly: key (API keys, by their weights), address (clients), header:NAME "
        "(its values, which a proxy in front has to set) or none.",
    )
