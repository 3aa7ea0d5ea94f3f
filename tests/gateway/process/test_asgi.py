"""The ASGI application under any server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import LONG_S

from penstock.errors import ConfigError
from penstock.gateway.process.asgi import AsgiApp, create_app
from penstock.settings import Settings


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
