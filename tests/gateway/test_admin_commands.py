"""Admin commands in a server of several processes: draining, and loads and unloads without a writable registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ConfigError
from penstock.gateway.service import Service
from penstock.gateway.worker_group import WorkerGroup
from penstock.settings import Settings

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def process(directory: Path, settings: Settings) -> Service:
    return Service(settings, workers=WorkerGroup(directory))


async def test_a_drain_in_one_process_is_followed_by_another(tmp_path: Path, base_settings: Settings) -> None:
    one, other = (process(tmp_path, base_settings) for _ in range(2))
    await one.commands.drain(True)
    await other._follow_drain()
    assert other.draining
    await other.commands.drain(False)
    await one._follow_drain()
    assert not one.draining


async def test_a_drain_continues_if_its_file_cannot_be_read_for_a_moment(
    tmp_path: Path, base_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = process(tmp_path, base_settings)
    await service.commands.drain(True)

    def full(_: Path) -> Any:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Path, "read_bytes", full)
        with pytest.raises(OSError, match="Too many"):
            await service._follow_drain()
    assert service.draining
    (tmp_path / "draining").unlink()  # as the last process of a server does when it stops
    await service._follow_drain()
    assert service.draining


async def test_a_stopping_process_does_not_end_its_drain(tmp_path: Path, base_settings: Settings) -> None:
    one, other = (process(tmp_path, base_settings) for _ in range(2))
    await other.drain(0)
    await one.commands.drain(False)
    await other._follow_drain()
    assert other.draining


async def test_a_drain_that_cannot_be_shared_is_refused(tmp_path: Path, base_settings: Settings) -> None:
    service = process(tmp_path / "gone", base_settings)
    with pytest.raises(ConfigError, match="cannot be reached"):
        await service.commands.drain(True)
    assert not service.draining
