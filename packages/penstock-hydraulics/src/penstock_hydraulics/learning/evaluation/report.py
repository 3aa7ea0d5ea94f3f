"""The figures of a comparison as Markdown tables; all numbers come from `summary.summarise`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from penstock_hydraulics.learning.evaluation.cross_validation import ALL, COOLER, FEW, GROUPED, RANDOM, SOME, TITLES
from penstock_hydraulics.machine.states import HEADS

Figures = Mapping[str, Any]

RULE: Final = (
    "The selection rule, fixed before the evaluation: of the models within 2 MB and with a calibration error of at most"
    " 0.03 for every state, the one with the best mean macro-F1 over the four states is served by default (run-grouped,"
    " settled runs, all sensors). The network, which supports any topology, is preferred unless a paired bootstrap over"
    " runs finds it worse at 95 %. The other one becomes the second version."
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
        _detection(figures, models),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def details(figures: Figures, model: str) -> str:
    """One model's reliability tables and confusion matrices, run-grouped, settled runs."""
    return "\n\n".join(part for part in (_reliability(figures, model), _confusion(figures, model)) if part) + "\n"


def _selection(figures: Figures) -> str:
    chosen = figures.get("selection")
    return "" if chosen is None else f"### Which model is served\n\n{RULE}\n\n{chosen['sentence']}"


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
