"""The commands of docs/rollouts.md do what the page says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_artifacts import Write, golden, registry, signature, write

from penstock.registry.registry import Registry

__all__ = ["golden", "registry", "signature", "write"]

PAGE = Path(__file__).parents[3] / "docs" / "rollouts.md"
COMMANDS = [
    line
    for block in re.findall(r"<!-- run -->\n```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def test_the_commands_of_the_page_run_in_its_order(
    registry: Registry,
    write: Write,
    penstock: Callable[..., Any],
) -> None:
    for version in ("v1.0", "v2.0"):
        registry.publish(write(name="digits", version=version, content=version.encode()).path)
    before = {"arms": [{"version": "v1.0", "weight": 50}, {"version": "v2.0", "weight": 50}]}
    registry.set_route("digits", before)
    registry.set_route("digits", {"arms": [{"version": "v2.0", "weight": 100}]})
    shares = []
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        done = penstock(*arguments)
        assert (program, done.code) == ("penstock", 0), done.err
        shares.append({arm.version: arm.weight for arm in registry.routes.get("digits").route.arms})
    assert shares == [
        {"v1.0": 50, "v2.0": 50},
        {"v1.0": 100, "v2.0": 0},
        {"v1.0": 90, "v2.0": 10},
        {"v1.0": 50, "v2.0": 50},
        {"v1.0": 50, "v2.0": 50},
        {"v1.0": 50, "v2.0": 50},
    ]
    assert registry.routes.get("digits").route.why == "no errors for an hour"
