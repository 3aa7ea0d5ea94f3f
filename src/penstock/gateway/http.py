"""Requests, replies, routes and protocols, independent of the server that carries them."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from pydantic import BaseModel

from penstock.errors import Overloaded, shortened
from penstock.gateway.bodies.encodings import encodings_in, unpack
from penstock.gateway.bodies.limits import BodyLimits
from penstock.gateway.bodies.text import check_charset, json_text
from penstock.gateway.callers.caller import Caller, Needs
from penstock.gateway.problems import MEDIA_TYPE, BrokenBody, Refusal, problem_body
from penstock.gateway.service import Service

Headers: TypeAlias = list[tuple[str, str]]

JSON = "application/json"
PAGE = (("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer"))
"""Headers of what a browser shows: it keeps to the content type, in no frame, and tells nobody where it was."""
FORM = "application/x-www-form-urlencoded"  # the default of `curl -d`

DISCARD_S = 30.0
DISCARD_BYTES = 1 << 30
"""How long and how much of a refused body is read, so that its client can read the reply."""

_NO_PARAMS: Mapping[str, str] = {}


class Reply:
    """Status, headers and body; the gateway appends to `headers`.

    A body is bytes, or an asynchronous iterator of bytes: a stream. The next chunk is requested when the transport has
    accepted the previous one. An iterator with `aclose()` is closed at the end and when the client disconnects.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Headers, body: bytes | AsyncIterator[bytes]) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class ReplyStream(ABC):
    """A reply that is being sent in chunks."""

    @abstractmethod
    async def write(self, chunk: bytes) -> None:
        """Return when the transport has accepted the chunk. Raises Disconnected if the client has disconnected."""

    @abstractmethod
    async def finish(self) -> None:
        """End the reply."""

    @abstractmethod
    def abort(self, *, connected: bool) -> None:
        """Close the connection so that the client sees an incomplete reply. `connected`: it may still be open."""


class Routing:
    """What follows from the head of a request alone, for further requests with the same head."""

    __slots__ = ("caller", "collect", "params", "row", "table", "until")

    row: Endpoint
    params: Mapping[str, str]
    collect: str | None
    caller: Caller | None
    """Who sends it; None where nobody is asked."""
    until: float
    """When the caller has to be looked at again, by `time.monotonic()`."""

    def __init__(self) -> None:
        self.table: object = None
        """The table of routes that it was found in; None before that."""


class Call(ABC):
    """One request. The body is read only when a handler asks for it: a refusal costs little.

    A subclass sets `service`, `limits`, `method`, `path`, `header` and `header_values`, and sends the reply.
    """

    service: Service
    """Engine, settings and figures of this server."""
    limits: BodyLimits
    method: str
    path: str
    header: Callable[[str], str | None]
    """The value of a header by its lower-case name."""
    header_values: Callable[[str], Sequence[str]]
    """The values of a header that may be sent several times."""
    authority: str | None = None
    """The host in the target of the request: with HTTP/2, or where a client sends a whole URL."""
    server: str | None = None
    """The local address of the connection, where the server tells it."""
    client: str | None = None
    """The address of the other end of the connection; None over a Unix socket."""
    caller: Caller | None = None
    """Who sends it, with `id` and `weight`; None where nobody is asked. Known before the handler is called."""
    caller_until = 0.0
    """As `Routing.until`."""
    operator = False
    """True if the kernel says that the client runs as the user of this server, or as root: over a Unix socket."""
    http_version = "1.1"
    query: str = ""
    """The raw query string, without the question mark."""
    root = ""
    """The path under which clients find this server: that of a proxy, or where the application is mounted."""
    params: Mapping[str, str] = _NO_PARAMS
    request_id = ""
    reading = False
    """True while the body is read."""
    json_only = False  # true if a body of another content type is refused: where something is stored, since pages of
    # other origins can send only other types without asking first
    unread = False  # true if the body was refused and the client may still be sending it
    held_bytes = 0
    """What this body takes of the memory for all large ones."""
    row: Endpoint
    """The row of the table of routes that answers, once it was found."""
    work: asyncio.Task[Any] | None = None
    """The task that answers; None before it was started, and for a member of a bundle."""
    member: Any = None
    """The request in its bundle, once it is in one."""
    collect: str | None = None
    """Set if the whole body should be there before the gateway proceeds: which requests can be answered together."""
    routing: Routing | None = None
    """Shared by the requests of a server with the very same head; the gateway keeps here what follows from it."""
    content: bytes | None = None
    """The whole body, where the server has read it before the handler asks."""
    body_at = 0.0
    """When the body was complete, by `time.monotonic()`."""
    context: Context | None = None
    """The context of the request, where steps or observers need one of its own."""
    ended = False
    """True if the client has disconnected before the request got a task or a bundle."""
    watched = True
    """True if a task must wait for the client to disconnect, since the server reports it in no other way."""
    abort_reason: Exception | None = None
    """Why the server cancelled the request; None if it did not, or if the client disconnected."""
    entered = 0.0
    """When the request came in, by `time.monotonic()`."""
    status = 0
    """The status of the reply; 0 before there is one."""
    sent_bytes = 0  # of the body
    trace: Any = None  # what is collected of a request that is traced

    async def body(self) -> bytes:
        """The whole body, without its Content-Encoding. Raises Disconnected; before all is read also Refusal (413) for
        one beyond the limit, and Overloaded while other large bodies take the memory; Refusal: 415 if the route takes
        only JSON, or for an unknown Content-Encoding; 400 if the body is malformed or cut short, or does not have the
        encoding that it names. JSON has no byte order mark; InvalidInput if it is not in UTF-8.
        """
        encodings = () if self.header("content-encoding") is None else self._encodings()
        length = self.header("content-length")
        size = int(length) if length is not None and length.isdigit() else -1
        if size >= 0:
            self._check_size(size)
        self.reading = True
        try:
            body = await (self._collect() if size < 0 else self._whole())
        except RuntimeError:  # Granian's ProtocolClosed
            raise BrokenBody from None
        finally:
            self.reading = False
        if size not in (-1, len(body)):
            raise BrokenBody
        if self.json_only and body:
            check_json(self)
        if encodings and body:
            body = await self._unpacked(body, encodings)
        # a document begins with "{", but for blanks, a mark of the encoding, or another encoding
        return self._as_json(body) if body[:1] != b"{" or body[1:2] == b"\0" else body

    def _as_json(self, body: bytes) -> bytes:
        """The body without a byte order mark, if it should be JSON. Raises InvalidInput for another encoding."""
        kind = self.header("content-type")
        if is_json(kind) if kind and not kind.startswith(FORM) else self.row.requests:
            return json_text(body)
        return body

    def _encodings(self) -> tuple[str, ...]:
        try:
            return encodings_in(", ".join(self.header_values("content-encoding")))
        except Refusal:
            self.unread = True
            raise

    async def _unpacked(self, body: bytes, encodings: tuple[str, ...]) -> bytes:
        limits = self.limits
        unpacked = await unpack(body, encodings, limits.max_body_bytes, lambda size: limits.reserve(self, size))
        limits.reserve(self, len(unpacked))
        return unpacked

    async def _collect(self) -> bytes:
        chunks = []
        size = 0
        async for chunk in self._chunks():
            size += len(chunk)
            self._check_size(size)
            chunks.append(chunk)
        return b"".join(chunks)

    def _check_size(self, size: int) -> None:
        try:
            self.limits.check(self, size)
        except (Refusal, Overloaded):
            self.unread = True
            raise

    async def discard_body(self) -> None:
        """Read the rest of a refused body: a client that is disconnected while it sends never reads the reply."""
        size = 0
        with contextlib.suppress(Disconnected, BrokenBody, TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                async for chunk in self._chunks():
                    size += len(chunk)
                    if size > DISCARD_BYTES:
                        return

    async def finish_refusal(self) -> None:
        """After the reply to a body that was refused."""
        await self.discard_body()

    @abstractmethod
    def _whole(self) -> Awaitable[bytes]:
        """The body of a request with a Content-Length."""

    @abstractmethod
    def _chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""

    @abstractmethod
    async def disconnected(self) -> None:
        """Return when the client has closed the connection. Only called when the body was read."""

    def respond(self, reply: Reply) -> None:
        """Send a whole reply now, in the order of the requests of its connection; the body is bytes."""
        raise NotImplementedError

    def respond_raw(self, head: bytes, body: bytes) -> None:
        """Send a reply to GET or POST now; `head` is all of its head but `date`, `content-length` and `connection`."""
        raise NotImplementedError

    @abstractmethod
    async def send(self, reply: Reply, body: bytes | None) -> None:
        """Send a reply; to HEAD only its headers. Without a body, its length is not known: HEAD of a stream."""

    @abstractmethod
    async def start_stream(self, reply: Reply) -> ReplyStream:
        """Send the headers of a reply whose length is not known."""


class Disconnected(Exception):
    """The client has closed the connection."""

    outcome: ClassVar[str] = "cancelled"


Handler: TypeAlias = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the table of routes: the handler, and its documentation.

    `requests` are the Pydantic models of a JSON body, `upload` allows a file instead. `responses` are the models of a
    200 reply, `problems` the statuses of a refusal. `replies` documents other replies as OpenAPI response objects by
    status; a Pydantic model in them stands for its schema. `parameters` are OpenAPI parameter objects of the query, and
    of the path where a name does not say enough. `example` is a request body. `guarded` rows need admin access. A row
    without a `tag` is served and not documented.

    `needs` is the scope of keys that the row is for, `nothing` where nobody is asked for one. Unless given, it is
    `admin` for guarded rows, else `read` for GET, and `infer`.

    `changes` says that the row changes or stores something; unless given, every row does but those of GET. Then pages
    of other origins are refused, and a body must be JSON, unless `upload` is true.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    summary: str
    description: str = ""
    requests: Sequence[type[BaseModel]] = ()
    upload: bool = False
    responses: Sequence[type[BaseModel]] = ()
    problems: tuple[int, ...] = ()
    replies: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    example: Any = None
    guarded: bool = False
    parameters: tuple[Mapping[str, Any], ...] = ()
    changes: bool | None = None
    needs: Needs | None = None

    def __post_init__(self) -> None:
        if self.changes is None:
            object.__setattr__(self, "changes", self.method != "GET")
        if self.needs is None or self.guarded:
            needs = "admin" if self.guarded else "read" if self.method == "GET" else "infer"
            object.__setattr__(self, "needs", needs)


@dataclass(frozen=True, slots=True)
class Protocol:
    """A family of routes, and the error format of every path under its prefixes."""

    name: str
    prefixes: tuple[str, ...]
    """`/` for every path that no other protocol has, else such as `/v2`."""
    table: tuple[Endpoint, ...]
    write_error: Callable[[Exception, Call], Reply]
    """Status, content type and body of an error. Retry-After, Allow, Location and Connection are added to it."""

    def match(self, path: str) -> int:
        """The length of the longest prefix that the path is under; -1 for none."""
        return max((len(p) for p in self.prefixes if p == "/" or path == p or path.startswith(p + "/")), default=-1)


class Step:
    """One thing that a gateway does for every request. A hook that is not overridden costs nothing."""

    contextual: ClassVar[bool] = False
    """True if it keeps something in context variables: then each request has a context of its own."""
    adds: bool = True  # False while `add_headers` adds nothing to any reply
    by_head: ClassVar[bool] = False
    """True if `answer` and `admit` depend on nothing but the head: they are not called again for the same head, but
    `recall` is, where `admit` has told the caller.
    """

    def enter(self, call: Call) -> None:
        """The first hook of a request."""

    def answer(self, call: Call) -> Reply | None:  # noqa: ARG002
        """A reply in place of the route's; None to continue. May raise a refusal."""
        return None

    def admit(self, call: Call, row: Endpoint) -> None:
        """Before the handler of a route. Raises a refusal."""

    def recall(self, call: Call, routing: Routing) -> bool:  # noqa: ARG002
        """Whether a request with a head and a caller that were admitted is admitted again; if not, `admit` is asked."""
        return True

    def guard(self, call: Call) -> None:
        """Before the handler of a guarded route. Raises a refusal."""

    def add_headers(self, call: Call, headers: Headers) -> None:
        """Add to the headers of any reply."""

    def leave(self, call: Call) -> None:
        """The last hook: the reply was sent, or the client has disconnected."""


def is_json(content_type: str) -> bool:
    """True for `application/json` and `application/*+json`, with any parameters."""
    if content_type == JSON:
        return True
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))


def check_json(call: Call) -> None:
    """Raises Refusal (415) for a content type other than JSON, and for none."""
    given = call.header_values("content-type")
    if len(given) != 1 or not is_json(given[0]):
        shown = shortened(", ".join(given), 100) or "a body without a content type"
        raise Refusal(415, f"send {JSON}, not {shown}")
    check_charset(given[0])


def problem_reply(error: Exception, call: Call) -> Reply:
    """An error as an RFC 9457 problem document."""
    status, body = problem_body(error, call.request_id)
    return Reply(status, [("content-type", MEDIA_TYPE)], body)


def json_reply(model: BaseModel, status: int = 200) -> Reply:
    """A Pydantic model as JSON."""
    return Reply(status, [("content-type", JSON)], model.__pydantic_serializer__.to_json(model))
