"""The ASGI application under any server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from waiting import LONG_S

from penstock.engine.engine import InferenceEngine
from penstock.errors import ConfigError, InferenceError, InvalidInput, PenstockError
from penstock.gateway.gateway import Gateway
from penstock.gateway.process.asgi import AsgiApp, create_app, problem_response
from penstock.settings import Settings

GOOD = {"input_data": [1, 2, 3, 4]}


def uvicorn(directory: Path, port: int, **environ: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "penstock:create_app",
        "--factory",
        "--port",
        str(port),
    ]
    return subprocess.Popen(
        command, cwd=directory, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_uvicorn_serves_the_factory_with_settings_from_the_environment(
    tmp_path: Path, registry_path: Path, free_port: int, database: Callable[[Path], str]
) -> None:
    environ = {"PENSTOCK_REGISTRY": str(registry_path), "PENSTOCK_DEFAULT_MODEL": "vec@stable"}
    server = uvicorn(tmp_path, free_port, **environ, DATABASE_URL=database(registry_path))
    try:
        reply = _until_it_answers(server, f"http://127.0.0.1:{free_port}/predict")
        assert reply.json()["model_version"] == "v1.0"
    finally:
        server.terminate()
        _, err = server.communicate(timeout=LONG_S)
    assert "Traceback" not in err


def _until_it_answers(server: subprocess.Popen[str], url: str) -> httpx.Response:
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        assert server.poll() is None, server.communicate()
        try:
            return httpx.post(url, json={"input_data": [1, 2, 3, 4]})
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the server did not answer")


def test_a_model_that_cannot_be_served_stops_uvicorn_with_a_sentence(
    tmp_path: Path, registry_path: Path, free_port: int, database: Callable[[Path], str]
) -> None:
    environ = {"PENSTOCK_REGISTRY": str(registry_path), "PENSTOCK_DEFAULT_MODEL": "missing"}
    server = uvicorn(tmp_path, free_port, **environ, DATABASE_URL=database(registry_path))
    _, err = server.communicate(timeout=LONG_S)
    assert server.returncode != 0
    assert "missing" in err
    assert "Traceback" not in err


def test_a_bad_setting_stops_the_factory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_BATCH_SIZE", "many")
    with pytest.raises(ConfigError, match="PENSTOCK_BATCH_SIZE"):
        create_app()


async def test_shutdown_of_the_application_waits_for_requests_in_flight(base_settings: Settings) -> None:
    app = create_app(base_settings, ("slow",))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with client:
        lifespan = app.router.lifespan_context(app)
        await lifespan.__aenter__()
        inside = asyncio.create_task(client.post("/predict", json={"input_data": [200.0, 0, 0, 0]}))
        while not app.state.gateway.service.engine.inflight:  # noqa: ASYNC110  the engine has no event for it
            await asyncio.sleep(0.005)
        ending = asyncio.create_task(lifespan.__aexit__(None, None, None))
        await asyncio.sleep(0.02)
        refused = await client.post("/predict", json={"input_data": [1, 0, 0, 0]})
        assert refused.status_code == 503
        assert refused.headers["connection"] == "close"
        assert (await inside).status_code == 200
        await ending


async def test_websockets_and_other_scopes_bypass_the_table(base_settings: Settings) -> None:
    app = create_app(base_settings)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/predict", "headers": [], "query_string": b"", "subprotocols": []}
    await app(scope, receive, send)
    assert sent[0]["type"] == "websocket.close"
    await app.state.gateway.service.engine.close()


_WITHOUT_FASTAPI = """
import asyncio, json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fastapi", "fastapi_offline", "starlette"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())

import httpx
import penstock
from penstock.gateway.process.asgi import AsgiApp
from penstock.settings import Settings

try:
    penstock.create_app(Settings())
except penstock.PenstockError as error:
    sentence = f"{type(error).__name__}: {error}"

async def main():
    app = AsgiApp(Settings(), ["digits"])
    sent, received = [], asyncio.Queue()
    async def send(message):
        sent.append(message["type"])
    await received.put({"type": "lifespan.startup"})
    life = asyncio.create_task(app({"type": "lifespan"}, received.get, send))
    while not sent:
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
        statuses = [(await http.post("/predict", json={"input_data": [0.0] * 784})).status_code]
        for path in ("/docs", "/redoc", "/openapi.json", "/docs/assets/swagger-ui-bundle.js", "/nowhere"):
            statuses.append((await http.get(path)).status_code)
    await received.put({"type": "lifespan.shutdown"})
    await life
    return sentence, statuses, sent

print(json.dumps(asyncio.run(main())))
"""


def test_everything_but_create_app_works_without_fastapi(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT_FASTAPI], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sentence, statuses, sent = json.loads(done.stdout)
    assert sentence == "ConfigError: create_app needs FastAPI; install it with: pip install 'penstock[fastapi]'"
    assert statuses == [200, 200, 200, 200, 200, 404]
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_model_that_cannot_be_served_fails_the_start_in_one_sentence(base_settings: Settings) -> None:
    app, sent = AsgiApp(base_settings, ["nothing"]), []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert "nothing" in message["message"]
    await app.gateway.close()


# Starts and ends


@contextlib.asynccontextmanager
async def living(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application whose lifespan is run meanwhile."""
    sent, received = asyncio.Queue[MutableMapping[str, Any]](), asyncio.Queue[MutableMapping[str, Any]]()
    life = asyncio.create_task(
        app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, received.get, sent.put)
    )
    await received.put({"type": "lifespan.startup"})
    assert await sent.get() == {"type": "lifespan.startup.complete"}
    async with client_of(app) as client:
        yield client
    await received.put({"type": "lifespan.shutdown"})
    assert await sent.get() == {"type": "lifespan.shutdown.complete"}
    await life


def client_of(app: Any, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app", headers=headers)


@pytest.mark.parametrize("make", [create_app, AsgiApp])
def test_an_application_starts_as_often_as_its_lifespan_is_run(
    base_settings: Settings, make: Callable[..., Any]
) -> None:
    app = make(base_settings, ("vec",))

    async def once() -> None:
        async with living(app) as client:
            assert (await client.get("/health/ready")).status_code == 200
            assert (await client.post("/predict", json=GOOD)).status_code == 200
            assert "/predict" in (await client.get("/openapi.json")).json()["paths"]
        async with client_of(app) as client:
            assert (await client.post("/predict", json=GOOD)).status_code == 503

    for _ in range(2):
        asyncio.run(once())


@pytest.mark.parametrize("make", [create_app, AsgiApp])
async def test_a_mounted_application_starts_at_its_first_request(
    base_settings: Settings, make: Callable[..., Any]
) -> None:
    outer, inner = FastAPI(), make(base_settings, ("vec",))
    outer.mount("/ml", inner)
    async with living(outer) as client:
        reply = await client.post("/ml/predict", json=GOOD)
        assert reply.status_code == 200, reply.text
        assert (await client.get("/ml/health/ready")).status_code == 200
        assert (await client.get("/ml/nowhere")).json()["type"] == "urn:penstock:not-found"
        assert (await client.get("/predict")).json() == {"detail": "Not Found"}
    await gateway_of(inner).close()


def gateway_of(app: Any) -> Gateway:
    return app.gateway if isinstance(app, AsgiApp) else app.state.gateway  # type: ignore[no-any-return]


async def test_requests_that_come_together_start_it_once(
    base_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(base_settings, ("vec",))
    service = app.state.gateway.service
    starts: list[object] = []
    start = service.start
    monkeypatch.setattr(service, "start", lambda refs: starts.append(refs) or start(refs))
    async with client_of(app) as client:
        replies = await asyncio.gather(*(client.post("/predict", json=GOOD) for _ in range(4)))
    assert {reply.status_code for reply in replies} == {200}
    assert len(starts) == 1
    await app.state.gateway.close()


def test_without_a_lifespan_every_request_may_have_an_event_loop_of_its_own(base_settings: Settings) -> None:
    app = create_app(base_settings, ("vec",))

    async def once() -> int:
        async with client_of(app) as client:
            return (await client.post("/predict", json=GOOD)).status_code

    assert [asyncio.run(once()) for _ in range(3)] == [200] * 3
    asyncio.run(app.state.gateway.close())


async def test_a_mounted_application_whose_model_is_missing_says_so_at_every_request(base_settings: Settings) -> None:
    outer, inner = FastAPI(), create_app(base_settings, ("nothing",))
    outer.mount("/ml", inner)
    async with client_of(outer) as client:
        for _ in range(2):
            reply = await client.post("/ml/predict", json=GOOD)
            assert reply.status_code == 503
            assert "nothing" in reply.json()["detail"]
        assert (await client.get("/ml/health/live")).status_code == 200
    await inner.state.gateway.close()


_MOUNTED = """
import asyncio, httpx
from fastapi import FastAPI
from penstock import create_app

outer = FastAPI()
outer.mount("/ml", create_app(refs=["digits"]))

async def main():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://t") as client:
        print((await client.post("/ml/predict", json={"input_data": [0.0] * 784})).status_code)

asyncio.run(main())
"""


def test_a_process_ends_although_nobody_ends_its_mounted_application(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MOUNTED], cwd=tmp_path, capture_output=True, text=True, timeout=LONG_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
    assert "Traceback" not in done.stderr


# Errors in applications of others


async def test_the_handler_gives_an_embedded_engine_the_problem_documents_of_the_server(
    base_settings: Settings,
) -> None:
    engine = InferenceEngine(base_settings)
    await engine.start(["vec"])
    app, served = FastAPI(), create_app(base_settings, engine=engine)
    app.add_exception_handler(PenstockError, problem_response)

    @app.post("/models/{name}/predict")
    async def score(name: str, body: dict[str, Any]) -> Any:
        if name == "broken":
            raise InferenceError("a secret of the server")
        return (await engine.predict(body, ref=name)).response

    headers = {"x-request-id": "mine"}
    async with client_of(app, **headers) as own, client_of(served, **headers) as other:
        for path, body in (("/models/vec/predict", {"input_data": [1]}), ("/models/nothing/predict", GOOD)):
            here, there = await own.post(path, json=body), await other.post(path, json=body)
            assert here.status_code in (404, 422)
            assert (here.status_code, here.json()) == (there.status_code, there.json())
            assert here.headers["content-type"] == there.headers["content-type"] == "application/problem+json"
            assert here.headers["x-request-id"] == "mine"
        broken = await own.post("/models/broken/predict", json=GOOD)
        assert broken.status_code == 500
        assert "secret" not in broken.text
        await engine.close()
        closed = await own.post("/models/vec/predict", json=GOOD)
        assert closed.status_code == 503
        assert int(closed.headers["retry-after"]) >= 1


async def test_an_added_route_may_raise_an_error_of_penstock(base_settings: Settings) -> None:
    app = create_app(base_settings, ("vec",))

    @app.get("/own")
    async def own() -> None:
        raise InvalidInput("own: it is not valid", field="own")

    async with client_of(app) as client:
        reply = await client.get("/own")
    assert reply.status_code == 422
    assert reply.json()["errors"] == [{"field": "own", "message": "it is not valid"}]
    await app.state.gateway.close()
