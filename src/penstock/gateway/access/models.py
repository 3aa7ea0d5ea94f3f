"""Which models a caller reaches, for routes that show models; a lease judges those that answer."""

from __future__ import annotations

from penstock.gateway.http import Call
from penstock.gateway.problems import Refusal


def check_model(call: Call, name: str, version: str | None = None) -> None:
    """Raises Forbidden naming the model, unless the caller reaches it; without a version, some version of it."""
    allowed = None if call.caller is None else call.caller.models
    if allowed is None:
        return
    if version is None:
        allowed.check_name(name)
    else:
        allowed.check(name, version)


def reaches(call: Call, name: str) -> bool:
    """True if the caller reaches some version of a model."""
    return call.caller is None or call.caller.models is None or call.caller.models.allows_name(name)


def check_every_model(call: Call) -> None:
    """For what tells about all models together. Raises Refusal (403) for a caller that reaches only some."""
    if call.caller is not None and call.caller.models is not None:
        raise Refusal(
            403,
            f"{call.caller.shown} reaches only {call.caller.models.label}, and this route tells about every model; an "
            "administrator can make a key without models",
        )
