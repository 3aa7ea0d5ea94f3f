"""A server whose registry is on a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from full_disks import full
from live_servers import Live
from served_models import build_registry
from small_disks import small_disk

from penstock.settings import Settings

KEY = "a key of a test server"
ROW = {"input_data": [0.5, -1.0, 2.0, 0.25]}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "8M") as disk:
        yield disk


def test_a_server_starts_and_answers_on_a_full_disk(disk: Path) -> None:
    path = build_registry(disk)
    before = sorted(one for one in path.rglob("*") if one.is_file())
    with full(disk), Live("h1", Settings(registry=path, threads=1, admin_key=KEY)) as live:
        assert live.http.post("/models/vec/predict", json=ROW).status_code == 200
        body = live.http.get("/models").json()
        assert body["remark"] is None
        assert "vec" in [model["name"] for model in body["models"]]
        assert live.http.get("/health/ready").json() == {"status": "ok", "reasons": []}
        reply = live.http.post("/admin/unload", json={"model": "raw"}, headers={"x-api-key": KEY})
        assert reply.status_code == 200, reply.text
        assert not reply.json()["persisted"]
        assert "is full; free space on it" in reply.text
    kept = sorted(one for one in path.rglob("*") if one.is_file() and not one.name.endswith(("-wal", "-shm")))
    assert set(kept) <= {*before, path / "registry.db"}
