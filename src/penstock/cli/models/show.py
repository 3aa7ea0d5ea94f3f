"""`penstock models show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.models.summary import summarize
from penstock.cli.options import ConfigOption, JsonOption, RefArgument, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, print_table, size, working

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.artifacts.artifact import Artifact
    from penstock.engine.loading.selection_cache import SelectionResult
    from penstock.registry.registry import Registry
    from penstock.settings import Settings

_Try = Annotated[bool, typer.Option("--try", help="Measure every variant now and remember the fastest.")]


def show(
    ref: RefArgument,
    measure: _Try = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Show the manifest of a version, and for each variant whether this machine selects it and why."""
    settings = read_settings(config, registry=registry)
    with open_registry(settings) as models:
        artifact = models.get(ref)
        summary = summarize(models, artifact)
        results = _selection_results(models, settings, artifact, measure=measure)
    if as_json:
        print_json(_document(artifact, summary, results))
    else:
        _print(artifact, summary["aliases"], results)


def _selection_results(
    models: Registry, settings: Settings, artifact: Artifact, *, measure: bool
) -> tuple[SelectionResult, ...]:
    """For each variant whether a server with these settings selects it on this machine."""
    from penstock.engine.loading.manager import ModelManager

    manager = ModelManager(models, settings)
    if not measure:
        return manager.selection_results(artifact.ref)
    with working(f"measuring {artifact.ref}"):
        return manager.selection_results(artifact.ref, measure=True)


def _document(artifact: Artifact, summary: dict[str, Any], results: tuple[SelectionResult, ...]) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        **summary,
        "path": artifact.path,
        "manifest": manifest.to_json(),
        "unknown_fields": manifest.unknown_fields,
        "warnings": [manifest.schema_warning] if manifest.schema_warning else [],
        "choice": [result._asdict() for result in results],
    }


def _print(artifact: Artifact, aliases: list[str], results: tuple[SelectionResult, ...]) -> None:
    print_table(("fact", "value"), _facts(artifact, aliases))
    print_table(("tensor", "name", "dtype", "shape"), _tensors(artifact))
    print_table(("variant", "format", "parameters", "file", "size", "max error", "sha256"), _variants(artifact))
    print_table(("variant", "selected", "reason"), ((v.variant, "yes" if v.taken else "no", v.reason) for v in results))
    if artifact.manifest.schema_warning:
        typer.echo(f"warning: {artifact.manifest.schema_warning}")


def _facts(artifact: Artifact, aliases: list[str]) -> Iterator[tuple[str, object]]:
    manifest = artifact.manifest
    yield "model", artifact.ref
    yield "aliases", ", ".join(aliases)
    yield "task", manifest.task.kind
    yield "created", manifest.created_at
    yield "size", size(artifact.size_bytes)
    yield "digest", artifact.digest
    yield "path", artifact.path
    yield "golden samples", _golden(artifact)
    for title, table in (("lineage", manifest.lineage), ("data", manifest.training_data), ("metric", manifest.metrics)):
        for key, value in table.items():
            yield f"{title}: {key}", value


def _golden(artifact: Artifact) -> str:
    golden = artifact.manifest.golden
    return f"{golden.rows} rows, within {golden.atol:g} + {golden.rtol:g} × value" if golden else "none"


def _tensors(artifact: Artifact) -> Iterator[tuple[object, ...]]:
    for side, specs in (("input", artifact.signature.inputs), ("output", artifact.signature.outputs)):
        for spec in specs:
            yield side, spec.name, spec.dtype, list(spec.shape)


def _variants(artifact: Artifact) -> Iterator[tuple[object, ...]]:
    for variant in artifact.variants:
        for entry in variant.files:
            facts = (variant.name, f"{variant.format} {variant.precision}", variant.num_parameters)
            yield *facts, entry.path, size(entry.size), variant.max_abs_error, entry.sha256
