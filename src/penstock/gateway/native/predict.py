"""Predictions over plain HTTP: bytes to a Task request, and the engine's answer back to bytes."""

from __future__ import annotations

import asyncio
import functools
import math
import re
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Union
from urllib.parse import parse_qs, quote

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model

from penstock.artifacts.refs import parse_ref
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.observation import Prediction
from penstock.engine.tasks.ranges import Flag
from penstock.errors import FieldError, InvalidInput, ModelNotFound, PenstockError
from penstock.formats import is_model_file
from penstock.gateway.http import JSON, Call, Reply
from penstock.gateway.native.decoding import Batch, decode, has_arrays
from penstock.gateway.native.uploads import read_upload
from penstock.gateway.problems import BatchItemError, Refusal, describe
from penstock.tasks.base import Task
from penstock.tasks.image import ImageClassification
from penstock.tasks.tabular import TabularTask
from penstock.tasks.tensor import TensorTask
from penstock.tasks.text import TextClassification
from penstock.tasks.validation_errors import refusal
from penstock.tasks.vector import VectorClassification

VECTOR_REQUESTS: tuple[type[BaseModel], ...] = (VectorClassification.Request,)
VECTOR_RESPONSES: tuple[type[BaseModel], ...] = (VectorClassification.Response,)
REQUESTS: tuple[type[BaseModel], ...] = (
    VectorClassification.Request,
    ImageClassification.Request,
    TensorTask.Request,
    TextClassification.Request,
    TabularTask.Request,
)
RESPONSES: tuple[type[BaseModel], ...] = (
    VectorClassification.Response,
    ImageClassification.Response,
    TensorTask.Response,
    TextClassification.Response,
    TabularTask.Response,
)
"""What the built-in Tasks take and give; for the documentation."""

MAX_BATCH_ITEMS = 1024
DECODE_ASIDE_FROM = 256 * 1024
"""Bodies of this many bytes are decoded, prepared and answered in threads: the event loop never waits for one."""

_CURL = "application/x-www-form-urlencoded"
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
PRIORITY_HEADER = "X-Penstock-Priority"
"""Of our own, and not the `Priority` of RFC 9218: browsers send that with every request, each its own values."""
LEAST_AND_MOST = 100
_PRIORITY = re.compile(r"[+-]?[0-9]{1,3}")


def predict(call: Call) -> Awaitable[Reply]:
    """`POST /predict`: the default model's Task."""
    return _answer(call, None)


def predict_vector(call: Call) -> Awaitable[Reply]:
    """`POST /inference/predict`: the default model, or else the first served one that takes a vector."""
    default = call.service.engine.routed(None)
    if default is not None and default.task.array_field is not None:
        return _answer(call, None)
    return _answer_vector(call)


async def _answer_vector(call: Call) -> Reply:
    engine = call.service.engine
    call.service.check_started()
    if (await engine.model()).task.array_field is not None:
        return await _answer(call, None)
    model = next((model for model in engine.loaded() if model.task.array_field is not None), None)
    if model is None:
        raise ModelNotFound("no model that takes a vector of numbers is served here; GET /models lists what is")
    return await _answer(call, model.key)


def predict_model(call: Call) -> Awaitable[Reply]:
    """`POST /models/{name}/predict`; the name may carry an alias, `name@alias`."""
    return _answer(call, _named(call, call.params["name"]))


def predict_version(call: Call) -> Awaitable[Reply]:
    """`POST /models/{name}/versions/{version}/predict`."""
    return _answer(call, _named(call, f"{call.params['name']}:{call.params['version']}"), fixed=True)


async def _answer(call: Call, ref: str | None, *, fixed: bool = False) -> Reply:
    """One prediction. `fixed`: the path has chosen the version already."""
    engine = call.service.engine
    try:
        call.service.check_started()
        priority = _priority(call)
        engine.admit(ref, priority)
        deadline = _deadline(call)
        model = engine.routed(ref) or await engine.model(ref)
        kind = _task_kind(call) if call.query else None
        task = model.task if kind is None else model.runner_for(kind).task
        body = await call.body()
        engine.admit(ref, priority)  # others came in meanwhile; from here to the queue nothing waits
        content_type = call.header("content-type") or ""
        large = len(body) >= DECODE_ASIDE_FROM
        if large:
            request = await asyncio.to_thread(_read_request, task, body, content_type)
        else:
            request = _read_request(task, body, content_type)
        version = getattr(request, "model_version", None)
        if version is not None and version != model.version:
            ref = await _other_version(call, model, version, fixed, kind)
    except (PenstockError, Refusal) as error:
        _count(call, ref, error)
        raise
    prediction = await engine.predict(
        request, ref=ref, task=kind, deadline=deadline, request_id=call.request_id, in_thread=large, priority=priority
    )
    return await asyncio.to_thread(_reply, prediction) if large else _reply(prediction)


def _count(call: Call, ref: str | None, error: PenstockError | Refusal) -> None:
    """A request that the engine never sees; a body too large or of another type is invalid to it."""
    invalid = error if isinstance(error, PenstockError) else InvalidInput(str(error))
    call.service.engine.refused(ref, invalid, call.request_id)


def _named(call: Call, ref: str) -> str:
    """A reference that came over the wire: it names a model of the registry or a file that is served, and never makes
    the server open another file. Raises ModelNotFound.
    """
    try:
        return _registry_ref(ref)
    except ModelNotFound:
        if any(model.artifact is None and ref in (model.name, model.key) for model in call.service.engine.loaded()):
            return ref
        raise


@functools.lru_cache(maxsize=1024)
def _registry_ref(ref: str) -> str:
    try:
        parse_ref(ref)
    except InvalidInput as error:
        raise ModelNotFound(str(error).removeprefix("ref: ")) from None
    if is_model_file(ref):
        raise ModelNotFound(f"there is no model {ref}")
    return ref


async def _other_version(call: Call, model: LoadedModel, version: str, fixed: bool, kind: str | None) -> str:
    """The reference for the version a body asks for. Raises ModelNotFound naming the field."""
    ref = f"{model.name}:{version}"
    try:
        if fixed:
            raise ModelNotFound(f"the path names the version {model.version}, the body {version[:100]!r}")
        other = await call.service.engine.model(_named(call, ref))
        mine, theirs = (each.task if kind is None else each.runner_for(kind).task for each in (model, other))
        if mine.Request is not theirs.Request:
            raise ModelNotFound(f"{ref} takes another kind of request; ask it under /models/{model.name}/versions")
    except ModelNotFound as error:
        raise VersionNotFound(str(error)) from None
    return ref


class VersionNotFound(ModelNotFound):
    """The body names a version that is not there; blames the field."""

    errors: tuple[FieldError, ...]

    def __init__(self, message: str, field: str = "model_version") -> None:
        super().__init__(f"{field}: {message}")
        self.errors = (FieldError(field, message),)


# Reading


def _deadline(call: Call) -> float | None:
    """When the caller stops waiting, in `time.monotonic()` seconds; the server's own limit stays the upper bound."""
    given = call.header("x-request-timeout-ms")
    if given is None:
        return None
    try:
        timeout_ms = float(given)
    except ValueError:
        timeout_ms = math.nan
    if not 0 < timeout_ms < math.inf:
        message = f"{TIMEOUT_HEADER}: give a number of milliseconds above 0"
        raise InvalidInput(message, field=TIMEOUT_HEADER)
    return time.monotonic() + min(timeout_ms, call.service.settings.request_timeout_ms) / 1000


def _task_kind(call: Call) -> str | None:
    """`?task=`: what the model is asked as; None for its first task."""
    return parse_qs(call.query).get("task", [None])[-1]


def _priority(call: Call) -> int:
    """What the caller asks for, at most what the operator grants. Raises InvalidInput naming the header."""
    given = call.header("x-penstock-priority")
    if given is None:
        return 0
    if not _PRIORITY.fullmatch(given) or abs(int(given)) > LEAST_AND_MOST:
        message = f"{PRIORITY_HEADER}: give a whole number from {-LEAST_AND_MOST} to {LEAST_AND_MOST}"
        raise InvalidInput(message, field=PRIORITY_HEADER)
    return min(int(given), call.service.settings.max_priority)


def _read_request(task: Task, body: bytes, content_type: str) -> Any:
    if task.upload_field is not None and not is_json(content_type):
        return read_upload(task, body, content_type)
    _check_json(content_type)
    return decode(task, body)


async def _aside(size: int, work: Any, *arguments: Any) -> Any:
    return work(*arguments) if size < DECODE_ASIDE_FROM else await asyncio.to_thread(work, *arguments)


def _check_json(content_type: str) -> None:
    """Raises Refusal (415) for a body that says it is no JSON.

    One that says nothing is taken for JSON, and so is what `curl -d` says when nobody tells it otherwise.
    """
    if content_type and not is_json(content_type) and not content_type.startswith(_CURL):
        raise Refusal(415, f"this model takes {JSON}, not {content_type[:100]}")


def is_json(content_type: str) -> bool:
    """True for `application/json` and its relatives, whatever their parameters."""
    if content_type == JSON:
        return True
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))


# Replying


def _reply(prediction: Prediction) -> Reply:
    response, name, version, variant, _, pre_ms, queue_ms, run_ms, post_ms, _, flags = prediction
    timing = f"queue;dur={queue_ms:.3f}, pre;dur={pre_ms:.3f}, run;dur={run_ms:.3f}, post;dur={post_ms:.3f}"
    headers = [
        ("content-type", JSON),
        ("server-timing", timing),
        ("x-penstock-model", model_header(name, version, variant)),
    ]
    if flags:
        headers.append(("x-penstock-flags", flags_header(flags)))
    return Reply(200, headers, response.__pydantic_serializer__.to_json(response))


def flags_header(flags: Iterable[Flag]) -> str:
    """`output y not_finite, input x above`; what a tensor's name holds and a header may not is percent-encoded."""
    return ", ".join(f"{flag.side} {quote(flag.tensor)} {flag.kind}" for flag in flags)


@functools.lru_cache(maxsize=1024)
def model_header(name: str, version: str, variant: str) -> str:
    """`name:version/variant`; a bare file's name may hold what a header may not, which is percent-encoded."""
    return quote(f"{name}:{version}/{variant}", safe=":/+@!~()*' ,;=&$")


# Batches


class BatchRequest(BaseModel):
    """Several requests for one model."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    requests: list[JsonValue] = Field(
        min_length=1,
        max_length=MAX_BATCH_ITEMS,
        description="Each as for POST /predict; each is answered or refused on its own.",
    )
    model: str | None = Field(default=None, description="name[:version|@alias]; the default model when absent.")


async def predict_batch(call: Call) -> Reply:
    """`POST /predict/batch`: every item succeeds or carries its own error."""
    started = time.monotonic()
    engine = call.service.engine
    ref: str | None = None
    try:
        call.service.check_started()
        priority = _priority(call)
        engine.admit(None, priority)
        deadline = _deadline(call)
        _check_json(call.header("content-type") or "")
        body = await call.body()
        quick = any(has_arrays(runner.task) for model in engine.loaded() for runner in model.runners.values())
        batch = await _aside(len(body), _read_batch, body, quick)
        model, ref = await _batch_model(call, batch.shell.get("model"))
        kind = _task_kind(call)
        task = model.task if kind is None else model.runner_for(kind).task
        items = await _aside(len(body), _read_items, model, task, batch)
    except (PenstockError, Refusal) as error:
        _count(call, ref, error)
        raise
    good = [item for item in items if not isinstance(item, PenstockError)]
    answered = await engine.predict_batch(
        good, ref=ref, task=kind, deadline=deadline, request_id=call.request_id, priority=priority
    )
    results = iter(answered)
    answers = [item if isinstance(item, PenstockError) else next(results) for item in items]
    return await _aside(len(body), _batch_reply, answers, started, call.request_id)  # type: ignore[no-any-return]


def _read_batch(body: bytes, quick: bool) -> Batch:
    """Its items are read one by one later: here only their number counts. Raises InvalidInput."""
    batch = Batch(body, quick=quick)
    try:
        BatchRequest.model_validate(batch.shell)
    except ValidationError as error:
        raise refusal(error) from None
    return batch


async def _batch_model(call: Call, ref: str | None) -> tuple[LoadedModel, str | None]:
    if ref is None:
        return await call.service.engine.model(None), None
    try:
        return await call.service.engine.model(_named(call, ref)), ref
    except ModelNotFound as error:
        raise VersionNotFound(str(error), "model") from None


def _read_items(model: LoadedModel, task: Task, batch: Batch) -> list[BaseModel | PenstockError]:
    return [_of_version(model, item) for item in batch.items(task)]


def _of_version(model: LoadedModel, item: BaseModel | PenstockError) -> BaseModel | PenstockError:
    version = getattr(item, "model_version", None)
    if version is not None and version != model.version:
        return VersionNotFound(f"this batch is answered by {model.key}; name another version in `model`")
    return item


def _batch_reply(answers: Sequence[Prediction | PenstockError], started: float, request_id: str) -> Reply:
    predictions = b",".join(_item_json(answer, request_id) for answer in answers)
    total_ms = (time.monotonic() - started) * 1000
    body = b'{"predictions":[%b],"total_count":%d,"total_time_ms":%.3f}' % (predictions, len(answers), total_ms)
    good = [answer for answer in answers if isinstance(answer, Prediction)]
    headers = [("content-type", JSON)]
    if good:
        slowest = {name: max(getattr(p, f"{name}_ms") for p in good) for name in ("queue", "pre", "run", "post")}
        headers.append(("server-timing", ", ".join(f"{name};dur={ms:.3f}" for name, ms in slowest.items())))
        headers.append(("x-penstock-model", model_header(good[0].model, good[0].version, good[0].variant)))
        flags = dict.fromkeys(flag for p in good for flag in p.flags)
        if flags:
            headers.append(("x-penstock-flags", flags_header(flags)))
    return Reply(200, headers, body)


def _item_json(answer: Prediction | PenstockError, request_id: str) -> bytes:
    if isinstance(answer, Prediction):
        return answer.response.__pydantic_serializer__.to_json(answer.response)
    return orjson.dumps({"error": describe(answer, request_id)})


class BatchError(BaseModel):
    """One item that was refused."""

    error: BatchItemError


def batch_response(answers: tuple[type[BaseModel], ...]) -> type[BaseModel]:
    """The model of a batch's answer, whose items are one of `answers` or an error; for the documentation."""
    item: Any = Union[(*answers, BatchError)]  # built at run time
    return create_model(
        "BatchResponse",
        predictions=(list[item], Field(description="In the order of the requests.")),
        total_count=(int, Field(ge=0)),
        total_time_ms=(float, Field(ge=0)),
    )
