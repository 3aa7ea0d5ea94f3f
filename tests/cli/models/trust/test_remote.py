"""Models that are published and imported by address."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from linear_models import linear
from remote_store import Store, served

Penstock = Callable[..., Any]
pytest.importorskip("aiohttp", reason="pip install 'penstock[remote]'")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    root = tmp_path / "store"
    root.mkdir()
    linear(root / "net.onnx")
    with served(root) as store:
        monkeypatch.setenv("PENSTOCK_REMOTE_REGISTRIES", store.url)
        monkeypatch.setenv("PENSTOCK_REMOTE_PRIVATE", "true")
        yield store


@pytest.mark.parametrize("command", ["publish", "import"])
def test_a_file_is_published_by_its_address(penstock: Penstock, store: Store, command: str) -> None:
    done = penstock("models", command, f"{store.url}/net.onnx", "--version", "2.0", "--no-prove")
    assert (done.code, done.err) == (0, "")
    assert [model["version"] for model in penstock("models", "list", "--json").json()["models"]] == ["2.0"]


@pytest.mark.parametrize("command", ["publish", "import"])
def test_an_artifact_is_published_by_its_address(
    penstock: Penstock, store: Store, command: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert penstock("models", "publish", store.root / "net.onnx", "--registry", elsewhere).code == 0
    shutil.copytree(elsewhere / "net" / "v1.0", store.root / "net" / "v1.0")
    done = penstock("models", command, f"{store.url}/net/v1.0", "--alias", "live")
    assert (done.code, done.err) == (0, "")
    assert "net:v1.0" in done.out
    assert penstock("models", "show", "net@live").code == 0


def test_an_address_that_is_not_allowed_is_refused(
    penstock: Penstock, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENSTOCK_REMOTE_PRIVATE")
    done = penstock("models", "publish", f"{store.url}/net.onnx")
    assert done.code == 1
    assert "is at an address that is refused: 127.0.0.1 is not a public address" in done.err
    monkeypatch.setenv("PENSTOCK_REMOTE_REGISTRIES", "s3://bucket")
    done = penstock("models", "import", f"{store.url}/net.onnx")
    assert done.code == 1
    assert "is not in the setting remote_registries (it allows s3://bucket)" in done.err


def test_a_faulty_list_is_named_without_its_secrets(penstock: Penstock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_REMOTE_REGISTRIES", "https://user:secret@example.org/")
    done = penstock("models", "list")
    assert done.code == 1
    assert "entry 1 is none" in done.err
    assert "secret" not in done.err
