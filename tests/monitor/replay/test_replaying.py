"""`penstock replay`: the real digits, logged by a server, on other versions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import digit_networks
import pytest
from live_servers import Live
from typer.testing import CliRunner, Result

from penstock.cli.main import app
from penstock.monitor.prediction_log.reading import LogReader
from penstock.registry.registry import Registry
from penstock.settings import Settings

LOGGED = 360


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry, and the log of the held-out images on the version v1."""
    root = tmp_path_factory.mktemp("replay")
    images, _ = digit_networks.held_out()
    with Registry(root / "registry") as registry:
        digit_networks.publish(registry, root, "v1", 0, labels="0123456789")
        digit_networks.publish(registry, root, "renamed", 0, labels="9876543210")
        digit_networks.publish(registry, root, "moved", 0, labels="9012345678", shift=1)
        digit_networks.publish(registry, root, "v2", 1)
        digit_networks.publish(registry, root, "shuffled", 0, shift=1)
        digit_networks.publish(registry, root, "broken", 0, broken_above=150.0)
        registry.set_alias("net", "champion", "v1")
    settings = Settings(registry=root / "registry", threads=1, prediction_log=root / "log", prediction_log_sample=1)
    for inputs, rows in (("sampled", images), ("none", images[:7])):
        logging = settings.model_copy(update={"prediction_log_inputs": inputs})
        with Live("h1", logging, ("net",)) as live:
            for image in rows:
                reply = live.http.post("/models/net/predict", json={"input_data": image.round(4).tolist()})
                assert reply.status_code == 200
            live.http.post("/models/net/predict", json={"input_data": [1]})
    assert len(list(LogReader(root / "log"))) == LOGGED + 7 + 2
    return root


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("DATABASE_URL", raising=False)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["replay", *map(str, arguments)])


def replayed(*arguments: object, code: int = 0) -> Any:
    done = run("log", *arguments, "--json")
    assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
    return json.loads(done.stdout)


def state(directory: Path) -> dict[str, str]:
    files = (
        path for path in sorted(directory.rglob("*")) if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    )
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_version_of_another_seed_passes_and_nothing_is_written(place: Path) -> None:
    before = state(place)
    found = replayed("--against", "net:v2", "--max-disagreement", "0.06", "--max-slowdown", "50")
    assert state(place) == before
    assert found["rows"] == LOGGED
    assert 0.01 < found["disagreement"]["rate"] < 0.06
    assert found["disagreement"]["low"] < found["disagreement"]["rate"] < found["disagreement"]["high"]
    assert found["skipped"] == {"without_inputs": 7, "not_answered": 2, "damaged_lines": 0}
    assert found["slowdown"]["requests"] > 300
    assert found["kl"]["mean"] > 0
    assert {each["was"] == each["is"] for each in found["worst"]} == {False}


def test_the_same_version_agrees_in_every_row() -> None:
    found = replayed("--against", "net:v1", "--max-disagreement", "0")
    assert found["disagreement"]["rows"] == 0
    assert found["max_abs"] < 1e-4


def test_a_version_with_shuffled_labels_fails() -> None:
    found = replayed("--against", "net:shuffled", "--max-disagreement", "0.05", code=1)
    assert found["disagreement"]["rate"] > 0.95
    assert "of the rows disagree, 5.00% are allowed" in found["breaches"][0]
    done = run("log", "--against", "net:shuffled", "--max-disagreement", "0.05")
    assert done.exit_code == 1
    assert "skipped: 7 records have no inputs" in done.stdout
    assert "of the rows disagree" in done.stderr


def test_classes_are_compared_by_their_names() -> None:
    found = replayed("--against", "net:renamed", "--max-disagreement", "0.05", code=1)
    assert found["disagreement"]["rate"] == 1, "the same network under other names"
    found = replayed("--against", "net:moved", "--max-disagreement", "0.05")
    assert (found["disagreement"]["rows"], found["max_abs"]) == (0, pytest.approx(0, abs=1e-4)), "classes that moved"


def test_answers_that_are_not_finite_disagree() -> None:
    found = replayed("--against", "net:broken", "--max-disagreement", "0.05", code=1)
    assert 0 < found["not_finite"] < LOGGED
    assert found["disagreement"]["rows"] >= found["not_finite"]


def test_too_slow_is_a_breach_and_so_is_a_time_that_cannot_be_compared(place: Path) -> None:
    assert "takes" in replayed("--against", "net:v2", "--max-slowdown", "0.0001", "--limit", 30, code=1)["breaches"][0]
    found = replayed("--against", "v2.onnx", "--max-slowdown", "9", "--registry", "empty", "--limit", 9, code=1)
    assert found["breaches"] == ["the time could not be compared: no earlier version runs here"]
    assert not (place / "empty").exists()


def test_a_seed_chooses_the_same_requests_each_time() -> None:
    first, again, other = (
        replayed("--against", "net:v2", "--limit", 20, "--worst", 20, "--seed", seed) for seed in (1, 1, 2)
    )
    assert first["requests"] == 20
    assert first["worst"] == again["worst"]
    assert first["worst"] != other["worst"]


def test_a_damaged_log_is_replayed_as_far_as_it_can_be_read(place: Path, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for path in (place / "log").glob("predictions.*"):
        content = path.read_bytes()
        if path.name.endswith(".jsonl"):
            content = b"rubbish\n" + content[:-100]
        (tmp_path / "log" / path.name).write_bytes(content)
    done = run(tmp_path / "log", "--against", "net:v2", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["skipped"]["damaged_lines"] >= 1
    assert found["requests"] > 300


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none", "--against", "net:v2"), "there is no prediction log here"),
        (("registry", "--against", "net:v2"), "holds no segments"),
        (("log", "--against", "net:v9"), "v9"),
        (("log", "--against", "gone.onnx"), "gone.onnx"),
        (("log", "--against", "net:v2", "--max-disagreement", "2"), "max-disagreement"),
        (("log", "--against", "net:v2", "--max-slowdown", "-1"), "max-slowdown"),
        (("log", "--against", "net:v2", "--limit", "0"), "limit"),
        (("log",), "--against"),
    ],
)
def test_what_cannot_be_used_is_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.exception
    assert words in done.stderr


def test_nothing_to_compare_never_passes() -> None:
    found = replayed("--against", "net:v2", "--model", "another", code=1)
    assert found["breaches"] == ["no logged request could be replayed"]
    assert found["skipped"]["of_other_models"] == LOGGED + 7


def test_a_model_that_takes_other_inputs_fails_every_request(tmp_path: Path) -> None:
    from linear_models import linear

    found = replayed("--against", linear(tmp_path / "vec.onnx"), "--max-disagreement", "0.5", code=1)
    assert found["failed"] == LOGGED
    assert "784" in found["first_failure"]
