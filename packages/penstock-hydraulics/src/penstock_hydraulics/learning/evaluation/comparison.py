"""Evaluate every model by every protocol; write figures as JSON and tables as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.recordings import Recordings
from penstock_hydraulics.learning.evaluation.cross_validation import (
    COOLER,
    GROUPED,
    RANDOM,
    Echo,
    Protocol,
    collect,
    measure,
)
from penstock_hydraulics.learning.evaluation.report import details, report
from penstock_hydraulics.learning.evaluation.summary import summarise
from penstock_hydraulics.learning.models.baselines import Learner, extra_trees, gradient_boosting, logistic_regression
from penstock_hydraulics.learning.training.network import NETWORK, Network, network_without_edges

FIGURES: Final = "evaluation.json"
TABLES: Final = "evaluation.md"


class Entry(NamedTuple):
    """A model and the protocols it is evaluated by."""

    learner: Learner
    protocols: tuple[str, ...]


def entries(network: Network) -> list[Entry]:
    """The models in the order of the tables; slow ones are evaluated only by the relevant protocols."""
    everything = (GROUPED, COOLER, RANDOM)
    return [
        Entry(network, everything),
        Entry(network_without_edges(network.config, network.machines), (GROUPED, COOLER)),
        Entry(gradient_boosting(), everything),
        Entry(extra_trees(), everything),
        Entry(logistic_regression(), everything),
    ]


def compare(
    recordings: Recordings,
    plan: Sequence[Protocol],
    models: Sequence[Entry],
    out: Path,
    shown: Sequence[str],
    *,
    echo: Echo = print,
) -> dict[str, Any]:
    """Evaluate `models` where `out` has no answers yet; write figures and tables of the `shown` models."""
    for protocol in plan:
        for entry in models:
            if protocol.name in entry.protocols:
                measure(entry.learner, protocol, recordings, out, echo=echo)
    return summary_of(recordings, plan, shown, out)


def summary_of(recordings: Recordings, plan: Sequence[Protocol], names: Sequence[str], out: Path) -> dict[str, Any]:
    """Write the figures of all answers in `out`, and return them."""
    measured = {
        protocol.name: {
            name: answers for name in names if (answers := collect(name, protocol, recordings, out)) is not None
        }
        for protocol in plan
    }
    figures = summarise(measured, recordings, NETWORK)
    figures["models"] = list(names)
    out.mkdir(parents=True, exist_ok=True)
    (out / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    tables = [report(figures, names), *(details(figures, name) for name in names if name in measured.get(GROUPED, {}))]
    (out / TABLES).write_text("\n".join(tables))
    return figures


def read_figures(directory: Path) -> dict[str, Any]:
    """Read the figures of `compare`; raises InvalidInput that names the file."""
    path = directory / FIGURES
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read ({error}); run `penstock-hydraulics evaluate` first") from None
    if not isinstance(found, dict) or "scores" not in found.get("selection", {}):
        raise InvalidInput(f"{path} has no selected model; run `penstock-hydraulics evaluate` with run-grouped folds")
    return found
