"""The upstream archivers from PyPI."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_archives import Upstream


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Upstream:
    scratch: Path = tmp_path_factory.mktemp("upstream")
    return Upstream(monkeypatch, scratch)
