"""The versions of a publication: of the network and of the trees, and the next free one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock.artifacts.refs import check_version
from penstock.errors import InvalidInput
from penstock_hydraulics.learning.evaluation.cross_validation import GROUPED
from penstock_hydraulics.learning.training.network import NETWORK
from penstock_hydraulics.machine.states import HEADS

NAME: Final = "hydraulics"
FORESTS: Final = ("extra_trees", "gradient_boosting")
"""The trees that can be published."""
TREES_SUFFIX: Final = "-trees"
_RELEASE = re.compile(r"v?(\d+)\.(\d+)(?:\.\d+)?(?:-.*)?")


def next_version(taken: Iterable[str]) -> str:
    """The version after the highest of `taken`: `v1.1` after `v1.0` and `v1.0-trees`."""
    found = [(int(match[1]), int(match[2])) for each in taken if (match := _RELEASE.fullmatch(each))]
    major, minor = max(found, default=(1, -1))
    return f"v{major}.{minor + 1}"


def taken_versions(out: Path) -> set[str]:
    """The versions that this package ships, and those in `out/hydraulics`."""
    shipped = Path(str(files("penstock_hydraulics"))) / "artifacts" / NAME
    return {path.name for home in (shipped, out / NAME) if home.is_dir() for path in home.iterdir() if path.is_dir()}


def versions_of(figures: Mapping[str, Any], version: str | None, out: Path) -> dict[str, str]:
    """The version of each model to publish: `version` of the network, with `-trees` that of the best trees.

    The default is the next free one. Raises InvalidInput if the evaluation selects none or a version is taken.
    """
    selection = figures["selection"]
    if selection["served"] is None:
        raise InvalidInput(selection["sentence"])
    chosen = next_version(taken_versions(out)) if version is None else check_version(version)
    found = {NETWORK: chosen, best_forest(figures): chosen + TREES_SUFFIX}
    if selection["served"] not in found:
        raise InvalidInput(
            f"the evaluation selects {selection['served']}, which cannot be published; publishable models:"
            f" {', '.join((NETWORK, *FORESTS))}"
        )
    for each in found.values():
        if (out / NAME / each).exists():
            raise InvalidInput(
                f"{out / NAME / each} already exists; choose another version, or omit it for the next free one",
                field="version",
            )
    return found


def best_forest(figures: Mapping[str, Any]) -> str:
    """The trees that the rule selects, or else those with the best mean macro-F1 with whole runs held out."""
    if figures["selection"]["served"] in FORESTS:
        return str(figures["selection"]["served"])
    found = {name: figures["protocols"][GROUPED].get(name, {}).get("settled") for name in FORESTS}
    means = {
        name: float(np.mean([settled[head.name]["macro_f1"][0] for head in HEADS]))
        for name, settled in found.items()
        if settled
    }
    if not means:
        raise InvalidInput(f"the evaluation has none of {', '.join(FORESTS)}; evaluate one, to publish it too")
    return max(means, key=means.__getitem__)
