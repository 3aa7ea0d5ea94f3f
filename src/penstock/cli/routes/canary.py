"""`penstock routes canary`, `promote`, `rollback`, `pause`, `resume` and `why`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import completion
from penstock.cli.options import ConfigOption, JsonOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, print_table
from penstock.cli.routes.shown import moment
from penstock.errors import InvalidInput

if TYPE_CHECKING:
    from penstock.registry.registry import Registry

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model.", autocompletion=completion.names)]
WhyOption = Annotated[str, typer.Option("--why", help="The reason, for the audit log; it is needed.")]

ToOption = Annotated[str, typer.Option("--to", help="The new version.", autocompletion=completion.versions)]
StepsOption = Annotated[str, typer.Option("--steps", help="Rising percentages, the last one 100.")]
HoldOption = Annotated[str, typer.Option("--hold", help="The least time of a step, such as 90s, 10m, 2h.")]
MaxHoldOption = Annotated[
    str, typer.Option("--max-hold", help="Without enough evidence for so long, pause. Default: 6 times --hold.")
]
BakeOption = Annotated[
    str, typer.Option("--bake", help="How long the old version stays loaded afterwards. Default: --hold.")
]
WarmupOption = Annotated[
    str, typer.Option("--warmup", help="Latencies of the first time of a step do not count. Default: a tenth.")
]
RequestsOption = Annotated[int, typer.Option("--min-requests", help="Requests that each version needs in each step.")]
ErrorRateOption = Annotated[
    float, typer.Option("--max-error-rate", help="The share of requests that may fail; 0 leaves it unchecked.")
]
ErrorRatioOption = Annotated[
    float | None, typer.Option("--max-error-ratio", help="How many times as often as the old version it may fail.")
]
LatencyOption = Annotated[float | None, typer.Option("--max-p99-ratio", help="How much slower it may be, such as 1.1.")]
DisagreementOption = Annotated[
    float | None, typer.Option("--max-disagreement", help="The share of other answers to the same requests.")
]
ShadowOption = Annotated[
    float, typer.Option("--shadow", help="The share of requests that both versions answer, to compare them.")
]
InconclusiveOption = Annotated[
    str, typer.Option("--on-inconclusive", help="After --max-hold: pause, rollback or advance.")
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Ask for proof of every limit.")]
AgainOption = Annotated[bool, typer.Option("--again", help="Take a version that was rolled back before.")]


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def canary(
    name: NameArgument,
    to: ToOption,
    why: WhyOption = "",
    steps: StepsOption = "1,5,25,50,100",
    hold: HoldOption = "10m",
    max_hold: MaxHoldOption = "",
    bake: BakeOption = "",
    warmup: WarmupOption = "",
    min_requests: RequestsOption = 100,
    max_error_rate: ErrorRateOption = 0.01,
    max_error_ratio: ErrorRatioOption = None,
    max_p99_ratio: LatencyOption = None,
    max_disagreement: DisagreementOption = None,
    shadow: ShadowOption = 0.1,
    on_inconclusive: InconclusiveOption = "pause",
    strict: StrictOption = False,
    again: AgainOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Roll out a version in steps: the servers of the registry advance it, or roll it back, by what they see.

    The version is loaded and verified before its first request. `penstock routes why NAME` explains each decision.
    """
    from penstock.rollouts.commands import start_canary

    document: dict[str, Any] = {
        "to": to,
        "steps": [_percentage(step) for step in steps.split(",")],
        "hold_s": _seconds("--hold", hold),
        "max_hold_s": _seconds("--max-hold", max_hold),
        "bake_s": _seconds("--bake", bake),
        "warmup_s": _seconds("--warmup", warmup),
        "min_requests": min_requests,
        "max_error_rate": max_error_rate or None,
        "max_error_ratio": max_error_ratio,
        "max_p99_ratio": max_p99_ratio,
        "max_disagreement": max_disagreement,
        "shadow": shadow,
        "on_inconclusive": on_inconclusive,
    }
    with _registry(config, registry) as models:
        start_canary(models, name, document | {"strict": strict, "again": again}, why=why)
        _print(models, name, as_json)


def promote(
    name: NameArgument,
    why: WhyOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Give all requests to the new version of a canary now; the old one stays loaded for the bake time."""
    _command(name, "promote", why, as_json, config, registry)


def rollback(
    name: NameArgument,
    why: WhyOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """End a canary, and set route and alias as they were before it. No request reaches it within a second."""
    _command(name, "rollback", why, as_json, config, registry)


def pause(
    name: NameArgument,
    why: WhyOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Keep the share of a canary as it is. It is still rolled back if it breaks a limit."""
    _command(name, "pause", why, as_json, config, registry)


def resume(
    name: NameArgument,
    why: WhyOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Let a paused canary go on; the time of its step begins anew."""
    _command(name, "resume", why, as_json, config, registry)


def why(
    name: NameArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many decisions, the newest first.")] = 20,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Explain where the canary of a model is and what was decided about it, with all figures."""
    from penstock.rollouts.commands import decisions, newest_described

    with _registry(config, registry) as models:
        document, decided = newest_described(models, name), decisions(models, name, limit)
    if as_json:
        print_json({**document, "decisions": decided})
        return
    _print_state(document)
    rows = [(moment(each["at"]), each["action"], each["sentence"]) for each in decided]
    print_table(("at", "action", "why"), rows)


def add_to(app: typer.Typer) -> None:
    """Add the verbs of canaries to the commands of routes."""
    for verb in (canary, promote, rollback, pause, resume, why):
        app.command()(verb)


def _registry(config: Path | None, registry: Path | None) -> AbstractContextManager[Registry]:
    return open_registry(read_settings(config, registry=registry))


def _command(name: str, verb: Any, why: str, as_json: bool, config: Path | None, registry: Path | None) -> None:
    from penstock.rollouts.commands import command

    with _registry(config, registry) as models:
        command(models, name, verb, why=why)
        _print(models, name, as_json)


def _print(models: Registry, name: str, as_json: bool) -> None:
    from penstock.rollouts.commands import newest_described

    document = newest_described(models, name)
    if as_json:
        print_json(document)
    else:
        _print_state(document)


def _print_state(document: Mapping[str, Any]) -> None:
    spec = document["spec"]
    state = document["state"].replace("_", " ")
    typer.echo(f"{document['route']}: {spec['stable']} → {spec['to']}, {state} at {document['share']} %")
    typer.echo(document["sentence"])
    rows = [(version, *_figures(arm)) for version, arm in document["evidence"].items()]
    print_table(("version", "requests", "errors", "p50 ms", "p95 ms", "p99 ms"), rows)


def _figures(arm: Mapping[str, Any]) -> Iterable[str]:
    rate = "" if arm["error_rate"] is None else f" ({arm['error_rate']:.2%})"
    yield f"{arm['requests']:,}"
    yield f"{arm['failures']:,}{rate}"
    for percent in (50, 95, 99):
        found = arm[f"p{percent}_ms"]
        yield "" if found is None else f"{found:.3g}"


def _seconds(option: str, given: str) -> float | None:
    """A time in seconds, None for an option that is not given. Raises InvalidInput."""
    if not given and option != "--hold":
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)", given.strip())
    if found is None:
        raise InvalidInput(f"{option} {given}: write a time such as 90s, 10m or 2h", field=option.lstrip("-"))
    return float(found[1]) * _UNITS[found[2]]


def _percentage(given: str) -> int:
    found = re.fullmatch(r"\s*([0-9]{1,3})\s*+%?\s*", given)
    if found is None:
        raise InvalidInput(f"--steps {given}: write rising whole percentages, as 1,5,25,50,100", field="steps")
    return int(found[1])
