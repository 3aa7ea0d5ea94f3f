"""The audit of the pinned packages needs a network, and says so when there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from audited import audit, is_fresh


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pins.txt").write_text("six==1.16.0\n")
    return tmp_path / "pins.txt"


def test_without_a_network_the_audit_is_left_out(pins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(pins, pins.parent / "stamp") == 0
    assert capsys.readouterr().out.startswith("pip-audit left out, the database cannot be reached: ")
    assert not (pins.parent / "stamp").exists()


def test_an_audit_that_cannot_run_fails(pins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pins.write_text("six>=1\n")
    assert audit(pins, pins.parent / "stamp") == 1
    assert capsys.readouterr().out.startswith("pip-audit failed: ")


def test_an_audit_is_made_once_a_day_and_when_the_pins_change(pins: Path) -> None:
    stamp = pins.parent / "stamp"
    assert not is_fresh(pins, stamp)
    stamp.touch()
    made = stamp.stat().st_mtime
    os.utime(pins, (made - 10, made - 10))
    assert is_fresh(pins, stamp)
    assert audit(pins, stamp) == 0
    os.utime(pins, (made + 10, made + 10))
    assert not is_fresh(pins, stamp)
    os.utime(pins, (made - 200_000, made - 200_000))
    os.utime(stamp, (made - 100_000, made - 100_000))
    assert not is_fresh(pins, stamp)
