"""Which candidates are worth trying, by rules: from the model's operators, the machine, and the data that is given.

The rules are measurements of many models: which techniques never pay on which operators or CPUs. What remains is tried
from simple to complex, and measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.toolchain.recipes.recipe import TECHNIQUES, Recipe
from penstock.toolchain.search.candidate import Planned
from penstock.toolchain.search.machine import Machine
from penstock.toolchain.search.pareto import Target


@dataclass(frozen=True)
class Facts:
    """What the rules decide by.

    `operators` are kinds of operators in the model: conv, linear, recurrent. `forms` are the formats that an fp32
    variant of it has already, `taken` the names of its variants. `lossy_objection` says why no candidate that changes
    outputs can be judged. `batchable` is False when its rows are known to influence each other anyway.
    """

    operators: frozenset[str]
    has_module: bool
    forms: frozenset[str]
    taken: frozenset[str]
    machine: Machine
    target: Target = "p99"
    lossy_objection: str | None = None
    batchable: bool = True


Rule = Callable[[Facts], str | None]
"""Why a candidate is not tried; None when it is."""


@dataclass(frozen=True)
class _Row:
    """One line of the table of candidates; `steps` are the documents of its techniques."""

    name: str
    format: str
    steps: Sequence[dict[str, Any]] = ()
    cost_s: float = 5.0
    rules: Sequence[Rule] = ()


def plan(facts: Facts) -> list[Planned]:
    """The candidates from simple to complex, those that a rule leaves out included, each with the reason."""
    return [planned for rank, row in enumerate(_ROWS) if (planned := _planned(row, rank, facts)) is not None]


def exactly(recipe: Recipe) -> list[Planned]:
    """The plan that tries one recipe. Its name follows from the file that it makes."""
    return [Planned("recipe", recipe, rank=len(_ROWS), cost_s=10.0)]


MILDER = (0.1, 0.25, 0.5)
"""Shares of the operators that stay in fp32 when int8 for all of them breaks the accuracy budget."""


def can_be_milder(planned: Planned) -> bool:
    """True for a static quantization of all operators, of which some can be left in fp32."""
    steps = planned.recipe.to_json()["techniques"]
    return len(steps) == 1 and steps[0]["kind"] == "quantize-static" and not steps[0]["exclude"]


def milder(planned: Planned, worst: Sequence[str]) -> list[Planned]:
    """The same static quantization with ever more of the `worst` operators, which come first, left in fp32."""
    (step,), last = planned.recipe.to_json()["techniques"], len(worst) - 1
    counts = sorted({count for share in MILDER if 0 < (count := max(1, round(share * len(worst)))) <= last})
    return [
        replace(
            planned,
            name=f"{planned.name}-except-{count}",
            recipe=Recipe.from_json(
                {"format": planned.recipe.format, "techniques": [{**step, "exclude": list(worst[:count])}]}
            ),
        )
        for count in counts
    ]


def unused_name(name: str, taken: Sequence[str] | frozenset[str]) -> str:
    """`name`, with a number when a variant has it already."""
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, 10_000))
    return next(one for one in numbered if one not in taken)


def _planned(row: _Row, rank: int, facts: Facts) -> Planned | None:
    """None for a form that the model has, and for techniques that are not installed."""
    if not row.steps and row.format in facts.forms:
        return None
    if any(step["kind"] not in TECHNIQUES for step in row.steps):
        return None
    recipe = Recipe.from_json({"format": row.format, "techniques": list(row.steps)})
    planned = Planned(unused_name(row.name, facts.taken), recipe, rank, row.cost_s)
    return replace(planned, skip=next(_objections(row, recipe, facts), None))


def _objections(row: _Row, recipe: Recipe, facts: Facts) -> Iterator[str]:
    if row.format not in facts.machine.formats:
        yield f"this machine cannot run {row.format}; see penstock doctor"
    if row.format not in ("onnx", "openvino") and not facts.has_module:
        yield f"{row.format} is made from the PyTorch module, which the model does not have"
    if recipe.lossy and facts.lossy_objection is not None:
        yield facts.lossy_objection
    yield from (reason for rule in row.rules if (reason := rule(facts)) is not None)


# --- rules ------------------------------------------------------------------------------------------------


def _needs_product(facts: Facts) -> str | None:
    if facts.operators & {"conv", "linear"}:
        return None
    return "it has no convolution and no linear layer, which are what runs in int8"


def _needs_convolution(facts: Facts) -> str | None:
    return None if "conv" in facts.operators else "it has no convolution, and only these gain from the layout"


def _dynamic_pays(facts: Facts) -> str | None:
    if "conv" in facts.operators:
        return "dynamic int8 has no fast kernel for convolutions"
    if not facts.operators & {"linear", "recurrent"}:
        return "it has no linear or recurrent layer, which are what dynamic int8 is for"
    if facts.batchable and facts.target == "throughput":
        return "dynamic int8 lets rows influence each other, so that they cannot share a run"
    return None


def _needs_bf16(facts: Facts) -> str | None:
    return None if facts.machine.fast_half else "this CPU does not compute in bf16 (no avx512_bf16, no amx_bf16)"


def _saves_bytes(facts: Facts) -> str | None:
    if facts.target in ("size", "memory"):
        return None
    return f"it saves bytes only, and the target is {facts.target}"


def _needs_compiler(facts: Facts) -> str | None:
    return None if facts.machine.compiler else "it takes a C++ compiler, and there is none"


def _needs(package: str) -> Rule:
    def rule(facts: Facts) -> str | None:
        return None if package in facts.machine.packages else f"{package} is not installed"

    return rule


_ROWS: tuple[_Row, ...] = (
    _Row("onnx-fp32", "onnx", cost_s=8.0),
    _Row("openvino-fp32", "openvino", cost_s=4.0),
    _Row("torchscript-fp32", "torchscript", cost_s=4.0),
    _Row("torchscript-fp32-channels-last", "torchscript", [{"kind": "channels-last"}], 4.0, [_needs_convolution]),
    _Row("onnx-fp16", "onnx", [{"kind": "cast", "dtype": "fp16"}], 3.0, [_saves_bytes]),
    _Row("onnx-int8-static", "onnx", [{"kind": "quantize-static"}], 6.0, [_needs_product]),
    _Row("onnx-int8-dynamic", "onnx", [{"kind": "quantize-dynamic"}], 3.0, [_dynamic_pays]),
    _Row("openvino-int8-nncf", "openvino", [{"kind": "quantize-nncf"}], 15.0, [_needs_product, _needs("nncf")]),
    _Row("onnx-int8-weight-only", "onnx", [{"kind": "weight-only"}], 4.0, [_saves_bytes]),
    _Row("aoti-fp32", "aoti", cost_s=45.0, rules=[_needs_compiler]),
    _Row(
        "aoti-bf16",
        "aoti",
        [{"kind": "cast", "dtype": "bf16", "engine": "torch"}],
        60.0,
        [_needs_compiler, _needs_bf16],
    ),
)
"""From simple to complex; what is written in a row is tried where no rule objects."""
