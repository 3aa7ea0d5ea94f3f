"""Turn a PyTorch model into a verified artifact in a registry, and predict with it.

Trains a small network on scikit-learn's wine data, exports it to ONNX, writes an artifact with its preprocessing,
labels and golden samples (the outputs of the PyTorch model), publishes it and runs a prediction. Needs penstock[train].

    python examples/publish_torch_model.py [REGISTRY]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

from penstock import (
    Golden,
    Predictor,
    Registry,
    Signature,
    TaskEntry,
    TensorSpec,
    VariantSource,
    write_artifact,
)

VERSION = "1.0.0"


def train(x: np.ndarray, y: np.ndarray) -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    inputs, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model.eval()


def export(model: torch.nn.Module, example: torch.Tensor, path: Path) -> Path:
    torch.onnx.export(
        model,
        (example,),
        str(path),
        input_names=["features"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    return path


def main(registry_path: str = "registry") -> None:
    wine = load_wine()
    x, x_held_out, y, y_held_out = train_test_split(wine.data, wine.target, test_size=0.2, random_state=0)
    mean, std = x.mean(axis=0), x.std(axis=0)
    model = train((x - mean) / std, y)

    samples = torch.tensor((x_held_out - mean) / std, dtype=torch.float32)
    with torch.inference_mode():
        reference = model(samples).numpy()
    accuracy = float((reference.argmax(axis=1) == y_held_out).mean())

    with tempfile.TemporaryDirectory() as folder:
        artifact = write_artifact(
            Path(folder) / "wine",
            name="wine",
            version=VERSION,
            # The preprocessing of the training is part of the artifact: clients send raw measurements.
            task=TaskEntry(
                kind="vector-classification",
                config={
                    "output": "logits",
                    "labels": [str(name) for name in wine.target_names],
                    "preprocess": [{"kind": "mean_std", "mean": mean.tolist(), "std": std.tolist()}],
                },
            ),
            signature=Signature(
                (TensorSpec("features", "FP32", (-1, x.shape[1])),), (TensorSpec("logits", "FP32", (-1, 3)),)
            ),
            variants=[VariantSource("onnx", "fp32", export(model, samples[:2], Path(folder) / "wine.onnx"))],
            golden=Golden({"features": samples.numpy()}, {"logits": reference}, atol=1e-4, rtol=1e-4),
            card=f"# wine {VERSION}\n\nWhich of three growers made a wine, from 13 measurements.\n",
            metrics={"accuracy": accuracy},
        )
        with Registry(registry_path) as registry:
            published = registry.publish(artifact.path)
            registry.set_alias("wine", "champion", VERSION)
            print(f"published {published.ref}, held-out accuracy {accuracy:.3f}")
            with Predictor("wine@champion", registry=registry) as predictor:
                answer = predictor.predict(x_held_out[0])
                print(f"predicted class {answer.predictions[0]}, true class {y_held_out[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
