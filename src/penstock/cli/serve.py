"""`penstock serve`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.file_options import (
    BatchAxisOption,
    ExampleOption,
    LabelsOption,
    NoBatchOption,
    PreprocessOption,
    PythonPathOption,
    PythonWorkersOption,
    RefsArgument,
    TaskOption,
    as_settings,
    check_one_file,
    file_options,
    with_classes,
)
from penstock.cli.options import ConfigOption, DeviceOption, RegistryOption, ThreadsOption, TrustOption, read_settings


def serve(
    refs: RefsArgument = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", show_default="8002")
    ] = None,
    uds: Annotated[
        Path | None, typer.Option(help="Path of a Unix socket to listen on, in place of the address.")
    ] = None,
    server: Annotated[str | None, typer.Option(help="HTTP server: h1 or granian.", show_default="h1")] = None,
    workers: Annotated[
        str | None, typer.Option(help="Server processes; auto for one for each usable core.", show_default="1")
    ] = None,
    device: DeviceOption = None,
    trust: TrustOption = None,
    threads: ThreadsOption = None,
    config: ConfigOption = None,
    registry: RegistryOption = None,
    model_path: Annotated[Path | None, typer.Option(help="A model file to serve, without a registry.")] = None,
    task: TaskOption = None,
    labels: LabelsOption = None,
    preprocess: PreprocessOption = None,
    example: ExampleOption = None,
    batch_axis: BatchAxisOption = None,
    no_batch: NoBatchOption = None,
    default_model: Annotated[
        str | None, typer.Option(help="Model that answers requests that name none.", show_default="the first REF")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Maximum rows in one run.", show_default="32")] = None,
    max_wait_ms: Annotated[
        float | None, typer.Option(min=0, help="Maximum time an idle model waits to fill a batch.", show_default="0")
    ] = None,
    python_path: PythonPathOption = None,
    python_workers: PythonWorkersOption = None,
    strict: Annotated[
        bool | None,
        typer.Option("--strict/--no-strict", help="Refuse to start if any model cannot be served.", show_default="no"),
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default="info")] = None,
    log_format: Annotated[str | None, typer.Option(help="json or console.", show_default="json")] = None,
    access_log: Annotated[
        bool | None, typer.Option("--access-log/--no-access-log", help="Log every request.", show_default="no")
    ] = None,
) -> None:
    """Serve models over HTTP until SIGTERM or Ctrl-C; requests in flight are finished first.

    Every other setting can be set in the environment or in penstock.toml: see `penstock config show`.
    """
    about = file_options(locals())
    options = {name: value for name, value in locals().items() if name not in ("about", "refs", "config", *about)}
    settings = (again := partial(read_settings, config, **as_settings(about), **options))()
    refs = with_classes(refs or (), settings.registry)
    check_one_file([*refs, settings.model_path], about)
    from penstock.gateway.process.serving import serve as run_server

    raise typer.Exit(run_server(settings, refs, again))
