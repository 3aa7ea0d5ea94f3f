"""Keys, tokens and rates over every kind of server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from linear_models import linear
from live_servers import Live

from penstock.registry.registry import Registry
from penstock.settings import Settings

SIGNING = ec.generate_private_key(ec.SECP256R1())
BODY = {"input_data": [1, 2, 3, 4]}


@pytest.fixture(scope="module", params=["h1", "rsgi", "asgi"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    place = tmp_path_factory.mktemp("asked")
    public: Any = jwt.get_algorithm_by_name("ES256").to_jwk(SIGNING.public_key(), as_dict=True)
    (place / "jwks.json").write_text(json.dumps({"keys": [{**public, "kid": "one"}]}), encoding="utf-8")
    settings = Settings(
        registry=place / "registry",
        model_path=linear(place / "linear.onnx"),
        threads=1,
        require_auth=False,
        rate_limit="4/h",
        trusted_proxies="127.0.0.1",
        jwt_jwks=str(place / "jwks.json"),
        jwt_issuer="https://login.example.org/",
        jwt_audience="penstock",
        admin_key="an-admin-key-of-enough-letters",
    )
    with Live(request.param, settings, ()) as live:
        yield live


def token(**claims: Any) -> dict[str, str]:
    given = {"iss": "https://login.example.org/", "aud": "penstock", "sub": "ann", "exp": time.time() + 600, **claims}
    return {"authorization": f"Bearer {jwt.encode(given, SIGNING, 'ES256', headers={'kid': 'one'})}"}


def post(server: Live, client: str, **headers: str) -> int:
    given = {"x-forwarded-for": client, **headers}
    return server.http.post("/inference/predict", json=BODY, headers=given).status_code


def test_addresses_behind_a_proxy_are_counted_apart(server: Live) -> None:
    assert [post(server, "203.0.113.1") for _ in range(6)] == [200] * 4 + [429] * 2
    assert post(server, "203.0.113.2") == 200
    assert post(server, "203.0.113.2, 203.0.113.1") == 429  # what the proxy has added counts
    reply = server.http.post("/inference/predict", json=BODY, headers={"x-forwarded-for": "203.0.113.1"})
    assert 890 <= int(reply.headers["retry-after"]) <= 900
    assert reply.json()["type"] == "urn:penstock:too-many-requests"
    for _ in range(9):
        assert server.http.get("/health/live", headers={"x-forwarded-for": "203.0.113.1"}).status_code == 200


def test_wrong_keys_are_counted_until_nobody_can_guess(server: Live) -> None:
    assert [post(server, "203.0.113.3", **{"x-api-key": "wrong"}) for _ in range(6)] == [401] * 4 + [429] * 2


def test_a_token_is_judged_by_its_scopes(server: Live) -> None:
    assert post(server, "203.0.113.4", **token(scope="infer")) == 200
    assert post(server, "203.0.113.4", **token(scope="read")) == 403
    assert post(server, "203.0.113.4", **token(scope="infer", aud="other")) == 401
    headers = {"x-forwarded-for": "203.0.113.5", **token(scope="read admin")}
    for _ in range(6):  # administrators are not counted
        assert server.http.get("/admin", headers=headers).status_code == 200


def test_a_key_has_a_rate_of_its_own(server: Live) -> None:
    with Registry(server.settings.registry) as registry:
        made = registry.keys.create("a", rate="6/h")
    server.call(server.service.callers.follow)
    assert [post(server, "203.0.113.6", **{"x-api-key": made.key}) for _ in range(8)] == [200] * 6 + [429] * 2
    assert post(server, "203.0.113.6") == 200
    assert post(server, "203.0.113.6", **{"x-api-key": "wrong"}) == 401


def test_the_admin_key_goes_on_working(server: Live) -> None:
    headers = {"x-forwarded-for": "203.0.113.7", "x-penstock-admin-key": "an-admin-key-of-enough-letters"}
    for _ in range(6):
        assert server.http.get("/admin", headers=headers).status_code == 200
        assert server.http.get("/stats", headers=headers).status_code == 200
    assert server.http.get("/admin", headers={"x-forwarded-for": "203.0.113.8"}).status_code == 401


def test_a_server_without_keys_asks_and_counts_nothing(tmp_path: Path) -> None:
    settings = Settings(registry=tmp_path, model_path=linear(tmp_path / "linear.onnx"), threads=1)
    with Live("h1", settings, ()) as live:
        for headers in ({}, {"authorization": "Bearer whatever"}, {"x-api-key": "whatever"}):
            assert live.http.post("/inference/predict", json=BODY, headers=headers).status_code == 200
            assert live.http.get("/stats", headers=headers).status_code == 200
        assert not live.service.callers.active
