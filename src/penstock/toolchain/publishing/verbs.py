"""The Python verbs `penstock.export`, `penstock.publish` and `penstock.verify`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import InvalidInput
from penstock.file_description import Labels, Preprocess, described, parse_tensors
from penstock.registry.publishing import Rows
from penstock.registry.registry import Registry
from penstock.scan.trust import check_trust, strongest
from penstock.tensors import TensorSpec
from penstock.toolchain.export.axes import Dynamic
from penstock.toolchain.export.exported import ExportOptions
from penstock.toolchain.export.factory import load_source
from penstock.toolchain.export.source import ModuleSource, module_source
from penstock.toolchain.publishing.checking import Verification, verify_artifact
from penstock.toolchain.publishing.exporting import (
    ExportReport,
    ExportRequest,
    Step,
    export_and_publish,
    require_published,
    silent,
)
from penstock.toolchain.verification.verdicts import ATOL, RTOL, Tolerance

if TYPE_CHECKING:
    import torch

    from penstock.artifacts.artifact import Artifact

FIRST_VERSION = "v1.0"


def export(
    model: torch.nn.Module | str,
    example_input: Any = None,
    *,
    name: str,
    version: str = FIRST_VERSION,
    weights: Path | str | None = None,
    inputs: Sequence[TensorSpec | str] = (),
    dynamic: Dynamic | None = None,
    input_names: Sequence[str] | None = None,
    formats: Sequence[str] | None = None,
    opset: int | None = None,
    translations: str | Mapping[Any, Any] | None = None,
    external_data: bool = False,
    portable: bool = True,
    task: str | None = None,
    labels: Labels | None = None,
    preprocess: Preprocess | None = None,
    atol: float = ATOL,
    rtol: float = RTOL,
    card: str | None = None,
    reference: Rows | None = None,
    log_inputs: bool | None = None,
    registry: Registry | Path | str | None = None,
    trust: str = "data",
    on_step: Step = silent,
) -> ExportReport:
    """Export a PyTorch model to several formats, hold each to eager PyTorch, and publish the good ones as one version.

    `model` is a `torch.nn.Module`, which is not changed, or the `module:factory` of one. `example_input` is a tensor or
    array, a tuple of them in the order of `forward`, a mapping by name, or a file; rows of it become the golden
    samples. Without one, values are made up for `inputs`, such as `["x:FP32:-1,3,32,32"]`. `dynamic` gives the dynamic
    axes by input, `{"x": [0, 2]}`; without it axis 0 of every input. A value may differ from that of eager PyTorch by
    `atol` × the largest value of its output + `rtol` × the value. `weights` fill what a factory makes; `trust="code"`
    allows a pickle of them to run code. `opset`, `translations`, `external_data` and `portable` are those of
    `ExportOptions`. `card` is the text of the model card; `reference` and `log_inputs` are those of `Registry.publish`.
    `on_step` hears what is done. The report says of every form why it was not published. Threads wait for each other
    while PyTorch exports. Raises a PenstockError for a model that cannot be exported at all.
    """
    request = ExportRequest(
        name=name,
        version=version,
        forms=_forms(formats),
        options=ExportOptions(opset, external_data, translations, portable=portable),
        tolerance=Tolerance(atol, rtol),
        about=described(_given(task=task, labels=labels, preprocess=preprocess)),
        origin=model if isinstance(model, str) else type(model).__name__,
        made_up=example_input is None and bool(inputs),
        card=card,
        reference=reference,
        log_inputs=log_inputs,
    )
    with _opened(registry) as models:
        request.check(models)
        on_step("loading the model")
        source = _source(
            model, example_input, weights, _specs(inputs), dynamic, name=name, trust=trust, input_names=input_names
        )
        return export_and_publish(models, source, request, on_step)


def _source(
    model: torch.nn.Module | str,
    example_input: Any,
    weights: Path | str | None,
    inputs: tuple[TensorSpec, ...],
    dynamic: Dynamic | None,
    *,
    input_names: Sequence[str] | None,
    name: str,
    trust: str,
) -> ModuleSource:
    """What is exported: a module, or what a factory makes."""
    if isinstance(model, str):
        file = None if weights is None else Path(weights)
        return load_source(model, file, inputs, example_input, dynamic, name=name, trust=trust)
    if weights is not None:
        raise InvalidInput("weights: they fill what a module:factory makes; load them into the module", field="weights")
    return module_source(model, example_input, name=name, inputs=inputs, dynamic=dynamic, input_names=input_names)


def publish(
    module: torch.nn.Module,
    example_input: Any = None,
    *,
    name: str,
    version: str = FIRST_VERSION,
    **options: Any,
) -> Artifact:
    """Export a module, verify it and publish it in one call; the published version.

    `options` are the other arguments of `penstock.export`. Raises ExportFailed with the reason of every form when none
    is good; nothing is published then.
    """
    return require_published(export(module, example_input, name=name, version=version, **options))


def verify(ref: str, *, registry: Registry | Path | str | None = None, trust: str = "data") -> Verification:
    """Check every variant of a published version on this machine, each in a process of its own.

    Raises ModelNotFound for an unknown reference, IntegrityError for a manifest or golden samples that were altered.
    """
    check_trust(trust)
    with _opened(registry) as models:
        artifact = models.get(ref)
        artifact.check_signed()
        return verify_artifact(artifact, strongest(trust, models.trusted(artifact.digest)))


@contextmanager
def _opened(registry: Registry | Path | str | None) -> Iterator[Registry]:
    """The registry; one that is opened here is closed again."""
    if isinstance(registry, Registry):
        yield registry
        return
    with Registry(registry) as opened:
        yield opened


def _forms(formats: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of forms, also from one text with commas."""
    if formats is None:
        return None
    parts = formats.split(",") if isinstance(formats, str) else formats
    return tuple(filter(None, (part.strip() for part in parts)))


def _specs(inputs: Sequence[TensorSpec | str]) -> tuple[TensorSpec, ...]:
    texts = (inputs,) if isinstance(inputs, str) else inputs
    try:
        parsed = parse_tensors(one for one in texts if isinstance(one, str))
    except ValueError as error:
        raise InvalidInput(f"inputs: {error}", field="inputs") from None
    return (*(one for one in texts if isinstance(one, TensorSpec)), *parsed)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
