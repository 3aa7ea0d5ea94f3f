"""Model cards, generated from the measured figures only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from penstock.artifacts.card import render_card
from penstock_hydraulics.learning.data.recordings import RIG, SENSORS
from penstock_hydraulics.learning.evaluation.coverage import (
    MIN_F1,
    MIN_RIGHT,
    MIN_RIGHT_OF_FEW,
    MIN_RIGHT_OF_SAMPLES,
    MIN_SURE,
    SAMPLE_RUNS,
    Table,
)
from penstock_hydraulics.learning.evaluation.cross_validation import GROUPED
from penstock_hydraulics.learning.evaluation.report import Figures, details, report
from penstock_hydraulics.machine.states import HEADS
from penstock_hydraulics.signals.evidence import MEANS, SURE, EvidenceTable, StateEvidence

TRAINING_DATA: Final[Mapping[str, Any]] = {
    "name": "Condition monitoring of hydraulic systems",
    "source": "UCI Machine Learning Repository, dataset 447",
    "url": "https://archive.ics.uci.edu/dataset/447/condition+monitoring+of+hydraulic+systems",
    "doi": "10.24432/C5CW21",
    "licence": "CC BY 4.0",
    "attribution": "N. Helwig, E. Pignanelli, A. Schütze (2015), ZeMA gGmbH",
    "paper": "10.1109/I2MTC.2015.7151267",
    "changes": "pressures and motor power as means of one second; flows as means, maxima and minima of one second",
}
MEASURED_ON: Final = "UCI 447, run-grouped cross-validation, settled runs, all sensors"
_DATA: Final = """
[Condition monitoring of hydraulic systems](https://archive.ics.uci.edu/dataset/447)
by N. Helwig, E. Pignanelli and A. Schütze (ZeMA), UCI Machine Learning Repository 2015,
[doi:10.24432/C5CW21](https://doi.org/10.24432/C5CW21), licensed
[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/). Described in N. Helwig, E. Pignanelli, A. Schütze, "Condition
monitoring of a complex hydraulic system using multivariate statistics", I2MTC 2015,
[doi:10.1109/I2MTC.2015.7151267](https://doi.org/10.1109/I2MTC.2015.7151267).

A test rig repeats a work cycle of 60 s while four components are set to known faults, in 194 runs. {cycles} cycles of
{runs} of these runs were used. None of them is in this artifact; the golden samples are simulated.

Changes to the data: pressures and motor power, recorded at 100 Hz, are means of one second; flows, recorded at 10 Hz,
are means, maxima and minima of one second. The derived channels CE, CP and SE and the flag `stable` are not inputs.
"""
_SIMULATED: Final = """
The training data also contained simulated windows of other topologies (`penstock_hydraulics.simulator`). They are not
part of any figure in this card.
"""
_LIMITS: Final = """
- All figures come from one rig in one laboratory. Accuracy on other machines is unknown.
- The window is one work cycle of 60 s that starts with the valve closed, as on the rig. At another phase the state of
  the valve cannot be determined.
- Accuracy drops at oil temperatures that are not in the training data: see the table that leaves one cooler level out.
  Leakage and accumulator pressure are unreliable there.
- Leakage has labels of its own. Overheating, valve stiction and pressure drop are derived from the states of cooler,
  valve and accumulator, and are proxies. Cavitation, vibration, flow restriction, contamination and seal degradation
  have no labels in the data.
- Nothing in the data degrades within a run, so the model cannot predict the time to failure.
- The false-alarm thresholds are based on cycles with other faulty components; the data has only ten settled cycles
  without any fault.
- Sizes and settings of the models were chosen on the same run-grouped folds as the figures, with one seed, so the
  figures are slightly optimistic: of three seeds of the trees, the macro-F1 of the accumulator is 0.963 to 0.980.
- The temperatures and thresholds of the shipped model were chosen on the evaluated runs; where a table shows their
  effect, each fold uses those of the other folds.
"""
_COVERAGE: Final = f"""## Coverage

Which sensors tell which state was measured on held-out runs and on this model itself, with every single sensor, every
pair and the usual larger sets, with flows at 10 Hz and at 1 Hz. A state is told if its macro-F1 is at least {MIN_F1:g},
at least {100 * MIN_SURE:g} % of the answers have a confidence of at least {SURE:g}, and of these at least
{100 * MIN_RIGHT:g} % are right, and in 95 of 100 samples of {SAMPLE_RUNS} runs {100 * MIN_RIGHT_OF_SAMPLES:g} %
({100 * MIN_RIGHT_OF_FEW:g} % for one or two sensors); confidence is lowered where that is needed. A state that the
sensors do not tell is null. The table shows the share of cycles with a sure answer; the manifest has all sets.

"""
_USE: Final = (
    "Condition monitoring of hydraulic machines that resemble the rig, and a starting point for other machines."
    " An aid to maintenance, not a safety function: no interlock, shutdown or release may depend on it."
)


def metrics_of(figures: Figures, model: str) -> dict[str, float]:
    """Metrics of the manifest: macro-F1, accuracy and calibration error of each state, run-grouped, settled runs."""
    found = figures["protocols"][GROUPED][model]["settled"]
    metrics: dict[str, float] = {}
    for head in HEADS:
        own, scaling = found[head.name], figures["calibration"][model][head.name]
        metrics[f"macro_f1_{head.name}"] = own["macro_f1"][0]
        metrics[f"accuracy_{head.name}"] = own["accuracy"][0]
        metrics[f"ece_{head.name}"] = scaling["ece_after" if scaling["accepted"] else "ece_before"]
    return metrics


def card(
    version: str,
    summary: str,
    model: str,
    figures: Figures,
    coverage: Table | None,
    faults: str,
    *,
    simulated: bool,
) -> str:
    """The card of one version, with its coverage, the section `faults`, and the comparison of all models."""
    counts = figures["recordings"]
    data = _DATA.format(cycles=f"{counts['cycles']:,}", runs=counts["runs"])
    text = render_card(
        name="hydraulics",
        version=version,
        summary=summary,
        intended_use=_USE,
        limits=_LIMITS,
        training_data=data + (_SIMULATED if simulated else ""),
        license="apache-2.0",
        datasets=["uci-condition-monitoring-of-hydraulic-systems"],
        metrics=metrics_of(figures, model),
        tags=["hydraulics", "condition-monitoring", "predictive-maintenance", "time-series", "onnx"],
        task_type="tabular-classification",
        dataset_name=MEASURED_ON,
    )
    if coverage is not None:
        text = f"{text}\n{coverage_section(coverage)}"
    text = f"{text}\n{faults}"
    comparison = report(figures, figures["models"])
    return f"{text}\n## Comparison\n\n{comparison}\n## `{model}` in detail\n\n{details(figures, model)}"


def coverage_section(coverage: Table) -> str:
    """Which sensors tell which state: every single sensor, and how many of the pairs and larger sets."""
    table = EvidenceTable.model_validate(coverage[RIG.name])
    names, heads = table.sensors, [head.name for head in HEADS]
    rows = [("sensors", *heads), ("---",) * (len(heads) + 1)]
    for one in table.sets:
        if len(one.sensors) in (1, len(SENSORS)):
            slow = any(names[place].endswith(MEANS) for place in one.sensors)
            single = names[one.sensors[0]].removesuffix(MEANS) if len(one.sensors) == 1 else None
            label = (single or "all, flows") + (" at 1 Hz" if slow else " at 10 Hz" if not single else "")
            rows.append((label, *(_sure(one.states.get(head)) for head in heads)))
    for label, least, most in (("pairs", 2, 2), ("larger sets", 3, len(names))):
        sets = [one.states for one in table.sets if least <= len(one.sensors) <= most]
        rows.append((label, *(f"{sum(head in one for one in sets)} of {len(sets)}" for head in heads)))
    return _COVERAGE + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _sure(told: StateEvidence | None) -> str:
    return "not told" if told is None else f"{100 * told.sure:.0f} %"
