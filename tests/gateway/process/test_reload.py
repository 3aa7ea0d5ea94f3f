"""Settings that are read again: all parts take them, or none."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.gateway.process.reload import Reload
from penstock.gateway.process.serving import certificates_can_be_used
from penstock.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    yield
    root.setLevel(before)


@given(usable=st.lists(st.booleans(), max_size=6))
def test_every_part_takes_what_was_read_or_none_does(usable: Sequence[bool]) -> None:
    taken: list[int] = []
    reload = Reload(Settings, Settings())

    def part(index: int, settings: Settings) -> Callable[[], None]:
        if not usable[index]:
            raise ConfigError("cannot be used")
        return lambda: taken.append(index)

    for index in range(len(usable)):
        reload.add(partial(part, index))
    assert reload() is all(usable)
    assert taken == (list(range(len(usable))) if all(usable) else [])


def test_the_level_of_the_log_changes_and_other_settings_wait_for_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text('log_level = "info"\n')
    read = partial(_read, file)
    reload = pickle.loads(pickle.dumps(Reload(read, read())))  # as for a worker process
    file.write_text('log_level = "warning"\nmax_body_bytes = 3000000\ntls_cert = "a.pem"\n')
    caplog.set_level(logging.INFO)
    assert reload()
    assert logging.getLogger().level == logging.WARNING
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning == "tls_cert, max_body_bytes changed, which takes effect at the next start"


def test_a_parent_asks_whether_certificates_can_be_used(tmp_path: Path) -> None:
    settings = Settings(tls_cert=tmp_path / "missing.pem")
    reload = Reload(lambda: settings, settings)
    reload.add(certificates_can_be_used)
    assert reload() is False


def _read(file: Path) -> Settings:
    return load_settings({}, config_file=file, environ={}).settings
