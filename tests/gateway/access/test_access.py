"""Who is admitted, to what: over a server, with keys in its registry."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from linear_models import SIGNATURE, linear
from live_servers import Live
from plugin_packages import install
from waiting import wait_until

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.registry.database import followed
from penstock.registry.registry import Registry
from penstock.settings import Settings

ADMIN = "an-admin-key-of-enough-letters"
BODY = {"input_data": [1, 2, 3, 4]}

HOUSE = """
from penstock import Task
from penstock.plugin_api import Endpoint, Reply
from penstock.tasks.tensor import TensorTask
import numpy as np


class House(TensorTask):
    kind = "house"


async def ask(call):
    x = np.ones((1, 4), np.float32)
    answer = await call.service.engine.infer(call.params["name"], {"x": x})
    return Reply(200, [("content-type", "text/plain")], answer.model.encode())


async def show(call):
    caller = call.caller
    return Reply(200, [("content-type", "text/plain")], f"{caller and caller.id} {caller and caller.weight}".encode())


ROUTES = (
    Endpoint("POST", "/house/{name}", ask, "house", "Ask a model", changes=False),
    Endpoint("GET", "/house", show, "house", "Show the caller"),
    Endpoint("DELETE", "/house", show, "house", "For administrators", guarded=True),
)
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    root = tmp_path_factory.mktemp("keyed")
    site = root / "site"
    site.mkdir()
    install(site, "house", HOUSE, tasks="house = house:House", routes="house = house:ROUTES")
    sys.path.insert(0, str(site))
    with Registry(root / "registry") as found:
        for name, version, kind in (
            ("open", "1", "vector-classification"),
            ("open", "2", "vector-classification"),
            ("secret", "1", "vector-classification"),
            ("house", "1", "house"),
        ):
            made = write_artifact(
                root / f"{name}-{version}",
                name=name,
                version=version,
                task=TaskEntry(kind=kind),
                signature=SIGNATURE,
                variants=[VariantSource("onnx", "fp32", linear(root / f"{name}-{version}.onnx"))],
                golden=None,
                card="a card",
            )
            found.publish(made.path, prove=False)
        found.set_alias("open", "champion", "1", force=True)
        yield found
    sys.path.remove(str(site))
    sys.modules.pop("house", None)


@pytest.fixture(scope="module")
def server(registry: Registry) -> Iterator[Live]:
    registry.keys.create("the first", ("admin",))
    settings = Settings(registry=registry.path, threads=1, admin_key=ADMIN)
    with Live("h1", settings, ("open:1", "open:2", "open", "secret", "house")) as live:
        yield live


@pytest.fixture
def key(registry: Registry, server: Live) -> Callable[..., dict[str, str]]:
    """Makes a key that the server knows; the header with it."""

    def make(*scopes: str, **more: Any) -> dict[str, str]:
        made = registry.keys.create("somebody", scopes or ("infer",), **more)
        server.call(server.service.callers.follow)
        return {"authorization": f"Bearer {made.key}"}

    return make


def refused(reply: httpx.Response, status: int, *parts: str) -> None:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert [part for part in parts if part not in reply.json()["detail"]] == [], reply.text


def test_without_a_key_only_probes_and_pages_are_answered(server: Live) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/livez", "/docs", "/openapi.json"):
        assert server.http.get(path).status_code == 200, path
    for path in ("/models", "/model/info", "/stats", "/metrics", "/models/open/card", "/house"):
        reply = server.http.get(path)
        refused(reply, 401, "penstock keys create")
        assert reply.headers["www-authenticate"] == 'Bearer realm="penstock"'
    for path in ("/predict", "/inference/predict", "/models/open/predict", "/predict/batch", "/feedback"):
        refused(server.http.post(path, json=BODY), 401)
    refused(server.http.get("/admin"), 401, "admin_key")


def test_a_key_is_sent_in_either_header(server: Live, key: Callable[..., dict[str, str]]) -> None:
    text = key("infer")["authorization"].removeprefix("Bearer ")
    for headers in ({"authorization": f"bearer {text}"}, {"x-api-key": text}):
        assert server.http.post("/models/open/predict", json=BODY, headers=headers).status_code == 200


def test_wrong_keys_of_every_kind_get_the_same_reply(server: Live, registry: Registry) -> None:
    good = registry.keys.create("ends", expires="1h")
    ended = good.stored.to_record() | {"expires_at": 1}
    registry._reads.store.write(lambda connection: followed.put_key(connection, good.id, ended))
    revoked = registry.keys.create("gone")
    registry.keys.revoke(revoked.id)
    server.call(server.service.callers.follow)
    seen = set()
    for text in (good.key, revoked.key, good.key[:-1] + "x", "pk_aaaaaaaa_" + "x" * 52, "nonsense", "a.b.c", ""):
        reply = server.http.post("/models/open/predict", json=BODY, headers={"x-api-key": text})
        refused(reply, 401, "unknown, revoked or expired")
        body = reply.json() | {"request_id": ""}
        seen.add((str(body), reply.headers["www-authenticate"]))
        assert not text or text not in reply.text
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [(("infer",), {"infer"}), (("read",), {"read"}), (("infer", "read"), {"infer", "read"}), (("admin",), None)],
)
def test_scopes_open_their_routes_and_no_others(
    server: Live, key: Callable[..., dict[str, str]], scopes: tuple[str, ...], allowed: set[str] | None
) -> None:
    headers = key(*scopes)
    asked = {
        "infer": [("POST", "/models/open/predict"), ("POST", "/inference/predict"), ("POST", "/house/open")],
        "read": [("GET", "/models"), ("GET", "/stats"), ("GET", "/models/open"), ("GET", "/house")],
        "admin": [("GET", "/admin"), ("GET", "/admin/keys"), ("GET", "/admin/audit"), ("DELETE", "/house")],
    }
    for scope, routes in asked.items():
        for method, path in routes:
            reply = server.http.request(method, path, json=BODY if method == "POST" else None, headers=headers)
            if allowed is None or scope in allowed:
                assert reply.status_code == 200, (path, reply.text)
            else:
                refused(reply, 403, f"the scope {scope}")
                assert f'scope="{scope}"' in reply.headers["www-authenticate"]


def test_models_are_judged_once_alias_and_route_have_led_to_them(
    server: Live, registry: Registry, key: Callable[..., dict[str, str]]
) -> None:
    headers = key("infer", "read", models=["open:1"])

    def post(path: str, body: Any = BODY) -> httpx.Response:
        return server.http.post(path, json=body, headers=headers)

    for path in ("/models/open/predict", "/models/open@champion/predict", "/models/open/versions/1/predict"):
        assert post(path).status_code == 200, path
    for path in ("/models/secret/predict", "/models/open/versions/2/predict", "/models/nowhere/predict"):
        for _ in range(3):  # the head is remembered, the refusal is not
            refused(post(path), 403, path.split("/")[2])
    batch = {"requests": [BODY]}
    assert post("/predict/batch", {**batch, "model": "open"}).status_code == 200
    refused(post("/predict/batch", {**batch, "model": "secret"}), 403, "secret")
    refused(post("/models/open/predict", {**BODY, "model_version": "2"}), 403, "open:2")
    assert post("/house/open").text == "open"
    refused(post("/house/secret"), 403, "secret")
    registry.routes.set("open", {"arms": [{"version": "2", "weight": 100}]}, force=True)
    server.call(server.service.follow_routes)
    try:
        refused(post("/models/open/predict"), 403, "open:2")
        refused(post("/predict/batch", {**batch, "model": "open"}), 403, "open:2")
        assert post("/models/open@champion/predict").status_code == 200
    finally:
        registry.routes.remove("open")
        server.call(server.service.follow_routes)


def test_a_key_of_some_models_sees_no_others(server: Live, key: Callable[..., dict[str, str]]) -> None:
    headers = key("read", models=["op*"])
    shown = server.http.get("/models", headers=headers).json()["models"]
    assert [model["name"] for model in shown] == ["open"]
    assert server.http.get("/models/open", headers=headers).status_code == 200
    for path in ("/models/secret", "/models/secret/card", "/models/secret/versions/1", "/models/secret/drift"):
        refused(server.http.get(path, headers=headers), 403, "secret")
    for path in ("/stats", "/metrics"):
        refused(server.http.get(path, headers=headers), 403, "every model")


def test_plugin_handlers_see_the_caller(server: Live, key: Callable[..., dict[str, str]]) -> None:
    headers = key("read", weight=2.5)
    text = headers["authorization"].removeprefix("Bearer ")
    assert server.http.get("/house", headers=headers).text == f"{text[3:11]} 2.5"


def test_a_remembered_head_is_void_once_its_key_changes(server: Live, registry: Registry) -> None:
    made = registry.keys.create("hot")
    server.call(server.service.callers.follow)
    headers = {"x-api-key": made.key}

    def status() -> int:
        return server.http.post("/models/open/predict", json=BODY, headers=headers).status_code

    assert [status() for _ in range(5)] == [200] * 5
    rotated = registry.keys.rotate(made.id)
    server.call(server.service.callers.follow)
    assert status() == 401
    headers["x-api-key"] = rotated.key
    assert [status() for _ in range(5)] == [200] * 5
    registry.keys.revoke(made.id)
    server.call(server.service.callers.follow)
    assert status() == 401


def test_a_revocation_by_another_process_is_seen_within_a_second(server: Live, registry: Registry) -> None:
    made = registry.keys.create("far")
    headers = {"x-api-key": made.key}
    wait_until(lambda: server.http.get("/house", headers=headers).status_code == 403)
    command = [sys.executable, "-m", "penstock.cli.main", "keys", "revoke", made.id, "--why", "lost"]
    subprocess.run([*command, "--registry", str(registry.path)], check=True, capture_output=True)
    done = time.monotonic()
    wait_until(lambda: server.http.get("/house", headers=headers).status_code == 401)
    assert time.monotonic() - done < 5  # a second, beside a busy machine


def test_administrators_make_and_end_keys_over_http(server: Live, registry: Registry) -> None:
    admin = {"x-api-key": ADMIN}
    made = server.http.post(
        "/admin/keys", json={"name": "web", "models": ["open"], "rate": "5/s"}, headers=admin
    ).json()
    assert made["state"] == "active"
    headers = {"x-api-key": made["key"]}
    assert server.http.post("/models/open/predict", json=BODY, headers=headers).status_code == 200
    rotated = server.http.post(f"/admin/keys/{made['id']}/rotate", json={}, headers=admin).json()
    assert server.http.post("/models/open/predict", json=BODY, headers=headers).status_code == 401
    headers = {"x-api-key": rotated["key"]}
    assert server.http.post("/models/open/predict", json=BODY, headers=headers).status_code == 200
    shown = server.http.get("/admin/keys", headers=admin).text
    assert made["id"] in shown
    assert made["key"] not in shown
    assert server.http.delete(f"/admin/keys/{made['id']}", headers=admin).json()["state"] == "revoked"
    assert server.http.post("/models/open/predict", json=BODY, headers=headers).status_code == 401
    refused(server.http.delete("/admin/keys/zzzzzzzz", headers=admin), 404, "zzzzzzzz")
    refused(server.http.post("/admin/keys", json={"name": "x", "scopes": ["root"]}, headers=admin), 422, "scopes")
    entries = server.http.get("/admin/audit", headers=admin).json()["audit"]
    mine = [entry for entry in entries if made["id"] in entry["what"]]
    assert [entry["what"].split()[0] for entry in mine] == ["revoke", "rotate", "create"]
    assert {entry["who"] for entry in mine} == {"an administrator, by key"}
    for secret in (made["key"], rotated["key"]):
        assert secret not in str(entries)


def test_an_administrator_with_a_key_is_named_in_the_audit_log(
    server: Live, registry: Registry, key: Callable[..., dict[str, str]]
) -> None:
    headers = key("admin")
    made = server.http.post("/admin/keys", json={"name": "by a key"}, headers=headers).json()
    assert registry.routes.audit(1)[0].who == f"the key {headers['authorization'][10:18]}"
    server.http.delete(f"/admin/keys/{made['id']}", headers=headers)


def test_a_rate_is_exact_also_for_a_remembered_head(server: Live, key: Callable[..., dict[str, str]]) -> None:
    headers = key("infer", rate="3/h")
    replies = [server.http.post("/models/open/predict", json=BODY, headers=headers) for _ in range(5)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429, 429]
    refused(replies[-1], 429, "rate")
    assert 1190 <= int(replies[-1].headers["retry-after"]) <= 1200


def test_no_secret_is_in_what_people_see(server: Live, registry: Registry, key: Callable[..., dict[str, str]]) -> None:
    text = key("read")["authorization"].removeprefix("Bearer ")
    record = b"".join(file.read_bytes() for file in registry.path.glob("registry.db*"))
    assert text.encode() not in record
    assert text[12:55].encode() not in record
    pepper = (registry.path / "keys.pepper").read_text(encoding="ascii").strip()
    assert pepper.encode() not in record
    assert text not in repr(registry.keys.list())
    assert text not in str(registry.routes.audit(1000))


def test_a_quota_admits_so_many_requests_and_says_when_the_next_period_begins(
    server: Live, registry: Registry, key: Callable[..., dict[str, str]]
) -> None:
    headers = key("infer", "read", quota="4/day")
    shown = headers["authorization"][10:18]
    asked = [server.http.post("/models/open/predict", json=BODY, headers=headers).status_code for _ in range(3)]
    assert [*asked, server.http.get("/models", headers=headers).status_code] == [200] * 4
    for send in (lambda: server.http.post("/models/open/predict", json=BODY, headers=headers),
                 lambda: server.http.get("/models", headers=headers)):  # fmt: skip
        reply = send()
        refused(reply, 429, shown, "the 4 requests of its quota", "T00:00:00Z")
        left_s = 86400 - time.time() % 86400
        assert abs(int(reply.headers["retry-after"]) - left_s) < 60
    server.call(server.service.callers.quotas.save)
    assert registry.keys.used(registry.keys.list())[shown] == 4
    listed = server.http.get("/admin/keys", headers={"x-api-key": ADMIN}).json()["keys"]
    assert {each["id"]: (each["quota"], each["used"]) for each in listed}[shown] == ("4/day", 4)
    assert {(each["quota"], each["used"]) for each in listed if each["id"] != shown} == {(None, None)}


def test_what_other_servers_admitted_counts_and_is_known_before_the_first_request(
    server: Live, registry: Registry
) -> None:
    made = registry.keys.create("far", quota="3/month")
    assert made.stored.allowance is not None
    this = (made.id, made.stored.allowance.period(time.time()))
    registry.keys.count({this: 2}, [])
    server.call(server.service.callers.follow)
    headers = {"x-api-key": made.key}
    asked = [server.http.post("/models/open/predict", json=BODY, headers=headers).status_code for _ in range(3)]
    assert asked == [200, 429, 429]


def test_a_request_beyond_its_rate_does_not_count_towards_the_quota(server: Live, registry: Registry) -> None:
    made = registry.keys.create("slow", quota="9/month", rate="1/h")
    server.call(server.service.callers.follow)
    headers = {"x-api-key": made.key}
    asked = [server.http.post("/models/open/predict", json=BODY, headers=headers).status_code for _ in range(4)]
    assert asked == [200, 429, 429, 429]
    assert server.service.callers.quotas.of[made.id].left == 8


def test_replies_with_an_error_are_counted_by_status_and_kind(server: Live, key: Callable[..., dict[str, str]]) -> None:
    def counted() -> dict[str, float]:
        page = server.http.get("/metrics", headers={"x-api-key": ADMIN}).text
        lines = [line for line in page.splitlines() if line.startswith("penstock_http_errors_total{")]
        return {line.split("{")[1].split("}")[0]: float(line.rsplit(" ", 1)[1]) for line in lines}

    limited, narrow = key("infer", rate="1/h"), key("read")
    before = counted()
    for headers in (limited, limited, narrow, {}, {"x-api-key": "wrong"}):
        server.http.post("/models/open/predict", json=BODY, headers=headers)
    server.http.get("/nowhere")
    found = counted()
    assert {what: count - before.get(what, 0) for what, count in found.items() if count != before.get(what, 0)} == {
        'kind="unauthorized",status="401"': 2,
        'kind="forbidden",status="403"': 1,
        'kind="not-found",status="404"': 1,
        'kind="too-many-requests",status="429"': 1,
    }
