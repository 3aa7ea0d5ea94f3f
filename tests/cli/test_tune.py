"""`penstock tune`: real servers of a small model under real load, and the settings file that comes of it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_servers import Process

import penstock as public
from penstock.toolchain.report.terminal import Progress
from penstock.toolchain.tune import tuning
from penstock.toolchain.tune.server import free_port

Penstock = Callable[..., Any]
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""Nothing here depends on the database, and servers take a while."""


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer configurations to try."""
    monkeypatch.setattr(tuning, "usable_cores", lambda: 1)


class Interrupted:
    """A user who presses Ctrl-C when the first figures are there."""

    def step(self, what: str, done: int | None = None, total: int | None = None) -> None:
        pass

    def row(self, *cells: object) -> None:
        raise KeyboardInterrupt

    def note(self, sentence: str) -> None:
        pass


def interrupt(ref: str, **options: Any) -> None:
    progress: Progress = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        public.tune(ref, progress=progress, **options)


@pytest.mark.usefixtures("one_core")
def test_settings_that_miss_the_objective_are_replaced_in_their_file_and_the_server_takes_them(
    penstock: Penstock, published: str, tmp_path: Path
) -> None:
    file = Path("penstock.toml")
    file.write_text("# ours\nmax_wait_ms = 400  # too long\nmax_queue_size = 77\n\n[models.other]\nbatch_size = 4\n")
    interrupt(published, p99_ms="150ms", time_budget="25s")
    assert len(list(Path("registry/.cache/tune").iterdir())) == 1

    done = penstock("tune", published, "--p99", "150ms", "--time-budget", "25s", "--json")
    assert done.code == 0, done.err
    assert "going on: 1 configuration measured before the interruption" in done.err
    assert list(Path("registry/.cache/tune").iterdir()) == []
    found = done.json()
    assert (found["outcome"], found["objective"], found["out"]) == ("chosen", {"p99_ms": 150.0}, "penstock.toml")
    assert found["chosen"]["max_wait_ms"] < 100
    assert found["chosen"]["throughput_per_second"] > 1
    assert found["chosen"]["p99_ms"] <= 150
    assert found["baseline"]["max_wait_ms"] == 400
    assert found["baseline"]["throughput_per_second"] is None
    assert all(one["why"] for one in found["configurations"])

    written = tomllib.loads(file.read_text())
    chosen = {key: found["chosen"][key] for key in ("workers", "threads", "batch_size", "max_wait_ms")}
    assert written == {key: value for key, value in chosen.items() if value is not None} | {
        "max_queue_size": 77,
        "models": {"other": {"batch_size": 4}},
    }
    assert "# ours" in file.read_text()
    assert f"# penstock tune: {found['sentence']}" in file.read_text()
    shown = penstock("config", "show", "--json").json()
    assert all(shown[key]["value"] == value for key, value in chosen.items())
    port = free_port()
    server = Process(tmp_path, port, published, "--config", "penstock.toml")
    try:
        assert server.wait_for().status_code == 200
    finally:
        server.end()


@pytest.mark.usefixtures("one_core")
def test_settings_that_nothing_beats_exit_with_3_and_are_written_down(penstock: Penstock, published: str) -> None:
    done = penstock("tune", published, "--p99", "0.3s", "--time-budget", "12s", "--out", "tuned.toml")
    assert done.code == 3, done.err
    assert "nothing beats the settings in force (1 worker, default threads, batch 32, no wait)" in done.out
    assert tomllib.loads(Path("tuned.toml").read_text()) == {"workers": 1, "batch_size": 32, "max_wait_ms": 0}
    assert not Path("penstock.toml").exists()


@pytest.mark.usefixtures("one_core")
def test_an_objective_that_no_configuration_meets_exits_with_4_and_writes_nothing(
    penstock: Penstock, published: str
) -> None:
    done = penstock("tune", published, "--p99", "0.001ms", "--time-budget", "10s")
    assert done.code == 4, done.err
    assert "keeps p99 within 0.001 ms on this machine; the lowest p99 was" in done.out
    assert not Path("penstock.toml").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--p99", "0"], "p99: '0' should be longer than 0"),
        (["--p99", "20 parsecs"], "p99: '20 parsecs' should be a time such as 20ms"),
        (
            ["--p99", "20", "--time-budget", "1s"],
            "time_budget: '1s' is too short to measure a server; give 10 s or more",
        ),
        (["--p99", "20", "--out", "nowhere/penstock.toml"], "nowhere/penstock.toml: the settings cannot be written"),
        (["--p99", "20", "--config", "missing.toml"], "missing.toml: the configuration cannot be read"),
        (["--p99", "20", "--payload", "missing.json"], "payload: missing.json is no file"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_measured(
    penstock: Penstock, published: str, options: list[str], says: str
) -> None:
    done = penstock("tune", published, *options)
    assert done.code == 1
    assert done.err.startswith(f"penstock: {says}")


def test_an_unknown_model_is_named(penstock: Penstock, published: str) -> None:
    done = penstock("tune", "nothing", "--p99", "20ms")
    assert (done.code, done.err) == (1, "penstock: there is no model 'nothing' in the registry; models: linear\n")


def test_a_model_that_does_not_load_gives_the_sentence_of_the_server(penstock: Penstock, published: str) -> None:
    (file,) = Path("registry").glob("linear/v1.0/variants/*/*.onnx")
    file.chmod(0o600)
    file.write_bytes(file.read_bytes() + b"x")
    done = penstock("tune", published, "--p99", "20ms")
    assert done.code == 1
    assert file.name in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].startswith("penstock: ")


def test_a_settings_file_that_is_wrong_is_refused_before_anything_is_measured(
    penstock: Penstock, published: str
) -> None:
    Path("tuned.toml").write_text("workers = = 3")
    done = penstock("tune", published, "--p99", "20ms", "--out", "tuned.toml")
    assert done.code == 1
    assert "tuned.toml is not valid TOML" in done.err
    assert Path("tuned.toml").read_text() == "workers = = 3"
