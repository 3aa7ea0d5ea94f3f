"""Variants whose loss an accuracy budget accepted: a server takes them, and holds them to what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantized_models import CLASSES, FEATURES, SIGNATURE, fp32, int8, reference, samples

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantErrors, VariantSource, write_artifact
from penstock.backends.devices import this_cpu
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.loading.load import load_artifact
from penstock.engine.loading.variant_selection import VariantSelection, select_variant
from penstock.errors import GoldenMismatch
from penstock.options import BackendOptions, EngineOptions

MAX_ABS = 0.1


def _artifact(tmp_path: Path, *, accepted: bool | None, max_abs: float = MAX_ABS, only: bool = False) -> Artifact:
    quantized = VariantSource(
        "onnx",
        "int8",
        int8(tmp_path / "int8.onnx", per_channel=True),
        errors=VariantErrors(max_abs=max_abs),
        accepted=accepted,
        benchmark={
            "environment": dict(zip(("cpu", "cores"), this_cpu(), strict=True)),
            "p50_ms": {"1": 4.0, "32": 5.0},
        },
    )
    plain = VariantSource("onnx", "fp32", fp32(tmp_path / "fp32.onnx"))
    x = samples()
    return write_artifact(
        tmp_path / "artifact",
        name="m",
        version="v1",
        task=TaskEntry(kind="tensor"),
        signature=SIGNATURE,
        variants=[quantized] if only else [plain, quantized],
        golden=Golden({"x": x}, {"logits": reference(x)}, atol=1e-4, rtol=1e-4),
        card="",
    )


def _select(artifact: Artifact, precision: str = "fp32") -> tuple[str, dict[str, str]]:
    limits = BatchLimits(batchable=False)  # dynamic int8 lets rows influence each other
    selected = select_variant(artifact, BackendOptions(precision=precision), limits, VariantSelection(effort="all"))
    selected.ready.backend.close()
    return selected.variant.name, {result.variant: result.reason for result in selected.results}


def test_an_accepted_variant_takes_part_in_the_race_for_fp32(tmp_path: Path) -> None:
    _, reasons = _select(_artifact(tmp_path, accepted=True))
    assert all("requested" not in reason for reason in reasons.values())
    assert "ms for 1" in reasons["onnx-int8"]


def test_one_that_was_not_accepted_does_not(tmp_path: Path) -> None:
    name, reasons = _select(_artifact(tmp_path, accepted=None))
    assert name == "onnx-fp32"
    assert reasons["onnx-int8"] == "its precision is int8; fp32 was requested"


def test_int8_by_request_needs_no_acceptance_but_its_golden_samples(tmp_path: Path) -> None:
    name, reasons = _select(_artifact(tmp_path, accepted=None), "int8")
    assert name == "onnx-fp32"
    assert "differs from its golden samples" in reasons["onnx-int8"]


def test_an_accepted_variant_is_held_to_the_error_that_was_measured(tmp_path: Path) -> None:
    artifact = _artifact(tmp_path, accepted=True, max_abs=1e-4, only=True)
    with pytest.raises(GoldenMismatch, match="differs from its golden samples"):
        load_artifact(artifact, EngineOptions())


def test_the_tolerance_of_other_variants_stays(tmp_path: Path) -> None:
    artifact = _artifact(tmp_path, accepted=True)
    tolerances = [golden.atol for one in artifact.variants if (golden := artifact.golden_for(one)) is not None]
    assert tolerances == [1e-4, pytest.approx(1.5 * MAX_ABS)]


def test_the_batcher_expects_waits_by_the_curve_that_was_learned_on_this_machine(tmp_path: Path) -> None:
    model = load_artifact(_artifact(tmp_path, accepted=True, only=True), EngineOptions())
    try:
        learned = model.artifact.variants[0].learned_curve(*this_cpu()) if model.artifact is not None else {}
        assert learned == {1: 4.0, 32: 5.0}
        outputs = model.backend.run({"x": np.zeros((2, FEATURES), np.float32)})
        assert outputs["logits"].shape == (2, CLASSES)
    finally:
        model.close()


def test_a_curve_of_another_machine_is_not_used(tmp_path: Path) -> None:
    (variant,) = _artifact(tmp_path, accepted=True, only=True).variants
    assert variant.learned_curve("another CPU", 64) == {}
