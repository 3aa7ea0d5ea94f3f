"""`POST /predict/batch`: several requests for one model in one body."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Union

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model

from penstock.engine.admission import Lease
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.observation import Prediction
from penstock.errors import InvalidInput, ModelNotFound, PenstockError
from penstock.gateway.http import JSON, Call, Headers, Reply
from penstock.gateway.native.decoding import Batch
from penstock.gateway.native.fast_json import has_arrays
from penstock.gateway.native.predict import (
    SMALL,
    VersionNotFound,
    check_sender,
    decode_in_thread,
    flags_header,
    in_writer,
    lease_of,
    model_header,
    reference,
    require_json,
    send_text,
    task_of_query,
)
from penstock.gateway.problems import BatchItemError, WireModel, describe
from penstock.tasks.responses import ResponseText
from penstock.tasks.validation_errors import refusal

MAX_BATCH_ITEMS = 1024


class BatchRequest(WireModel):
    """Several requests for one model."""

    model_config = ConfigDict(extra="forbid")

    requests: list[JsonValue] = Field(
        min_length=1,
        max_length=MAX_BATCH_ITEMS,
        description="Each as for POST /predict; each succeeds or fails on its own.",
    )
    model: str | None = Field(default=None, description="name[:version|@alias]; the default model if absent.")
    task: str | None = Field(default=None, description="A task of the model; its default if absent.")


async def predict_batch(call: Call) -> Reply:
    """`POST /predict/batch`: every item succeeds or carries its own error."""
    started = time.monotonic()
    engine = call.service.engine
    with lease_of(call, None) as lease:
        lease.check_draining()  # the queue is checked below, once the body has named the model
        require_json(call.header("content-type") or "")
        body = await call.body()
        fast = any(has_arrays(runner.task) for model in engine.loaded() for runner in model.runners.values())
        large = len(body) >= SMALL
        until = time.monotonic() + call.service.settings.request_timeout_ms / 1000
        until = until if lease.requested_deadline is None else lease.requested_deadline
        batch = await decode_in_thread(until, body, _read_batch, body, fast) if large else _read_batch(body, fast)
        lease.task = _task_of_batch(call, batch.shell.get("task"))
        await _hold_model(call, lease, batch.shell.get("model"))
        read = (_read_items, lease, batch)
        items = await decode_in_thread(lease.deadline, body, *read) if large else _read_items(lease, batch)
        await lease.decide(next((item for item in items if not isinstance(item, PenstockError)), None))
        if lease.runner.task.stores:
            check_sender(call)
        lease.started = time.monotonic()
        places = [place for place, item in enumerate(items) if not isinstance(item, PenstockError)]
        good = [items[place] for place in places]
        size = len(body) // max(1, len(items))
        results = iter(await engine.pipeline.predict_batch(lease, good, size=size, places=places))
    answers = [item if isinstance(item, PenstockError) else next(results) for item in items]
    text = ResponseText(_batch_pieces(answers, started, call.request_id))
    await in_writer(text.start)
    return Reply(200, _batch_headers(answers), text.head if text.whole else send_text(text))


def _read_batch(body: bytes, fast: bool) -> Batch:
    """Check the body except for the items, which are decoded later. Raises InvalidInput."""
    batch = Batch(body, fast=fast)
    try:
        BatchRequest.model_validate(batch.shell)
    except ValidationError as error:
        raise refusal(error) from None
    return batch


def _task_of_batch(call: Call, kind: str | None) -> str | None:
    queried = task_of_query(call)
    if None not in (queried, kind) and queried != kind:
        raise InvalidInput(f"task: the query names {queried!r}, the body {kind!r}", field="task")
    return queried or kind


async def _hold_model(call: Call, lease: Lease, ref: str | None) -> None:
    """Admit a batch against the model it names. Raises ModelNotFound naming the field `model`."""
    try:
        lease.ref = None if ref is None else reference(call, ref)
        if not lease.hold():
            await lease.load()
    except ModelNotFound as error:
        raise error if ref is None else VersionNotFound(str(error), "model") from None


def _read_items(lease: Lease, batch: Batch) -> list[BaseModel | PenstockError]:
    """The requests of a batch, with the error in place of each invalid one. Errors are observed here."""
    items = [_of_version(lease.model, item) for item in batch.items(lease.runner.task)]
    for item in items:
        if isinstance(item, PenstockError):
            lease.observe_failure(item)
    return items


def _of_version(model: LoadedModel, item: BaseModel | PenstockError) -> BaseModel | PenstockError:
    version = getattr(item, "model_version", None)
    if version is not None and version != model.version:
        return VersionNotFound(f"this batch is for {model.key}; name another version in the batch's `model`")
    return item


def _batch_pieces(answers: list[Prediction | PenstockError], started: float, request_id: str) -> Iterator[bytes]:
    total = len(answers)
    left = answers[::-1]
    del answers
    separator = b'{"predictions":['
    while left:
        answer = left.pop()  # the memory of an item is released when it is written
        yield separator
        separator = b","
        if isinstance(answer, Prediction) and answer.text is not None:
            yield from answer.text.pieces
        else:
            yield _item_json(answer, request_id)
    yield b'],"total_count":%d,"total_time_ms":%.3f}' % (total, (time.monotonic() - started) * 1000)


def _batch_headers(answers: Sequence[Prediction | PenstockError]) -> Headers:
    good = [answer for answer in answers if isinstance(answer, Prediction)]
    headers = [("content-type", JSON)]
    if good:
        slowest = {name: max(getattr(p, f"{name}_ms") for p in good) for name in ("queue", "pre", "run", "post")}
        headers.append(("server-timing", ", ".join(f"{name};dur={ms:.3f}" for name, ms in slowest.items())))
        headers.append(("x-penstock-model", model_header(good[0].model, good[0].version, good[0].variant)))
        flags = dict.fromkeys(flag for p in good for flag in p.flags)
        if flags:
            headers.append(("x-penstock-flags", flags_header(flags)))
    return headers


def _item_json(answer: Prediction | PenstockError, request_id: str) -> bytes:
    if isinstance(answer, Prediction):
        return answer.response.__pydantic_serializer__.to_json(answer.response)
    return orjson.dumps({"error": describe(answer, request_id)})


class BatchError(WireModel):
    """A failed item."""

    error: BatchItemError


def batch_response(answers: Iterable[type[BaseModel]]) -> type[BaseModel]:
    """The model of a batch's response, whose items are one of `answers` or an error; for the documentation."""
    item: Any = Union[(*answers, BatchError)]  # built at run time
    return create_model(
        "BatchResponse",
        predictions=(list[item], Field(description="In the order of the requests.")),
        total_count=(int, Field(ge=0)),
        total_time_ms=(float, Field(ge=0)),
    )
