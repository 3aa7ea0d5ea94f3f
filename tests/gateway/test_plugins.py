"""Routes and tasks of an installed package."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from leases import lease_of, release
from linear_models import SIGNATURE, linear
from live_servers import Live, Process
from plugin_packages import install, install_tides, publish_tides
from waiting import wait_until

from penstock import ModelManager, Predictor
from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.gateway.docs.openapi import write_document
from penstock.gateway.native.routes import TABLE
from penstock.gateway.plugins import Extensions, with_tasks
from penstock.gateway.routing.table import Routes
from penstock.registry.registry import Registry
from penstock.settings import Settings

WATER = {"numbers": [1.0, 2.0, 3.0, 4.0]}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of packages on the import path of this process."""
    place = tmp_path / "site"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    before = set(sys.modules)
    yield place
    for name in set(sys.modules) - before:
        if (place / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry with a plain model of vectors."""
    with Registry(tmp_path / "registry") as registry:
        plain = write_artifact(
            tmp_path / "plain",
            name="plain",
            version="1",
            task=TaskEntry(kind="vector-classification"),
            signature=SIGNATURE,
            variants=[VariantSource("onnx", "fp32", linear(tmp_path / "plain.onnx"))],
            golden=None,
            card="",
        )
        registry.publish(plain.path)
        yield registry


@pytest.fixture
def tides(site: Path, tmp_path: Path, registry: Registry) -> Registry:
    """The registry, with a model of the package's kind as well."""
    install_tides(site)
    publish_tides(registry, tmp_path / "source")
    return registry


@pytest.fixture
def life(tides: Registry) -> Any:
    """The calls of `attach` and `close` on the package's tasks."""
    import tides as package

    package.CALLS.clear()
    return package.CALLS


def settings_of(registry: Registry) -> Settings:
    return Settings(registry=registry.path, threads=1, admin_key="a key of the tests")


def documented(http: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = http.get("/openapi.json").raise_for_status().json()
    return document


@pytest.mark.parametrize("kind", ["h1", "rsgi", "asgi"])
def test_routes_of_a_package_are_served_with_its_model(kind: str, tides: Registry) -> None:
    with Live(kind, settings_of(tides), ("ports",)) as live:
        reply = live.http.get("/tides/brest?since=2026-01-01T00:00:00Z")
        assert (reply.status_code, reply.json()) == (200, {"level": 1.0})
        assert reply.headers["x-request-id"]
        assert live.http.post("/tides/brest").status_code == 405
        assert live.http.get("/tides/brest/x").status_code == 404
        assert live.http.get("/models/ports").json()["name"] == "ports"  # a route of Penstock
        assert live.http.get("/health").json()["status"] == "healthy"


def test_a_refusal_of_a_package_is_a_problem_document_with_its_own_title(tides: Registry) -> None:
    with Live("h1", settings_of(tides), ("ports",)) as live:
        missing = live.http.get("/tides/atlantis")
        assert missing.status_code == 404
        assert (missing.json()["title"], missing.json()["detail"]) == ("No such port", "there is no port atlantis")
        broken = live.http.get("/tides/broken")
        assert broken.status_code == 500
        assert "a bug of the package" not in broken.text


def test_a_guarded_row_of_a_package_needs_the_admin_key(tides: Registry) -> None:
    with Live("h1", settings_of(tides), ("ports",)) as live:
        key = {"X-Penstock-Admin-Key": "a key of the tests"}
        assert live.http.put("/tides/brest", json=WATER).status_code == 401
        assert live.http.put("/tides/brest", json=WATER, headers=key).json() == WATER
        refused = live.http.put("/tides/brest", json={"numbers": ["wet"]}, headers=key)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == "numbers[0]"


def test_without_a_model_of_its_kind_a_package_has_no_routes(tides: Registry) -> None:
    key = {"X-Penstock-Admin-Key": "a key of the tests"}
    with Live("h1", settings_of(tides), ("plain",)) as live:
        assert live.http.get("/tides/brest").status_code == 404
        assert "tides" not in sys.modules
        assert "/tides/{port}" not in documented(live.http)["paths"]
        assert live.http.post("/admin/load", json={"model": "ports"}, headers=key).status_code == 200
        assert live.http.get("/tides/brest").status_code == 200
        assert live.http.post("/admin/unload", json={"model": "ports"}, headers=key).status_code == 200
        assert live.http.get("/tides/brest").status_code == 404


def test_routes_follow_a_model_that_is_published_later(site: Path, tmp_path: Path, registry: Registry) -> None:
    install_tides(site)
    with Live("h1", settings_of(registry), ()) as live:
        assert live.http.get("/tides/brest").status_code == 404
        publish_tides(registry, tmp_path / "source")
        wait_until(lambda: live.http.get("/tides/brest").status_code == 200)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_every_process_of_a_server_serves_them(
    tides: Registry, site: Path, tmp_path: Path, serve: Callable[..., Process]
) -> None:
    process = serve("ports", "--workers", "2", PYTHONPATH=str(site))
    process.wait_for()
    for _ in range(8):
        assert httpx.get(f"{process.url}/tides/brest").status_code == 200


# A package's task


def test_a_task_is_attached_before_it_answers_and_closed_with_its_model(tides: Registry, life: Any) -> None:
    with Live("h1", settings_of(tides), ("ports",)) as live:
        assert list(life) == [("attach", tides.path)]
        assert live.http.post("/predict", json=WATER).status_code == 200
    assert list(life) == [("attach", tides.path), ("close",)]


def test_a_new_version_is_attached_before_the_old_one_is_closed(tides: Registry, life: Any, tmp_path: Path) -> None:
    with Live("h1", settings_of(tides), ("ports",)) as live:
        publish_tides(tides, tmp_path / "source", version="2")
        wait_until(lambda: len(life) == 3)
        assert [what for what, *_ in life] == ["attach", "attach", "close"]
        assert live.http.post("/predict", json=WATER).status_code == 200


def test_predictors_and_managers_do_not_attach_tasks(tides: Registry, life: Any) -> None:
    with Predictor("ports", registry=tides) as predictor:
        predictor.predict(WATER)
    assert list(life) == [("close",)]


def test_a_task_is_closed_once_if_the_engine_is_closed_during_a_request(tides: Registry, life: Any) -> None:
    manager = ModelManager(tides, attach=True)
    model = manager.load_model("ports")
    lease = lease_of(manager, model)
    manager.close()
    release(lease)
    wait_until(lambda: all(thread.name != "penstock-unload" for thread in threading.enumerate()))
    assert [what for what, *_ in life] == ["attach", "close"]


def test_a_task_that_fails_to_close_is_logged_and_delays_nothing(
    tides: Registry, life: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import tides as package

    def fail(_: Any) -> None:
        raise OSError("no way out")

    monkeypatch.setattr(package.Tides, "close", fail)
    with Live("h1", settings_of(tides), ("ports",)) as live:
        assert live.http.get("/health/ready").status_code == 200
    assert "the task tides of ports:1 failed in close" in [record.getMessage() for record in caplog.records]


def test_a_task_that_cannot_be_attached_fails_the_load_in_one_sentence(
    tides: Registry, life: Any, tmp_path: Path
) -> None:
    publish_tides(tides, tmp_path / "source", name="dry", broken=True)
    with Live("h1", settings_of(tides), ()) as live:
        reasons = live.http.get("/health/ready").json()["reasons"]
        assert reasons == ["dry: the task tides of dry:1 could not be attached: ValueError: no water"]
        assert live.http.post("/models/ports/predict", json=WATER).status_code == 200
    assert [what for what, *_ in life].count("attach") == 1


# Documentation


def test_routes_and_requests_of_a_package_are_documented(tides: Registry) -> None:
    with Live("h1", settings_of(tides), ("ports", "plain")) as live:
        document = documented(live.http)
    shown = document["paths"]["/tides/{port}"]["get"]
    by_name = {parameter["name"]: parameter for parameter in shown["parameters"]}
    assert (by_name["port"]["in"], by_name["port"]["required"], by_name["port"]["example"]) == ("path", True, "brest")
    assert by_name["since"]["schema"]["format"] == "date-time"
    assert document["paths"]["/tides/{port}"]["put"]["security"]
    assert "X-Request-Timeout-Ms" not in [
        parameter["name"] for parameter in document["paths"]["/tides/{port}"]["put"]["parameters"]
    ]
    assert {"name": "tides"} in document["tags"]
    predict = document["paths"]["/predict"]["post"]
    assert predict["requestBody"]["content"]["application/json"]["example"] == WATER
    references = [one["$ref"] for one in predict["requestBody"]["content"]["application/json"]["schema"]["anyOf"]]
    assert "#/components/schemas/Water" in references
    batch = document["paths"]["/predict/batch"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert batch == {"requests": [WATER]}
    assert "Tide" in str(document["components"]["schemas"]["BatchResponse"])


def test_schemas_with_the_same_name_are_distinguished_in_the_documentation(tides: Registry) -> None:
    with Live("h1", settings_of(tides), ("ports",)) as live:
        document = documented(live.http)
    schemas = document["components"]["schemas"]
    named = set(re.findall(r"#/components/schemas/([\w.-]+)", str(document)))
    assert named <= set(schemas)
    health = document["paths"]["/tides/{port}"]["get"]["responses"]["503"]["content"]["application/json"]["schema"]
    assert list(schemas[health["$ref"].rpartition("/")[2]]["properties"]) == ["salt"]


def test_each_served_model_has_its_own_example_on_its_own_path(tides: Registry) -> None:
    with Live("h1", settings_of(tides), ("plain", "ports")) as live:
        document = documented(live.http)
    content = document["paths"]["/models/{name}/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert content["examples"]["ports"] == {"value": WATER}
    assert len(content["examples"]["plain"]["value"]["input_data"]) == 4
    vector = document["paths"]["/inference/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert "input_data" in vector["example"]


def test_without_a_task_of_a_package_the_table_is_unchanged() -> None:
    assert with_tasks(TABLE, []) == TABLE


# Broken packages


def test_rows_that_cannot_be_served_are_skipped_with_a_warning(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install_tides(site)
    rows = Extensions(TABLE).rows({"tides", "vector-classification"})
    assert [(row.method, row.path) for row in rows] == [("GET", "/tides/{port}"), ("PUT", "/tides/{port}")]
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 4
    assert "a route of tides:ROUTES is skipped: /health is a route of Penstock" in logged
    assert "a route of tides:ROUTES is skipped: str is not an Endpoint" in logged


def test_a_package_that_cannot_be_imported_loses_only_its_routes(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "sunk", "raise SystemError('half installed')", routes="tides = sunk:ROUTES")
    install_tides(site)
    assert len(Extensions(TABLE).rows({"tides"})) == 2
    warning = "the routes of sunk:ROUTES cannot be served: SystemError: half installed"
    assert warning in [record.getMessage() for record in caplog.records]


def test_the_first_of_two_packages_with_the_same_path_serves_it(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install_tides(site)
    install(
        site,
        "late",
        """
        from penstock.plugin_api import Endpoint
        import tides
        ROUTES = (
            Endpoint("GET", "/tides/{harbour}", tides.change, "late", "The same path"),
            Endpoint("GET", "/late", tides.show, "late", "Another"),
        )
        """,
        routes="zz-late = late:ROUTES\nzz-same = tides:ROUTES",
    )
    rows = Extensions(TABLE).rows({"tides", "zz-late", "zz-same"})
    assert [row.path for row in rows] == ["/tides/{port}", "/tides/{port}", "/late"]
    logged = [record.getMessage() for record in caplog.records if "already served" in record.getMessage()]
    assert logged == ["a route is skipped: GET /tides/{harbour} is already served by The tide"]


def test_a_row_whose_models_have_no_schema_is_served_and_not_documented(site: Path) -> None:
    install(
        site,
        "odd",
        """
        from typing import Any
        from pydantic import BaseModel, ConfigDict
        from penstock.plugin_api import Endpoint

        class Thing:
            pass

        class Odd(BaseModel):
            model_config = ConfigDict(arbitrary_types_allowed=True)
            thing: Thing

        async def handler(call):
            raise NotImplementedError

        ROUTES = (Endpoint("POST", "/odd", handler, "odd", "Odd", requests=(Odd,)),)
        """,
        routes="odd = odd:ROUTES",
    )
    (row,) = Extensions(TABLE).rows({"odd"})
    assert row.tag == ""


_ODD_ROWS = """
from pydantic import BaseModel
from penstock.plugin_api import Endpoint

class Water(BaseModel):
    depth: float = 0

async def handler(call):
    raise NotImplementedError

ROUTES = (
    Endpoint("GET", "/good", handler, "odd", "Good"),
    {row},
)
"""


@pytest.mark.parametrize(
    "row",
    [
        'Endpoint("GET", "/odd/{id}/{id}", handler, "odd", "One name twice")',
        'Endpoint("GET", "/odd/{1st}", handler, "odd", "A number for a name")',
    ],
)
def test_an_invalid_row_is_the_only_one_skipped(site: Path, caplog: pytest.LogCaptureFixture, row: str) -> None:
    install(site, "odd", _ODD_ROWS.replace("{row}", row), routes="odd = odd:ROUTES")
    rows = Extensions(TABLE).rows({"odd"})
    assert [found.path for found in rows] == ["/good"]
    assert Routes((*TABLE, *rows)).knows("/good")
    assert "a route of odd:ROUTES is skipped" in caplog.text


@pytest.mark.parametrize(
    "more",
    [
        "requests=Water",
        "responses=({},)",
        "parameters=({'in': 'query'},)",
        "parameters={'name': 'since', 'in': 'query'}",
        "replies={404: 'gone'}",
        "problems=404",
        "requests=(Water,), example={1, 2}",
        "requests=(Water,), example=Water()",
    ],
)
def test_a_row_with_an_invalid_description_is_served_and_not_documented(
    site: Path, caplog: pytest.LogCaptureFixture, more: str
) -> None:
    row = f'Endpoint("POST", "/odd", handler, "odd", "Odd", {more})'
    install(site, "odd", _ODD_ROWS.replace("{row}", row), routes="odd = odd:ROUTES")
    rows = Extensions(TABLE).rows({"odd"})
    assert [found.path for found in rows] == ["/good", "/odd"]
    paths = write_document((*TABLE, *rows))["paths"]
    assert "/good" in paths
    assert "/odd" not in paths
    assert "POST /odd is not documented" in caplog.text


def test_a_package_that_calls_exit_on_import_does_not_stop_the_server(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "exits", "raise SystemExit(3)", routes="exits = exits:ROUTES")
    assert Extensions(TABLE).rows({"exits"}) == ()
    assert "the routes of exits:ROUTES cannot be served: SystemExit: 3" in caplog.text


def test_an_example_that_is_not_json_is_not_documented(
    tides: Registry, life: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tides as package

    monkeypatch.setattr(package.Tides, "example", {"numbers": {1.0, 2.0}})
    with Live("h1", settings_of(tides), ("ports",)) as live:
        assert "/tides/{port}" in documented(live.http)["paths"]
