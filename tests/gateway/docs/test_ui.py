"""docs/api.md describes every route, status, header and metric."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from penstock.gateway.native.routes import TABLE
from penstock.gateway.problems import _KINDS, _REFUSALS
from penstock.gateway.service import Service
from penstock.monitor.metrics import metrics_page
from penstock.settings import Settings

PAGE = (Path(__file__).parents[3] / "docs/api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method} {row.path}")
def test_every_route_is_described(row) -> None:
    assert f"`{row.method} {row.path}`" in PAGE


def test_every_described_route_exists() -> None:
    described = set(re.findall(r"`((?:GET|POST|PUT|DELETE) /[^`]*)`", PAGE))
    assert described == {f"{row.method} {row.path}" for row in TABLE}


def test_every_kind_of_problem_is_described() -> None:
    kinds = {(kind.status, kind.slug) for kind in _KINDS.values()}
    kinds |= {(status, slug) for status, (slug, _) in _REFUSALS.items() if status >= 400}
    for status, slug in kinds:
        assert re.search(rf"^\| {status} \|[^|]*`{slug}`", PAGE, re.MULTILINE), (status, slug)


def test_every_metric_is_described(tmp_path: Path) -> None:
    settings = Settings(registry=tmp_path, cache_size=1, otlp_endpoint="http://127.0.0.1:9")
    page = metrics_page([Service(settings).figures()]).body.decode()
    names = re.findall(r"^# TYPE (penstock_\w+)", page, re.MULTILINE)
    assert len(names) > 8
    for name in names:
        assert f"`{name}`" in PAGE, name


def test_the_root_leads_to_the_documentation(http: httpx.Client) -> None:
    reply = http.get("/")
    assert (reply.status_code, reply.headers["location"]) == (307, "docs")
    assert http.get("/", follow_redirects=True).url.path == "/docs"
