"""The OpenAPI document is complete, valid, and matches the server."""

from __future__ import annotations

import base64
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_servers import Live
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from penstock.gateway.docs.openapi import write_document
from penstock.gateway.native.routes import TABLE
from penstock.gateway.process.asgi import create_app
from penstock.settings import Settings

CONTRACT = {
    "/health": "get",
    "/health/live": "get",
    "/health/ready": "get",
    "/health/startup": "get",
    "/stats": "get",
    "/model/info": "get",
    "/models": "get",
    "/models/{name}": "get",
    "/models/{name}/versions/{version}": "get",
    "/models/{name}/card": "get",
    "/models/{name}/versions/{version}/card": "get",
    "/inference/predict": "post",
    "/predict": "post",
    "/predict/batch": "post",
    "/models/{name}/predict": "post",
    "/models/{name}/versions/{version}/predict": "post",
    "/metrics": "get",
}


@pytest.fixture
def document(http: httpx.Client) -> dict[str, Any]:
    return http.get("/openapi.json").raise_for_status().json()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{m.upper()} {path}": op for path, item in document["paths"].items() for m, op in item.items()}


def test_every_route_of_the_contract_is_documented(document: dict[str, Any]) -> None:
    for path, method in CONTRACT.items():
        assert method in document["paths"][path], path


def test_every_row_of_the_table_is_documented_or_a_page(document: dict[str, Any]) -> None:
    shown = {f"{row.method} {row.path}" for row in TABLE if row.tag}
    assert shown == set(operations(document))
    hidden = {row.path for row in TABLE if not row.tag}
    assert hidden == {"/", "/docs", "/docs/assets/{file}", "/redoc", "/openapi.json"}


def test_every_operation_has_a_summary_and_its_errors(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for operation in operations(document).values()]
    assert len(set(ids)) == len(ids)
    for name, operation in operations(document).items():
        assert operation["summary"], name
        responses = operation["responses"]
        assert responses.get("200", responses.get("202"))["content"], name
        if name.startswith("POST") and not name.startswith(("POST /admin", "POST /feedback")):
            refused = set(operation["responses"]) - {"200"}
            assert refused == {"400", "401", "403", "404", "406", "413", "415", "422", "429", "500", "503", "504"}
            for status in refused:
                assert "application/problem+json" in operation["responses"][status]["content"]
            for status in ("429", "503"):
                assert "Retry-After" in operation["responses"][status]["headers"]


def test_admin_routes_are_documented_with_the_key_and_without_prediction_headers(
    document: dict[str, Any],
) -> None:
    admin = {name: one for name, one in operations(document).items() if "/admin" in name}
    assert len(admin) == 25
    for operation in admin.values():
        assert operation["tags"] == ["admin"]
        named = {name for one in operation["security"] for name in one}
        assert named <= set(document["components"]["securitySchemes"])
        assert named
        assert {"401", "403", "404", "409"} <= set(operation["responses"])
        assert "X-Request-Timeout-Ms" not in [parameter["name"] for parameter in operation["parameters"]]


def test_the_examples_are_requests_that_work(http: httpx.Client, document: dict[str, Any]) -> None:
    for path in ("/inference/predict", "/predict", "/predict/batch"):
        example = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        reply = http.post(path, json=example)
        assert reply.status_code == 200
        assert "error" not in reply.text


def test_a_wide_vector_model_is_shown_with_a_golden_sample(live: Live, document: dict[str, Any]) -> None:
    """Without preprocessing, a golden sample is a valid request."""
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    model = next(model for model in live.service.engine.loaded() if model.key == "vec:v2.0")
    golden = model.artifact and model.artifact.golden()
    assert golden is not None
    assert content["example"]["input_data"] == pytest.approx(golden.inputs["x"][0].tolist(), abs=1e-4)


async def test_routes_added_to_the_application_are_served_and_documented(base_settings: Settings) -> None:
    app: FastAPI = create_app(base_settings, ("vec",))

    @app.get("/pumps/{number}")
    async def pump(number: int) -> dict[str, int]:
        return {"pump": number}

    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with app.router.lifespan_context(app), client:
        assert (await client.get("/pumps/7")).json() == {"pump": 7}
        assert (await client.get("/pumps/x")).status_code == 422
        assert (await client.get("/nope")).headers["content-type"] == "application/problem+json"
        assert (await client.post("/predict", json={"input_data": [1, 2, 3, 4]})).status_code == 200
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/pumps/{number}", "/predict"} <= set(paths)


PICTURE = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cch\0\0\0\x82\0\x81w\xcdr\xb6"
    b"\0\0\0\0IEND\xaeB`\x82"
).decode()
"""One grey pixel."""

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    unsupported_method,
]


SCHEMA = schemathesis.openapi.from_dict(write_document(TABLE))
OPERATIONS = {result.ok().label: result.ok() for result in SCHEMA.get_all_operations()}


POSTS = [label for label in OPERATIONS if label.startswith("POST")]
MODELS = {"vec": "v1.0", "pic": "1.0", "raw": "1.0"}


def check_answers(live: Live, label: str, mode: GenerationMode, examples: int) -> None:
    """Send generated requests, half of them to an existing model, and check every reply against the document."""

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(OPERATIONS[label].as_strategy(generation_mode=mode), st.sampled_from([None, None, *MODELS]))
    def send(case: schemathesis.Case, model: str | None) -> None:
        if model is not None and case.path_parameters:
            known = {"name": model, "version": MODELS[model]}
            case.path_parameters = {name: known.get(name, given) for name, given in case.path_parameters.items()}
        case.validate_response(case.call(base_url=live.url), checks=CHECKS)

    send()


@pytest.mark.parametrize("label", OPERATIONS)
def test_the_reply_to_a_valid_request_is_documented(live: Live, label: str) -> None:
    check_answers(live, label, GenerationMode.POSITIVE, 30 if label in POSTS else 8)


@pytest.mark.parametrize("label", POSTS)
def test_the_reply_to_an_invalid_request_is_documented(live: Live, label: str) -> None:
    check_answers(live, label, GenerationMode.NEGATIVE, 30)


@pytest.mark.parametrize(
    ("label", "model", "body"),
    [
        ("POST /inference/predict", None, {"input_data": [1, 2, 3, 4]}),
        ("POST /predict", None, {"input_data": [1, 2, 3, 4] * 2, "batch_size": 2}),
        ("POST /predict/batch", None, {"requests": [{"input_data": [1, 2, 3, 4]}, {}]}),
        ("POST /models/{name}/predict", "raw", {"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}),
        ("POST /models/{name}/versions/{version}/predict", "pic", {"image": PICTURE}),
    ],
)
def test_successful_replies_match_their_schema(live: Live, label: str, model: str | None, body: dict[str, Any]) -> None:
    known = {} if model is None else {"name": model, "version": MODELS[model]}
    names = re.findall(r"\{(\w+)\}", label)
    path = {name: known[name] for name in names}
    case = OPERATIONS[label].Case(body=body, media_type="application/json", path_parameters=path)
    response = case.call(base_url=live.url)
    assert response.status_code == 200
    case.validate_response(response, checks=CHECKS)


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(document).validate()
    assert list(document["paths"]) == list(write_document(TABLE)["paths"])


def test_the_document_is_written_once_until_other_models_are_loaded(
    base_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Live("h1", base_settings, ("vec",)) as live:
        written = []
        write = live.service.write_openapi
        monkeypatch.setattr(live.service, "write_openapi", lambda example: written.append(1) or write(example))
        with ThreadPoolExecutor(8) as pool:
            pages = list(pool.map(lambda _: live.http.get("/openapi.json").content, range(24)))
        assert len(set(pages)) == 1
        assert len(written) == 1
        live.call(lambda: live.service.engine.load("raw"))
        live.call(live.service.models_changed)
        assert live.http.get("/openapi.json").status_code == 200
        assert len(written) == 2
