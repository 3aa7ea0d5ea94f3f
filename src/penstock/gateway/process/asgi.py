"""The gateway as an ASGI application, alone (`AsgiApp`) or inside a FastAPI application (`create_app`)."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import penstock
from penstock.engine.engine import InferenceEngine
from penstock.engine.single_flight import SingleFlight
from penstock.errors import ConfigError, PenstockError
from penstock.gateway.docs.examples import Example
from penstock.gateway.gateway import Gateway, request_id_of
from penstock.gateway.http import Call, Disconnected, Protocol, Reply, ReplyStream
from penstock.gateway.middleware import build_gateway, within
from penstock.gateway.native.routes import NATIVE
from penstock.gateway.problems import MEDIA_TYPE, error_headers, is_server_fault, problem_body
from penstock.gateway.service import Service
from penstock.gateway.worker_group import siblings
from penstock.monitor.logs import configure_logging
from penstock.settings import Settings, load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]
Writer: TypeAlias = Callable[[Example | None], dict[str, Any]]


class AsgiApp:
    """The gateway for any ASGI server, without FastAPI: `uvicorn penstock.gateway.process.asgi:AsgiApp --factory`."""

    def __init__(
        self,
        settings: Settings | None = None,
        refs: Sequence[str] = (),
        *,
        engine: InferenceEngine | None = None,
        protocols: Sequence[Protocol] = (NATIVE,),
    ) -> None:
        """As `create_app`."""
        self._life = ServerLife(_builder(settings, engine, protocols), refs)

    @property
    def gateway(self) -> Gateway:
        """What answers."""
        return self._life.gateway

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection, or the lifespan of the application."""
        if scope["type"] == "http":
            await self._life.serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._life.running():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except PenstockError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await send({"type": "lifespan.shutdown.complete"})


def _builder(
    settings: Settings | None, engine: InferenceEngine | None, protocols: Sequence[Protocol] = (NATIVE,)
) -> Callable[[], Gateway]:
    """Makes the gateway of an application; settings are read now."""
    if settings is None:
        settings = load_settings().settings
        configure_logging(settings)
    return lambda: build_gateway(Service(settings, engine=engine), protocols=protocols)


class ServerLife:
    """When a gateway starts and ends: with the lifespan of its application, as often as that is run.

    Where nobody runs the lifespan, as of an application that is mounted in another, it starts at the first request.
    """

    def __init__(self, build: Callable[[], Gateway], refs: Sequence[str]) -> None:
        self.gateway = build()
        self._build = build
        self._refs = refs
        self._started = self._ended = False
        self._sharing: asyncio.Task[None] | None = None
        self._starts: SingleFlight[str, None] = SingleFlight()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the models, and at the end finish the requests in flight. Raises the PenstockError of a model."""
        if self._ended:
            self.gateway = self._build()
        self._started, self._ended = True, False
        gateway = self.gateway
        try:
            await self._start_service(gateway.service)
            yield
        finally:
            self._ended = True
            await gateway.drain(gateway.service.settings.drain_timeout_s)
            await gateway.close()
            await self._stop_sharing(gateway.service)

    async def _start_service(self, service: Service) -> None:
        """Load the models; share figures with the other processes of the same server, if there are any."""
        service.workers = service.workers or siblings(f"{service.settings!r} {self._refs!r}")
        await service.start(self._refs)
        if service.workers is not None:
            self._sharing = asyncio.create_task(service.workers.share(service.figures), name="penstock-share")

    async def _stop_sharing(self, service: Service) -> None:
        if self._sharing is not None and service.workers is not None:
            self._sharing.cancel()
            await asyncio.wait((self._sharing,))
            await asyncio.to_thread(service.workers.leave)

    async def serve(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if not self._started:
            await self._start_now()
        await self.gateway.serve(AsgiCall(self.gateway, scope, receive, send))

    async def _start_now(self) -> None:
        """Load the models for the first request; others wait. After an error the next request tries again."""
        service = self.gateway.service
        until = time.monotonic() + service.settings.request_timeout_ms / 1000
        with contextlib.suppress(TimeoutError):  # the gateway says that models are being loaded
            await self._starts.run_async("start", self._start, deadline=until, shared_errors=PenstockError)

    async def _start(self) -> None:
        service = self.gateway.service
        try:
            await self._start_service(service)
        except PenstockError as error:
            service.start_error = str(error)
            log.error("the models could not be loaded: %s", error)
        else:
            self._started = True
            atexit.register(service.engine.manager.close)  # nobody else ends it


class AsgiCall(Call):
    """A request of an ASGI server."""

    _ended = False
    _refusal: Reply | None = None

    def __init__(self, gateway: Gateway, scope: Message, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.service = gateway.service
        self.limits = gateway.limits
        self.method = scope["method"]
        self.path = path_of(scope)
        self.root = str(scope.get("root_path", ""))
        self.query = scope["query_string"].decode("latin-1")
        self.header = headers.get
        self.server = (scope.get("server") or (None,))[0]
        self.http_version = scope.get("http_version", "1.1")
        self.client = (scope.get("client") or (None,))[0]
        self._headers = scope["headers"]
        self._receive = receive
        self._send = send

    def header_values(self, name: str) -> list[str]:
        """The values of a header that may be sent several times."""
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for given, value in self._headers if given == wanted]

    async def _whole(self) -> bytes:
        message = await self._next()
        if self._ended:
            return message  # as a rule the body comes in one piece
        return b"".join([message, *[chunk async for chunk in self._chunks()]])

    async def _chunks(self) -> AsyncIterator[bytes]:
        while not self._ended:
            yield await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        self._ended = not message.get("more_body", False)
        return message.get("body", b"")  # type: ignore[no-any-return]

    async def disconnected(self) -> None:
        """Return when the server says that the client has disconnected."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, reply: Reply, body: bytes | None) -> None:
        """Send the whole reply; one that refuses an unread body waits for `finish_refusal`."""
        if self.unread and self._refusal is None:
            self._refusal = reply
            return
        headers = [] if body is None or reply.status == 204 else [(b"content-length", b"%d" % len(body))]
        await self._start(reply, headers)
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body or b""})

    async def finish_refusal(self) -> None:
        """Send the reply after the body: servers stop reading a body when its reply is complete."""
        await self.discard_body()
        reply = self._refusal
        if reply is not None and isinstance(reply.body, bytes):
            await self.send(reply, reply.body)

    async def start_stream(self, reply: Reply) -> ReplyStream:
        """Send the headers."""
        await self._start(reply, [])
        return AsgiStream(self._send)

    async def _start(self, reply: Reply, more: list[tuple[bytes, bytes]]) -> None:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers + more})


class AsgiStream(ReplyStream):
    """A reply in several body messages; the server's `send` waits for a slow client."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def write(self, chunk: bytes) -> None:
        """Return when the server has taken the chunk."""
        try:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        except OSError:
            raise Disconnected from None

    async def finish(self) -> None:
        """End the reply."""
        await self._send({"type": "http.response.body", "body": b""})

    def abort(self, *, connected: bool) -> None:
        """Nothing to do: servers close the connection of an application that returns in the middle of a reply."""


def path_of(scope: Message) -> str:
    """The path of a request within this application, which may be mounted in another."""
    return within(str(scope["path"]), str(scope.get("root_path", "")))


# FastAPI


async def problem_response(request: Request, error: Exception) -> Response:
    """An exception handler for FastAPI and Starlette: a problem document as the server's, for a PenstockError.

    `app.add_exception_handler(PenstockError, problem_response)`, in an application with an engine of its own.
    """
    from starlette.responses import Response

    request_id = request_id_of(request.headers.get("x-request-id"))
    if is_server_fault(error):
        log.error("request %s failed: %s", request_id, error, exc_info=error)
    status, body = problem_body(error, request_id)
    headers = dict([*error_headers(error), ("x-request-id", request_id)])
    return Response(body, status, headers, media_type=MEDIA_TYPE)


def create_app(
    settings: Settings | None = None, refs: Sequence[str] = (), *, engine: InferenceEngine | None = None
) -> FastAPI:
    """A FastAPI application with the routes of the gateway, to which you can add your own.

    Without `settings` they are read from the environment, `.env` and `penstock.toml`, and logging is set up. The
    models (`refs`, else the default model, else the whole registry) are loaded when the application starts.
    Raises ConfigError for a bad setting, and if FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI
    except ImportError:
        raise ConfigError("create_app needs FastAPI; install it with: pip install 'penstock[fastapi]'") from None

    build = _builder(settings, engine)

    def build_for_app() -> Gateway:
        gateway = build()
        service = gateway.service
        service.write_openapi = _with_routes_of(app, service.write_openapi)
        app.openapi = lambda: service.write_openapi(None)  # type: ignore[method-assign]
        app.state.gateway = gateway
        return gateway

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        async with life.running():
            yield

    app = FastAPI(
        title="Penstock",
        version=penstock.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    life = ServerLife(build_for_app, refs)
    app.add_exception_handler(PenstockError, problem_response)
    app.add_middleware(GatewayMiddleware, life=life)
    return app


def _with_routes_of(app: FastAPI, own: Writer) -> Writer:
    """Writes the document of the gateway's table with the routes that were added to `app`."""
    from fastapi.openapi.utils import get_openapi

    def write(example: Example | None = None) -> dict[str, Any]:
        document = own(example)
        added = get_openapi(title=app.title, version=app.version, routes=app.routes)
        document["paths"] = {**added.get("paths", {}), **document["paths"]}
        schemas = added.get("components", {}).get("schemas", {})
        document["components"]["schemas"] = {**schemas, **document["components"]["schemas"]}
        return document

    return write


class GatewayMiddleware:
    """ASGI middleware: answers the gateway's routes and unknown paths, and passes on what the application routes."""

    def __init__(self, app: App, life: ServerLife) -> None:
        self._app = app
        self._life = life

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection, or the lifespan of the application."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and (self._knows(path_of(scope)) or not _is_routed(scope)):
            await self._life.serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _knows(self, path: str) -> bool:
        gateway = self._life.gateway
        return gateway.routes.knows(within(path, gateway.service.settings.root_path))

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        """Start and stop; a model that cannot be served is reported in one sentence instead of a traceback."""

        async def without_traceback(message: Message) -> None:
            if message["type"] != "lifespan.startup.failed":
                await send(message)

        try:
            await self._app(scope, receive, without_traceback)
        except PenstockError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})


def _is_routed(scope: Message) -> bool:
    """True if a route that was added to the FastAPI application matches."""
    from starlette.routing import Match

    routes = getattr(scope.get("app"), "routes", ())
    return any(route.matches(scope)[0] is not Match.NONE for route in routes)
