"""`penstock models show`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from penstock.cli.models.summary import summarize
from penstock.cli.options import ConfigOption, JsonOption, RefArgument, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, print_table, size, working
from penstock.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.artifacts.artifact import Artifact
    from penstock.engine.loading.loaded_model import ModelInfo
    from penstock.engine.loading.selection_cache import SelectionResult
    from penstock.registry.registry import Registry
    from penstock.settings import Settings

_Try = Annotated[bool, typer.Option("--try", help="Measure every variant now and remember the fastest.")]


class Check(NamedTuple):
    """Whether a server with these settings could load a version on this machine: as what, or why not."""

    info: ModelInfo | None
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        """`servable`, and either the facts about the loaded model or the problem."""
        return {
            "servable": self.problem is None,
            "problem": self.problem,
            "served_as": None if self.info is None else asdict(self.info),
        }


def show(
    ref: RefArgument,
    measure: _Try = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Show the manifest of a version, and what loading it on this machine gives.

    It is loaded as by a server: its files are hashed and its golden samples run. If that fails, the exit code is 1.
    """
    settings = read_settings(config, registry=registry)
    with open_registry(settings) as models:
        artifact = models.get(ref)
        summary = summarize(models, artifact)
        with working(f"loading {artifact.ref}"):
            results, check = _loaded(models, settings, artifact, measure=measure)
    if as_json:
        print_json({**_document(artifact, summary, results), **check.to_json()})
    else:
        _print(artifact, summary["aliases"], results, check)
    raise typer.Exit(0 if check.problem is None else 1)


def _loaded(
    models: Registry, settings: Settings, artifact: Artifact, *, measure: bool
) -> tuple[tuple[SelectionResult, ...], Check]:
    """For each variant whether a server with these settings selects it on this machine; and what a load gives."""
    from penstock.engine.loading.manager import ModelManager

    manager = ModelManager(models, settings)
    results: tuple[SelectionResult, ...] = ()
    try:
        results = manager.selection_results(artifact.ref, measure=measure)
        info = manager.check(artifact.ref)
    except ModelLoadError as error:
        return tuple(result._replace(taken=False, reason=_why(result, error)) for result in results), Check(
            None, str(error)
        )
    agree = any(result.taken and result.variant == info.variant for result in results)
    return results if agree else info.choice, Check(info, None)


def _why(result: SelectionResult, error: ModelLoadError) -> str:
    return str(error) if result.taken else result.reason


def _document(artifact: Artifact, summary: dict[str, Any], results: tuple[SelectionResult, ...]) -> dict[str, Any]:
    from penstock.artifacts.signatures.state import signature_state

    manifest = artifact.manifest
    return {
        **summary,
        "path": artifact.path,
        "manifest": manifest.to_json(),
        "unknown_fields": manifest.unknown_fields,
        "signing": signature_state(artifact)._asdict(),
        "warnings": [manifest.schema_warning] if manifest.schema_warning else [],
        "choice": [result._asdict() for result in results],
    }


def _print(artifact: Artifact, aliases: list[str], results: tuple[SelectionResult, ...], check: Check) -> None:
    print_table(("fact", "value"), (*_facts(artifact, aliases), *_served(check)))
    print_table(("tensor", "name", "dtype", "shape", "batch axis"), _tensors(artifact))
    print_table(("variant", "format", "parameters", "file", "size", "max error", "sha256"), _variants(artifact))
    print_table(("variant", "selected", "reason"), ((v.variant, "yes" if v.taken else "no", v.reason) for v in results))
    if artifact.manifest.schema_warning:
        typer.echo(f"warning: {artifact.manifest.schema_warning}")
    if check.problem is not None:
        typer.echo(f"{artifact.ref} cannot be served here: {check.problem.removeprefix(f'{artifact.ref}: ')}")


def _served(check: Check) -> Iterator[tuple[str, object]]:
    """What a load found, where it is not what the manifest says."""
    info = check.info
    if info is None:
        yield "served here", "no"
        return
    yield "served here", f"as {', '.join(info.tasks)}; {info.variant} in {info.precision} on {info.device}"
    rows = info.row_proof
    noise = "" if rows.noise is None else f"; noise of the number of rows {rows.noise:.2g}"
    yield "batchable", f"{'yes' if rows.batchable else 'no'}: {rows.sentence}{noise}"
    for sentence in info.assumed:
        yield "assumed", sentence
    for warning in info.warnings:
        yield "warning", warning


def _facts(artifact: Artifact, aliases: list[str]) -> Iterator[tuple[str, object]]:
    from penstock.artifacts.signatures.state import signature_state

    manifest = artifact.manifest
    yield "model", artifact.ref
    yield "aliases", ", ".join(aliases)
    yield "task", manifest.task.kind
    yield "created", manifest.created_at
    yield "size", size(artifact.size_bytes)
    yield "digest", artifact.digest
    yield "signature", signature_state(artifact).sentence
    yield "path", artifact.path
    yield "golden samples", _golden(artifact)
    reference = manifest.reference
    yield "drift reference", "none" if reference is None else f"{reference.rows} rows"
    if manifest.log_inputs is False:
        yield "inputs", "never logged: the manifest forbids it"
    for title, table in (("lineage", manifest.lineage), ("data", manifest.training_data), ("metric", manifest.metrics)):
        for key, value in table.items():
            yield f"{title}: {key}", _plain(value)


def _plain(value: Any) -> object:
    """A value of a manifest as it is written there, but a list as its items, one a line."""
    if isinstance(value, list | tuple):
        return "\n".join(str(_plain(item)) for item in value)
    return json.dumps(dict(value), ensure_ascii=False) if isinstance(value, Mapping) else value


def _golden(artifact: Artifact) -> str:
    golden = artifact.manifest.golden
    return f"{golden.rows} rows, within {golden.atol:g} + {golden.rtol:g} × value" if golden else "none"


def _tensors(artifact: Artifact) -> Iterator[tuple[object, ...]]:
    for side, specs in (("input", artifact.signature.inputs), ("output", artifact.signature.outputs)):
        for spec in specs:
            axis = artifact.signature.batch_axes.get(spec.name, 0)
            yield side, spec.name, spec.dtype, list(spec.shape), "none" if axis is None else axis


def _variants(artifact: Artifact) -> Iterator[tuple[object, ...]]:
    for variant in artifact.variants:
        for entry in variant.files:
            facts = (variant.name, f"{variant.format} {variant.precision}", variant.num_parameters)
            yield *facts, entry.path, size(entry.size), variant.max_abs_error, entry.sha256
