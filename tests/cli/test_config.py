"""`penstock config show`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.backends.devices import usable_cores
from penstock.settings import Settings


def test_every_setting_is_shown_with_its_source(
    penstock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("API_PORT", "9000")
    (tmp_path / ".env").write_text("PENSTOCK_BATCH_SIZE=8\n")
    (tmp_path / "penstock.toml").write_text('cors_origins = ["http://a.example", "http://b.example"]\n')
    shown = penstock("config", "show", "--json", "--device", "cpu").json()
    assert set(shown) == set(Settings.model_fields)
    assert shown["port"] == {"value": 9000, "source": "environment API_PORT"}
    assert shown["batch_size"] == {"value": 8, "source": ".env PENSTOCK_BATCH_SIZE"}
    assert shown["cors_origins"] == {"value": ["http://a.example", "http://b.example"], "source": "penstock.toml"}
    assert shown["device"] == {"value": "cpu", "source": "command line"}
    assert shown["workers"] == {"value": 1, "source": "default"}


def test_the_table_has_the_same_content(penstock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_USE_FP16", "yes")
    lines = {line.split()[0]: line.split()[1:] for line in penstock("config", "show").out.splitlines() if line.split()}
    assert lines["use_fp16"] == ["true", "environment", "PENSTOCK_USE_FP16"]
    assert lines["max_bytes"] == ["-", "default"]
    assert set(Settings.model_fields) <= set(lines)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_password_is_not_printed(
    penstock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@db/models")
    out = penstock("config", "show", *form).out
    assert "hunter2" not in out
    assert "postgresql://me:***@db/models" in out


def test_a_wrong_setting_is_refused_in_one_line(penstock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PROT", "1")
    done = penstock("config", "show")
    assert (done.code, done.out) == (1, "")
    assert done.err == "penstock: PENSTOCK_PROT in the environment is not a setting; did you mean PENSTOCK_PORT?\n"


def test_automatic_workers_are_shown_with_their_number(
    penstock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_WORKERS", "auto")
    lines = [line.split() for line in penstock("config", "show").out.splitlines()]
    assert ["workers", "auto", f"({usable_cores()}", "here)", "environment", "PENSTOCK_WORKERS"] in lines
    assert penstock("config", "show", "--json").json()["workers"]["value"] == "auto"
