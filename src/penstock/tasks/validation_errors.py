"""Converts Pydantic's validation errors to Penstock's: one sentence, and the path of every invalid field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from penstock.errors import FieldError, InvalidInput, ModelLoadError, in_json_words, printable

Model = TypeVar("Model", bound=BaseModel)

MAX_ERRORS = 20
"""Maximum number of errors reported per request."""

_SHOWN = 3
_LONGEST_NAME = 128
_MOST_LISTED = 1000
"""Above this, only the number of errors is reported: Pydantic lists all or none, at about a kilobyte each."""


def field_path(loc: tuple[int | str, ...]) -> str:
    """`("input_data", 3)` as `input_data[3]`, `("a", "b")` as `a.b`. Names come from clients: control characters are
    escaped.
    """
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{_name(part)}" if path else _name(part)
    return path


def _name(part: str) -> str:
    return printable(part, _LONGEST_NAME)


def refusal(error: ValidationError) -> InvalidInput:
    """The InvalidInput for `error`, without the values of the request; an error of the whole request names `body`."""
    count = error.error_count()
    if count > _MOST_LISTED:
        return InvalidInput(f"body: {count} fields are invalid", field="body")
    errors = _field_errors(error, "body")
    return InvalidInput(_sentence(errors, count), errors=errors)


def parse_request(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """A request from its fields. Raises InvalidInput naming each invalid field."""
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        raise refusal(error) from None


def parse_fields(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """A request from fields as Python or as JSON has them: a strict model takes text for a date from JSON only.

    Raises InvalidInput naming each invalid field.
    """
    import orjson

    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        failure = error
    try:
        body = orjson.dumps(dict(fields), option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # it holds a value that JSON has not
        raise refusal(failure) from None
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise refusal(error) from None


def parse_config(model: type[Model], kind: str, config: Mapping[str, Any]) -> Model:
    """A task's settings from a manifest. Raises ModelLoadError naming each invalid field."""
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:
        faults = _sentence(*_config_errors(error, config))
        raise ModelLoadError(f"the {kind} settings of the model do not fit: {faults}") from None


def _config_errors(error: ValidationError, config: Mapping[str, Any]) -> tuple[tuple[FieldError, ...], int]:
    """The first errors and the number of all. What the alternatives for one field ask for is one error."""
    faults: dict[str, list[str]] = {}
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        faults.setdefault(field_path(_within(fault["loc"], config)), []).append(_message(fault))
    errors = tuple(FieldError(field, " or ".join(dict.fromkeys(asked))) for field, asked in faults.items())
    return errors[:MAX_ERRORS], len(errors)


def _within(loc: tuple[int | str, ...], document: Any) -> tuple[int | str, ...]:
    """The parts of `loc` that are places in the document; the others name alternatives of its model."""
    kept: list[int | str] = []
    for number, part in enumerate(loc):
        try:
            document = document[part]
        except (LookupError, TypeError):  # no place of the document, unless it is a field that is missing
            if number < len(loc) - 1 or not isinstance(document, Mapping):
                continue
        kept.append(part)
    return tuple(kept)


def _field_errors(error: ValidationError, whole: str) -> tuple[FieldError, ...]:
    """The first errors, in Pydantic's order and wording; `whole` is the name for an error of no single field."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
    return tuple(FieldError(field_path(fault["loc"]) or whole, _message(fault)) for fault in faults)


def _message(fault: ErrorDetails) -> str:
    own, message = "Value error, ", fault["msg"]
    return message.removeprefix(own) if message.startswith(own) else in_json_words(message)


def _sentence(errors: tuple[FieldError, ...], count: int) -> str:
    """The first errors in one sentence, and the number of the others."""
    shown = "; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in errors[:_SHOWN])
    return shown if count <= _SHOWN else f"{shown}; and {count - _SHOWN} more"
