from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Penstock = Callable[..., Any]


def test_the_bill_is_printed_or_written(penstock: Penstock, published: str, tmp_path: Path) -> None:
    printed = penstock("models", "bom", published).json()
    assert (printed["bomFormat"], printed["metadata"]["component"]["version"]) == ("CycloneDX", "v1.0")
    done = penstock("models", "bom", f"{published}:v2.0", "--format", "slsa", "--out", tmp_path / "slsa.json")
    assert (done.code, done.out) == (0, f"wrote {tmp_path / 'slsa.json'} (slsa) for linear:v2.0\n")
    assert json.loads((tmp_path / "slsa.json").read_text())["predicateType"] == "https://slsa.dev/provenance/v1"
    done = penstock("models", "bom", published, "--out", tmp_path / "no" / "bom.json")
    assert (done.code, done.err) == (
        1,
        f"penstock: {tmp_path / 'no' / 'bom.json'} cannot be written: No such file or directory\n",
    )
