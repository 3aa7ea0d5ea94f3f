"""Prediction routes of the native API: decode bytes into a Task request, and encode the engine's response."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote

from penstock.artifacts.refs import parse_ref
from penstock.engine.admission import Lease
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.observation import Prediction
from penstock.engine.tasks.ranges import Flag
from penstock.errors import DeadlineExceeded, FieldError, InvalidInput, ModelNotFound, PenstockError, quoted, shortened
from penstock.formats import is_model_file
from penstock.gateway.auth import check_origin
from penstock.gateway.bodies.arrays import NPY, Header, array_request, array_type, holds_array, npy_file, octets
from penstock.gateway.bodies.text import check_charset
from penstock.gateway.http import FORM, JSON, Call, Headers, Reply, check_json, is_json
from penstock.gateway.native.decoding import holds, named_task, quick_decoding, read_fully
from penstock.gateway.native.fast_json import decode
from penstock.gateway.native.large_json import LARGE
from penstock.gateway.native.uploads import read_upload
from penstock.gateway.problems import Refusal
from penstock.tasks.responses import ResponseText
from penstock.tasks.tensor import TensorRequest

T = TypeVar("T")

DECODE_IN_THREAD_FROM = 256 * 1024
"""Bodies of this many bytes and more are decoded and preprocessed in threads, to keep the event loop free."""
SMALL = 8 * 1024
"""So are bodies of this many bytes and more, unless the fast reader takes them: others may take a hundred times longer.
"""

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
PRIORITY_HEADER = "X-Penstock-Priority"
"""Not the `Priority` of RFC 9218, which browsers send with every request, with values of their own."""
LEAST_AND_MOST = 100
MAX_QUERY_FIELDS = 64
_PRIORITY = re.compile(r"[+-]?[0-9]{1,3}")


def predict(call: Call) -> Awaitable[Reply]:
    """`POST /predict`: the default model."""
    return _answer(call, None)


def predict_vector(call: Call) -> Awaitable[Reply]:
    """`POST /inference/predict`: the default model if it takes a vector, otherwise the first served one that does."""
    return _answer(call, None, vector=True)


def predict_model(call: Call) -> Awaitable[Reply]:
    """`POST /models/{name}/predict`; the name may carry an alias, `name@alias`."""
    return _answer(call, model_of_path(call))


def predict_version(call: Call) -> Awaitable[Reply]:
    """`POST /models/{name}/versions/{version}/predict`."""
    return _answer(call, version_of_path(call), fixed=True)


def model_of_path(call: Call) -> str:
    """The reference in `/models/{name}/…`. Raises ModelNotFound."""
    return reference(call, call.params["name"])


def version_of_path(call: Call) -> str:
    """The reference in `/models/{name}/versions/{version}/…`. Raises ModelNotFound."""
    return reference(call, f"{call.params['name']}:{call.params['version']}")


async def _answer(call: Call, ref: str | None, *, vector: bool = False, fixed: bool = False) -> Reply:
    """One prediction. `vector`: by a model that takes a vector; `fixed`: the path names the version."""
    engine = call.service.engine
    with lease_of(call, ref) as lease:
        if vector:
            model = lease.find()
            if model is None or model.vector_task is None:
                model = await _vector_model(call)
                lease.name(model.key)
            if model.vector_task != model.task.kind:
                lease.task = model.vector_task
        if call.query:
            lease.task = task_of_query(call)
        if lease.check() is None:
            await lease.load_only()
        body = await call.body()
        if not lease.hold():
            await lease.load()
        content_type = call.header("content-type") or ""
        large = len(body) >= SMALL or time.monotonic() < quick_decoding.again
        if not large:
            with quick_decoding:
                request = _read_request(lease, body, content_type, call.header)
        else:
            request = _read_quickly(lease, body, content_type) if len(body) < DECODE_IN_THREAD_FROM else None
            large = request is None
            if request is None:
                reading = functools.partial(_read_request, lease, body, content_type, call.header)
                request = await decode_in_thread(lease.deadline, body, reading)
        await lease.decide(request)
        version = getattr(request, "model_version", None)
        if version is not None and version != lease.model.version:
            await _move(call, lease, version, fixed)
        if lease.runner.task.stores:
            check_sender(call, upload=lease.runner.task.upload_field is not None)
        lease.started = time.monotonic()  # measure the engine only, without the transfer of the body
        accept = call.header("accept")
        kind = None if accept is None else _binary_kind(accept, lease, request)
        prediction = await engine.pipeline.predict(lease, request, in_thread=large, size=len(body), write=kind is None)
    if kind is None:
        return _reply(prediction)
    return await in_writer(functools.partial(_array_reply, prediction, kind))


def lease_of(call: Call, ref: str | None) -> Lease:
    """A lease with the headers' priority and deadline. Raises InvalidInput naming the header, ModelNotReady before the
    first load.
    """
    admission, key = call.service.engine.admission, call.header("x-penstock-key")
    flows, flow = call.service.flows, None
    if flows is not None and (call.caller is not None or not flows.by_caller):
        flow = flows.of(call)
    try:
        if not call.service.started:
            call.service.check_started()
        priority, timeout_s = priority_of(call), timeout_of(call)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
    except PenstockError as error:
        admission.request(ref, key=key, request_id=call.request_id, protocol="rest").observe_failure(error)
        raise
    return admission.request(
        ref,
        key=key,
        deadline=deadline,
        priority=priority,
        flow=flow,
        request_id=call.request_id,
        protocol="rest",
        headers=call.header,
    )


async def _vector_model(call: Call) -> LoadedModel:
    """The default model if it takes a vector, else the first served one that does. Raises ModelNotFound."""
    engine = call.service.engine
    default = await engine.model()
    taking = [model for model in (default, *engine.loaded()) if model.vector_task is not None]
    if not taking:
        raise ModelNotFound(
            f"no model that takes a vector of numbers is served here; {default.key} has the task {default.task.kind}, "
            "which POST /predict answers"
        )
    return next((model for model in taking if model is default or model.vector_task == model.task.kind), taking[0])


def reference(call: Call, ref: str) -> str:
    """A reference in a request: a model of the registry or a file that is served, since a request must not make the
    server open other files. Raises ModelNotFound.
    """
    try:
        return _registry_ref(ref)
    except ModelNotFound:
        engine = call.service.engine
        if engine.deployment.file_of(ref) is not None:
            return ref
        if any(model.artifact is None and ref in (model.name, model.key) for model in engine.loaded()):
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


async def _move(call: Call, lease: Lease, version: str, fixed: bool) -> None:
    """Lease the version that the body names. Raises ModelNotFound naming the field."""
    model = lease.model
    try:
        if fixed:
            raise ModelNotFound(f"the path names the version {model.version}, the body {quoted(version)}")
        await lease.move_to(reference(call, f"{model.name}:{version}"))
    except ModelNotFound as error:
        raise VersionNotFound(str(error)) from None


class VersionNotFound(ModelNotFound):
    """The body names a version that does not exist; the error names the field."""

    errors: tuple[FieldError, ...]

    def __init__(self, message: str, field: str = "model_version") -> None:
        super().__init__(f"{field}: {message}")
        self.errors = (FieldError(field, message),)


# Reading


def timeout_of(call: Call) -> float | None:
    """The timeout in the header, in seconds; at most the server's own. Raises InvalidInput naming the header."""
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
    return min(timeout_ms, call.service.settings.request_timeout_ms) / 1000


def task_of_query(call: Call) -> str | None:
    """The task in `?task=`; None for the model's default."""
    try:
        return parse_qs(call.query, max_num_fields=MAX_QUERY_FIELDS).get("task", [None])[-1]
    except ValueError:
        message = f"the query has more than {MAX_QUERY_FIELDS} fields; this route takes only task"
        raise InvalidInput(f"query: {message}", field="query") from None


def priority_of(call: Call) -> int:
    """The priority in the header, at most `max_priority`. Raises InvalidInput naming the header."""
    given = call.header("x-penstock-priority")
    if given is None:
        return 0
    if not _PRIORITY.fullmatch(given) or abs(int(given)) > LEAST_AND_MOST:
        message = f"{PRIORITY_HEADER}: give a whole number from {-LEAST_AND_MOST} to {LEAST_AND_MOST}"
        raise InvalidInput(message, field=PRIORITY_HEADER)
    return min(int(given), call.service.settings.max_priority)


def _read_quickly(lease: Lease, body: bytes, content_type: str) -> Any:
    """The request of a body of some size, if the fast reader takes it."""
    task = lease.runner.task
    if b'"task"' in body or not is_json(content_type):
        return None
    require_json(content_type)
    return decode(task, body)


def _read_request(lease: Lease, body: bytes, content_type: str, header: Header) -> Any:
    """The request of the lease's task. A JSON body may name another task of the model in its field `task`."""
    task = lease.runner.task
    if content_type != JSON and holds_array(task, content_type, header):
        return array_request(task, content_type, header, body)
    if task.upload_field is not None and not is_json(content_type):
        return read_upload(task, body, content_type)
    require_json(content_type)
    if holds(body, b'"task"'):
        named = named_task(body, task)
        if named is not None:
            kind, read = named
            _choose(lease, kind)
            return read(lease.runner.task)
    request = decode(task, body) if len(body) < LARGE else None
    if request is not None:
        return request
    try:
        return read_fully(task, body)
    except InvalidInput as error:
        raise _meant_as_vector(lease, body) or error from None


def _meant_as_vector(lease: Lease, body: bytes) -> InvalidInput | None:
    """How to ask for classes, where a vector was sent to a model that reads one only when asked to."""
    model, task = lease.model, lease.runner.task
    kind = model.vector_task
    field = None if kind in (None, task.kind) else model.runners[str(kind)].task.array_field
    if field is None or not holds(body, f'"{field}"'.encode()):
        return None
    return InvalidInput(
        f"{field}: {model.key} answers with the task {task.kind}, which takes no such field; for classes post to "
        f'/inference/predict or add "task": "{kind}"; a file that is a classifier is served with task="{kind}"',
        field=field,
    )


def _choose(lease: Lease, kind: Any) -> None:
    """Select the task that the body names. Raises InvalidInput naming `task`."""
    if not isinstance(kind, str):
        raise InvalidInput("task: Input should be a valid string", field="task")
    if lease.task not in (None, kind):
        raise InvalidInput(f"task: the query names {lease.task!r}, the body {quoted(kind)}", field="task")
    lease.choose(kind)


_decoders = ThreadPoolExecutor(1, "penstock-decode"), ThreadPoolExecutor(1, "penstock-decode-large")
"""Large bodies are decoded one after the other: several at once would keep the event loop waiting for its turn."""


async def decode_in_thread(deadline: float, body: bytes, work: Callable[..., T], *given: Any) -> T:
    """The result of decoding work, done in a thread. Raises DeadlineExceeded; work that has not begun is dropped."""
    run = functools.partial(contextvars.copy_context().run, work, *given)
    decoder = _decoders[len(body) >= DECODE_IN_THREAD_FROM]
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await asyncio.get_running_loop().run_in_executor(decoder, run)
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed while the body was decoded") from None


def require_json(content_type: str) -> None:
    """Raises Refusal (415) for a content type other than JSON, and for JSON that is not in UTF-8.

    A body without a content type, or with the default of `curl -d`, is read as JSON.
    """
    if content_type not in ("", JSON) and not is_json(content_type) and not content_type.startswith(FORM):
        raise Refusal(415, f"this model takes {JSON}, not {shortened(content_type, 100)}")
    if content_type not in ("", JSON):
        check_charset(content_type)


def check_sender(call: Call, *, upload: bool = False) -> None:
    """For a task that stores something. Raises Refusal: 403 for a page of another origin, 415 for undeclared JSON.

    `upload`: the task takes files, whose content types were checked when they were read.
    """
    check_origin(call)
    if not upload:
        check_json(call)


# Replying


def _binary_kind(accept: str, lease: Lease, request: Any) -> str | None:
    """The content type of arrays that a client wants for the outputs of a model; None for JSON.

    Raises Refusal (406) where the outputs are not one array of numbers.
    """
    kind = array_type(accept)
    if kind is None or not isinstance(request, TensorRequest):
        return None
    outputs = lease.model.signature.outputs
    if len(outputs) != 1 or outputs[0].dtype == "BYTES":
        shown = ", ".join(f"{spec.name} ({spec.dtype})" for spec in outputs)
        raise Refusal(406, f"{kind} holds one array of numbers, the model answers with {shown}; ask for {JSON}")
    request.keep_arrays()
    return kind


def _headers(p: Prediction) -> Headers:
    timing = f"queue;dur={p.queue_ms:.3f}, pre;dur={p.pre_ms:.3f}, run;dur={p.run_ms:.3f}, post;dur={p.post_ms:.3f}"
    headers = [
        ("content-type", JSON),
        ("server-timing", timing),
        ("x-penstock-model", model_header(p.model, p.version, p.variant)),
    ]
    if p.flags:
        headers.append(("x-penstock-flags", flags_header(p.flags)))
    return headers


def _reply(p: Prediction) -> Reply:
    headers = _headers(p)
    if p.text is not None:
        return Reply(200, headers, p.text.head if p.text.whole else send_text(p.text))
    return Reply(200, headers, p.response.__pydantic_serializer__.to_json(p.response))


_writer = ThreadPoolExecutor(1, "penstock-write")
"""Large replies take turns, so that the event loop waits for one of them at most."""


async def in_writer(work: Callable[[], T]) -> T:
    """What `work` returns, made in the thread of large replies."""
    return await asyncio.get_running_loop().run_in_executor(_writer, work)


async def send_text(text: ResponseText) -> AsyncIterator[bytes]:
    """The chunks of a text that has begun, each made when the one before it was sent."""
    piece, text.head = text.head, b""
    while piece:
        yield piece
        piece = await in_writer(text.next)


def _array_reply(p: Prediction, kind: str) -> Reply:
    """The only output of the task `tensor` as an array."""
    (array,) = p.response.outputs.values()  # type: ignore[attr-defined]
    headers = [("content-type", kind), *_headers(p)[1:], ("vary", "Accept")]
    if kind == NPY:
        return Reply(200, headers, npy_file(array))
    body, described = octets(array)
    return Reply(200, headers + described, body)


def flags_header(flags: Iterable[Flag]) -> str:
    """`output y not_finite, input x above`; characters that a header cannot hold are percent-encoded."""
    return ", ".join(f"{flag.side} {quote(flag.tensor)} {flag.kind}" for flag in flags)


@functools.lru_cache(maxsize=1024)
def model_header(name: str, version: str, variant: str) -> str:
    """`name:version/variant`; characters that a header cannot hold (in the name of a bare file) are percent-encoded."""
    return quote(f"{name}:{version}/{variant}", safe=":/+@!~()*' ,;=&$")
