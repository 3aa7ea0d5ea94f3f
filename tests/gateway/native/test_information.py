"""Health, statistics, the registry and the documentation, over both servers."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from live_servers import Live
from prometheus_client.parser import text_string_to_metric_families

import penstock
from penstock.gateway.docs import ui
from penstock.gateway.native.models import wants_html
from penstock.registry.registry import Registry

GOOD = {"input_data": [1, 2, 3, 4]}


def test_health_is_healthy(http: httpx.Client) -> None:
    answer = http.get("/health").json()
    assert answer == {"status": "healthy", "version": penstock.__version__, "model_loaded": True, "reasons": []}


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/health/startup", "/livez", "/readyz", "/healthz"])
def test_probes_answer(http: httpx.Client, path: str) -> None:
    reply = http.get(path)
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"


def test_a_server_that_is_not_ready_gives_the_reason(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = property(lambda _: {"broken": "its golden samples differ"})
    monkeypatch.setattr(type(live.service.engine.deployment), "failed", failed)
    for path in ("/health", "/health/ready", "/readyz"):
        reply = live.http.get(path)
        assert reply.status_code == 503
        assert reply.json()["status"] in ("unhealthy", "unavailable")
        assert "golden samples" in reply.json()["reasons"][0]
        assert reply.headers["retry-after"] == "1"
    assert live.http.get("/health/live").status_code == 200


def test_before_the_models_are_loaded_predictions_are_refused(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.service, "started", False)
    for path in ("/health", "/health/ready", "/health/startup"):
        assert live.http.get(path).status_code == 503
    for path in ("/predict", "/inference/predict", "/predict/batch", "/models/vec/predict"):
        reply = live.http.post(path, json=GOOD)
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "1"
        assert reply.json()["type"] == "urn:penstock:model-not-ready"
    assert live.http.get("/model/info").status_code == 503


def test_stats_count_requests(http: httpx.Client) -> None:
    before = http.get("/stats").json()["models"].get("vec:v2.0", {"requests": 0, "outcomes": {}})
    for body in (GOOD, GOOD, {"input_data": [1]}, {"input_data": "x"}):
        http.post("/predict", json=body)
    stats = http.get("/stats").json()
    assert stats["model_path"] == "vec"
    assert (stats["device"], stats["model_device"]) == ("auto", "cpu")
    assert (stats["batch_size"], stats["queue_size"], stats["processing"]) == (4, 0, 0)
    assert stats["model_parameters"] == 12
    after = stats["models"]["vec:v2.0"]
    assert after["requests"] - before["requests"] == 4
    assert after["outcomes"]["ok"] - before["outcomes"].get("ok", 0) == 2
    assert after["outcomes"]["invalid"] - before["outcomes"].get("invalid", 0) == 2
    assert 0 < after["p50_ms"] <= after["p95_ms"] <= after["p99_ms"]


def test_metrics_are_in_the_prometheus_format(http: httpx.Client) -> None:
    def value(name: str, **labels: str) -> float:
        families = text_string_to_metric_families(http.get("/metrics").text)
        samples = (s for family in families for s in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    names = ("request_duration", "preprocess", "queue", "compute", "postprocess")
    before = {name: value(f"penstock_{name}_seconds_count", model="vec", version="v2.0") for name in names}
    http.post("/predict", json=GOOD)
    for name in names:
        assert value(f"penstock_{name}_seconds_count", model="vec", version="v2.0") - before[name] == 1
    assert value("penstock_requests_total", model="vec", outcome="ok") >= 1
    assert value("penstock_model_info", model="pic", variant="onnx-fp32", task="image-classification") == 1
    assert value("penstock_queue_depth", model="vec") == 0
    assert value("penstock_model_memory_bytes", model="vec", version="v2.0") > 0
    assert value("penstock_model_state", ref="vec", state="serving") == 1
    assert value("penstock_ready_processes") == 1
    assert value("process_resident_memory_bytes") > 1e6


def test_an_unknown_model_adds_no_label(http: httpx.Client) -> None:
    for number in range(5):
        http.post(f"/models/unheard-{number}/predict", json=GOOD)
    page = http.get("/metrics").text
    assert "unheard" not in page
    assert 'penstock_requests_total{model="",outcome="not_found",version=""}' in page


# Models


def test_the_default_model_is_described(http: httpx.Client, registry_path: Path) -> None:
    info = http.get("/model/info").json()
    file = registry_path / "vec/v2.0/variants/onnx-fp32/model.onnx"
    assert info["name"] == "vec"
    assert info["model_type"] == "vector-classification"
    assert info["parameters"] == 12
    assert (info["input_shape"], info["output_shape"]) == ([-1, 4], [-1, 3])
    assert (info["version"], info["format"], info["device"]) == ("v2.0", "onnx", "cpu")
    assert info["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_all_models_are_listed(http: httpx.Client) -> None:
    models = {model["name"]: model for model in http.get("/models").json()["models"]}
    assert set(models) == {"vec", "pic", "raw", "slow"}
    assert models["vec"]["versions"] == ["v1.0", "v2.0"]
    assert models["vec"]["latest"] == "v2.0"
    assert models["vec"]["aliases"] == {"stable": "v1.0"}
    assert "v2.0" in models["vec"]["loaded"]
    assert http.get("/models/vec").json().items() >= models["vec"].items()


def test_a_version_shows_its_manifest(http: httpx.Client, registry_path: Path) -> None:
    shown = http.get("/models/vec/versions/v1.0").json()
    with Registry(registry_path) as registry:
        artifact = registry.get("vec:v1.0")
    assert shown["digest"] == artifact.digest
    assert shown["signature"] == artifact.signature.to_json()
    assert shown["metrics"] == {"accuracy": 0.5}
    assert shown["golden_rows"] == 4
    assert shown["signing"] == {"state": "unsigned", "key": None, "signer": None, "problem": ""}
    assert [variant["name"] for variant in shown["variants"]] == ["onnx-fp32"]


@pytest.mark.parametrize(
    "path",
    ["/models/no", "/models/vec/versions/v9", "/models/no/card", "/models/vec/versions/v9/card", "/models/a%20b"],
)
def test_unknown_models_and_versions_are_404(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/models/vec/card", "/models/vec/versions/v1.0/card"])
def test_a_card_is_markdown_or_html(http: httpx.Client, path: str) -> None:
    text = http.get(path)
    assert text.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "# vec" in text.text
    page = http.get(path, headers={"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>vec</h1>" in page.text
    assert "<script" not in page.text
    assert page.headers["vary"].startswith("Accept")


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", True),
        ("text/markdown", False),
        ("text/markdown, text/html", False),
        ("text/html;q=0.5, text/markdown;q=0.4", True),
        ("text/html;q=0.1, text/markdown", False),
        ("text/html;q=x", False),
        ("TEXT/HTML; charset=utf-8", True),
    ],
)
def test_html_is_sent_to_clients_that_prefer_it(accept: str, html: bool) -> None:
    assert wants_html(accept) is html


# Documentation


class Links(HTMLParser):
    """All resources that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href", "spec-url") and value]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_loads_nothing_from_elsewhere(http: httpx.Client, path: str) -> None:
    page = http.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = Links()
    links.feed(page.text)
    assert links.found
    for link in [*links.found, *re.findall(r'url: "([^"]+)"', page.text)]:
        assert not re.match(r"\w+:|//", link)
        asset = http.get(httpx.URL(http.base_url).join(path).join(link))
        assert asset.status_code == 200, link
        assert len(asset.content) > 500
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert [page.headers[name] for name in ("x-content-type-options", "x-frame-options")] == ["nosniff", "DENY"]


ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js")


@pytest.mark.parametrize("name", ASSETS)
def test_an_asset_is_sent_compressed_to_clients_that_accept_it(http: httpx.Client, name: str) -> None:
    sizes, contents = [], []
    for encoding in ("gzip, deflate, br", "identity", "gzip;q=0", ""):
        reply = http.get(f"/docs/assets/{name}", headers={"accept-encoding": encoding})
        assert ("content-encoding" in reply.headers) == encoding.startswith("gzip,")
        assert "Accept-Encoding" in reply.headers["vary"]
        sizes.append(int(reply.headers["content-length"]))
        contents.append(reply.content)
    assert len(set(contents)) == 1
    assert sizes[0] < sizes[1] / 3
    assert sizes[1:] == [len(contents[0])] * 3


def test_every_asset_has_its_licence_in_the_same_directory() -> None:
    folder = Path(ui.__file__).parent / "assets"
    assert "Apache License" in (folder / "swagger-ui.LICENSE").read_text(encoding="utf-8")
    assert "The MIT License" in (folder / "redoc.LICENSE").read_text(encoding="utf-8")
    assert {path.name.removesuffix(".gz") for path in folder.iterdir()} >= {*ASSETS, "favicon.png"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000


def test_only_the_assets_are_served(http: httpx.Client) -> None:
    for name in ("secret.txt", "..%2f__init__.py", "%2e%2e%2fcore.py", "core.py"):
        assert http.get(f"/docs/assets/{name}").status_code == 404


@pytest.mark.parametrize("name", ["vec", "raw", "pic"])
def test_a_model_shows_its_tasks_with_examples_that_work(http: httpx.Client, name: str) -> None:
    model = http.get(f"/models/{name}").json()
    assert model["path"] == f"/models/{name}/predict"
    assert model["signature"]["inputs"][0]["name"] == {"vec": "x", "raw": "a", "pic": "image"}[name]
    assert [task["kind"] for task in model["tasks"]][-1] == "tensor"
    for task in model["tasks"]:
        assert task["request"]["properties"].keys() >= {"model_version"}
        assert "inference_time_ms" in task["response"]["properties"]
        if task["example"] is not None:
            reply = http.post(model["path"], params={"task": task["kind"]}, json=task["example"])
            assert reply.status_code == 200, reply.text
    assert model["tasks"][0]["example"] is not None or name == "pic"


def test_headers_of_the_documentation_are_not_filled_in(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    headers = [one for one in document["paths"]["/predict"]["post"]["parameters"] if one["in"] != "path"]
    assert {one["name"] for one in headers} >= {"X-Request-Timeout-Ms", "X-Penstock-Priority"}
    assert [one["name"] for one in headers if "example" in one or "default" in one["schema"]] == []
