"""`penstock doctor`: no problems with a valid set-up, and each problem with its fix."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.backends.devices import usable_cores

Penstock = Callable[..., Any]


@pytest.fixture(autouse=True)
def free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PORT", "0")


def findings(done: Any) -> dict[str, dict[str, Any]]:
    return {finding["what"]: finding for finding in done.json()["findings"]}


def test_a_valid_setup_has_no_problems(penstock: Penstock) -> None:
    done = penstock("doctor", "--json")
    assert done.code == 0, done.out
    assert done.json()["ok"] is True
    found = findings(done)
    assert found["usable cores"]["value"] == str(usable_cores())
    assert "CPUExecutionProvider" in found["onnx providers"]["value"]
    wanted = {"penstock", "python", "torch", "memory", "torch devices", "compiler", "registry", "database", "port"}
    assert wanted <= set(found)
    assert not Path("registry").exists()


def test_the_table_ends_with_the_result(penstock: Penstock) -> None:
    assert penstock("doctor").out.endswith("nothing is wrong\n")


def test_a_port_in_use_is_a_problem(penstock: Penstock, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("PENSTOCK_PORT", str(port))
        done = penstock("doctor")
    assert done.code == 1
    assert f"port {port} is in use" in done.out
    assert done.out.endswith("need attention\n")


def test_the_place_of_the_admin_key_is_shown_and_never_the_key(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = Path("registry").absolute() / "admin.key"
    assert findings(penstock("doctor", "--json"))["admin key"]["value"].startswith(str(file))
    file.parent.mkdir()
    file.write_text("")
    file.chmod(0o600)
    broken = penstock("doctor", "--json")
    assert broken.code == 1
    assert "holds no admin key" in findings(broken)["admin key"]["wrong"]
    file.write_text("a-key-of-enough-letters")
    found = penstock("doctor", "--json")
    assert findings(found)["admin key"] == {"what": "admin key", "value": str(file), "wrong": None}
    monkeypatch.setenv("PENSTOCK_ADMIN_KEY", "another-key-of-enough-letters")
    given = penstock("doctor", "--json")
    assert findings(given)["admin key"]["value"] == "the setting admin_key"
    assert "key-of-enough" not in found.out + given.out + penstock("config", "show").out


def test_unreadable_settings_are_reported_and_the_machine_is_still_shown(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_PROT", "1")
    done = penstock("doctor", "--json")
    assert done.code == 1
    found = findings(done)
    assert "PENSTOCK_PROT" in found["settings"]["wrong"]
    assert found["usable cores"]["wrong"] is None


@pytest.mark.parametrize(
    ("environ", "what", "part"),
    [
        ({"PENSTOCK_REGISTRY": "a-file/registry"}, "registry", "is not a directory"),
        ({"DATABASE_URL": "sqlite:///a-file"}, "database", "a-file"),
        ({"DATABASE_URL": "sqlite:////nowhere/at/all.db"}, "database", "/nowhere/at is not a directory"),
        ({"MODEL_PATH": "nowhere.onnx"}, "model path", "no such file"),
        ({"API_HOST": "203.0.113.1"}, "port", "203.0.113.1"),
    ],
)
def test_each_problem_is_named(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], what: str, part: str
) -> None:
    Path("a-file").write_text("plain text, no database and no directory")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    done = penstock("doctor", "--json")
    assert done.code == 1
    wrong = findings(done)[what]["wrong"]
    assert wrong is not None
    assert part in wrong


def test_a_missing_device_is_a_problem(penstock: Penstock) -> None:
    done = penstock("doctor", "--device", "mps", "--json")
    if "mps" in findings(done)["torch devices"]["value"]:
        pytest.skip("this machine has Metal")
    assert done.code == 1
    assert "no mps" in findings(done)["device"]["wrong"]


def test_a_damaged_artifact_is_named(penstock: Penstock, published: str) -> None:
    manifest = Path("registry", published, "v1.0", "manifest.json")
    manifest.write_text("{}")
    done = penstock("doctor", "--json")
    assert done.code == 1
    assert str(manifest) in findings(done)["database"]["wrong"]
