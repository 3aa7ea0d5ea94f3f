"""`penstock export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.models.summary import check_aliases, live, set_aliases
from penstock.cli.options import (
    AliasesOption,
    ConfigOption,
    JsonOption,
    RegistryOption,
    TrustOption,
    open_registry,
    read_settings,
)
from penstock.cli.output import print_json, print_table, stepping

if TYPE_CHECKING:
    from penstock.toolchain.publishing.exporting import ExportReport

_Target = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:FACTORY",
        help="A function or class that returns a torch.nn.Module, or a tuple of it and example inputs; looked for in "
        "the working directory too.",
    ),
]
_Name = Annotated[str, typer.Option("--name", help="The model's name.")]
_Version = Annotated[str, typer.Option("--version", help="The version to publish.")]
_Weights = Annotated[
    Path | None, typer.Option("--weights", help="A state dict (.safetensors, .pt, .pth) that fills the module.")
]
_Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME:DTYPE:SHAPE",
        help="An input to make up values for, such as x:FP32:-1,3,32,32; -1 is free; repeatable.",
    ),
]
_Example = Annotated[
    Path | None,
    typer.Option("--example", help="A .npz, .npy, .json or .safetensors file with real inputs, named as the model's."),
]
_Dynamic = Annotated[
    list[str] | None,
    typer.Option(
        "--dynamic",
        metavar="NAME:AXIS,…",
        help="The dynamic axes of an input, such as x:0,2 or x:0=batch,2=steps; repeatable.",
        show_default="axis 0 of every input",
    ),
]
_Formats = Annotated[
    str | None,
    typer.Option(
        "--formats",
        metavar="FORM,…",
        help="Forms to export: onnx, torchscript-trace, torchscript-script, pt2, aoti, pytorch.",
        show_default="onnx,pt2,pytorch; torchscript-script if the first two fail",
    ),
]
_Opset = Annotated[int | None, typer.Option("--opset", help="Operator set of the ONNX file.", show_default="newest")]
_Translations = Annotated[
    str | None,
    typer.Option(
        "--translations", metavar="MODULE:TABLE", help="ONNX functions of custom operators, a mapping by operator."
    ),
]
_ExternalData = Annotated[
    bool, typer.Option("--external-data", help="Write the weights of ONNX into a file beside the graph.")
]
_Portable = Annotated[
    bool, typer.Option("--portable/--this-cpu", help="Compile native code for any CPU with AVX2, or for this one.")
]
_Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="The kind of its task, such as vector-classification or tensor.",
        show_default="what its answers show",
    ),
]
_Labels = Annotated[Path | None, typer.Option("--labels", help="A text file with the name of one class per line.")]
_Preprocess = Annotated[
    Path | None, typer.Option("--preprocess", help="A JSON file with its task's configuration, or its list of steps.")
]
_Atol = Annotated[
    float | None,
    typer.Option("--atol", help="Allowed difference, as a share of the output's largest value.", show_default="1e-5"),
]
_Rtol = Annotated[
    float | None, typer.Option("--rtol", help="Allowed difference, as a share of each value.", show_default="1e-3")
]
_Card = Annotated[Path | None, typer.Option("--card", help="Its model card, Markdown.", show_default="a minimal one")]


def export(
    target: _Target,
    name: _Name,
    version: _Version = "v1.0",
    weights: _Weights = None,
    input: _Inputs = None,
    example: _Example = None,
    dynamic: _Dynamic = None,
    formats: _Formats = None,
    opset: _Opset = None,
    translations: _Translations = None,
    external_data: _ExternalData = False,
    portable: _Portable = True,
    task: _Task = None,
    labels: _Labels = None,
    preprocess: _Preprocess = None,
    atol: _Atol = None,
    rtol: _Rtol = None,
    card: _Card = None,
    alias: AliasesOption = None,
    trust: TrustOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Export a PyTorch model, hold every form to eager PyTorch, and publish the good ones as one version.

    Each form is run on the example, on random inputs at several batch sizes, on other lengths and on other
    values. One that gives other answers is refused, and the reason says which output, which sample, how far.
    Exit code 1 when no form is good; nothing is published then.
    """
    stated = {
        "weights": weights, "opset": opset, "translations": translations, "formats": formats, "atol": atol,
        "rtol": rtol, "task": task, "labels": labels, "preprocess": preprocess, "example_input": example,
        "card": _text(card),
    }  # fmt: skip
    options: dict[str, Any] = {option: value for option, value in stated.items() if value is not None}
    options |= {"name": name, "version": version, "external_data": external_data, "portable": portable}
    options |= {"inputs": _inputs(input or []), "dynamic": _dynamic(dynamic or [])}
    aliases = alias or []
    check_aliases(aliases)
    settings = read_settings(config, registry=registry, trust=trust)
    with open_registry(settings) as models:
        import penstock

        with stepping() as on_step:
            report = penstock.export(target, registry=models, trust=settings.trust, on_step=on_step, **options)
        if report.artifact is not None:
            set_aliases(models, report.artifact, aliases)
        sentence = live(models, report.artifact) if report.artifact is not None else ""
    _print(report, sentence, as_json=as_json)
    raise typer.Exit(0 if report.artifact is not None else 1)


def _print(report: ExportReport, sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
        return
    for note in report.notes:
        typer.echo(f"note: {note}")
    rows = (
        (one.name, one.status, *map(_number, one.figures()), "; ".join(filter(None, (one.why, *one.notes))))
        for one in report.attempts
    )
    print_table(("variant", "", "max abs", "max rel", "top-1", "why"), rows)
    if report.artifact is None:
        typer.echo(f"{report.ref}: nothing was published, since no form is good", err=True)
        return
    alone = "" if report.batchable else "; its rows influence each other, so each request runs alone"
    typer.echo(f"published {report.ref} to {report.artifact.path}{alone}")
    typer.echo(sentence)


def _text(card: Path | None) -> str | None:
    """The text of a model card's file; raises ConfigError for one that cannot be read."""
    from penstock.file_description import read_text

    return None if card is None else read_text(card)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _inputs(texts: list[str]) -> Any:
    """The described inputs; raises BadParameter for one that is malformed."""
    from penstock.file_description import parse_tensors

    try:
        return parse_tensors(texts)
    except ValueError as error:
        raise typer.BadParameter(f"--input: {error}") from None


def _dynamic(texts: list[str]) -> dict[str, dict[int, str | None]] | None:
    """`x:0,2=steps` as axes by input; raises BadParameter for one that is malformed."""
    axes: dict[str, dict[int, str | None]] = {}
    for text in texts:
        name, _, listed = text.rpartition(":")
        for part in listed.split(","):
            number, _, label = part.partition("=")
            if not name or not number.strip().isdecimal():
                raise typer.BadParameter(f"--dynamic: {text!r} is not of the form name:axis,axis, such as x:0,2")
            axes.setdefault(name, {})[int(number)] = label.strip() or None
    return axes or None
