"""What Pydantic found wrong, as our own errors: one sentence, and the path of every faulty field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from penstock.errors import FieldError, InvalidInput, ModelLoadError, printable

Model = TypeVar("Model", bound=BaseModel)

MAX_ERRORS = 20
"""How many faults of one request are told."""

_SHOWN = 3
_LONGEST_NAME = 128
_HOPELESS = 1000
"""A request with more faults is only told their number: Pydantic lists all of them or none, a kilobyte each."""


def field_path(loc: tuple[int | str, ...]) -> str:
    """`("input_data", 3)` as `input_data[3]`, `("a", "b")` as `a.b`; names are a client's, and stay on their line."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{_name(part)}" if path else _name(part)
    return path


def _name(part: str) -> str:
    plain = printable(part)
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[:_LONGEST_NAME]}…"


def refusal(error: ValidationError) -> InvalidInput:
    """The InvalidInput that says what `error` says, without the values that came; the request itself is `body`."""
    count = error.error_count()
    if count > _HOPELESS:
        return InvalidInput(f"body: {count} fields are wrong", field="body")
    errors = _field_errors(error, "body")
    return InvalidInput(_sentence(errors, count), errors=errors)


def parse_request(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """A request from its fields; raises InvalidInput naming each one that is wrong."""
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        raise refusal(error) from None


def parse_config(model: type[Model], kind: str, config: Mapping[str, Any]) -> Model:
    """A task's configuration from a manifest; raises ModelLoadError naming what does not fit."""
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:
        faults = _sentence(_field_errors(error, ""), error.error_count())
        raise ModelLoadError(f"the {kind} settings of the model do not fit: {faults}") from None


def _field_errors(error: ValidationError, whole: str) -> tuple[FieldError, ...]:
    """The first faults, in Pydantic's order and words; `whole` names the fault that is in no single field."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
    return tuple(
        FieldError(field_path(fault["loc"]) or whole, fault["msg"].removeprefix("Value error, ")) for fault in faults
    )


def _sentence(errors: tuple[FieldError, ...], count: int) -> str:
    """The first faults in one sentence, and how many more there are."""
    shown = "; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in errors[:_SHOWN])
    return shown if count <= _SHOWN else f"{shown}; and {count - _SHOWN} more"
