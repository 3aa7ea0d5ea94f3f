"""The gateway as an ASGI application: `uvicorn penstock.gateway.process.asgi:create_app --factory`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import penstock
from penstock.engine.engine import InferenceEngine
from penstock.errors import PenstockError
from penstock.gateway.docs.examples import Example
from penstock.gateway.gateway import Gateway
from penstock.gateway.http import Call, Disconnected, Reply
from penstock.gateway.native.routes import TABLE
from penstock.gateway.service import Service
from penstock.monitor.logs import configure_logging
from penstock.settings import Settings, load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Writer: TypeAlias = Callable[[Example | None], dict[str, Any]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


def create_app(
    settings: Settings | None = None, refs: Sequence[str] = (), *, engine: InferenceEngine | None = None
) -> FastAPI:
    """A FastAPI application that serves the table of routes; routes that you add to it are served as well.

    Without `settings` they are read from the environment, `.env` and `penstock.toml`, and logging is set up. The
    models (`refs`, else the default model, else the whole registry) are loaded when the application starts.
    Raises ConfigError for a bad setting.
    """
    from fastapi import FastAPI

    if settings is None:
        settings = load_settings().settings
        configure_logging(settings)
    service = Service(settings, engine=engine)
    gateway = Gateway(service, TABLE)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        await service.start(refs)
        try:
            yield
        finally:
            await gateway.drain(settings.drain_timeout_s)
            await gateway.close()

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
    app.add_middleware(AsgiGateway, gateway=gateway)
    return app


def _with_routes_of(app: FastAPI, own: Writer) -> Writer:
    """What describes the table, and after it the routes that somebody added to `app`."""
    from fastapi.openapi.utils import get_openapi

    def write(example: Example | None = None) -> dict[str, Any]:
        document = own(example)
        theirs = get_openapi(title=app.title, version=app.version, routes=app.routes)
        document["paths"] = {**theirs.get("paths", {}), **document["paths"]}
        schemas = theirs.get("components", {}).get("schemas", {})
        document["components"]["schemas"] = {**schemas, **document["components"]["schemas"]}
        return document

    return write


class AsgiGateway:
    """Pure ASGI middleware: answers what is in the table and hands everything else on."""

    def __init__(self, app: App, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection, or the application's life."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and (self._gateway.routes.knows(scope["path"]) or not self._is_theirs(scope)):
            await self._answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_theirs(self, scope: Message) -> bool:
        """True when a route that was added to the FastAPI application takes the path."""
        from starlette.routing import Match

        routes = getattr(scope.get("app"), "routes", ())
        return any(route.matches(scope)[0] is not Match.NONE for route in routes)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        """Start and stop; a model that cannot be served is one sentence instead of a traceback."""

        async def tell(message: Message) -> None:
            if message["type"] != "lifespan.startup.failed":
                await send(message)

        try:
            await self._app(scope, receive, tell)
        except PenstockError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        call = AsgiCall(self._gateway, scope, receive)
        reply = await self._gateway.serve(call)
        if reply is None:
            return
        if call.unread:
            await call.linger()
        await _send(send, reply, head=call.method == "HEAD")


class AsgiCall(Call):
    """A request of an ASGI server's."""

    _ended = False

    def __init__(self, gateway: Gateway, scope: Message, receive: Receive) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.service = gateway.service
        self.limits = gateway.limits
        self.method = scope["method"]
        self.path = scope["path"]
        self.query = scope["query_string"].decode("latin-1")
        self.header = headers.get
        self._receive = receive

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

    async def gone(self) -> None:
        """Return when the server says that the client has disconnected."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _send(send: Send, reply: Reply, *, head: bool) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
    if reply.status != 204:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})
