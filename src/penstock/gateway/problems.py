"""The table from errors to HTTP statuses, and RFC 9457 problem details."""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, ClassVar, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field

from penstock.engine.loading.load_backoff import RETRY_AFTER_S
from penstock.errors import (
    ConfigError,
    DatabaseUnavailable,
    DeadlineExceeded,
    FieldError,
    Forbidden,
    InferenceError,
    InvalidInput,
    ModelLoadError,
    ModelNotFound,
    ModelNotReady,
    OutOfRange,
    Overloaded,
    PenstockError,
    WorkerDied,
    worded,
)

MEDIA_TYPE = "application/problem+json"
_PREFIX = "urn:penstock:"

CLOSE = ("connection", "close")
"""The header that ends a connection with its reply."""


class Kind(NamedTuple):
    """Status and title of a family of errors. `public`: clients get the message, or in its place what is `said`."""

    status: int
    slug: str
    title: str
    public: bool = True
    said: str = ""


_KINDS: dict[type[BaseException], Kind] = {
    InvalidInput: Kind(422, "invalid-input", "The request is not valid"),
    OutOfRange: Kind(422, "out-of-range", "A value is outside the expected range"),
    ModelNotFound: Kind(404, "model-not-found", "No such model"),
    Forbidden: Kind(403, "forbidden", "Forbidden"),
    ModelNotReady: Kind(503, "model-not-ready", "The model is not ready"),
    Overloaded: Kind(429, "overloaded", "Too many requests are queued"),
    DeadlineExceeded: Kind(504, "deadline-exceeded", "The deadline passed"),
    ModelLoadError: Kind(503, "model-not-ready", "The model cannot be loaded now", public=False),
    InferenceError: Kind(500, "inference-error", "The model failed", public=False),
    WorkerDied: Kind(500, "worker-died", "Two processes of the model died on this request", public=False),
    ConfigError: Kind(500, "config-error", "The server is misconfigured", public=False),
    DatabaseUnavailable: Kind(
        503,
        "database-unavailable",
        "The database cannot be used now",
        said="the database cannot be used now; loaded models go on answering, others can be loaded once it is back",
    ),
    Exception: Kind(500, "internal-error", "Internal error", public=False),
}

_REFUSALS: dict[int, tuple[str, str]] = {
    307: ("moved", "Trailing slash redirect"),
    401: ("unauthorized", "A key is required"),
    403: ("forbidden", "Forbidden"),
    404: ("not-found", "No such route"),
    405: ("method-not-allowed", "Method not allowed"),
    408: ("request-timeout", "The request did not arrive in time"),
    409: ("not-done", "Conflict"),
    413: ("body-too-large", "The body is too large"),
    415: ("unsupported-media-type", "Unsupported media type"),
    421: ("misdirected", "The request is for another host"),
}


class Refusal(Exception):
    """An error of HTTP itself: unknown path, wrong method, body too large or of an unsupported type."""

    outcome: ClassVar[str] = "invalid"
    """What the engine counts it as."""

    def __init__(
        self, status: int, detail: str, *, title: str | None = None, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """`title` names the kind of refusal; the default follows from the status."""
        super().__init__(detail)
        self.status = status
        self.title = title
        self.headers = headers


class BrokenBody(Refusal):
    """400: the body is malformed, or the client left before its end; not every server can tell the two apart."""

    outcome: ClassVar[str] = "cancelled"

    def __init__(self) -> None:
        super().__init__(400, "the body is malformed or ends too early", headers=(CLOSE,))


def body_too_large(limit: int, when: str = "") -> Refusal:
    """413; the connection closes, since the rest of the body is not read."""
    return Refusal(413, f"the body may be {limit} bytes at most{when and f' {when}'}", headers=(CLOSE,))


class WireModel(BaseModel):
    """A body of the native protocol. Most are only documented, so each is built when it is first used."""

    model_config = ConfigDict(defer_build=True, protected_namespaces=())


class Fault(WireModel):
    """One invalid field."""

    field: str = Field(description="Path of the field, such as `input_data[3]`; `body` for the document itself.")
    message: str


class Problem(WireModel):
    """An RFC 9457 problem document."""

    type: str = Field(description="A URN that names the kind of problem.", examples=["urn:penstock:invalid-input"])
    title: str = Field(examples=["The request is not valid"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["input_data: 3 numbers given, the model takes 784"])
    request_id: str = Field(description="As in the X-Request-ID header; quote it when you report an error.")
    errors: list[Fault] = Field(default_factory=list, description="One entry per invalid field.")


class BatchItemError(WireModel):
    """Why one item of a batch has no prediction."""

    status: int
    title: str
    detail: str
    errors: list[Fault] = Field(default_factory=list)


def kind_of(error: BaseException) -> Kind:
    """The row of the nearest class in the error's ancestry."""
    kind = _found.get(type(error))
    if kind is None:
        kind = _found[type(error)] = next(_KINDS[cls] for cls in type(error).__mro__ if cls in _KINDS)
    return kind


_found: dict[type[BaseException], Kind] = {}


def describe(error: BaseException, request_id: str) -> dict[str, Any]:
    """`status, title, detail, errors` of any error; a fault of the server shows only the request id."""
    kind = kind_of(error)
    detail = kind.said or str(error) if kind.public else f"{kind.title.lower()}; see the server's log for {request_id}"
    return {"status": kind.status, "title": kind.title, "detail": worded(detail, "server"), "errors": _faults(error)}


def named(error: BaseException) -> str:
    """Status and kind of any error for counting, such as `401 unauthorized`."""
    if isinstance(error, Refusal):
        return f"{error.status} {_refusal(error.status)[0]}"
    kind = kind_of(error)
    return f"{kind.status} {kind.slug}"


def problem_body(error: BaseException, request_id: str) -> tuple[int, bytes]:
    """Status and problem document of any error."""
    if isinstance(error, Refusal):
        status = error.status
        slug, title = _refusal(status)
        title = error.title or title
        content: dict[str, Any] = {
            "status": status,
            "title": title,
            "detail": worded(str(error), "server"),
            "errors": [],
        }
    else:
        status, slug = kind_of(error).status, kind_of(error).slug
        content = describe(error, request_id)
    return status, orjson.dumps({"type": _PREFIX + slug, **content, "request_id": request_id})


def error_headers(error: BaseException) -> list[tuple[str, str]]:
    """The headers of an error in any protocol: `Retry-After`, `Allow`, `Location`, `Connection`."""
    if isinstance(error, Refusal):
        return list(error.headers)
    if isinstance(error, Overloaded | ModelNotReady):
        return [retry_after(error.retry_after_s)]
    if isinstance(error, ModelLoadError):
        return [retry_after(RETRY_AFTER_S)]
    return [retry_after(1.0)] if isinstance(error, DatabaseUnavailable) else []


def is_server_fault(error: BaseException) -> bool:
    """True for errors that are logged, since the client is not told what they are."""
    return not isinstance(error, Refusal) and not kind_of(error).public


def retry_after(seconds: float) -> tuple[str, str]:
    """The header: whole seconds, at least one."""
    return ("retry-after", str(max(1, math.ceil(seconds))))


def _refusal(status: int) -> tuple[str, str]:
    """Slug and title of a refusal; those of HTTP for a status that is not in the table."""
    if status in _REFUSALS:
        return _REFUSALS[status]
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = f"Status {status}"
    return phrase.lower().replace(" ", "-"), phrase


def title_of(status: int) -> str:
    """The title for a status in the documentation."""
    titles = {kind.status: kind.title for kind in reversed(_KINDS.values())}
    return titles.get(status) or _refusal(status)[1]


def _faults(error: BaseException) -> list[dict[str, str]]:
    errors: Sequence[FieldError] = getattr(error, "errors", ()) if isinstance(error, PenstockError) else ()
    return [{"field": field, "message": worded(message, "server")} for field, message in errors]
