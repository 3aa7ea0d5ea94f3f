"""One request and one reply, whatever server carries them, and the row a route is in the table."""

from __future__ import annotations

import asyncio
import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import quote

from pydantic import BaseModel

from penstock.errors import Overloaded
from penstock.gateway.problems import Refusal, body_too_large
from penstock.gateway.service import Service

Headers: TypeAlias = list[tuple[str, str]]

JSON = "application/json"

LARGE_BODY = 64 * 1024
"""Bodies of this many bytes count in the budget of the server."""

LINGER_S = 30.0
LINGER_BYTES = 1 << 30

_NO_PARAMS: Mapping[str, str] = {}


class Reply:
    """Status, headers and body. `headers` is this reply's own list: the gateway appends to it."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class BodyLimits:
    """How much memory request bodies may take: one alone, and all large ones together."""

    def __init__(self, max_body_bytes: int, max_total_bytes: int, timeout_s: float) -> None:
        """`timeout_s` is how long a body may take to arrive."""
        self.max_body_bytes = max_body_bytes
        self.max_total_bytes = max_total_bytes
        self.timeout_s = timeout_s
        self.held_bytes = 0

    def check(self, call: Call, size: int) -> None:
        """Reserve `size` bytes for a body. Raises Refusal (413) for one beyond the limit, Overloaded without room."""
        if size > self.max_body_bytes:
            raise body_too_large(self.max_body_bytes)
        if size < LARGE_BODY:
            return
        more = size - call.held_bytes
        if self.held_bytes + more > self.max_total_bytes:
            raise Overloaded(f"bodies of other requests take {self.held_bytes} bytes already; try again later")
        self.held_bytes += more
        call.held_bytes = size

    def release(self, call: Call) -> None:
        """Give back what a body reserved."""
        self.held_bytes -= call.held_bytes
        call.held_bytes = 0


class Call(ABC):
    """One request. The body is read only when a handler asks for it, so that a refusal costs little.

    A subclass sets `service`, `limits`, `method`, `path` and `header`.
    """

    service: Service
    """Engine, settings and figures of this server."""
    limits: BodyLimits
    method: str
    path: str
    header: Callable[[str], str | None]
    """The value of a header by its lower-case name."""
    query: str = ""
    """The query string as it came, without its question mark."""
    params: Mapping[str, str] = _NO_PARAMS
    request_id = ""
    reading = False
    """True while the body is on its way."""
    unread = False
    """True when the body was refused while the client may still send it."""
    held_bytes = 0
    """What this body takes of the memory for all large ones."""
    verdict: Exception | None = None
    """Why the server gave the request up; None while it has not, or when the client left."""

    async def body(self) -> bytes:
        """The whole body. Raises Disconnected, and before reading it all Refusal (413) for one beyond the limit and
        Overloaded where too many large ones are inside.
        """
        length = self.header("content-length")
        told = length is not None and length.isdigit()
        if told:
            self._check_size(int(length or 0))
        self.reading = True
        try:
            return await (self._whole() if told else self._collect())
        except RuntimeError:  # Granian's ProtocolClosed: the client left in the middle
            raise Disconnected from None
        finally:
            self.reading = False

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

    async def linger(self) -> None:
        """Read and forget the rest of a refused body: a client that is cut off while it sends never sees the reply."""
        size = 0
        with contextlib.suppress(Disconnected, RuntimeError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                async for chunk in self._chunks():
                    size += len(chunk)
                    if size > LINGER_BYTES:
                        return

    @abstractmethod
    def _whole(self) -> Awaitable[bytes]:
        """The body of a request that told its length."""

    @abstractmethod
    def _chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""

    @abstractmethod
    async def gone(self) -> None:
        """Return when the client has closed the connection. Only asked for once the body was read."""


class Disconnected(Exception):
    """The client went away while its request was read."""


Handler: TypeAlias = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the table of routes: what answers, and what the documentation says of it.

    `requests` are the Pydantic models a JSON body may have, `upload` says that a file may come instead. `responses`
    are the models of a good answer, `problems` the statuses of a refusal. `replies` documents whatever else there is,
    as OpenAPI response objects by status, in which a Pydantic model may stand for its schema, and `parameters` those of
    the query, and of the path where there is more to say than their names, as OpenAPI parameter objects. `example` is
    a request body. `guarded` rows answer only who may give orders. A row without a `tag` is served and not documented.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    summary: str
    description: str = ""
    requests: tuple[type[BaseModel], ...] = ()
    upload: bool = False
    responses: tuple[type[BaseModel], ...] = ()
    problems: tuple[int, ...] = ()
    replies: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    example: Any = None
    guarded: bool = False
    parameters: tuple[Mapping[str, Any], ...] = ()


class Routes:
    """Finds the row for a path: a dictionary for plain paths, segment by segment for those with parameters."""

    def __init__(self, table: tuple[Endpoint, ...]) -> None:
        self.set(table)

    def set(self, table: tuple[Endpoint, ...]) -> None:
        """These rows from now on; of two that fit a path, the earlier counts."""
        self._plain: dict[str, dict[str, Endpoint]] = {}
        self._templates: dict[str, tuple[re.Pattern[str], dict[str, Endpoint]]] = {}
        for row in table:
            if "{" in row.path:
                pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", row.path))
                self._templates.setdefault(row.path, (pattern, {}))[1][row.method] = row
            else:
                self._plain.setdefault(row.path, {})[row.method] = row

    def find(self, method: str, path: str) -> tuple[Endpoint, Mapping[str, str]]:
        """The row and the path's parameters. Raises Refusal: 404 for an unknown path, 405 for another method."""
        methods, params = self._methods(path)
        row = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        if row is not None:
            return row, params
        if not methods and path.endswith("/") and self._methods(path.rstrip("/"))[0]:
            location = "../" + path.rstrip("/").rpartition("/")[2]
            raise Refusal(307, "this path has no slash at its end", headers=[("location", quote(location))])
        if not methods:
            raise Refusal(404, f"there is nothing at {path[:200]}; /docs lists every route")
        allowed = ", ".join(self.methods(path))
        raise Refusal(405, f"{path[:200]} takes {allowed}", headers=[("allow", allowed)])

    def knows(self, path: str) -> bool:
        """True when some method is served at this path."""
        return path in self._plain or bool(self._methods(path)[0])

    def methods(self, path: str) -> list[str]:
        """The methods served at this path; none for an unknown one."""
        methods = self._methods(path)[0]
        return sorted({*methods, "HEAD"} if "GET" in methods else methods)

    def _methods(self, path: str) -> tuple[Mapping[str, Endpoint], Mapping[str, str]]:
        found = self._plain.get(path)
        if found is not None:
            return found, _NO_PARAMS
        for pattern, methods in self._templates.values():
            match = pattern.fullmatch(path)
            if match is not None:
                return methods, match.groupdict()
        return {}, _NO_PARAMS


def json_reply(model: BaseModel, status: int = 200) -> Reply:
    """A Pydantic model as JSON."""
    return Reply(status, [("content-type", JSON)], model.__pydantic_serializer__.to_json(model))
