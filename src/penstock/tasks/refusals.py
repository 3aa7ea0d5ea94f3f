"""What Pydantic found wrong, as our own errors: one sentence, and the path of every faulty field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from penstock.errors import FieldError, InvalidInput, ModelLoadError

Model = TypeVar("Model", bound=BaseModel)
_SHOWN = 3


def field_path(loc: tuple[int | str, ...]) -> str:
    """`("input_data", 3)` as `input_data[3]`, `("a", "b")` as `a.b`."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path


def field_errors(error: ValidationError) -> tuple[FieldError, ...]:
    """One FieldError for each fault, in Pydantic's order and words."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return tuple(FieldError(field_path(fault["loc"]), fault["msg"].removeprefix("Value error, ")) for fault in faults)


def sentence(errors: tuple[FieldError, ...]) -> str:
    """All faults in one sentence; past three, their number."""
    shown = "; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in errors[:_SHOWN])
    return shown if len(errors) <= _SHOWN else f"{shown}; and {len(errors) - _SHOWN} more"


def refusal(error: ValidationError) -> InvalidInput:
    """The InvalidInput that says what `error` says."""
    errors = field_errors(error)
    return InvalidInput(sentence(errors), errors=errors)


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
        raise ModelLoadError(f"the {kind} settings of the model do not fit: {sentence(field_errors(error))}") from None
