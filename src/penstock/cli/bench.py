"""`penstock bench`: how fast a model is on this machine, or a running server under load."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import typer

from penstock.cli import completion
from penstock.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    RegistryOption,
    ThreadsOption,
    TrustOption,
    open_registry,
    read_settings,
)
from penstock.cli.output import naming, print_json, print_table, size, working

if TYPE_CHECKING:
    from penstock.registry.registry import Registry
    from penstock.settings import Settings
    from penstock.toolchain.bench.benching import BenchResult
    from penstock.toolchain.bench.connection import Target
    from penstock.toolchain.bench.latency import VariantSpeed
    from penstock.toolchain.bench.load import LoadResult

_MODEL = ("batch", "variant", "threads", "device", "trust")
_SERVER = ("concurrency", "rate", "arrivals", "model", "payload", "api_key", "timeout", "report")
_WARM_UP_S = 0.5
_BARS = " ▁▂▃▄▅▆▇█"
_Number = TypeVar("_Number", int, float)
_Run: TypeAlias = "Callable[[Target], LoadResult]"


_TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="REF|URL",
        help="name[:version|@alias] or a model file to measure here; or the http(s) address of a running server.",
        autocompletion=completion.refs_and_files,
    ),
]
_OtherArgument = Annotated[
    str | None,
    typer.Argument(metavar="[REF2]", help="A second model, measured in turn with the first.", show_default=False),
]
_BatchOption = Annotated[str | None, typer.Option(metavar="N,…", help="Batch sizes, in rows.", show_default="1,8,32")]
_SecondsOption = Annotated[
    float | None,
    typer.Option(help="How long each batch size, concurrency or rate is measured.", show_default="1, servers 5"),
]
_VariantOption = Annotated[str | None, typer.Option(help="Measure this variant only.", show_default="all")]
_ConcurrencyOption = Annotated[
    str | None, typer.Option(metavar="N,…", help="Server: requests in flight at a time.", show_default="1,8,32")
]
_RateOption = Annotated[
    str | None,
    typer.Option(metavar="R,…", help="Server: requests per second, sent at fixed times however it answers."),
]
_ArrivalsOption = Annotated[
    Literal["poisson", "constant"] | None,
    typer.Option(help="Server, with --rate: how requests are spaced.", show_default="poisson"),
]
_ModelOption = Annotated[str | None, typer.Option(help="Server: the model to ask.", show_default="its default model")]
_PayloadOption = Annotated[
    Path | None,
    typer.Option(help="Server: the body of the requests; of a .jsonl file each line is one.", show_default="found"),
]
_KeyOption = Annotated[str | None, typer.Option(help="Server: sent as Authorization: Bearer KEY.")]
_TimeoutOption = Annotated[float | None, typer.Option(help="Server: seconds to wait for a reply.", show_default="10")]
_ReportOption = Annotated[Path | None, typer.Option(help="Server: write report.html and report.json there.")]


def bench(
    target: _TargetArgument,
    other: _OtherArgument = None,
    batch: _BatchOption = None,
    seconds: _SecondsOption = None,
    variant: _VariantOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    concurrency: _ConcurrencyOption = None,
    rate: _RateOption = None,
    arrivals: _ArrivalsOption = None,
    model: _ModelOption = None,
    payload: _PayloadOption = None,
    api_key: _KeyOption = None,
    timeout: _TimeoutOption = None,
    report: _ReportOption = None,
    trust: TrustOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Measure a model on this machine, two models in turn, or a running server under load.

    Models run in processes of their own. A second one is compared with a confidence interval. Load on a server
    stops by itself; latency at a --rate counts from when a request was due. Exit code 1 when the server goes away.
    """
    given = {name: value for name, value in locals().items() if name in (*_MODEL, *_SERVER) and value is not None}
    _check_options(target, other, given)
    settings = read_settings(config, device=device, trust=trust, registry=registry, threads=threads)
    with open_registry(settings) as models:
        if _is_url(target):
            code = _server(target, given, 5.0 if seconds is None else seconds, models, as_json=as_json)
        else:
            duration = 1.0 if seconds is None else seconds
            code = _models(target, other, given, duration, models, settings, as_json=as_json)
    raise typer.Exit(code)


def _is_url(text: str) -> bool:
    return "://" in text


def _check_options(target: str, other: str | None, given: dict[str, Any]) -> None:
    """Raises BadParameter for options that belong to the other use, and for what cannot be compared."""
    urls = [text for text in (target, other) if text is not None and _is_url(text)]
    if urls and other is not None:
        raise typer.BadParameter("two models can be compared, but a server is measured alone: give one URL")
    foreign = _MODEL if urls else _SERVER
    wrong = next((name for name in given if name in foreign), None)
    if wrong is not None:
        flag = f"--{wrong.replace('_', '-')}"
        raise typer.BadParameter(
            f"{flag} is for models on this machine; {target} is a server"
            if urls
            else f"{flag} is for a running server, which is named by its URL; {target} is a model"
        )
    if "arrivals" in given and "rate" not in given:
        raise typer.BadParameter("--arrivals says how the requests of a --rate are spaced; give both")


def _numbers(flag: str, text: str, kind: Callable[[str], _Number]) -> list[_Number]:
    """`1,8,32` as numbers above zero. Raises BadParameter."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise typer.BadParameter(f"{flag}: {text!r} is no list of numbers above zero, such as 1,8,32")
    return list(dict.fromkeys(numbers))


# Models on this machine


def _models(
    ref: str,
    other: str | None,
    given: dict[str, Any],
    seconds: float,
    models: Registry,
    settings: Settings,
    *,
    as_json: bool,
) -> int:
    from penstock.toolchain.bench.benching import bench

    batches = _numbers("--batch", given["batch"], int) if "batch" in given else None
    with working(f"measuring {ref}" + (f" and {other}" if other else "")):
        result = bench(
            ref,
            other,
            registry=models,
            batches=batches,
            seconds=seconds,
            variant=given.get("variant"),
            threads=settings.threads,
            device=settings.device,
            trust=settings.trust,
        )
    if as_json:
        print_json(result.to_json())
        return 0
    for one in filter(None, (result, result.other)):
        _print_model(one)
    _print_ratios(result)
    for warning in result.warnings:
        print(f"note: {warning}")
    return 0


def _print_model(result: BenchResult) -> None:
    columns = ("variant", "rows", "p50 ms", "p95 ms", "p99 ms", "mean", "std", "min", "max", "rows/s", "CPU ms/row")
    print_table(columns, (row for one in result.variants for row in _speed_rows(one)), title=result.ref)
    facts = ("variant", "model size", "parameters", "memory peak", "of the model", "GPU peak", "load s", "ran with")
    print_table(facts, (_fact_row(one) for one in result.variants))


def _speed_rows(one: VariantSpeed) -> Iterator[Sequence[object]]:
    if one.why is not None:
        yield (one.name, f"not measured: {one.why}")
    for rows, speed in one.batches.items():
        ms = speed.latency
        times = (ms.p50_ms, ms.p95_ms, ms.p99_ms, ms.mean_ms, ms.std_ms, ms.min_ms, ms.max_ms)
        yield (one.name, rows, *map(_ms, times), f"{speed.throughput_per_second:,.0f}", _ms(speed.cpu_ms_per_row))


def _fact_row(one: VariantSpeed) -> Sequence[object]:
    usage = one.usage
    parameters = "" if one.parameters is None else f"{one.parameters:,}"
    if usage is None:
        return (one.name, size(one.size_bytes), parameters)
    memory = (size(usage.peak_bytes), size(usage.model_bytes), size(usage.gpu_peak_bytes))
    return (one.name, size(one.size_bytes), parameters, *memory, f"{usage.import_s + usage.load_s:.2f}", one.inputs)


def _print_ratios(result: BenchResult) -> None:
    if result.other is None:
        return
    names = f"{result.ref}/{result.chosen}", f"{result.other.ref}/{result.other.chosen}"
    for rows, ratio in result.ratios.items():
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}, {ratio.confidence:.0%} confidence, {ratio.rounds} rounds"
        verdict = "" if ratio.differs else "; no difference is shown"
        print(f"batch {rows}: {names[1]} is {ratio.median:.3f} times as fast as {names[0]} ({interval}){verdict}")


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:.0f}"


# A running server


def _server(url: str, given: dict[str, Any], seconds: float, models: Registry, *, as_json: bool) -> int:
    from penstock.toolchain.bench.discovery import find_target
    from penstock.toolchain.bench.load import closed_loop

    timeout_s = given.get("timeout", 10.0)
    runs = _runs(given, seconds, timeout_s)
    if "report" in given:
        given["report"].mkdir(parents=True, exist_ok=True)
    asked = {name: given.get(name) for name in ("model", "payload", "api_key")}
    target = find_target(url, registry=models, timeout_s=timeout_s, **asked)
    with working(f"load on {url}"):
        closed_loop(target, concurrency=1, seconds=_WARM_UP_S, timeout_s=timeout_s)
        results, gone = _carried_out(runs, target)
    document = {
        "url": url,
        "model": target.name,
        "payload": target.payload,
        "runs": [result.to_json() for result in results],
    }
    if "report" in given:
        _write_report(given["report"], document)
    if as_json:
        print_json(document)
    else:
        _print_load(document, results)
    return 1 if gone or not all(result.succeeded for result in results) else 0


def _carried_out(runs: Sequence[_Run], target: Target) -> tuple[list[LoadResult], bool]:
    """The results until the server is gone, and whether it is. Raises ModelNotReady if it is so from the start."""
    from penstock.errors import ModelNotReady

    results: list[LoadResult] = []
    for run in runs:
        try:
            results.append(run(target))
        except ModelNotReady as error:
            if not results:
                raise
            print(f"penstock: {error}", file=sys.stderr)
            return results, True
        if results[-1].stopped:
            return results, True
    return results, False


def _runs(given: dict[str, Any], seconds: float, timeout_s: float) -> list[_Run]:
    """The runs that the options ask for, in their order. Raises BadParameter."""
    from penstock.toolchain.bench.load import closed_loop, open_loop

    rates = _numbers("--rate", given["rate"], float) if "rate" in given else []
    levels = (
        []
        if rates and "concurrency" not in given
        else _numbers("--concurrency", given.get("concurrency", "1,8,32"), int)
    )
    arrivals = given.get("arrivals", "poisson")

    def closed(concurrency: int) -> _Run:
        return lambda target: closed_loop(target, concurrency=concurrency, seconds=seconds, timeout_s=timeout_s)

    def opened(rate: float) -> _Run:
        return lambda target: open_loop(target, rate, seconds=seconds, arrivals=arrivals, timeout_s=timeout_s)

    return [*map(closed, levels), *map(opened, rates)]


def _write_report(directory: Path, document: dict[str, Any]) -> None:
    from penstock.artifacts.files import replacing
    from penstock.toolchain.report.load_page import load_page

    for name, text in (("report.json", json.dumps(document, indent=2)), ("report.html", load_page(document))):
        with naming(directory / name), replacing(directory / name) as new:
            new.write_text(text, encoding="utf-8")
    print(f"{directory / 'report.html'} is written", file=sys.stderr)


def _print_load(document: dict[str, Any], results: Sequence[LoadResult]) -> None:
    columns = ("load", "replies/s", "p50 ms", "p95 ms", "p99 ms", "mean", "max", "latencies", "refused", "errors")
    title = f"{document['model']} at {document['url']}, payload: {document['payload']}"
    print_table(columns, map(_load_row, results), title=title)
    for result in results:
        for sentence in (result.stopped, *result.warnings):
            if sentence:
                print(f"note: {_load(result)}: {sentence}")


def _load_row(result: LoadResult) -> Sequence[object]:
    ms = result.latency
    times = ("",) * 5 if ms is None else tuple(map(_ms, (ms.p50_ms, ms.p95_ms, ms.p99_ms, ms.mean_ms, ms.max_ms)))
    errors = ", ".join(f"{kind}: {count}" for kind, count in result.errors.items())
    return (_load(result), f"{result.throughput_per_second:,.1f}", *times, _sketch(result), result.refused, errors)


def _load(result: LoadResult) -> str:
    return f"{result.concurrency} in flight" if result.rate is None else f"{result.rate:g}/s"


def _sketch(result: LoadResult) -> str:
    """The latencies as bars from the lowest to the highest, on a logarithmic scale of both."""
    counts = [count for _, _, count in result.histogram]
    if not counts:
        return ""
    most = math.log1p(max(counts))
    bars = (_BARS[math.ceil(8 * math.log1p(count) / most)] for count in counts)
    return f"{_ms(result.histogram[0][0])} {''.join(bars)} {_ms(result.histogram[-1][1])}"
