"""Loads a model: an artifact of the registry, or a bare model file."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.manifest import Manifest
from penstock.artifacts.policies import BatchingPolicy
from penstock.artifacts.refs import FILE_VERSION
from penstock.artifacts.signatures.signers import Signers
from penstock.artifacts.variant import default_variant_name
from penstock.backends.base import Stop, run_in_progress
from penstock.backends.catalog import format_of, holds_weights
from penstock.backends.devices import this_cpu
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.batching.padding import public_signature
from penstock.engine.batching.row_proofs import KnownProofs
from penstock.engine.loading.bring_up import ReadyBackend, bring_up
from penstock.engine.loading.load_overrides import LiveModule, described_file
from penstock.engine.loading.loaded_model import LoadedModel, ModelInfo
from penstock.engine.loading.variant_selection import VariantSelection, select_variant
from penstock.engine.tasks.ranges import RangePolicies
from penstock.errors import InvalidInput, ModelLoadError, ModelNotReady, PenstockError, Untrusted, type_and_message
from penstock.file_description import FileDescription
from penstock.formats import PYTHON, file_stem
from penstock.options import EngineOptions, ModelOptions
from penstock.tasks.base import Task
from penstock.tasks.catalog import load_task, require_rows
from penstock.tasks.guessing import guess_task

log = logging.getLogger(__name__)

RUN_LIMIT_S = 60.0
"""How long one trial run of a model that is loaded may take."""


def load_artifact(artifact: Artifact, options: EngineOptions, selection: VariantSelection | None = None) -> LoadedModel:
    """Bring up the variant that is the fastest on this machine and passes its golden samples.

    Raises IntegrityError at once for an altered file, Untrusted for one without a signature that is required, else the
    ModelLoadError of the first variant that failed; each begins with `name:version`.
    """
    with naming(artifact.ref), reporting(artifact.ref):
        artifact = signed_artifact(artifact, options)
        return _load_artifact(artifact, options, selection or VariantSelection(effort=options.choosing))


def signed_artifact(artifact: Artifact, options: EngineOptions) -> Artifact:
    """The artifact, which has the signature that the options or its registry require. Raises Untrusted if not."""
    if options.require_signed:
        artifact = replace(artifact, signers=Signers.of(options.require_signed, "require_signed"))
    artifact.check_signed()
    return artifact


def _refuse_unsigned(what: str, options: EngineOptions) -> None:
    """What is not an artifact has no signature."""
    if options.require_signed:
        raise Untrusted(
            f"{what}: it cannot have a signature, and require_signed demands one; import it into the registry and sign "
            "it: `penstock models import`, `penstock models sign`"
        )


@contextmanager
def naming(ref: str) -> Iterator[None]:
    """Let every ModelLoadError begin with the model that could not be loaded."""
    try:
        yield
    except ModelLoadError as error:
        if str(error).startswith(ref):
            raise
        raise type(error)(f"{ref}: {error}") from error


@contextmanager
def bounded_runs() -> Iterator[None]:
    """Let a load fail whose trial runs never end, where the runtime can stop a run."""
    stop, loaded = Stop(), threading.Event()
    threading.Thread(target=_limit_runs, args=(stop, loaded), name="penstock-load-limit", daemon=True).start()
    run_in_progress.stop = stop
    try:
        yield
    finally:
        run_in_progress.stop = None
        loaded.set()


def _limit_runs(stop: Stop, loaded: threading.Event) -> None:
    """End every run that takes longer than RUN_LIMIT_S, until the model is loaded."""
    run, since = stop.how, time.monotonic()
    while not loaded.wait(min(1.0, RUN_LIMIT_S)):
        if stop.how is not run:  # another run
            run, since = stop.how, time.monotonic()
        elif run is not None and time.monotonic() - since > RUN_LIMIT_S:
            run()


@contextmanager
def reporting(ref: str) -> Iterator[None]:
    """Log whatever else a model raises, `exit()` included, and raise a ModelLoadError in its place."""
    try:
        yield
    except PenstockError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # Ctrl-C
        log.exception("%s could not be loaded", ref)
        raise ModelLoadError(f"{ref}: it could not be loaded: {type_and_message(error)}") from error


def _load_artifact(artifact: Artifact, options: EngineOptions, selection: VariantSelection) -> LoadedModel:
    manifest = artifact.manifest
    signature = public_signature(manifest.signature, manifest.padding)
    task, *more_tasks = [load_task(entry.kind, entry.config, signature) for entry in manifest.tasks()]
    limits = batch_limits(options, artifact.name, manifest)
    selected = select_variant(artifact, options, limits, selection)
    variant, ready = selected.variant, selected.ready
    _settle((task, *more_tasks), ready)
    info = _info(
        ready,
        task,
        name=artifact.name,
        version=artifact.version,
        variant=variant.name,
        precision=ready.backend.lowered_to or variant.precision,
        num_parameters=variant.num_parameters,
        size_bytes=variant.size_bytes,
        sha256=variant.main.sha256,
        warnings=(
            *selected.failures,
            *_unmet_precision(artifact, variant.precision, options),
            *_schema_warning(artifact),
        ),
        choice=selected.results,
        assumed=tuple(map(str, manifest.lineage.get("assumed", ()))),
    )
    batcher = ready.batcher(variant.learned_curve(*this_cpu()))
    return LoadedModel(
        info, task, ready.backend, batcher, artifact, more_tasks=more_tasks, policies=range_policies(options)
    )


def prove_artifact(artifact: Artifact, trust: str) -> ModelInfo:
    """Load an artifact as a server of this machine does, with the default options, and close it again.

    The first variant that works proves it. Raises ModelLoadError, also where the manifest says that rows are
    independent and the measurement says that they are not.
    """
    model = load_artifact(artifact, EngineOptions(trust=trust, choosing="first"))
    model.close()
    check_claim(model)
    return model.info


def load_file(
    path: Path, options: EngineOptions, description: FileDescription | None = None, proofs: Path | None = None
) -> LoadedModel:
    """Bring up a bare model file under its file name, as version v1.0. It has no golden samples to verify it.

    `proofs` is the directory that keeps the proofs that rows are independent; without it every load measures.
    """
    with naming(str(path)):
        return _load_file(path, options, description or FileDescription(), proofs)


def _load_file(path: Path, options: EngineOptions, about: FileDescription, proofs: Path | None) -> LoadedModel:
    _refuse_unsigned(str(path), options)
    if not path.is_file():
        raise ModelLoadError(f"{path}: {'this is a directory' if path.is_dir() else 'there is no such model file'}")
    if about.architecture is None and holds_weights(path, options.model_type):
        from penstock.backends.torch.known_checkpoints import described

        about = described(path, about)
    signed, has_class = bool({"signature", "example"} & {*about.stated}), about.architecture is not None
    format = format_of(path, options.model_type, signed=signed, has_architecture=has_class)
    limits = batch_limits(options, path.stem)
    model_file = described_file(path, format, about, options.trust)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    by_file = not has_class and about.example is None  # a class and an example may change while the file does not
    known = KnownProofs(proofs, digest if by_file else "")
    ready = bring_up(format, model_file, options, limits, None, str(path), known)
    return _bare(ready, options, about, name=path.stem, size_bytes=path.stat().st_size, sha256=digest, path=path)


def load_module(
    module: LiveModule, options: EngineOptions, description: FileDescription, proofs: Path | None = None
) -> LoadedModel:
    """Bring up a copy of a live `torch.nn.Module` under the name of its class, as version v1.0.

    Its signature is described, or shown by a run on the example. Raises InvalidInput if neither is given.
    """
    name = type(module).__name__
    _refuse_unsigned(name, options)
    if description.signature is None and description.example is None:
        raise InvalidInput(
            f"example_input: {name} does not record its inputs; give an example, such as a tensor of one row",
            field="example_input",
        )
    with naming(name):
        file = described_file(Path(name), "pytorch", description, options.trust, module)
        limits = batch_limits(options, name)
        ready = bring_up("pytorch", file, options, limits, None, name, KnownProofs(proofs, ""))
        size = ready.backend.num_bytes or 0
        return _bare(ready, options, description, name=name, size_bytes=size, sha256="")


def load_python(
    path: Path, options: EngineOptions, description: FileDescription | None = None, proofs: Path | None = None
) -> LoadedModel:
    """Start the workers of a Python class, `python:module:Class`, under the name of the class, as version v1.0.

    What is known of its rows is measured at every load, since its code may change. Raises ModelLoadError.
    """
    about, name = description or FileDescription(), file_stem(str(path))
    with naming(name):
        _refuse_unsigned(name, options)
        stated = {"signature", "architecture", "architecture_args"} & {*about.stated}
        if stated:
            raise InvalidInput(f"{min(stated)}: a Python class says that itself, by `inputs` and `outputs`")
        file = described_file(path, PYTHON, about, options.trust)
        try:
            ready = bring_up(PYTHON, file, options, batch_limits(options, name), None, name, KnownProofs(proofs, ""))
        except ModelNotReady as error:
            raise ModelLoadError(f"{name}: {error.__cause__ or error}") from error
        if about.task is None and "task" in ready.backend.metadata:
            about = replace(about, task=ready.backend.metadata["task"])
        return _bare(ready, options, about, name=name, size_bytes=0, sha256="", path=path)


def _bare(
    ready: ReadyBackend, options: EngineOptions, about: FileDescription, *, path: Path | None = None, **facts: Any
) -> LoadedModel:
    """The model of a file or a module, with the task that is described or that fits. Closes it if that fails."""
    backend = ready.backend
    try:
        guess = guess_task(backend.signature, about, backend.metadata, backend.run)
        task = load_task(guess.kind, guess.config, backend.signature)
        more_tasks = [load_task(kind, {}, backend.signature) for kind in guess.more]
    except BaseException:
        backend.close()
        raise
    precision = backend.lowered_to or "fp32"  # what was asked for is not what it runs in
    info = _info(
        ready,
        task,
        version=FILE_VERSION,
        variant=default_variant_name(backend.format, precision),
        precision=precision,
        num_parameters=None,
        assumed=(guess.assumed,) if guess.assumed else (),
        **facts,
    )
    return LoadedModel(
        info, task, backend, ready.batcher(), path=path, more_tasks=more_tasks, policies=range_policies(options)
    )


def _settle(tasks: Sequence[Task], ready: ReadyBackend) -> None:
    """Give the tasks the signature as found: with the names of axes that the file records, and its batch axes."""
    signature = ready.backend.signature
    try:
        for task in tasks:
            require_rows(task, signature)
            task.signature = signature
    except BaseException:
        ready.backend.close()
        raise


def batch_limits(options: EngineOptions, name: str, manifest: Manifest | None = None) -> BatchLimits:
    """The limits of one model: its table in the options, before its manifest, before the options of all models."""
    limits = BatchLimits(
        options.batch_size,
        max(options.max_queue_size, options.batch_size),
        options.max_queue_bytes,
        options.max_wait_ms,
        join=options.use_dynamic_batching,
    )
    if manifest is not None:
        limits = limits.of(manifest)
    table = options.models.get(name)
    return limits if table is None else limits.under(_policy(table))


def _policy(table: ModelOptions) -> BatchingPolicy:
    return BatchingPolicy(
        max_batch_rows=table.batch_size,
        max_queue_rows=table.max_queue_size,
        max_queue_bytes=table.max_queue_bytes,
        max_wait_ms=table.max_wait_ms,
        timeout_ms=table.request_timeout_ms,
    )


def range_policies(options: EngineOptions) -> RangePolicies:
    """The actions on values outside the ranges that a model expects."""
    return RangePolicies(options.on_input_range, options.on_output_range, options.on_nan_output)


def _unmet_precision(artifact: Artifact, precision: str, options: EngineOptions) -> tuple[str, ...]:
    if options.precision != "int8" or precision == "int8":
        return ()
    return (f"int8 was requested, {artifact.ref} has no int8 variant that runs here; it runs in {precision}",)


def check_claim(model: LoadedModel) -> None:
    """Raise ModelLoadError if the model's manifest says that it is batchable, against the measurement."""
    rows = model.info.row_proof
    claimed = model.artifact is not None and model.artifact.manifest.batchable
    if claimed and rows.influenced:
        raise ModelLoadError(
            f"{model.key}: batchable: its manifest says true, but {rows.sentence}; write false, or leave it out"
        )


def _row_warning(ready: ReadyBackend, name: str, version: str) -> tuple[str, ...]:
    """The warning about a model that is not batchable, which is logged as well."""
    rows = ready.rows
    if not rows.influenced:
        return ()
    claim = "its manifest says that it is batchable, but " if ready.limits.batchable else ""
    warning = f"{claim}it is not batchable: {rows.sentence}; each request runs whole and alone"
    log.log(logging.WARNING if rows.measured else logging.INFO, "%s:%s: %s", name, version, warning)
    return (warning,)


def _schema_warning(artifact: Artifact) -> tuple[str, ...]:
    """The warning about ignored fields of a newer manifest, which is logged as well."""
    warning = artifact.manifest.schema_warning
    if warning is None:
        return ()
    log.warning("%s: %s", artifact.ref, warning)
    return (warning,)


def _info(
    ready: ReadyBackend,
    task: Task,
    *,
    num_parameters: int | None,
    size_bytes: int,
    warnings: tuple[str, ...] = (),
    assumed: tuple[str, ...] = (),
    **facts: Any,
) -> ModelInfo:
    backend, signature, rows = ready.backend, task.signature, ready.rows
    return ModelInfo(
        format=backend.format,
        task=task.kind,
        device=backend.device,
        dtype=signature.inputs[0].dtype,
        num_parameters=num_parameters if num_parameters is not None else backend.num_parameters,
        loaded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        input_shape=signature.inputs[0].shape,
        output_shape=signature.outputs[0].shape,
        batch_ms={rows: round(seconds * 1000, 4) for rows, seconds in ready.timings.items()},
        size_bytes=size_bytes,
        memory_bytes=size_bytes if backend.num_bytes is None else backend.num_bytes,
        warnings=(*backend.warnings, *warnings, *_row_warning(ready, facts["name"], facts["version"])),
        batchable=rows.batchable,
        batch_difference=rows.difference,
        batch_noise=rows.noise,
        batch_reason=rows.why,
        proven=not ready.unproven,
        assumed=(*ready.assumed, *assumed),
        **facts,
    )
