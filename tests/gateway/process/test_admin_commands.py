"""Orders that several processes of one server obey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.gateway.process.worker_group import WorkerGroup
from penstock.gateway.service import Service
from penstock.settings import Settings

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def beside(directory: Path, settings: Settings) -> Service:
    return Service(settings, workers=WorkerGroup(directory))


async def test_what_one_process_is_told_another_one_does(tmp_path: Path, base_settings: Settings) -> None:
    one, other = (beside(tmp_path, base_settings) for _ in range(2))
    await one.orders.drain(True)
    await other.orders.obey()
    assert other.draining
    await other.orders.drain(False)
    await one.orders.obey()
    assert not one.draining


async def test_orders_that_cannot_be_read_for_a_moment_stay_in_force(
    tmp_path: Path, base_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = beside(tmp_path, base_settings)
    await service.orders.drain(True)

    def full(_: Path) -> Any:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Path, "read_bytes", full)
        with pytest.raises(OSError, match="Too many"):
            await service.orders.obey()
    assert service.draining
    (tmp_path / "orders").unlink()  # as the last of the processes to end would
    await service.orders.obey()
    assert service.draining
