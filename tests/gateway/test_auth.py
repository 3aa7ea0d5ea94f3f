"""Web pages and other machines: the host a request is addressed to, the page it comes from, and its content type."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from linear_models import SIGNATURE, linear
from live_servers import Live, Process
from plugin_packages import install
from waiting import LONG_S

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.errors import ConfigError
from penstock.gateway.access.step import Access
from penstock.gateway.auth import HostRule, is_loopback
from penstock.gateway.callers.callers import Callers
from penstock.gateway.http import Endpoint
from penstock.gateway.native.routes import TABLE
from penstock.gateway.problems import Refusal
from penstock.registry.admin_key import AdminKey
from penstock.registry.registry import Registry
from penstock.settings import Settings

KEY = "a-key-of-enough-letters"
APP = "https://app.example"
JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}

DIARY = """
from collections import deque

from pydantic import BaseModel

from penstock import Task
from penstock.plugin_api import Endpoint, json_reply, read_json

STORED = deque(maxlen=1000)


class Line(BaseModel):
    numbers: list[float] = []


class Diary(Task):
    kind = "diary"
    Request, Response = Line, Line
    inline = True
    stores = True

    def preprocess(self, request):
        import numpy as np

        return {"x": np.array([request.numbers], np.float32)}

    def postprocess(self, outputs, request):
        STORED.append("prediction")
        return request


async def write(call):
    line = read_json(Line, await call.body() or b"{}")
    STORED.append(call.method)
    return json_reply(line)


ROUTES = (
    Endpoint("GET", "/diary", write, "diary", "Read"),
    *(Endpoint(method, "/diary", write, "diary", "Write") for method in ("POST", "PUT", "PATCH", "DELETE")),
    Endpoint("POST", "/diary/upload", write, "diary", "Write", upload=True),
    Endpoint("POST", "/diary/search", write, "diary", "Stores nothing", changes=False),
    Endpoint("POST", "/diary/keep", write, "diary", "With the key", guarded=True),
)
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    root = tmp_path_factory.mktemp("guarded")
    site = root / "site"
    site.mkdir()
    install(site, "diary", DIARY, tasks="diary = diary:Diary", routes="diary = diary:ROUTES")
    sys.path.insert(0, str(site))
    with Registry(root / "registry") as found:
        for name, kind in (("diary", "diary"), ("plain", "vector-classification")):
            made = write_artifact(
                root / name,
                name=name,
                version="1",
                task=TaskEntry(kind=kind),
                signature=SIGNATURE,
                variants=[VariantSource("onnx", "fp32", linear(root / f"{name}.onnx"))],
                golden=None,
                card="",
            )
            found.publish(made.path)
        yield found
    sys.path.remove(str(site))
    sys.modules.pop("diary", None)


@pytest.fixture(scope="module", params=["h1", "rsgi", "asgi"])
def server(request: pytest.FixtureRequest, registry: Registry) -> Iterator[Live]:
    settings = Settings(
        registry=registry.path, threads=1, admin_key=KEY, cors_origins=APP, allowed_hosts="models.example,*.lab.example"
    )
    with Live(request.param, settings, ("plain", "diary")) as live:
        yield live


@pytest.fixture
def stored() -> Any:
    import diary

    diary.STORED.clear()
    return diary.STORED


def problem(reply: httpx.Response, status: int, *parts: str) -> None:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert [part for part in parts if part not in reply.json()["detail"]] == [], reply.text


def sent(live: Live, text: str) -> str:
    """The status line, headers and body of the reply to a request as it is written."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=LONG_S) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode("latin-1"))
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")


# Hosts


LOCAL = ["localhost", "LOCALHOST", "localhost.", "app.localhost", "127.0.0.1", "127.8.9.1", "[::1]", "[0:0::1]"]
FOREIGN = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io",
    "localhost@evil.example",
    "evil.example#localhost",
    "localhost:80@evil.example",
    "localhost, evil.example",
    "localhost:80:80",
    "notlocalhost",
    "192.0.2.7",
    "0.0.0.0",
    "[::]",
    "[2001:db8::1]",
    "[::1",
    "::1",
    "2130706433",
    "0x7f.0.0.1",
    "127.1",
    "lab.example.evil",
    "lab.example",
    "evillab.example",
    "",
]


MALFORMED = {
    "localhost@evil.example", "evil.example#localhost", "localhost:80@evil.example", "localhost, evil.example",
    "localhost:80:80", "[::1", "::1",
}  # fmt: skip
"""No hosts at all: the built-in server refuses them as such."""


@pytest.mark.parametrize("port", ["", ":8002", ":1", ":"])
def test_names_of_this_machine_are_answered_with_any_port(server: Live, port: str) -> None:
    for host in (*LOCAL, "models.example", "MODELS.example.", "a.lab.example", "a.b.LAB.example"):
        assert server.http.get("/health/live", headers={"host": host + port}).status_code == 200, host


@pytest.mark.parametrize("host", FOREIGN)
def test_a_rebound_name_reads_and_writes_nothing(server: Live, stored: Any, host: str) -> None:
    status, why = (400, "Host") if server.kind == "h1" and host in MALFORMED else (421, "allowed_hosts")
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        for name in (host, f"{host}:8002") if host else (host,):
            headers = {"host": name, "origin": f"http://{host}:8002", "sec-fetch-site": "same-origin"}
            assert server.http.request(method, "/diary", headers=headers).status_code == status, name
    for path in ("/", "/health", "/metrics", "/models", "/docs", "/openapi.json", "/nowhere", "/diary/"):
        problem(server.http.get(path, headers={"host": host}), status, why)
    problem(server.http.post("/predict", json={"input_data": [1, 2, 3, 4]}, headers={"host": host}), status)
    problem(server.http.get("/admin", headers={"host": host, "x-api-key": KEY}), status)
    preflight = {"host": host, "origin": APP, "access-control-request-method": "POST"}
    problem(server.http.options("/predict", headers=preflight), status)
    assert not stored


def test_two_hosts_are_none(server: Live, stored: Any) -> None:
    for first, second in (("localhost", "evil.example"), ("evil.example", "localhost"), ("localhost", "localhost")):
        reply = sent(server, f"DELETE /diary HTTP/1.1\nHost: {first}\nHost: {second}\nConnection: close\n\n")
        assert reply.split()[1] == "400", reply
    assert not stored


@pytest.mark.parametrize("server", ["rsgi"], indirect=True)
def test_the_target_of_a_request_may_be_a_whole_url_of_this_machine(server: Live) -> None:
    for target in ("http://localhost/health/live", f"http://127.0.0.1:{server.port}/health/live"):
        reply = sent(server, f"GET {target} HTTP/1.1\nHost: localhost\nConnection: close\n\n")
        assert reply.split()[1] == "200", reply


def test_a_whole_url_of_another_host_is_refused_whatever_the_header_says(server: Live, stored: Any) -> None:
    seen = ("evil.example",) if server.kind == "asgi" else ("localhost", "evil.example")
    for host in seen:  # Uvicorn passes on only the path of a whole URL, and the header alone counts
        reply = sent(server, f"GET http://evil.example/diary HTTP/1.1\nHost: {host}\nConnection: close\n\n")
        assert reply.split()[1] == "421", reply
    assert not stored


def test_old_clients_name_no_host(server: Live) -> None:
    """HTTP/1.0, as health checks of load balancers speak; no browser does."""
    assert sent(server, "GET /health/live HTTP/1.0\n\n").split()[1] == "200"
    assert sent(server, "GET /health/live HTTP/1.1\nConnection: close\n\n").split()[1] == "400"


class Asked:
    """A request as far as the rule of hosts reads it."""

    authority = None
    http_version = "1.1"

    def __init__(self, server: str | None = None) -> None:
        self.server = server


@pytest.mark.parametrize("listener", ["0.0.0.0", "192.0.2.1", "::", "/run/penstock.sock"])
def test_other_listeners_check_the_host_only_if_hosts_are_set(listener: str) -> None:
    assert not HostRule(Settings(), listener).needed
    rule = HostRule(Settings(allowed_hosts="models.example"), listener)
    assert rule.needed
    for host in ("models.example", "Models.Example:443", "localhost:1", "10.0.0.7:8002", "[2001:db8::1]"):
        assert rule.check(Asked(), [host])  # type: ignore[arg-type]
    for host in ("evil.example", "models.example.evil.example", ""):
        with pytest.raises(Refusal, match="allowed_hosts"):
            rule.check(Asked(), [host])  # type: ignore[arg-type]


def test_a_star_allows_every_host() -> None:
    assert not HostRule(Settings(allowed_hosts="*"), "127.0.0.1").needed


def test_under_another_server_the_connection_tells_whether_it_is_local() -> None:
    rule = HostRule(Settings(), None)
    for server in ("127.0.0.1", "::1"):
        with pytest.raises(Refusal, match="loopback"):
            rule.check(Asked(server), ["evil.example"])  # type: ignore[arg-type]
    for server in ("192.0.2.1", "/run/app.sock", "testserver", None):
        assert not rule.check(Asked(server), ["models.example"])  # type: ignore[arg-type]
    assert not HostRule(Settings(host="0.0.0.0"), None).needed  # behind a proxy in the same pod


@pytest.mark.parametrize(
    "text", ["http://models.example", "models.example:8002", "a b", "models.example/x", "*.*", "é"]
)
def test_an_allowed_host_is_a_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"allowed_hosts: .* should hold names such as models\.example\.org"):
        Settings(allowed_hosts=text)


def test_loopback_is_a_range_and_two_names() -> None:
    assert all(is_loopback(host.strip("[]").lower().rstrip(".")) for host in LOCAL)
    assert is_loopback("::ffff:127.0.0.1")
    assert not any(map(is_loopback, ("", "localhost.com", "128.0.0.1", "::2", "::ffff:10.0.0.1", "0.0.0.0")))


# Pages


PAGES: list[Any] = [
    [("origin", "https://evil.example")],
    [("origin", "null")],
    [("origin", "")],
    [("origin", "file://")],
    [("origin", "http://127.0.0.1")],
    [("origin", "http://127.0.0.1:1")],
    [("origin", "https://127.0.0.1:PORT"), ("sec-fetch-site", "cross-site")],
    [("origin", "http://127.0.0.1:PORT@evil.example")],
    [("origin", "http://127.0.0.1:PORT.evil.example")],
    [("origin", "http://127.0.0.1:PORT/")],
    [("origin", "http://127.0.0.1:PORT, https://evil.example")],
    [("origin", "http://127.0.0.1:PORT"), ("origin", "https://evil.example")],
    [("origin", "https://evil.example"), ("origin", "http://127.0.0.1:PORT")],
    [("origin", "https://app.example.evil.example")],
    [("origin", "http://app.example")],
    [("origin", "https://app.example:8443")],
    [("sec-fetch-site", "cross-site")],
    [("sec-fetch-site", "Cross-Site")],
    [("sec-fetch-site", "same-site")],
    [("sec-fetch-site", "")],
    [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
]


@pytest.mark.parametrize("headers", PAGES)
def test_a_page_of_another_origin_changes_nothing(server: Live, stored: Any, headers: list[tuple[str, str]]) -> None:
    page = [(name, value.replace("PORT", str(server.port))) for name, value in headers]
    full = [*page, *JSON.items()]
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        problem(server.http.request(method, "/diary", content=b"{}", headers=full), 403, "another origin")
        problem(server.http.request(method, "/diary", headers=page), 403)
    problem(server.http.post("/diary/upload", files={"file": b"x"}, headers=page), 403)
    body = b'{"numbers": [1, 2, 3, 4]}'
    problem(server.http.post("/models/diary/predict", content=body, headers=full), 403, "cors_origins")
    problem(server.http.post("/models/diary/versions/1/predict", content=body, headers=full), 403)
    batch = b'{"model": "diary", "requests": [%b]}' % body
    problem(server.http.post("/predict/batch", content=batch, headers=full), 403)
    keyed = [*full, ("x-api-key", KEY)]
    problem(server.http.post("/admin/drain", content=b"{}", headers=keyed), 403)
    problem(server.http.delete("/admin/drain", headers=keyed), 403)
    problem(server.http.get("/admin", headers=keyed), 403)
    problem(server.http.post("/diary/keep", content=b"{}", headers=keyed), 403)
    assert not stored
    assert server.http.post("/diary/search", content=b"{}", headers=full).status_code == 200
    assert server.http.post("/predict", json={"input_data": [1, 2, 3, 4]}, headers=page).status_code == 200


OWN: list[dict[str, str]] = [
    {},
    {"origin": "http://127.0.0.1:PORT"},
    {"origin": "HTTP://127.0.0.1:PORT"},
    {"origin": "https://models.example", "host": "models.example"},  # a proxy ends TLS
    {"origin": "https://models.example", "host": "Models.Example:443"},
    {"origin": "https://models.example", "sec-fetch-site": "same-origin"},  # a proxy that does not pass Host on
    {"sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "none"},
    {"origin": APP},
    {"origin": APP, "sec-fetch-site": "cross-site"},
    {"origin": APP.upper()},
]


@pytest.mark.parametrize("headers", OWN)
def test_own_and_allowed_pages_and_other_clients_may_change_things(
    server: Live, stored: Any, headers: dict[str, str]
) -> None:
    page = {name: value.replace("PORT", str(server.port)) for name, value in headers.items()}
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert server.http.request(method, "/diary", content=b"{}", headers={**page, **JSON}).status_code == 200
        assert server.http.request(method, "/diary", headers=page).status_code == 200
    assert server.http.post("/models/diary/predict", json={"numbers": [1, 2, 3, 4]}, headers=page).status_code == 200
    assert server.http.get("/admin", headers={**page, "x-api-key": KEY}).status_code == 200
    assert len(stored) == 9


def test_a_star_opens_what_needs_no_key(registry: Registry, stored: Any) -> None:
    settings = Settings(registry=registry.path, threads=1, admin_key=KEY, cors_origins="*")
    with Live("h1", settings, ("diary",)) as live:
        page = {"origin": "https://anyone.example", "sec-fetch-site": "cross-site"}
        assert live.http.post("/diary", json={}, headers=page).status_code == 200
        problem(live.http.get("/admin", headers={**page, "x-api-key": KEY}), 403)
    assert list(stored) == ["POST"]


# Content types


TYPES = [
    {},
    FORM,
    {"content-type": "text/plain"},
    {"content-type": "text/plain; charset=application/json"},
    {"content-type": "multipart/form-data; boundary=x"},
    {"content-type": "application/jsonp"},
    {"content-type": "text/json"},
    {"content-type": ""},
    {"content-type": "application/x-www-form-urlencoded, application/json"},
]


@pytest.mark.parametrize("kind", TYPES)
def test_where_something_is_stored_a_body_needs_the_type_of_json(
    server: Live, stored: Any, kind: dict[str, str]
) -> None:
    body = b'{"numbers": [1, 2, 3, 4]}'
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        problem(server.http.request(method, "/diary", content=body, headers=kind), 415, "application/json")
    for path in ("/models/diary/predict", "/models/diary/versions/1/predict"):
        problem(server.http.post(path, content=body, headers=kind), 415, "application/json")
    batch = b'{"model": "diary", "requests": [%b]}' % body
    problem(server.http.post("/predict/batch", content=batch, headers=kind), 415)
    chunks = [b'{"numbers": ', b"[1]}"]
    problem(server.http.post("/diary", content=iter(chunks), headers=kind), 415)
    problem(server.http.post("/admin/drain", content=b"{}", headers={**kind, "x-api-key": KEY}), 415)
    assert not stored


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/ld+json"])
def test_json_has_several_spellings(server: Live, stored: Any, kind: str) -> None:
    headers = {"content-type": kind}
    assert server.http.put("/diary", content=b"{}", headers=headers).status_code == 200
    body = b'{"numbers": [1, 2, 3, 4]}'
    assert server.http.post("/models/diary/predict", content=body, headers=headers).status_code == 200
    assert list(stored) == ["PUT", "prediction"]


@pytest.mark.parametrize("kind", [{}, FORM])
def test_predictions_that_store_nothing_take_what_curl_sends(server: Live, kind: dict[str, str]) -> None:
    body = b'{"input_data": [1, 2, 3, 4]}'
    for path in ("/predict", "/inference/predict", "/models/plain/predict"):
        assert server.http.post(path, content=body, headers=kind).status_code == 200
    batch = b'{"requests": [%b]}' % body
    assert server.http.post("/predict/batch", content=batch, headers=kind).status_code == 200


def test_two_content_types_are_none(server: Live, stored: Any) -> None:
    headers = [("content-type", "application/json"), ("content-type", "text/plain")]
    for pair in (headers, headers[::-1]):
        assert server.http.post("/diary", content=b"{}", headers=pair).status_code in (400, 415)
    assert not stored


def test_another_method_in_a_header_or_the_query_is_not_followed(server: Live, stored: Any) -> None:
    for name in ("x-http-method-override", "x-method-override", "x-http-method"):
        assert server.http.get("/diary?_method=DELETE", headers={name: "DELETE"}).status_code == 200
    assert set(stored) == {"GET"}
    assert server.http.request("OPTIONS", "/diary", headers={"origin": "https://evil.example"}).status_code == 405


# The admin key


def test_every_admin_route_needs_the_key() -> None:
    rows = [row for row in TABLE if row.path.startswith("/admin")]
    assert len(rows) == 25
    assert all(row.guarded and row.needs == "admin" for row in rows)
    changing = {(row.method, row.path) for row in TABLE if row.changes}
    labels = {("POST", "/feedback")}  # of clients, who have the request ids
    assert changing == {(row.method, row.path) for row in rows if row.method != "GET"} | labels


def test_rows_change_something_unless_they_say_otherwise() -> None:
    async def handler(_: Any) -> Any:
        raise NotImplementedError

    assert [Endpoint(m, "/x", handler, "", "").changes for m in ("GET", "POST", "PUT", "DELETE")] == [0, 1, 1, 1]


FORWARDED: list[dict[str, str]] = [
    {},  # nginx as it comes
    {"x-forwarded-for": "203.0.113.9"},
    {"x-forwarded-for": "127.0.0.1"},
    {"x-real-ip": "127.0.0.1"},
    {"forwarded": "for=127.0.0.1"},
    {"origin": "http://127.0.0.1:PORT", "sec-fetch-site": "same-origin"},
]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_loopback_client_needs_the_key_that_the_server_keeps(
    serve: Callable[..., Process], registry: Registry, tmp_path: Path
) -> None:
    process = serve("plain", "--registry", str(registry.path))
    process.wait_for()
    for headers in FORWARDED:
        reply = httpx.get(f"{process.url}/admin", headers={name: v.replace("PORT", "1") for name, v in headers.items()})
        assert reply.status_code in (401, 403)
    assert httpx.get(f"{process.url}/admin", headers=process.auth).json()["loaded"] == ["plain:1"]
    key = process.auth["Authorization"].removeprefix("Bearer ")
    process.send()
    code, out, err = process.finish()
    assert code == 0
    assert f"the admin key is in {registry.path}/admin.key" in err
    assert key not in out + err


def test_a_socket_of_the_server_needs_no_key(tmp_path: Path) -> None:
    class Asked:
        def __init__(self, **headers: str) -> None:
            self.header = headers.get
            self.header_values = lambda name: [headers[name]] if name in headers else []
            self.authority = None
            self.client = None
            self.operator = False
            self.entered = 0.0
            self.service = type("Service", (), {"settings": Settings()})

    async def handler(call: Any) -> Any:
        raise NotImplementedError

    row = Endpoint("GET", "/keep", handler, "", "", guarded=True)

    def ask(listener: str | None, call: Any) -> None:
        access = Access(callers, listener)
        access.admit(call, row)
        access.guard(call)

    callers = Callers(Settings(), Registry(tmp_path), AdminKey(None, tmp_path / "admin.key"))
    asyncio.run(callers.start(None))
    ask("/run/penstock.sock", Asked())
    with pytest.raises(Refusal) as page:
        ask("/run/penstock.sock", Asked(origin="https://evil.example"))
    assert page.value.status == 403
    for listener in ("127.0.0.1", "::1", None):
        for headers in ({}, {"x-api-key": ""}, {"authorization": "Bearer "}):
            with pytest.raises(Refusal) as refused:
                ask(listener, Asked(**headers))
            assert refused.value.status == 401
    operator = Asked()
    operator.operator = True
    ask(None, operator)
    callers = Callers(Settings(trusted_proxies="unix"), Registry(tmp_path), AdminKey(None, tmp_path / "admin.key"))
    asyncio.run(callers.start(None))
    with pytest.raises(Refusal) as proxied:
        ask("/run/penstock.sock", operator)
    assert proxied.value.status == 401
