"""`penstock log`: the prediction log."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.options import ConfigOption, JsonOption, RegistryOption, read_settings
from penstock.cli.output import naming, print_json, print_table, size, working
from penstock.errors import ConfigError, InvalidInput, disk_problem

if TYPE_CHECKING:
    from penstock.monitor.prediction_log.reading import LogReader
    from penstock.monitor.prediction_log.records import Record

app = typer.Typer(help="Show, export and count what the prediction log holds, and forget a key.", no_args_is_help=True)

LogArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[LOG]", help="Directory of the log, or one of its files; default: `prediction_log`."),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Only records of this model, name or name:version.", metavar="REF")
]
OutcomeOption = Annotated[
    str | None, typer.Option("--outcome", help="Only records with this outcome, such as ok or disagreement.")
]


@app.command()
def show(
    log: LogArgument = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The number of records; 0 for all.")] = 20,
    model: ModelOption = None,
    outcome: OutcomeOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the newest records; with --json one a line, with their tensors."""
    reader = _reader(log, config)
    records = list(_chosen(reader, model, outcome)) if not limit else _last(_chosen(reader, model, outcome), limit)
    if as_json:
        from penstock.monitor.prediction_log.exporting import jsonl

        for line in jsonl(records):
            sys.stdout.write(line.decode())
    else:
        print_table(("at", "model", "request", "outcome", "rows", "ms", "inputs"), map(_cells, records))
    _warn(reader)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="What to write: .jsonl, .csv or .parquet.")],
    log: LogArgument = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="jsonl, csv or parquet, where the name of the file does not say it."),
    ] = None,
    model: ModelOption = None,
    outcome: OutcomeOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write the records to one file for other tools. Parquet needs the extra `parquet`."""
    from penstock.monitor.prediction_log import exporting

    chosen = form or target.suffix.removeprefix(".")
    if chosen not in exporting.FORMATS:
        raise InvalidInput(
            f"format: {chosen or target.name!r} is none of {', '.join(exporting.FORMATS)}", field="format"
        )
    if target.exists() and not force:
        raise InvalidInput(f"{target} exists; add --force to replace it", field="file")
    if not target.parent.is_dir():
        raise InvalidInput(f"{target.parent} is not a directory; create it first", field="file")
    reader = _reader(log, config)
    with working("exporting"), naming(target):
        count = exporting.export(_chosen(reader, model, outcome), target, chosen)
    typer.echo(f"{count} records written to {target}")
    _warn(reader)


@app.command()
def stats(log: LogArgument = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Count the records of each model, version and outcome, and the space they take."""
    from penstock.monitor.prediction_log.records import moment

    reader = _reader(log, config)
    counts: Counter[tuple[str, str, str]] = Counter()
    with_inputs, first, last = 0, float("inf"), float("-inf")
    for record in reader:
        counts[record.model, record.version, record.outcome] += 1
        with_inputs += record.inputs is not None
        first, last = min(first, record.at), max(last, record.at)
    taken = sum(path.stat().st_size for path in reader.segments if path.exists())
    total = sum(counts.values())
    found: dict[str, Any] = {
        "log": str(reader.path),
        "records": total,
        "with_inputs": with_inputs,
        "segments": len(reader.segments),
        "bytes": taken,
        "first": moment(first) if total else None,
        "last": moment(last) if total else None,
        "damaged_lines": reader.damaged,
        "damaged_segments": [path.name for path in reader.cut_off],
        "models": [
            {"model": name, "version": version, "outcome": outcome, "records": count}
            for (name, version, outcome), count in sorted(counts.items())
        ],
    }
    if as_json:
        print_json(found)
        return
    print_table(("model", "version", "outcome", "records"), (tuple(row.values()) for row in found["models"]))
    when = f" from {found['first']} to {found['last']}" if total else ""
    typer.echo(f"{total} records{when}, {with_inputs} with inputs, {len(reader.segments)} segments, {size(taken)}")
    _warn(reader)


@app.command()
def forget(
    log: LogArgument = None,
    key: Annotated[
        str | None, typer.Option("--key", help="The routing key whose records are removed, as it was sent.")
    ] = None,
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="The request whose records are removed.")
    ] = None,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Remove every record of a key or of a request: from the log, also while it is written, and from the feedback.

    What is damaged is removed too, since nobody can say whose it is. Requests that come later are logged again.
    """
    if (key is None) == (request_id is None):
        raise InvalidInput("give --key or --request-id", field="key")
    settings = read_settings(config, registry=registry)
    directory = _directory(log or settings.prediction_log)
    from penstock.monitor.prediction_log.forgetting import forget as forget_in
    from penstock.monitor.prediction_log.keys import digest_of, require_salt

    digest = None if key is None else digest_of(key, require_salt(directory))
    try:
        done = forget_in(
            directory, lambda record: record.key == digest if key is not None else record.request_id == request_id
        )
    except OSError as error:
        why = disk_problem(error, "it") or error.strerror
        raise ConfigError(
            f"{directory}: not all records could be removed: {why}; each segment is written again beside the old one; "
            "make room for one, and repeat the command"
        ) from error
    typer.echo(f"{done.records} records removed, {done.segments} segments rewritten")
    if done.damaged:
        typer.echo(f"{done.damaged} damaged lines removed", err=True)
    rows = _forget_feedback(settings, digest, request_id)
    typer.echo(f"{rows} predictions removed from the feedback")


def _forget_feedback(settings: Any, digest: str | None, request_id: str | None) -> int:
    from penstock.registry.registry import Registry

    with Registry(settings.registry, settings.database_url) as models:
        url = models.database_url
    from penstock.monitor.prediction_log.feedback import forget_predictions

    return forget_predictions(url, key_digest=digest, request_id=request_id)


def _directory(log: Path | None) -> Path:
    if log is None:
        raise InvalidInput("log: name the directory of a prediction log, or set prediction_log", field="log")
    if not log.is_dir():
        raise ConfigError(f"{log}: there is no prediction log here")
    return log


def _reader(log: Path | None, config: Path | None) -> LogReader:
    from penstock.monitor.prediction_log.reading import LogReader

    log = log or read_settings(config).prediction_log
    if log is None:
        raise InvalidInput("log: name the directory of a prediction log, or set prediction_log", field="log")
    return LogReader(log)


def _chosen(reader: LogReader, model: str | None, outcome: str | None) -> Iterator[Record]:
    for record in reader:
        named = model in (None, record.model, f"{record.model}:{record.version}")
        if named and outcome in (None, record.outcome):
            yield record


def _last(records: Iterator[Record], count: int) -> list[Record]:
    from collections import deque

    return sorted(deque(records, maxlen=count), key=lambda record: record.at)


def _cells(record: Record) -> tuple[object, ...]:
    from penstock.monitor.prediction_log.records import moment

    ref = f"{record.model}:{record.version}" if record.model else ""
    kept = "yes" if record.inputs is not None else ""
    return moment(record.at), ref, record.request_id, record.outcome, record.rows, f"{record.total_ms:.2f}", kept


def _warn(reader: LogReader) -> None:
    if reader.warning is not None:
        typer.echo(f"penstock: {reader.warning}", err=True)
