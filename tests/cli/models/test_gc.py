"""`penstock models gc`, against a real registry."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from linear_models import linear

Penstock = Callable[..., Any]


@pytest.fixture
def many(penstock: Penstock, tmp_path: Path) -> None:
    """`many` in versions v1.0 to v6.0, @champion is the first, and a higher pre-release."""
    linear(tmp_path / "many.onnx")
    for number in range(1, 7):
        assert penstock("models", "publish", "many.onnx", "--version", f"v{number}.0").code == 0
    assert penstock("models", "publish", "many.onnx", "--version", "v7.0-rc1").code == 0
    assert penstock("models", "alias", "many", "champion", "v1.0").code == 0


def versions(penstock: Penstock, name: str = "many") -> list[str]:
    models = penstock("models", "list", "--json").json()["models"]
    return [model["version"] for model in models if model["name"] == name]


def test_versions_without_an_alias_are_removed_and_the_newest_are_kept(penstock: Penstock, many: None) -> None:
    done = penstock("models", "gc", "--keep", 2, "--yes", "--json")
    assert [version["ref"] for version in done.json()["versions"]] == [f"many:v{n}.0" for n in (2, 3, 4, 5)]
    assert done.json()["size_bytes"] > 0
    assert versions(penstock) == ["v1.0", "v6.0", "v7.0-rc1"]


def test_the_version_of_the_bare_name_is_kept_in_any_case(penstock: Penstock, many: None) -> None:
    assert penstock("models", "alias", "many", "old", "v1.0").code == 0
    assert penstock("models", "alias", "many", "champion", "v3.0").code == 0
    assert penstock("models", "gc", "--keep", 2, "--yes").code == 0
    assert versions(penstock) == ["v1.0", "v3.0", "v6.0", "v7.0-rc1"]
    assert penstock("models", "alias", "many", "champion", "--remove").code == 0
    assert penstock("models", "gc", "--keep", 0, "--yes").code == 0
    assert versions(penstock) == ["v1.0", "v6.0"]  # v7.0-rc1 is not a release


def test_a_dry_run_removes_nothing(penstock: Penstock, many: None) -> None:
    done = penstock("models", "gc", "--dry-run")
    assert done.code == 0
    assert "many:v2.0" in done.out
    assert "many:v1.0" not in done.out
    assert len(versions(penstock)) == 7
    assert penstock("models", "gc", "--dry-run", "--json").json()["dry_run"] is True


def test_removal_needs_a_confirmation(penstock: Penstock, many: None) -> None:
    assert penstock("models", "gc", stdin=b"n\n").code == 1
    assert len(versions(penstock)) == 7
    done = penstock("models", "gc", stdin=b"y\n")
    assert "removed 3 versions" in done.out
    assert len(versions(penstock)) == 4


def test_only_versions_of_the_named_models_are_considered(penstock: Penstock, many: None, onnx_file: Path) -> None:
    assert penstock("models", "publish", onnx_file).code == 0
    assert "nothing to remove" in penstock("models", "gc", "linear", "--keep", 0).out
    done = penstock("models", "gc", "lineal", "--yes")
    assert (done.code, done.out) == (1, "")
    assert "lineal" in done.err


def test_an_empty_result_is_reported_and_creates_nothing(penstock: Penstock) -> None:
    done = penstock("models", "gc")
    assert (done.code, done.out) == (0, "There is nothing to remove.\n")
    assert not Path("registry").exists()


def test_leftovers_are_removed_and_writes_in_progress_are_kept(penstock: Penstock, onnx_file: Path) -> None:
    assert penstock("models", "publish", onnx_file).code == 0
    staging = Path("registry", ".staging")
    for slot in ("dead", "trash", "alive"):
        (staging / slot).mkdir()
        (staging / slot / "model.onnx").write_bytes(b"x" * 100)
    (staging / "dead.lock").touch()
    with (staging / "alive.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = penstock("models", "gc", "--yes", "--json").json()
        assert [Path(one["path"]).name for one in found["leftovers"]] == ["dead", "trash"]
        assert found["size_bytes"] == 200
        assert sorted(path.name for path in staging.iterdir()) == ["alive", "alive.lock"]


def test_the_record_of_a_version_deleted_by_hand_is_removed(penstock: Penstock, published: str) -> None:
    shutil.rmtree(Path("registry", published, "v2.0"))
    assert penstock("models", "gc", "--yes", "--json").json()["records"] == ["linear:v2.0"]
    assert penstock("models", "gc", "--dry-run").out == "There is nothing to remove.\n"
    # now other content may have this version
    linear(Path("other.onnx"), seed=9)
    assert penstock("models", "publish", "other.onnx", "--name", published, "--version", "v2.0").code == 0
