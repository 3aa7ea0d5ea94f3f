"""A server under a path: behind a proxy that takes the path off or not, and mounted in another application."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urljoin

import pytest
from fastapi import FastAPI
from live_servers import Live
from starlette.testclient import TestClient

from penstock import create_app
from penstock.errors import ConfigError
from penstock.settings import Settings, load_settings

ROW = {"input_data": [0.1, 0.2, 0.3, 0.4]}


@pytest.fixture(params=["h1", "rsgi", "asgi", "plain-asgi"])
def prefixed(request: pytest.FixtureRequest, base_settings: Settings) -> Iterator[Live]:
    with Live(request.param, base_settings.model_copy(update={"root_path": "/team/ml"}), ("vec",)) as live:
        yield live


def test_requests_are_answered_with_and_without_the_path_of_the_proxy(prefixed: Live) -> None:
    for root in ("", "/team/ml"):
        for _ in range(3):
            reply = prefixed.http.post(f"{root}/models/vec/predict", json=ROW)
            assert reply.status_code == 200, reply.text
        assert prefixed.http.get(f"{root}/health/live").status_code == 200
        problem = prefixed.http.get(f"{root}/nowhere")
        assert (problem.status_code, problem.json()["type"]) == (404, "urn:penstock:not-found")
    assert prefixed.http.get("/team/mlx/health/live").status_code == 404
    assert prefixed.http.get("/team").status_code == 404


def test_redirects_and_documents_stay_below_the_path(prefixed: Live) -> None:
    for start in ("/team/ml", "/team/ml/"):
        reply = prefixed.http.get(start)
        assert reply.status_code == 307
        assert urljoin(start, reply.headers["location"]) == "/team/ml/docs"
    slash = prefixed.http.get("/team/ml/health/")
    assert urljoin("/team/ml/health/", slash.headers["location"]) == "/team/ml/health"
    assert prefixed.http.get("/team/ml/openapi.json").json()["servers"] == [{"url": "/team/ml"}]
    assert prefixed.http.get("/team/ml/docs/assets/swagger-ui.css").status_code == 200


def test_a_mounted_application_names_its_path(base_settings: Settings) -> None:
    outer = FastAPI()
    outer.mount("/ml", create_app(base_settings, ("vec",)))
    with TestClient(outer, base_url="http://localhost", follow_redirects=False) as client:
        assert client.get("/ml/openapi.json").json()["servers"] == [{"url": "/ml"}]
        assert client.post("/ml/models/vec/predict", json=ROW).status_code == 200
        home = client.get("/ml/")
        assert (home.status_code, home.headers["location"]) == (307, "/ml/docs")


@pytest.mark.parametrize("given", ["ml", "/a b", "/ml?x", "http://host/ml"])
def test_a_path_that_is_none_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(ConfigError, match=r"PENSTOCK_ROOT_PATH.*such as /ml"):
        load_settings(environ={"PENSTOCK_ROOT_PATH": given})


@pytest.mark.parametrize("given", ["/", "//", "/ml/"])
def test_a_slash_at_the_end_says_nothing(given: str) -> None:
    assert load_settings(environ={"PENSTOCK_ROOT_PATH": given}).settings.root_path == given.rstrip("/")
