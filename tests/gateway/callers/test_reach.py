"""A start that other machines reach, and what counts as a key."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ConfigError
from penstock.gateway.callers.callers import Callers
from penstock.gateway.service import Service
from penstock.registry.admin_key import AdminKey
from penstock.registry.database.reads import FILE
from penstock.registry.registry import Registry
from penstock.settings import Settings

OUTSIDE = {"host": "0.0.0.0"}


def callers_of(place: Path, **given: Any) -> Callers:
    settings = Settings(registry=place, **given)
    return Callers(settings, Registry(place), AdminKey.of(settings))


async def test_a_start_beyond_this_machine_needs_a_key_if_that_is_required(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"require_auth .* 0\.0\.0\.0 .*penstock keys create"):
        await callers_of(tmp_path, require_auth=True, **OUTSIDE).start(None)
    await callers_of(tmp_path, require_auth=True).start(None)  # loopback
    await callers_of(tmp_path, require_auth=True, uds=tmp_path / "socket", **OUTSIDE).start(None)
    await callers_of(tmp_path, require_auth=True, admin_key="a-key-of-many-letters", **OUTSIDE).start(None)
    with Registry(tmp_path) as registry:
        made = registry.keys.create("a")
        await callers_of(tmp_path, require_auth=True, **OUTSIDE).start(None)
        registry.keys.revoke(made.id)
    with pytest.raises(ConfigError, match="no key"):
        await callers_of(tmp_path, require_auth=True, **OUTSIDE).start(None)


async def test_a_server_that_is_open_to_all_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    group = tmp_path / "group"
    group.mkdir()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):  # its processes
            await callers_of(tmp_path, **OUTSIDE).start(group)
        assert [record.message for record in caplog.records if "asks for no key" in record.message] == [
            "whoever reaches 0.0.0.0 may use the models of this server: it asks for no key until there is one "
            "(penstock keys create NAME) or require_auth is set"
        ]
        caplog.clear()
        await callers_of(tmp_path).start(None)
        with Registry(tmp_path) as registry:
            registry.keys.create("a")
        await callers_of(tmp_path, **OUTSIDE).start(None)
    assert not caplog.records


@pytest.mark.parametrize(
    ("given", "keys", "required", "active"),
    [
        ({}, 0, False, False),
        ({}, 1, True, True),
        ({"require_auth": True}, 0, True, True),
        ({"require_auth": False}, 1, False, True),
        ({"rate_limit": "5/s"}, 0, False, True),
    ],
)
async def test_what_is_asked_of_requests(
    tmp_path: Path, given: dict[str, Any], keys: int, required: bool, active: bool
) -> None:
    with Registry(tmp_path) as registry:
        for _ in range(keys):
            registry.keys.revoke(registry.keys.create("a").id)  # revoking the last key opens nothing
    callers = callers_of(tmp_path, **given)
    await callers.start(None)
    assert (callers.required, callers.active) == (required, active)


def test_keys_known_last_stay_in_force_without_the_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Registry(tmp_path) as registry:
        made = registry.keys.create("a")
    callers = callers_of(tmp_path)
    asyncio.run(callers.start(None))
    for file in tmp_path.glob("registry.db*"):
        file.rename(tmp_path / f"away-{file.name}")
    for _ in range(3):
        asyncio.run(callers.follow())
    assert caplog.text.count("stay in force") == 1
    assert callers.keys.find(made.key) is not None
    for file in tmp_path.glob("away-registry.db*"):
        file.rename(tmp_path / file.name.removeprefix("away-"))
    asyncio.run(callers.follow())
    assert "followed again" in caplog.text


def test_a_server_whose_database_has_lost_its_keys_stays_closed(tmp_path: Path) -> None:
    with Registry(tmp_path) as registry:
        registry.keys.create("a")
    for file in tmp_path.glob("registry.db*"):
        file.unlink()
    callers = callers_of(tmp_path)
    asyncio.run(callers.start(None))
    assert (callers.required, len(callers.keys)) == (True, 0)


def test_keys_are_kept_for_a_start_without_the_database(tmp_path: Path) -> None:
    """With each change of a key, not only when models change."""
    service = Service(Settings(registry=tmp_path))
    with Registry(tmp_path) as registry:
        made = registry.keys.create("a")
        asyncio.run(service.callers.start(None))
        service._keep_last_known()
        registry.keys.revoke(made.id)
        asyncio.run(service.callers.follow())
        service._keep_last_known()
    assert '"revoked_at": null' not in (tmp_path / FILE).read_text(encoding="utf-8").replace("\\", "")
