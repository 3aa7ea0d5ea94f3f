"""`penstock models diff`."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import completion
from penstock.cli.options import ConfigOption, JsonOption, RegistryOption, TrustOption, open_registry, read_settings
from penstock.cli.output import print_json, print_table, size, working
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.artifacts.artifact import Artifact, Golden
    from penstock.artifacts.diff import Change
    from penstock.registry.registry import Registry
    from penstock.settings import Settings

_RefA = Annotated[
    str,
    typer.Argument(metavar="A", help="name, name:version or name@alias.", autocompletion=completion.refs),
]
_RefB = Annotated[
    str, typer.Argument(metavar="B", help="The version to compare with A.", autocompletion=completion.refs)
]
_CREATED = ("lineage", "created_at")


def diff(
    a: _RefA,
    b: _RefB,
    run: Annotated[bool, typer.Option(help="Run B on A's golden samples if its own differ.")] = True,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if the versions differ.")] = False,
    trust: TrustOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Compare two versions part by part: signature, metrics, errors, speed, size and more, and their answers.

    Numbers are shown with their change, also in percent. The exit code is 0 also where they differ, unless
    --exit-code is given; the time of creation alone makes no difference there.
    """
    settings = read_settings(config, registry=registry, trust=trust)
    with open_registry(settings) as models:
        from penstock.artifacts.diff import changes

        first, second = models.get(a), models.get(b)
        found = changes(first.manifest, second.manifest)
        with working(f"comparing {first.ref} and {second.ref}"):
            answers = _compare_answers(models, first, second, settings if run else None)
    same = first.digest == second.digest
    if as_json:
        fields = [change.to_json() for change in found]
        print_json({"a": first.ref, "b": second.ref, "same": same, "changes": fields, "answers": answers})
    elif same or not found:
        typer.echo(f"{first.ref} and {second.ref} have the same content")
    else:
        _print(first, second, found)
    if not as_json:
        typer.echo(f"answers: {_sentence(answers)}")
    differ = not same and any((change.part, change.field) != _CREATED for change in found)
    raise typer.Exit(1 if exit_code and differ else 0)


def _print(first: Artifact, second: Artifact, found: list[Change]) -> None:
    """One table; the name of a part stands in its first row only, in front of an empty row."""
    rows: list[tuple[str, ...]] = []
    for part, group in groupby(found, key=lambda change: change.part):
        rows += [("",) * 6] if rows else []
        named = part
        for change in group:
            rows.append((named, change.field, *_values(change), *_change(change)))
            named = ""
    print_table(("part", "field", first.ref, second.ref, "change", "percent"), rows)


def _values(change: Change) -> tuple[str, str]:
    if change.part == "size" and change.field.endswith("bytes"):
        return size(change.a) or "-", size(change.b) or "-"
    return _shown(change.a), _shown(change.b)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _change(change: Change) -> tuple[str, str]:
    """The change of a number, and what that is in percent."""
    delta, percent = change.delta, change.percent
    return "" if delta is None else f"{delta:+.4g}", "" if percent is None else f"{percent:+.1f} %"


# Answers


def _compare_answers(models: Registry, first: Artifact, second: Artifact, settings: Settings | None) -> dict[str, Any]:
    """The difference of B's answers to A's golden samples from A's answers, or the reason that there is none."""
    expected, other = first.golden(), second.golden()
    if expected is None:
        return _not_compared(f"{first.ref} has no golden samples")
    if other is not None and _same(expected.inputs, other.inputs):
        return _difference(expected, other.outputs, "recorded")
    if settings is None:
        return _not_compared(f"{second.ref} has other golden samples and was not run")
    if first.signature.inputs != second.signature.inputs:
        return _not_compared(f"{second.ref} takes other inputs")
    try:
        return _difference(expected, _run(models, second, expected, settings), "run here")
    except PenstockError as error:
        return _not_compared(str(error))


def _run(models: Registry, artifact: Artifact, golden: Golden, settings: Settings) -> Any:
    from penstock.engine.loading.manager import ModelManager

    manager = ModelManager(models, settings)
    try:
        return manager.load_model(artifact.ref).backend.run(golden.inputs)
    finally:
        manager.close()


def _difference(golden: Golden, outputs: Any, how: str) -> dict[str, Any]:
    shared = [name for name in golden.outputs if name in outputs and outputs[name].shape == golden.outputs[name].shape]
    if not shared:
        return _not_compared("the outputs have other names or shapes")
    return {
        "compared": True,
        "how": how,
        "rows": golden.rows,
        "outputs": {name: _distance(golden.outputs[name], outputs[name]) for name in shared},
    }


def _distance(expected: Any, got: Any) -> dict[str, Any]:
    import numpy as np

    if expected.dtype.kind not in "fiub":
        return {"equal": bool(np.array_equal(expected, got))}
    difference = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    found: dict[str, Any] = {"max_abs": float(difference.max(initial=0.0)), "mean_abs": float(difference.mean())}
    if expected.ndim == 2 and expected.shape[1] > 1 and expected.dtype.kind == "f":
        found["same_top_1"] = float((expected.argmax(1) == got.argmax(1)).mean())
    return found


def _same(a: Any, b: Any) -> bool:
    import numpy as np

    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def _not_compared(why: str) -> dict[str, Any]:
    return {"compared": False, "why": why}


def _sentence(answers: dict[str, Any]) -> str:
    if not answers["compared"]:
        return f"not compared, since {answers['why']}"
    parts = []
    for name, distance in answers["outputs"].items():
        if "equal" in distance:
            parts.append(f"{name} {'equal' if distance['equal'] else 'different'}")
            continue
        top = f", the same first class for {distance['same_top_1']:.1%}" if "same_top_1" in distance else ""
        parts.append(
            f"{name} differs by at most {distance['max_abs']:.3g} ({distance['mean_abs']:.3g} on average{top})"
        )
    return f"{'; '.join(parts)} ({answers['rows']} golden samples, {answers['how']})"
