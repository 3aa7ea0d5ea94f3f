"""`POST /feedback`: the right classes of predictions, which become known later."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from penstock.engine.allowed_models import AllowedModels
from penstock.errors import ConfigError, InvalidInput
from penstock.gateway.http import Call, Reply, json_reply
from penstock.gateway.native.decoding import parse
from penstock.gateway.problems import Refusal, WireModel, body_too_large, retry_after
from penstock.monitor.prediction_log.feedback import PAUSE_S, Feedback
from penstock.settings import Settings
from penstock.tasks.validation_errors import refusal

if TYPE_CHECKING:
    from penstock.registry.database.feedback import Labelled, Result

MAX_ITEMS = 1024
MAX_BODY_BYTES = 1024 * 1024
LONGEST_LABEL = 200
MOST_WAITING = 64
"""Calls that look a second time for a prediction that may have been made just now."""
LARGEST = 2**31 - 1
_REQUEST_ID = re.compile("[!-~]{1,128}")

_database = ThreadPoolExecutor(2, "penstock-feedback-label")
"""A database that hangs keeps no other threads from their work."""
_waiting = 0


def _request_id(value: object) -> object:
    if not isinstance(value, str) or not _REQUEST_ID.fullmatch(value):
        raise ValueError("give the X-Request-ID of the prediction's reply, 1 to 128 letters, digits and signs of ASCII")
    return value


def _label(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("give the number of a class, or its name")
    return value


class FeedbackItem(WireModel):
    """The right class of one prediction."""

    model_config = ConfigDict(extra="forbid")

    request_id: Annotated[str, BeforeValidator(_request_id)] = Field(
        description="The `X-Request-ID` of the prediction's reply.", examples=["3f2a91c0-1b"]
    )
    label: Annotated[StrictInt | StrictStr, BeforeValidator(_label)] = Field(
        description="The number of the class, or its name where the model has names.", examples=[7]
    )
    item: StrictInt | None = Field(
        default=None,
        ge=0,
        le=LARGEST,
        description="Which prediction, of a request with several: its place in the batch, or its row.",
    )


class FeedbackItems(WireModel):
    """The right classes of several predictions."""

    model_config = ConfigDict(extra="forbid")

    items: list[FeedbackItem] = Field(min_length=1, max_length=MAX_ITEMS)


class FeedbackTaken(WireModel):
    """What became of the labels."""

    new: int = Field(description="Predictions that had no label.")
    same: int = Field(description="Predictions that had this label already.")
    replaced: int = Field(description="Predictions whose label was another one.")
    unknown: list[str] = Field(description="Request ids of predictions that can get no label; see the 404.")
    ambiguous: list[str] = Field(description="Request ids with several predictions, of which `item` names none.")


async def feedback(call: Call) -> Reply:
    """Record labels; 404 if none of the predictions is known."""
    call.service.check_started()
    body = await call.body()
    if len(body) > MAX_BODY_BYTES:
        raise body_too_large(MAX_BODY_BYTES, "for feedback")
    items = _items(body)
    log = call.service.prediction_log
    if log is None:
        raise Refusal(404, "this server logs no predictions, so none can get a label; set prediction_log", title=_NONE)
    try:
        results = await _recorded(log.feedback, items, None if call.caller is None else call.caller.models)
    except ConfigError as error:
        raise Refusal(503, f"labels cannot be recorded now: {error}", headers=[retry_after(RETRY_S)]) from None
    return json_reply(_taken(items, results, call.service.settings), 202)


RETRY_S = 5.0
_NONE = "No such prediction"


def _items(body: bytes) -> Sequence[FeedbackItem]:
    document = parse(body)
    several = isinstance(document, dict) and "items" in document
    model: type[BaseModel] = FeedbackItems if several else FeedbackItem
    try:
        found: Any = model.model_validate(document)
    except ValidationError as error:
        raise refusal(error) from None
    items: Sequence[FeedbackItem] = found.items if several else [found]
    for index, item in enumerate(items):
        _check_label(item.label, f"items[{index}].label" if several else "label")
    return items


def _check_label(label: int | str, field: str) -> None:
    if isinstance(label, int) and not 0 <= label <= LARGEST:
        raise InvalidInput(f"{field}: the number of a class is from 0 to {LARGEST}", field=field)
    if isinstance(label, str) and not 0 < len(label) <= LONGEST_LABEL:
        raise InvalidInput(f"{field}: the name of a class has 1 to {LONGEST_LABEL} characters", field=field)


async def _recorded(feedback: Feedback, items: Sequence[FeedbackItem], models: AllowedModels | None) -> list[Result]:
    """Record the labels; those of predictions that are not known yet a second time, when they may be."""
    global _waiting
    labels = await asyncio.get_running_loop().run_in_executor(_database, _labels, items, models)
    results = await _in_thread(feedback, labels)
    missing = [index for index, result in enumerate(results) if result == "unknown"]
    if missing and _waiting < MOST_WAITING:
        _waiting += 1
        try:
            await asyncio.sleep(2 * PAUSE_S)
            again = await _in_thread(feedback, [labels[index] for index in missing])
        finally:
            _waiting -= 1
        for index, result in zip(missing, again, strict=True):
            results[index] = result
    return results


def _labels(items: Sequence[FeedbackItem], models: AllowedModels | None) -> list[Labelled]:
    from penstock.registry.database.feedback import Labelled

    reaches = None if models is None else models.allows
    return [Labelled(item.request_id, item.label, item.item, reaches) for item in items]


async def _in_thread(feedback: Feedback, labels: Sequence[Labelled]) -> list[Result]:
    return await asyncio.get_running_loop().run_in_executor(_database, feedback.label, labels)


def _taken(items: Sequence[FeedbackItem], results: Sequence[Result], settings: Settings) -> FeedbackTaken:
    """The reply. Raises Refusal (404) or InvalidInput if nothing was recorded."""
    missing = [item for item, result in zip(items, results, strict=True) if result == "unknown"]
    unknown = [item.request_id for item in missing]
    ambiguous = [item.request_id for item, result in zip(items, results, strict=True) if result == "several"]
    if len(unknown) == len(items):
        raise _unknown(missing, settings)
    if len(unknown) + len(ambiguous) == len(items):
        raise InvalidInput(
            f"item: {ambiguous[0]} was a request for several predictions; name one by its place, from 0", field="item"
        )
    counts = {name: results.count(name) for name in ("new", "same", "replaced")}
    return FeedbackTaken(**counts, unknown=unknown, ambiguous=ambiguous)


def _unknown(items: Sequence[FeedbackItem], settings: Settings) -> Refusal:
    names = [item.request_id + (f" (item {item.item})" if item.item is not None else "") for item in items[:3]]
    named = f"{', '.join(names)}{' …' if len(items) > 3 else ''}"
    share, days = settings.prediction_log_sample * 100, settings.prediction_log_days
    return Refusal(
        404,
        f"no prediction {named} can get a label: {share:g} % of the requests are logged (prediction_log_sample), and "
        f"kept for {days:g} days (prediction_log_days)",
        title=_NONE,
    )
