"""One browser and one server with a small model for the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import PROGRAM, Page, chromium
from hydraulic_models import hydraulic_registry
from live_servers import Live

from penstock.settings import Settings


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    registry = hydraulic_registry(tmp_path_factory.mktemp("page"))
    with Live("h1", Settings(registry=registry, threads=1), ("hydraulics",)) as live:
        yield live


@pytest.fixture(scope="session")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if PROGRAM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with chromium(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(_browser: Page) -> Iterator[Page]:
    """The tab, in which nothing may go wrong."""
    _browser.errors.clear()
    yield _browser
    assert _browser.errors == []
