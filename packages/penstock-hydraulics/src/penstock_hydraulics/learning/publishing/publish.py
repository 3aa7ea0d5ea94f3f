"""Train the final models on all recordings and write them as artifacts."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray

from penstock import Registry, Signature, TensorSpec
from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.artifacts.policies import Range, Ranges
from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.recordings import RIG, ROWS, Recordings
from penstock_hydraulics.learning.data.simulated import rows_of_window
from penstock_hydraulics.learning.evaluation.calibration import tempered
from penstock_hydraulics.learning.evaluation.coverage import Table, compact
from penstock_hydraulics.learning.evaluation.cross_validation import Echo
from penstock_hydraulics.learning.models.baselines import (
    FEW_SENSORS,
    Baseline,
    FittedClassifiers,
    extra_trees,
    gradient_boosting,
)
from penstock_hydraulics.learning.models.export import export_onnx, onnx_answers
from penstock_hydraulics.learning.models.forest_export import NODES, write_forest
from penstock_hydraulics.learning.publishing import cards
from penstock_hydraulics.learning.publishing.measured_coverage import measured_coverage
from penstock_hydraulics.learning.publishing.reference_ranges import reference_ranges
from penstock_hydraulics.learning.publishing.simulated_faults import (
    WINDOWS,
    detected_from,
    simulated_faults,
    simulated_section,
)
from penstock_hydraulics.learning.publishing.versions import FORESTS, NAME, versions_of
from penstock_hydraulics.learning.training.network import NETWORK, FittedNetwork, Network
from penstock_hydraulics.machine.states import ANOMALIES, HEADS, LEVELS
from penstock_hydraulics.signals.features import CHANNELS, STATISTICS, STEPS, Layout, Scales, encode, encode_all
from penstock_hydraulics.simulator import simulate

KIND: Final = "hydraulic-diagnostics"
CHAMPION: Final = "champion"
SIZE_LIMIT: Final = 2_000_000
ATOL: Final = 1e-4
RTOL: Final = 1e-3
_GOLDEN: Final[tuple[Mapping[str, Mapping[str, float]], ...]] = (
    {},
    {"pump_main": {"leakage": 0.6}},
    {"cooler_main": {"overheating": 0.8}},
    {"valve_main": {"valve_stiction": 0.7}},
    {"accumulator_main": {"pressure_drop": 0.9}},
)
"""Faults of the golden samples; the last one is repeated with three sensors only."""
_NETWORK: Final = (
    "Determines the condition of hydraulic machines from one work cycle of 60 s: the state of pump, valve,"
    " accumulator and cooler, the health of every component and of the machine, and faults. A graph network"
    " (`UniversalTemporalGNN`: a temporal encoder for each component, graph attention over the circuit) that supports"
    " any topology of up to 64 components and any subset of their sensors."
)
_TREES: Final = (
    "Determines the condition of the ZeMA rig, and of no other circuit, from one work cycle of 60 s: the state of pump,"
    " valve, accumulator and cooler. {kind} on statistics of segments of the cycle, with the inputs and outputs of the"
    " network it is compared with."
)
_FORESTS: Final[Mapping[str, tuple[str, Callable[[], Baseline]]]] = dict(
    zip(
        FORESTS,
        (
            ("Extremely randomised trees, few and pruned,", extra_trees),
            ("Gradient-boosted trees", gradient_boosting),
        ),
        strict=True,
    )
)


class Publication(NamedTuple):
    """The artifact of the model that the rule selects, and the others."""

    served: Artifact
    others: list[Artifact]


@dataclass(frozen=True)
class _TrainedModel:
    """A trained model as a file, with the contents of its manifest."""

    model: str
    settings: str
    summary: str
    path: Path
    nodes: int
    scales: Scales
    config: Mapping[str, Any]
    simulated: bool
    parameters: int | None
    error: float | None


def publish(
    recordings: Recordings,
    figures: Mapping[str, Any],
    network: Network,
    out: Path,
    version: str | None = None,
    windows: int = WINDOWS,
    *,
    echo: Echo = print,
) -> Publication:
    """Train the two models on all of `recordings`, write `out/hydraulics/<version>` for each, and name the served one.

    `figures` come from `evaluate`: its selection is served, its temperatures and thresholds go into the models.
    `version` is that of the network, `<version>-trees` that of the trees; the default is the next free one, and nothing
    is overwritten. Each simulated fault is measured with this number of `windows`. `out/network.ckpt` keeps the
    network's training, so that a second call does not train again. Raises InvalidInput if the evaluation selects no
    model, a version exists already, or the artifacts become too large.
    """
    versions = versions_of(figures, version, out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        place = Path(scratch)
        for model, own in versions.items():
            echo(f"training {model} on {len(recordings)} cycles")
            trained = (
                _train_network(network, recordings, figures, out, place)
                if model == NETWORK
                else _train_forest(model, recordings, figures, place, f"{NAME}:{versions[NETWORK]}")
            )
            table = measured_coverage(figures, trained.model, trained.path, trained.scales, recordings, echo)
            _write(trained, own, figures, table, place, windows)
        _check_size(place / NAME)
        written = {model: _moved(place / NAME / own, out / NAME / own) for model, own in versions.items()}
    served = written[figures["selection"]["served"]]
    (out / NAME / CHAMPION).write_text(served.version + "\n")
    for artifact in written.values():
        echo(f"{artifact.path}: {artifact.size_bytes / 1024:.0f} KiB")
    return Publication(served, [artifact for artifact in written.values() if artifact is not served])


def put_into(registry: Registry, publication: Publication, alias: str) -> None:
    """Publish all versions to a registry, beside those that this package ships, and point `alias` at the served one."""
    registry.ensure(NAME)
    for artifact in (publication.served, *publication.others):
        registry.publish(artifact.path)
    registry.set_alias(NAME, alias, publication.served.version)


def temperatures_of(figures: Mapping[str, Any], model: str) -> list[float]:
    """Temperatures in the order of `HEADS`, 1 where none was accepted."""
    return [float(figures["calibration"][model][head.name]["temperature"]) for head in HEADS]


def thresholds_of(figures: Mapping[str, Any], model: str) -> dict[str, float]:
    """Threshold of each labelled anomaly at 1 % false alarms."""
    return {anomaly: float(found["threshold"]) for anomaly, found in figures["detection"][model].items()}


def _train_network(
    network: Network, recordings: Recordings, figures: Mapping[str, Any], out: Path, scratch: Path
) -> _TrainedModel:
    fitted: FittedNetwork = network.fit(recordings, checkpoints=out / "network.ckpt")
    diagnosis = fitted.fitted.diagnosis(temperatures_of(figures, NETWORK))
    path = scratch / "network.onnx"
    error = export_onnx(diagnosis, path)
    parameters = sum(parameter.numel() for parameter in diagnosis.parameters())
    config = {"topologies": "any", "states": {RIG.name: "supervised"}, "reference": reference_ranges(recordings)}
    simulated = bool(network.machines())
    return _TrainedModel(
        NETWORK, network.settings, _NETWORK, path, -1, fitted.fitted.scales, config, simulated, parameters, error
    )


def _train_forest(
    model: str, recordings: Recordings, figures: Mapping[str, Any], scratch: Path, universal: str
) -> _TrainedModel:
    kind, learner = _FORESTS[model]
    forest = learner()
    fitted = forest.fit(recordings)
    path = scratch / "trees.onnx"
    temperatures = temperatures_of(figures, model)
    write_forest(fitted, temperatures, path)
    error = _difference(fitted, recordings, temperatures, path)
    config = {
        "topologies": [RIG.name],
        "states": {RIG.name: "supervised"},
        "reference": reference_ranges(recordings),
        "universal": universal,
    }
    return _TrainedModel(
        model, forest.settings, _TREES.format(kind=kind), path, NODES, fitted.scales, config, False, None, error
    )


def _write(
    trained: _TrainedModel,
    version: str,
    figures: Mapping[str, Any],
    coverage: Table | None,
    out: Path,
    windows: int,
) -> Artifact:
    signature = signature_of(trained.nodes)
    inputs = golden_inputs(trained.scales)
    golden = Golden(inputs, dict(onnx_answers(trained.path, inputs)), atol=ATOL, rtol=RTOL)
    config: dict[str, Any] = {
        "scales": trained.scales.to_mapping(),
        **trained.config,
        "thresholds": thresholds_of(figures, trained.model),
        **({} if coverage is None else {"coverage": compact(coverage)}),
    }
    outcomes = simulated_faults(config, signature, trained.path, windows)
    config["detected_from"] = {RIG.name: detected_from(outcomes)}
    faults = simulated_section(outcomes)
    return write_artifact(
        out / NAME / version,
        name=NAME,
        version=version,
        task=TaskEntry(kind=KIND, config=config),
        signature=signature,
        variants=[
            VariantSource("onnx", "fp32", trained.path, num_parameters=trained.parameters, max_abs_error=trained.error)
        ],
        golden=golden,
        card=cards.card(
            version, trained.summary, trained.model, figures, coverage, faults, simulated=trained.simulated
        ),
        lineage=_lineage(trained),
        training_data=cards.TRAINING_DATA,
        metrics=cards.metrics_of(figures, trained.model),
        ranges=Ranges(outputs={"health": Range(minimum=-ATOL, maximum=1 + ATOL)}),
    )


def signature_of(nodes: int) -> Signature:
    """The signature of a model for graphs of `nodes` components, -1 for any number."""
    channels = len(CHANNELS)
    inputs = {
        "signals": (channels, STEPS),
        "statistics": (channels, STATISTICS),
        "present": (channels,),
        "adjacency": (nodes,),
    }
    return Signature(
        (
            *(TensorSpec(name, "FP32", (-1, nodes, *shape)) for name, shape in inputs.items()),
            TensorSpec("kinds", "INT64", (-1, nodes)),
        ),
        (
            TensorSpec("levels", "FP32", (-1, nodes, LEVELS)),
            TensorSpec("component_health", "FP32", (-1, nodes)),
            TensorSpec("health", "FP32", (-1,)),
            TensorSpec("degradation", "FP32", (-1,)),
            TensorSpec("anomalies", "FP32", (-1, len(ANOMALIES))),
        ),
    )


def golden_inputs(scales: Scales) -> dict[str, NDArray[Any]]:
    """Simulated windows of the rig: healthy, with each labelled fault, and one with three sensors only."""
    samples = []
    for seed, faults in enumerate(_GOLDEN):
        window = next(iter(simulate(RIG, faults, windows=1, seed=seed)))
        rows, readings = rows_of_window(RIG, window)
        samples.append(encode(readings, Layout.make(RIG, rows, scales)))
    few = [place for place, row in enumerate(rows) if row in {RIG.sensor(name) for name in FEW_SENSORS}]
    samples.append(encode(readings[few], Layout.make(RIG, [rows[place] for place in few], scales)))
    return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}


def _difference(fitted: FittedClassifiers, recordings: Recordings, temperatures: Sequence[float], path: Path) -> float:
    """Maximum difference between the graph and scikit-learn on a sample; raises RuntimeError beyond `ATOL`."""
    some = recordings.take(np.arange(0, len(recordings), max(len(recordings) // 64, 1)))
    encoded = encode_all(some.readings, Layout.make(RIG, ROWS, fitted.scales))
    inputs = {name: np.repeat(value, len(some), 0) if len(value) == 1 else value for name, value in encoded.items()}
    found = onnx_answers(path, inputs)["levels"][:, 0]
    levels = fitted.levels(some)
    wanted = [
        tempered(levels[:, head.columns], temperature) for head, temperature in zip(HEADS, temperatures, strict=True)
    ]
    difference = float(np.abs(found - np.concatenate(wanted, axis=1)).max())
    if not difference <= ATOL:
        raise RuntimeError(f"the ONNX trees differ from scikit-learn by {difference:.2g}, more than {ATOL:.0e}")
    return difference


def _check_size(home: Path) -> None:
    total = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    if total > SIZE_LIMIT:
        raise InvalidInput(
            f"the artifacts take {total / 1e6:.2f} MB, more than {SIZE_LIMIT / 1e6:g} MB; train smaller models"
        )


def _moved(source: Path, target: Path) -> Artifact:
    target.parent.mkdir(exist_ok=True)
    source.rename(target)
    return Artifact.open(target)


def _lineage(trained: _TrainedModel) -> dict[str, Any]:
    return {
        "source": "penstock_hydraulics.learning.publishing.publish",
        "model": trained.model,
        "settings": trained.settings,
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "scikit-learn": sklearn.__version__,
    }
