"""How good the choice of `penstock.optimize` is: against eager PyTorch, and against every variant measured by hand.

    python benchmarks/toolchain/optimize.py [--models digits,resnet] [--time-budget 2m] [--json]

Each model is published with its eager and its ONNX form, and optimized. Then every variant, and every candidate that
was made, is made again and timed at one row, all of them in turn in one run. `of the fastest` is the time of the
fastest as a share of that of the variant that was chosen (of the baseline, when nothing beat it): 1.00 is the best
choice. `over eager` is how many times as fast as eager PyTorch it is.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optimize_models import MODELS

import penstock
from penstock.artifacts.artifact import Artifact
from penstock.registry.registry import Registry
from penstock.toolchain.bench.turns import ratio_of, take_turns
from penstock.toolchain.recipes.making import make
from penstock.toolchain.recipes.opening import subject_of
from penstock.toolchain.recipes.subject import Materials
from penstock.toolchain.search.candidate import Candidate, Form
from penstock.toolchain.search.data import read_data
from penstock.toolchain.search.machine import this_machine
from penstock.toolchain.search.model import form_of
from penstock.toolchain.search.trying.measuring import Side, bench_of, best_threads

ROUNDS = 40
TRUST = "native"


def publish(name: str, registry: Registry) -> tuple[Artifact, dict[str, np.ndarray]]:
    """The model as a version with its forms, and rows to optimize it with."""
    if name == "digits":
        from penstock_digits.data import features_of, load_split

        artifact = registry.publish_bundled("digits")
        assert artifact is not None
        return artifact, {"input": features_of(load_split().held_out.counts)}
    torch.manual_seed(0)
    make_module, rows = MODELS[name]
    example = {key: torch.from_numpy(array) for key, array in rows(4).items()}
    published = penstock.publish(make_module().eval(), example_input=example, name=name, registry=registry)
    return published, rows(256)


def by_hand(
    artifact: Artifact, candidates: tuple[Candidate, ...], rows: dict[str, np.ndarray], stack: ExitStack
) -> Iterator[Side]:
    """Every variant of the model, and every candidate that the gate accepted, made again, with their best threads."""
    data = read_data(rows, artifact.signature)
    axes = artifact.manifest.batch_axes is not None
    bench = bench_of(artifact.signature, data.held_out, "p99", has_axes=axes, trust=TRUST)
    forms = [form_of(artifact, variant) for variant in artifact.variants]
    subject = subject_of(artifact, TRUST)
    for candidate in candidates:
        if candidate.measured is not None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            made = make(candidate.planned.recipe, subject, Materials(scratch, data.calibration)).exported
            forms.append(Form(candidate.name, made.format, made.precision, made.path, made.companions))
    for form in forms:
        yield best_threads(bench, form, this_machine().threads, stack)


def measure(name: str, time_budget: str, registry: Registry) -> dict[str, Any]:
    """The figures of one model."""
    artifact, rows = publish(name, registry)
    started = time.monotonic()
    found = penstock.optimize(
        artifact.ref, data=rows, max_accuracy_drop=0.02, time_budget=time_budget, trust=TRUST, registry=registry
    )
    seconds = time.monotonic() - started
    chosen = found.chosen.name if found.chosen is not None else found.report["baseline"]["name"]
    with ExitStack() as stack:
        sides = list(by_hand(artifact, found.candidates, rows, stack))
        turns = {side.name: (lambda side=side: side.measure(1)) for side in sides}
        taken = take_turns(turns, rounds=ROUNDS)
    ratios = {side.name: ratio_of(taken[chosen], taken[side.name]).median for side in sides}
    eager = next(side.name for side in sides if side.form.format == "pytorch")
    return {
        "model": name,
        "chosen": chosen,
        "of_the_fastest": 1 / max(ratios.values()),
        "fastest": max(ratios, key=lambda one: ratios[one]),
        "over_eager": 1 / ratios[eager],
        "optimize_s": round(seconds, 1),
        "tried": sum(one.measured is not None for one in found.candidates),
    }


def main() -> int:
    """Print the figures; exit code 1 when one of them misses its goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(["digits", *MODELS]))
    parser.add_argument("--time-budget", default="2m")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as scratch, Registry(Path(scratch) / "registry") as registry:
        for name in asked.models.split(","):
            found.append(measure(name, asked.time_budget, registry))
            if not asked.json:
                print(
                    "{model}: {chosen}, {of_the_fastest:.3f} of the fastest ({fastest}), {over_eager:.2f} times eager, "
                    "optimized in {optimize_s} s".format(**found[-1]),
                    flush=True,
                )
    mean = math.exp(sum(math.log(one["over_eager"]) for one in found) / len(found))
    summary = {"models": found, "geometric_mean_over_eager": mean}
    print(json.dumps(summary, indent=2) if asked.json else f"geometric mean over eager: {mean:.2f}")
    good = mean >= 1.5 and all(one["of_the_fastest"] >= 0.97 for one in found)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
