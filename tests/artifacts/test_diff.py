"""The differences of two manifests, part by part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.artifacts.artifact import Artifact, VariantErrors, VariantSource
from penstock.artifacts.diff import PARTS, Change, changes

Write = Callable[..., Artifact]


@pytest.fixture
def version(write: Write) -> Callable[..., Any]:
    """The manifest of a version whose only variant has these facts."""

    def build(**facts: Any) -> Any:
        content = facts.pop("content", b"weights")
        model = write(content=content).variant_path(write(content=content).variants[0])
        return write(variants=[VariantSource("onnx", "fp32", model, **facts)]).manifest

    return build


def by_field(found: list[Change], part: str) -> dict[str, tuple[Any, Any]]:
    return {change.field: (change.a, change.b) for change in found if change.part == part}


def test_errors_speed_and_size_are_parts_of_their_own(version: Callable[..., Any]) -> None:
    exact = VariantErrors(max_abs=0.5, max_rel=0.25, top1=1.0, samples=8)
    worse = VariantErrors(max_abs=0.75, max_rel=0.25, top1=0.5, samples=8)
    a = version(max_abs_error=0.5, errors=exact, num_parameters=10, benchmark={"p50_ms": {"1": 2.0, "32": 8.0}})
    b = version(
        max_abs_error=0.75, errors=worse, num_parameters=5, batch_invariant=True, content=b"longer weights",
        benchmark={"p50_ms": {"1": 1.0, "32": 8.0, "8": 3.0}, "p99_ms": {"1": 1.5}},
    )  # fmt: skip
    found = changes(a, b)
    assert by_field(found, "errors") == {
        "onnx-fp32.max_abs_error": (0.5, 0.75),
        "onnx-fp32.top1": (1.0, 0.5),
        "onnx-fp32.batch_invariant": (None, True),
    }
    assert by_field(found, "speed") == {
        "onnx-fp32.p50_ms.1": (2.0, 1.0),
        "onnx-fp32.p50_ms.8": (None, 3.0),
        "onnx-fp32.p99_ms.1": (None, 1.5),
    }
    assert by_field(found, "size")["onnx-fp32.parameters"] == (10, 5)
    assert set(by_field(found, "size")) == {"all files.bytes", "onnx-fp32.bytes", "onnx-fp32.parameters"}
    assert not by_field(found, "variants")
    order = [PARTS.index(change.part) for change in found]
    assert order == sorted(order)


def test_batches_are_listed_in_the_order_of_their_size(version: Callable[..., Any]) -> None:
    found = changes(version(), version(benchmark={"p50_ms": {"32": 3.0, "1": 1.0, "8": 2.0}}))
    assert list(by_field(found, "speed")) == [f"onnx-fp32.p50_ms.{batch}" for batch in (1, 8, 32)]


def test_both_ways_to_write_a_benchmark_are_compared_with_each_other(version: Callable[..., Any]) -> None:
    a = version(benchmark={"p50_ms": {"1": 2.0}, "p99_ms": {"1": 3.0}})
    b = version(benchmark={"batches": {"1": {"p50_ms": 2.0, "p99_ms": 6.0}}})
    (change,) = (change for change in changes(a, b) if change.part == "speed")
    assert (change.field, change.percent) == ("onnx-fp32.p99_ms.1", 100.0)


@pytest.mark.parametrize(
    ("a", "b", "delta", "percent"),
    [
        (2.0, 1.0, -1.0, -50.0),
        (-2.0, -1.0, 1.0, 50.0),
        (0, 3, 3, None),
        (None, 3, None, None),
        (True, False, None, None),
        ("1", "2", None, None),
        ([1], [2], None, None),
    ],
)
def test_the_change_of_numbers_is_given_in_percent(a: Any, b: Any, delta: float | None, percent: float | None) -> None:
    change = Change("metrics", "accuracy", a, b)
    assert (change.delta, change.percent) == (delta, percent)
    assert ("delta" in change.to_json(), "percent" in change.to_json()) == (delta is not None, percent is not None)
