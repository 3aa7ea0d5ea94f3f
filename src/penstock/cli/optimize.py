"""`penstock optimize`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli.options import (
    ConfigOption,
    JsonOption,
    RefArgument,
    RegistryOption,
    TrustOption,
    open_registry,
    read_settings,
)
from penstock.cli.output import print_json, print_table, size

_Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="An .npz file with rows by input name: one half calibrates, the other judges.",
        show_default="the golden samples, and nothing that changes outputs",
    ),
]
_Labels = Annotated[str | None, typer.Option("--labels", help="The array of --data with the class of each row.")]
_Drop = Annotated[
    float,
    typer.Option(
        "--max-accuracy-drop",
        help="The accuracy that may be lost, 0.005 for half a point; without --labels the share of rows that may get "
        "another answer.",
    ),
]
_Target = Annotated[
    str, typer.Option("--target", help="What must improve: p99 (latency of one row), throughput, size or memory.")
]
_Budget = Annotated[str, typer.Option("--time-budget", metavar="DURATION", help="When to end, such as 90s, 2m or 1h.")]
_Recipe = Annotated[
    Path | None,
    typer.Option("--recipe", help="A recipe (TOML or JSON) to try alone.", show_default="what suits the model"),
]
_Version = Annotated[
    str | None, typer.Option("--version", help="The version to publish as.", show_default="the next one")
]
_Report = Annotated[Path | None, typer.Option("--report", help="Directory for report.json and report.html.")]
_Check = Annotated[
    Path | None,
    typer.Option(
        "--check",
        help="Verify the optimized version REF on this machine against its report.json, and change nothing; exit code "
        "1 when something differs.",
    ),
]


def optimize(
    ref: RefArgument,
    data: _Data = None,
    labels: _Labels = None,
    max_accuracy_drop: _Drop = 0.005,
    target: _Target = "p99",
    time_budget: _Budget = "10m",
    recipe: _Recipe = None,
    version: _Version = None,
    report: _Report = None,
    check: _Check = None,
    trust: TrustOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Find a faster or smaller form of a model under an accuracy budget, and publish it as a new version.

    Tries back ends, precisions and techniques, each in a process of its own, measured in turn with the fastest variant
    that the model has. Exit code 0: published; 3: nothing was better; 4: what was better broke the accuracy budget.
    Interrupted, the same command goes on.
    """
    settings = read_settings(config, registry=registry, trust=trust)
    from penstock.toolchain.report.terminal import progress
    from penstock.toolchain.search.run import COLUMNS

    with open_registry(settings) as models, progress(f"optimizing {ref}", COLUMNS) as shown:
        shared: dict[str, Any] = {"data": data, "labels": labels, "trust": settings.trust, "registry": models}
        if check is not None:
            from penstock.toolchain.search.outcome.check import check_report

            document = check_report(ref, check, progress=shown, **shared)
            code = 0 if document["ok"] else 1
        else:
            from penstock.toolchain.search.optimize import optimize as run

            found = run(
                ref,
                max_accuracy_drop=max_accuracy_drop,
                target=target,
                time_budget=time_budget,
                recipe=recipe,
                version=version,
                report=report,
                progress=shown,
                **shared,
            )
            document, code = dict(found.report), found.exit_code
    if as_json:
        print_json(document)
    elif check is not None:
        _print_check(document)
    else:
        _print_outcome(document, code, report)
    raise typer.Exit(code)


def _print_outcome(document: Mapping[str, Any], code: int, report: Path | None) -> None:
    known = [("baseline", document["baseline"]), ("eager", document["eager"])]
    rows = [_row(one, status) for status, one in known if one is not None]
    rows += [_row(one, one["status"]) for one in document["candidates"]]
    columns = ("name", "outcome", "p50 ms, 1 row", "32 rows", "times as fast", "accuracy", "agreement", "size", "why")
    print_table(columns, rows)
    for sentence in (*document["notes"], *document["warnings"]):
        typer.echo(sentence)
    typer.echo(_verdict(document, code))
    if report is not None:
        typer.echo(f"report: {report / 'report.html'}")


def _verdict(document: Mapping[str, Any], code: int) -> str:
    baseline, origin = document["baseline"]["name"], document["optimized_from"]
    if code == 0:
        return f"published {document['ref']}: {document['chosen']} is better than {baseline} of {origin}"
    if code == 4:
        return f"nothing was published: what is better than {baseline} of {origin} breaks the accuracy budget"
    return f"nothing was published: nothing is better than {baseline} of {origin}"


def _row(one: Mapping[str, Any], status: str) -> tuple[object, ...]:
    curve, ratio = one["p50_ms"], one["ratio"]
    first, last = (curve.get(rows) for rows in ("1", "32"))
    return (
        one["name"],
        status,
        _short(first),
        _short(last),
        _short(ratio and ratio["median"]),
        _short(one["accuracy"], 4),
        _short(one["agreement"], 4),
        size(one["size_bytes"]),
        one.get("why", ""),
    )


def _short(value: float | None, digits: int = 3) -> str | None:
    return None if value is None else f"{value:.{digits}g}"


def _print_check(document: Mapping[str, Any]) -> None:
    print_table(("variant", "what", "ok", "found"), [_finding(one) for one in document["findings"]])
    wrong = sum(not one["ok"] for one in document["findings"])
    typer.echo(
        f"{wrong} of {len(document['findings'])} differ" if wrong else f"{document['ref']} is as its report says"
    )


def _finding(one: Mapping[str, Any]) -> tuple[object, ...]:
    return one["variant"], one["what"], "yes" if one["ok"] else "NO", one["found"]
