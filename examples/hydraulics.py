"""Train a diagnosis of a hydraulic machine, publish it, serve it, and request a diagnosis.

    python examples/hydraulics.py

The recordings here are simulated, so that the example needs no download and takes half a minute; it shows the
workflow, not an accuracy. With real ones, `penstock_hydraulics.load(path)` replaces `record`. Cells are marked as in a
notebook. Needs `pip install 'penstock-hydraulics[train]'`.
"""

# %% Recordings: cycles of a rig, in runs of one state each
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import penstock
from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock_hydraulics import TEMPLATES, HydraulicPredictor, InferenceConfig, TrainingConfig, fit, simulate
from penstock_hydraulics.learning.data.recordings import ROWS, Recordings
from penstock_hydraulics.learning.data.simulated import rows_of_window
from penstock_hydraulics.learning.models.export import export_onnx, onnx_answers
from penstock_hydraulics.learning.publishing.publish import golden_inputs, signature_of
from penstock_hydraulics.machine.states import HEADS
from penstock_hydraulics.simulator.traffic import request_of

RIG = TEMPLATES["zema_rig"]
FAULTS = {
    "cooler_main": "overheating",
    "valve_main": "valve_stiction",
    "pump_main": "leakage",
    "accumulator_main": "pressure_drop",
}


def record(runs: int, cycles: int) -> Recordings:
    """`runs` states of the rig, each for some cycles; the first is healthy."""
    random = np.random.default_rng(0)
    readings, labels = [], []
    for run in range(runs):
        levels = [0 if run == 0 else int(random.integers(len(head.levels))) for head in HEADS]
        severities = [float(head.severities[level]) for head, level in zip(HEADS, levels, strict=True)]
        faults = {part: {fault: s} for (part, fault), s in zip(FAULTS.items(), severities, strict=True)}
        for window in simulate(RIG, faults, cycles, seed=run):
            rows, values = rows_of_window(RIG, window)
            readings.append(values[[rows.index(row) for row in ROWS]])
            labels.append(levels)
    settled = np.ones(runs * cycles, bool)
    return Recordings(np.float32(readings), np.array(labels), np.repeat(np.arange(runs), cycles), settled)


recordings = record(runs=60, cycles=3)
print(f"{len(recordings)} cycles in {recordings.runs[-1] + 1} runs")

# %% Train
config = TrainingConfig(epochs=12, validation=0)
fitted = fit(recordings, np.arange(len(recordings)), config)
print(f"trained: loss {fitted.history[0].loss:.2f}, at the end {fitted.history[-1].loss:.2f}")

# %% Publish: ONNX, verified against PyTorch, with golden samples that every server runs before it accepts traffic
folder = Path(tempfile.mkdtemp())
difference = export_onnx(fitted.diagnosis(), folder / "model.onnx")
golden = golden_inputs(fitted.scales)
artifact = write_artifact(
    folder / "artifact",
    name="my-rig",
    version="1.0.0",
    task=TaskEntry(kind="hydraulic-diagnostics", config={"scales": fitted.scales.to_mapping()}),
    signature=signature_of(nodes=-1),
    variants=[VariantSource("onnx", "fp32", folder / "model.onnx", max_abs_error=difference)],
    golden=Golden(golden, onnx_answers(folder / "model.onnx", golden), atol=1e-4, rtol=1e-3),
    card="# my-rig\n\nTrained on simulated cycles, as an example. It is not valid for a real machine.\n",
    training_data={"name": "penstock_hydraulics.simulator", "cycles": len(recordings)},
)
with penstock.Registry(folder / "registry") as registry:
    registry.publish(artifact.path)
    registry.set_alias("my-rig", "champion", "1.0.0")

# %% Diagnose in this process
window = next(simulate(RIG, {"cooler_main": {"overheating": 1.0}}, 1, seed=99))
request = request_of(window, RIG, "press_7")
with HydraulicPredictor(InferenceConfig(model_path="my-rig", registry=folder / "registry")) as predictor:
    answer = predictor.predict(request=request, topology="zema_rig")
cooler = next(part for part in answer.components if part.component_id == "cooler_main")
print(f"here: {answer.health.status}, {cooler.state.name} at {cooler.state.level:g} {cooler.state.unit}")


# %% Serve it, and request a diagnosis over HTTP
def ready(client: penstock.Client) -> bool:
    try:
        return client.health()["status"] == "healthy"
    except penstock.PenstockError:
        return False  # the server is not up yet


with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
command = [sys.executable, "-m", "penstock.cli.main", "serve", "my-rig", "--port", str(port)]
environment = {**os.environ, "PENSTOCK_REGISTRY": str(folder / "registry")}
server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
try:
    with penstock.Client(f"http://127.0.0.1:{port}") as client:
        while server.poll() is None and not ready(client):
            time.sleep(0.1)
        served = client.predict("my-rig@champion", request)
        print(f"served: {served['health']['status']}, {served['anomaly']['detected_anomalies']}")
finally:
    server.terminate()
    server.wait()
