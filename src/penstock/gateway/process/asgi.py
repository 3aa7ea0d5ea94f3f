"""The gateway as an ASGI application, alone (`AsgiApp`) or inside a FastAPI application (`create_app`)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import penstock
from penstock.engine.engine import InferenceEngine
from penstock.errors import ConfigError, PenstockError
from penstock.gateway.docs.examples import Example
from penstock.gateway.gateway import Gateway
from penstock.gateway.http import Call, Disconnected, Protocol, Reply, ReplyStream
from penstock.gateway.middleware import build_gateway
from penstock.gateway.native.routes import NATIVE
from penstock.gateway.service import Service
from penstock.monitor.logs import configure_logging
from penstock.settings import Settings, load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

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
        self.gateway = _gateway(settings, engine, protocols)
        self._refs = refs

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection, or the lifespan of the application."""
        if scope["type"] == "http":
            await self.gateway.serve(AsgiCall(self.gateway, scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with running(self.gateway, self._refs):
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except PenstockError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await send({"type": "lifespan.shutdown.complete"})


def _gateway(
    settings: Settings | None, engine: InferenceEngine | None, protocols: Sequence[Protocol] = (NATIVE,)
) -> Gateway:
    if settings is None:
        settings = load_settings().settings
        configure_logging(settings)
    return build_gateway(Service(settings, engine=engine), protocols=protocols)


@contextlib.asynccontextmanager
async def running(gateway: Gateway, refs: Sequence[str]) -> AsyncIterator[None]:
    """Load the models, and at the end finish the requests in flight. Raises the PenstockError of a model."""
    await gateway.service.start(refs)
    try:
        yield
    finally:
        await gateway.drain(gateway.service.settings.drain_timeout_s)
        await gateway.close()


class AsgiCall(Call):
    """A request of an ASGI server."""

    _ended = False
    _refusal: Reply | None = None

    def __init__(self, gateway: Gateway, scope: Message, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.service = gateway.service
        self.limits = gateway.limits
        self.method = scope["method"]
        self.path = scope["path"]
        self.query = scope["query_string"].decode("latin-1")
        self.header = headers.get
        self.server = (scope.get("server") or (None,))[0]
        self.http_version = scope.get("http_version", "1.1")
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


# FastAPI


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

    gateway = _gateway(settings, engine)
    service = gateway.service

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        async with running(gateway, refs):
            yield

    app = FastAPI(
        title="Penstock",
        version=penstock.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    service.write_openapi = _with_routes_of(app, service.write_openapi)
    app.openapi = lambda: service.write_openapi(None)  # type: ignore[method-assign]
    app.state.gateway = gateway
    app.add_middleware(GatewayMiddleware, gateway=gateway)
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

    def __init__(self, app: App, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection, or the lifespan of the application."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and (self._gateway.routes.knows(scope["path"]) or not _is_routed(scope)):
            await self._gateway.serve(AsgiCall(self._gateway, scope, receive, send))
        else:
            await self._app(scope, receive, send)

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
