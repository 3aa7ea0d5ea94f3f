"""The figures of a comparison as Markdown tables; all numbers come from `summary.summarise`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from penstock_hydraulics.learning.evaluation.coverage import SAMPLE_RUNS
from penstock_hydraulics.learning.evaluation.cross_validation import ALL, COOLER, FEW, GROUPED, RANDOM, SOME, TITLES
from penstock_hydraulics.learning.evaluation.selection import ECE_LIMIT, MIN_F1, WEIGHTS
from penstock_hydraulics.learning.evaluation.sure_answers import DRAWS
from penstock_hydraulics.machine.states import HEADS
from penstock_hydraulics.signals.evidence import SURE

Figures = Mapping[str, Any]
_SURE_KINDS: Final = {"without": "without", "served": "served", "held_out": "held out"}

RULE: Final = (
    "The selection rule: each model gets one score, "
    + " + ".join(f"{weight:g} × {name}" for name, weight in WEIGHTS.items())
    + ", each part a mean macro-F1 over the states on settled runs: whole runs held out with all sensors; the same"
    " with missing sensors, mean over 20 sets of 2 to 12 sensors; a cooler level left out, all sensors. A model"
    f" qualifies with a calibration error of at most {ECE_LIMIT:g} and a macro-F1 of at least {MIN_F1:g} for every"
    " state (whole runs held out, all sensors). The one with the highest score is served by default, but the network,"
    " which supports any topology, is preferred unless a paired bootstrap over runs finds its score lower at 95 %. The"
    " other one is the second version. Where no model qualifies, none is published."
)
_GROUPS: Final = {"settled": "runs of ten settled cycles", "all": "all held-out cycles"}
_SENSORS: Final = {
    ALL: "all 14",
    SOME: "pump's pressure, temperature, vibration, flow, power",
    FEW: "pump's pressure, temperature, vibration",
}


def report(figures: Figures, models: Sequence[str]) -> str:
    """The complete comparison; `models` sets the order of the tables."""
    parts = [
        _selection(figures),
        _protocols(figures, models),
        _calibration(figures, models),
        _sensors(figures, models),
        sure_answer_tables(figures, models),
        _detection(figures, models),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def details(figures: Figures, model: str) -> str:
    """One model's reliability tables and confusion matrices, run-grouped, settled runs."""
    return "\n\n".join(part for part in (_reliability(figures, model), _confusion(figures, model)) if part) + "\n"


def _selection(figures: Figures) -> str:
    chosen = figures.get("selection")
    if chosen is None:
        return ""
    return f"### Which model is served\n\n{RULE}\n\n{selection_table(figures)}\n\n{chosen['sentence']}"


def selection_table(figures: Figures) -> str:
    """The parts of each model's score, and whether it qualifies."""
    chosen = figures["selection"]
    columns = [*WEIGHTS, "score"]
    rows = []
    for model, scores in chosen["scores"].items():
        verdict = "**served**" if model == chosen["served"] else chosen["refused"].get(model, "qualifies")
        cells = [f"{100 * scores[name]:.2f}" if name in scores else "–" for name in columns]
        rows.append([model, *cells, verdict])
    head = [f"{name} (weight {WEIGHTS[name]:g})" if name in WEIGHTS else name for name in columns]
    return _table(["model", *head, ""], rows)


def _protocols(figures: Figures, models: Sequence[str]) -> str:
    counts = figures["recordings"]
    head = (
        "### Accuracy and macro-F1\n\n"
        f"{counts['cycles']} cycles in {counts['runs']} runs, {counts['settled_cycles']} of them in"
        f" {counts['settled_runs']} settled runs of ten. Accuracy / macro-F1 in percent; in brackets the 95 % interval"
        " of macro-F1 from 2,000 bootstrap samples of whole runs. An interval of zero width means that no run was"
        f" answered wrongly; with {counts['settled_runs']} runs the rule of three still allows an error in"
        f" {3 / max(counts['settled_runs'], 1):.1%} of them."
    )
    tables = [
        f"**{TITLES[protocol]}; {_GROUPS[group]}**\n\n{_scores(figures['protocols'][protocol], models, group)}"
        for protocol, group in (
            (GROUPED, "settled"),
            (GROUPED, "all"),
            (COOLER, "settled"),
            (COOLER, "all"),
            (RANDOM, "all"),
        )
        if figures["protocols"].get(protocol)
    ]
    return "\n\n".join([head, *tables])


def _scores(measured: Figures, models: Sequence[str], group: str) -> str:
    rows = []
    for model in models:
        if model not in measured:
            rows.append([model, *["not run"] * len(HEADS), ""])
            continue
        found = measured[model][group]
        cells = [_score(found[head.name]) if head.name in found else "–" for head in HEADS]
        rows.append([model, *cells, f"{measured[model]['seconds_per_training']:.0f}"])
    return _table(["model", *(head.name for head in HEADS), "s per training"], rows)


def _score(found: Figures) -> str:
    value, low, high = found["macro_f1"]
    return f"{_percent(found['accuracy'][0])} / {_percent(value)} [{_percent(low)}, {_percent(high)}]"


def _calibration(figures: Figures, models: Sequence[str]) -> str:
    rows = []
    for model in models:
        for head in HEADS:
            one = figures["calibration"].get(model, {}).get(head.name)
            if one is not None:
                kept = f"{one['temperature']:.3f}" if one["accepted"] else f"1 ({one['fitted']:.3f} rejected)"
                ece = [f"{one['ece_before']:.4f}", f"{one['ece_after']:.4f}"]
                rows.append([model, head.name, *ece, f"{one['nll_before']:.4f}", f"{one['nll_after']:.4f}", kept])
    if not rows:
        return ""
    text = (
        "### Calibration\n\n"
        "Run-grouped, settled runs. One temperature per state, fitted on pooled out-of-fold logits; `after` is each"
        " fold at the temperature of the others. It is accepted if both the expected calibration error (15 bins) and"
        " the negative log-likelihood improve."
    )
    return f"{text}\n\n" + _table(
        ["model", "state", "ECE before", "ECE after", "NLL before", "NLL after", "temperature"], rows
    )


def _sensors(figures: Figures, models: Sequence[str]) -> str:
    rows = []
    for model in models:
        for name, scores in figures["sensors"].get(model, {}).items():
            label = _SENSORS.get(name, f"{name} at random (mean of three draws)")
            rows.append([model, label, *(_percent(scores[head.name]) for head in HEADS)])
    if not rows:
        return ""
    text = "### Missing sensors\n\nMacro-F1 in percent, run-grouped, settled runs, by available sensors."
    return f"{text}\n\n" + _table(["model", "sensors", *(head.name for head in HEADS)], rows)


def sure_answer_tables(figures: Figures, models: Sequence[str]) -> str:
    """For each model with measured coverage, the sure answers by family of sensor sets."""
    tables = []
    for model in models:
        found = figures.get("sure_answers", {}).get(model)
        if found is not None:
            rows = [
                [family, label, *(_sure_cell(states[head.name][kind]) for head in HEADS)]
                for family, states in found.items()
                for kind, label in _SURE_KINDS.items()
            ]
            tables.append(f"**{model}**\n\n" + _table(["sensors", "", *(head.name for head in HEADS)], rows))
    if not tables:
        return ""
    text = (
        "### Sure answers\n\n"
        f"Answers with a confidence of at least {SURE:g} in percent of all, and the right ones among them; run-grouped,"
        " settled runs. `without` is without measured coverage, `served` with it. `held out`: with the coverage of the"
        f" other runs, on {SAMPLE_RUNS} runs that neither model nor coverage saw, drawn {DRAWS} times; in brackets the"
        " draw with the fewest right ones."
    )
    return "\n\n".join([text, *tables])


def _sure_cell(found: Sequence[float | None]) -> str:
    speaks, right, *lowest = found
    if not speaks or right is None:
        return "never"
    least = f" ({_percent(lowest[0])})" if lowest and lowest[0] is not None else ""
    return f"{_percent(speaks)}, {_percent(right)} right{least}"


def _detection(figures: Figures, models: Sequence[str]) -> str:
    rows = []
    for model in models:
        for anomaly, found in figures["detection"].get(model, {}).items():
            shares = [found[key] for key in ("at_threshold", "held_out", "at_half")]
            cells = [f"{_percent(one['false_alarms'])} / {_percent(one['detected'])}" for one in shares]
            rows.append([model, anomaly, f"{found['threshold']:.4f}", *cells, str(shares[0]["negatives"])])
    if not rows:
        return ""
    text = (
        "### False alarms\n\n"
        "The four anomalies derived from labelled states; run-grouped, settled runs. False alarms / detected in"
        " percent: at the threshold for at most 1 % false alarms (never below 0.5), at thresholds from the other"
        " folds, and at 0.5."
    )
    header = ["model", "anomaly", "threshold", "at the threshold", "held out", "at 0.5", "cycles without the fault"]
    return f"{text}\n\n{_table(header, rows)}"


def _reliability(figures: Figures, model: str) -> str:
    tables = figures["reliability"].get(model, {})
    rows = [
        [state, f"{confidence:.3f}", f"{accuracy:.3f}", str(int(count)), _bar(accuracy)]
        for state, bins in tables.items()
        for count, confidence, accuracy in bins
    ]
    if not rows:
        return ""
    text = f"### Reliability of `{model}`\n\nTen confidence bins after calibration, without empty ones."
    return f"{text}\n\n" + _table(["state", "mean confidence", "accuracy", "cycles", ""], rows)


def _bar(share: float) -> str:
    return "█" * round(10 * share) + "░" * (10 - round(10 * share))


def _confusion(figures: Figures, model: str) -> str:
    found = figures["protocols"].get(GROUPED, {}).get(model, {}).get("settled", {})
    tables = []
    for head in HEADS:
        if head.name in found:
            levels = [f"{level:g}" for level in head.levels]
            rows = [
                [f"**{level}**", *map(str, row), _percent(f1)]
                for level, row, f1 in zip(levels, found[head.name]["confusion"], found[head.name]["f1"], strict=True)
            ]
            unit = f" ({head.unit})" if head.unit else ""
            tables.append(f"{head.name}{unit}\n\n" + _table(["true ↓ answered →", *levels, "F1"], rows))
    return f"### Confusion of `{model}`\n\n" + "\n\n".join(tables) if tables else ""


def _table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = list(header)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
