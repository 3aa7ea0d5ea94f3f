"""A model in a child process of its own: what crashes, hangs or takes too much memory there harms nothing here."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from penstock.artifacts.artifact import Artifact, Variant
from penstock.backends.axes.reading import all_axes
from penstock.backends.base import Backend, ModelFile
from penstock.errors import InferenceError, UnsupportedFormat
from penstock.options import BackendOptions
from penstock.tensors import Arrays, Signature
from penstock.toolchain.bench.isolation.process import ChildProcess, Limits, SandboxFailed

__all__ = ["Limits", "Sandbox", "SandboxFailed", "SandboxedBackend", "Usage", "file_of", "options_of"]

_OPENED = "penstock.toolchain.bench.isolation.opened"


@dataclass(frozen=True, slots=True)
class Usage:
    """What the process of a sandbox has taken.

    `peak_bytes` is the most memory that was resident at once, the interpreter and the runtime included; `model_bytes`
    is what opening the model and its first run added after the runtime was imported. `cpu_s` counts all threads.
    `import_s`, `load_s` and `first_run_s` follow one another at the start. `gpu_peak_bytes` is None without a GPU.
    """

    peak_bytes: int
    cpu_s: float
    model_bytes: int = 0
    import_s: float = 0.0
    load_s: float = 0.0
    first_run_s: float = 0.0
    gpu_peak_bytes: int | None = None


class Sandbox:
    """One child process, with one opened model or none.

    Use it in a `with` block. Every method that works in the process raises SandboxFailed when it crashes, takes too
    long or takes too much memory, and what the same call raises here otherwise: ModelLoadError, InferenceError, …
    """

    def __init__(self, name: str = "sandbox", limits: Limits | None = None) -> None:
        """An empty sandbox, for `call`. `name` begins the messages of SandboxFailed."""
        self.name = name
        self._process = ChildProcess(name, limits or Limits())
        self._facts: dict[str, Any] = {}
        self._signature: Signature | None = None

    @classmethod
    def open(
        cls,
        format: str,
        file: ModelFile,
        options: BackendOptions | None = None,
        *,
        inputs: Arrays | None = None,
        name: str | None = None,
        limits: Limits | None = None,
    ) -> Self:
        """A sandbox with this model, which has run once.

        `inputs` are real rows, for that run and for `time`; without them, inputs are made up. Raises SandboxFailed,
        ModelLoadError for what cannot be opened, InferenceError for what does not run.
        """
        options = options or BackendOptions()
        limits = limits or Limits(threads=options.threads)
        sandbox = cls(name or file.path.name, limits)
        try:
            sandbox._open(format, file, options, inputs)
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    @classmethod
    def of_variant(
        cls,
        artifact: Artifact,
        variant: Variant,
        options: BackendOptions | None = None,
        *,
        inputs: Arrays | None = None,
        limits: Limits | None = None,
    ) -> Self:
        """A sandbox with a variant of a published artifact, its files verified.

        Without `inputs` the golden samples are used. Raises what `open` does, and IntegrityError for an altered file.
        """
        artifact.verify(variant)
        if inputs is None and (golden := artifact.golden()) is not None:
            inputs = golden.inputs
        options, name = options_of(variant, options or BackendOptions()), f"{artifact.ref}/{variant.name}"
        return cls.open(variant.format, file_of(artifact, variant), options, inputs=inputs, name=name, limits=limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def signature(self) -> Signature:
        """The signature of the opened model."""
        if self._signature is None:
            raise InferenceError(f"{self.name}: no model is open in this sandbox")
        return self._signature

    @property
    def facts(self) -> dict[str, Any]:
        """Of the opened model: format, device, num_parameters, num_bytes, lowered_to, warnings, made_up, rows.

        `made_up`: its inputs are neither given nor golden; `rows`: how many different ones there are.
        """
        return dict(self._facts)

    @property
    def pid(self) -> int:
        """The id of the child process."""
        return self._process.pid

    def call(self, target: str, *args: Any, seconds: float | None = None, **keywords: Any) -> Any:
        """The result of `module:function` in the process, with picklable arguments; its module is imported there.

        The result is plain data: None, numbers, text, bytes, paths and arrays, in lists, tuples and dicts; as it is
        read without pickle, the process cannot run code here. `seconds` replaces the limit of one call.
        """
        return self._process.call(target, *args, seconds=seconds, **keywords)

    def run(self, inputs: Arrays, *, seconds: float | None = None) -> Arrays:
        """The outputs of the model for one batch."""
        outputs: Arrays = self._process.call(f"{_OPENED}:run", inputs, seconds=seconds, doing="in a run")
        return outputs

    def inputs(self, rows: int) -> Arrays:
        """A batch of so many rows, as `time` uses it. Raises InvalidInput for a number that the model does not take."""
        batch: Arrays = self._process.call(f"{_OPENED}:inputs_of", rows, doing="while inputs were made")
        return batch

    def time(self, inputs: Arrays | int, repeats: int, *, seconds: float | None = None) -> list[float]:
        """Seconds of each run, measured in the process: of these inputs, or of a batch of so many rows.

        There are `repeats` runs, or fewer when all of them take longer than `seconds`; at least one. Raises
        InvalidInput for a number of rows that the model does not take.
        """
        limit = self._process.limits.seconds + (seconds or 0.0)
        taken: list[float] = self._process.call(
            f"{_OPENED}:time_runs", inputs, repeats, seconds, seconds=limit, doing="while its runs were timed"
        )
        return taken

    def usage(self) -> Usage:
        """Memory and time that the process has taken until now."""
        return Usage(**self._process.call(f"{_OPENED}:usage", doing="while its memory was read"))

    def backend(self) -> SandboxedBackend:
        """The opened model as a backend, whose runs are those of the sandbox; closing it closes the sandbox."""
        return SandboxedBackend(self)

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._process.close()

    def _open(self, format: str, file: ModelFile, options: BackendOptions, inputs: Arrays | None) -> None:
        limit = self._process.limits.load_seconds
        self._facts = self._process.call(
            f"{_OPENED}:open_model", format, file, options, inputs, seconds=limit, doing="while it was opened"
        )
        self._signature = Signature.from_json(self._facts.pop("signature"))


class SandboxedBackend(Backend):
    """A model in a sandbox, as a backend. A crash in a run is a SandboxFailed, which is an InferenceError."""

    def __init__(self, sandbox: Sandbox) -> None:
        facts = sandbox.facts
        self._sandbox = sandbox
        self.signature = sandbox.signature
        self.format, self.device = facts["format"], facts["device"]
        self.num_parameters, self.num_bytes = facts["num_parameters"], facts["num_bytes"]
        self.lowered_to, self.warnings = facts["lowered_to"], tuple(facts["warnings"])

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> Backend:  # noqa: ARG003
        """A sandbox opens its model itself; raises UnsupportedFormat."""
        raise UnsupportedFormat(f"{file.path}: open it with Sandbox.open(…).backend()")

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs of one batch."""
        return self._sandbox.run(inputs)

    def close(self) -> None:
        """End the process."""
        self._sandbox.close()


def file_of(artifact: Artifact, variant: Variant) -> ModelFile:
    """The model file of a variant as a backend takes it."""
    axes = all_axes(artifact.signature) if artifact.manifest.batch_axes is not None else {}
    path = artifact.variant_path(variant)
    return ModelFile(path, artifact.signature, variant.architecture, variant.architecture_args, batch_axes=axes)


def options_of(variant: Variant, options: BackendOptions) -> BackendOptions:
    """The options that a variant is opened with: a precision that it has already is not made once more."""
    return options.override(precision="fp32") if options.precision in ("int8", variant.precision) else options
