"""Structured pruning at 50 %: how much faster, and how much accuracy is lost after fine-tuning.

    python benchmarks/toolchain/pruning.py [--rounds 15] [--json]

Two networks on the 1,797 digits of scikit-learn, 20 % held out: the starter CNN with its published weights, and a small
ResNet that is trained here. Both sides run in turn on one thread; a speed-up is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import penstock_digits
from penstock.tensors import Signature, TensorSpec
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.recipes.forms import exported_onnx
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock.toolchain.recipes.training.options import Training
from penstock.toolchain.recipes.training.prune import Prune
from penstock.toolchain.recipes.training.runs import run_for
from penstock_digits.data import features_of, load_split
from penstock_digits.model import DigitsCNN

SIGNATURE = Signature((TensorSpec("input", "FP32", (-1, 784)),), (TensorSpec("output", "FP32", (-1, 10)),))
WEIGHTS = (
    Path(penstock_digits.__file__).parent / "artifacts" / "digits" / "variants" / "pytorch-fp32" / "model.safetensors"
)
BATCHES = (1, 32)


class Block(nn.Module):
    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm, self.again = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        same = stride == 1 and before == channels
        self.skip = nn.Identity() if same else nn.Conv2d(before, channels, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.relu(self.norm(self.first(maps)))
        return torch.relu(self.again(self.second(inner)) + self.skip(maps))


class SmallResNet(nn.Module):
    """Six blocks of 32, 64 and 128 channels on 14×14, 7×7 and 4×4."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = (width, width, 2 * width, 2 * width, 4 * width, 4 * width)
        blocks, before = [], width
        for number, channels in enumerate(widths):
            blocks.append(Block(before, channels, 2 if number in (2, 4) else 1))
            before = channels
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Linear(before, 10)

    def forward(self, input: Tensor) -> Tensor:
        return self.out(self.blocks(self.stem(input.reshape(-1, 1, 28, 28))).mean(dim=(2, 3)))


def starter() -> nn.Module:
    model = DigitsCNN()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def subject_of(name: str, module: nn.Module, example: np.ndarray) -> Subject:  # type: ignore[type-arg]
    return Subject(name, SIGNATURE, ModuleSource(name, module, SIGNATURE, {"input": example}))


def small_resnet(materials: Materials, example: np.ndarray) -> nn.Module:  # type: ignore[type-arg]
    torch.manual_seed(0)
    model = SmallResNet()
    training = Training(learning_rate=3e-3, weight_decay=1e-2)
    run_for("train", training, 8, subject_of("resnet", model, example), materials).fit(model)
    return model


def accuracy(module: nn.Module, features: np.ndarray, labels: np.ndarray) -> float:  # type: ignore[type-arg]
    with torch.inference_mode():
        return float((module(torch.from_numpy(features)).argmax(dim=1).numpy() == labels).mean())


def eager(module: nn.Module) -> Callable[[np.ndarray], Any]:  # type: ignore[type-arg]
    def run(batch: np.ndarray) -> Any:  # type: ignore[type-arg]
        with torch.inference_mode():
            return module(torch.from_numpy(batch))

    return run


def onnx(source: ModuleSource, folder: Path) -> Callable[[np.ndarray], Any]:  # type: ignore[type-arg]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = exported_onnx(source, Path(tempfile.mkdtemp(dir=folder)))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"input": batch})


def speed_up(before: Callable[[Any], Any], after: Callable[[Any], Any], batch: Any, rounds: int) -> dict[str, float]:
    """The median over the rounds of the ratio of both sides' best times, each measured next to the other."""
    repeats = max(5, 200 // len(batch))
    pairs = [tuple(_best_ms(side, batch, repeats) for side in (before, after)) for _ in range(rounds + 2)][2:]
    ratios = sorted(one / other for one, other in pairs)
    middle = [statistics.median(side) for side in zip(*pairs, strict=True)]
    return {
        "speed_up": round(statistics.median(ratios), 2),
        "low": round(ratios[len(ratios) // 10], 2),
        "high": round(ratios[-1 - len(ratios) // 10], 2),
        "before_ms": round(middle[0], 4),
        "after_ms": round(middle[1], 4),
    }


def _best_ms(side: Callable[[Any], Any], batch: Any, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        side(batch)
        times.append(time.perf_counter() - started)
    return min(times) * 1000


def measure(name: str, module: nn.Module, materials: Materials, held_out: Any, rounds: int) -> dict[str, Any]:
    features, labels = held_out
    subject = subject_of(name, module, features[:4])
    technique = Prune(amount=0.5, steps=2, finetune_epochs=4, training=Training(learning_rate=2e-3))
    made = technique.apply(subject, materials)
    assert made.module is not None
    assert subject.module is not None
    facts = made.facts["prune"]
    sides = {
        "onnx": (onnx(subject.module, materials.scratch), onnx(made.module, materials.scratch)),
        "eager": (eager(module), eager(made.module.module)),
    }
    speed = {
        side: {str(rows): speed_up(*both, features[:rows], rounds) for rows in BATCHES} for side, both in sides.items()
    }
    before, after = accuracy(module, features, labels), accuracy(made.module.module, features, labels)
    return {
        "accuracy": [round(before, 4), round(after, 4)],
        "points_lost": round(100 * (before - after), 2),
        "parameters": [facts["before"]["parameters"], facts["after"]["parameters"]],
        "multiply_adds": [facts["before"]["multiply_adds"], facts["after"]["multiply_adds"]],
        **speed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = load_split()
    train = features_of(split.train.counts)
    held_out = features_of(split.held_out.counts), split.held_out.labels
    with tempfile.TemporaryDirectory() as folder:
        materials = Materials(Path(folder), {"input": train}, split.train.labels)
        models = {"digits CNN": starter(), "small ResNet": small_resnet(materials, held_out[0][:4])}
        results = {}
        for name, module in models.items():
            results[name] = measure(name, module, materials, held_out, arguments.rounds)
            if not arguments.json:
                print(name, json.dumps(results[name], indent=2), flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
