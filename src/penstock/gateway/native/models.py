"""Routes about models: the registry's models, versions and cards, and which are loaded."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from penstock.artifacts.artifact import Artifact, Variant
from penstock.artifacts.signatures.state import signature_state
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.errors import ConfigError, InvalidInput, ModelNotFound, quoted, worded
from penstock.formats import is_model_file
from penstock.gateway.access.models import check_model, reaches
from penstock.gateway.docs.examples import request_for
from penstock.gateway.http import PAGE, Call, Reply, json_reply
from penstock.gateway.outages.registry_reads import Models
from penstock.gateway.problems import WireModel
from penstock.tasks.base import Task

_REMARK = "Says that the registry does not answer and that this is what the server remembers of it; null otherwise."
_Said = Annotated[str, AfterValidator(lambda sentence: worded(sentence, "server"))]
"""A sentence that may name options, as the operator sets them."""


class ModelInfo(WireModel):
    """One loaded model."""

    name: str
    model_type: str = Field(
        validation_alias="task", description="The kind of its Task.", examples=["vector-classification"]
    )
    parameters: int | None = Field(
        validation_alias="num_parameters", description="Number of parameters; null if the format does not record it."
    )
    input_shape: list[int] = Field(description="-1 is a free axis; the first axis is the batch.", examples=[[-1, 784]])
    output_shape: list[int] = Field(examples=[[-1, 10]])
    version: str
    variant: str = Field(examples=["onnx-fp32"])
    format: str = Field(examples=["onnx"])
    device: str = Field(description="The device it runs on.", examples=["cpu"])
    dtype: str = Field(examples=["FP32"])
    size_bytes: int
    sha256: str = Field(description="The digest of the variant's main file.")
    loaded_at: str
    tasks: list[str] = Field(description="The default first.", examples=[["vector-classification", "tensor"]])
    batchable: bool = Field(
        description="Requests share runs, since rows do not change each other's answers; if false, each request runs "
        "whole and alone."
    )
    batch_difference: float | None = Field(
        description="Measured change of a row's outputs by other rows in the run, as a share of the outputs' range; "
        "null if not measured.",
        examples=[0.0],
    )
    batch_noise: float | None = Field(
        description="Measured change by the number of rows in the run and their order, which rounding explains.",
        examples=[1e-07],
    )
    batch_reason: _Said = Field(description="What was found.", examples=["rows do not change each other's answers"])
    proven: bool = Field(description="False if no input was found at load that the model runs with.")
    warnings: list[_Said] = Field(description="Warnings from loading.")
    assumed: list[_Said] = Field(description="What neither the file nor the user states, and how to say otherwise.")


class RowsShown(WireModel):
    """What was found about the rows of a batch when a version was loaded."""

    version: str
    batchable: bool
    batch_difference: float | None
    batch_noise: float | None
    batch_reason: str


class ModelSummary(WireModel):
    """One model of the registry."""

    name: str
    versions: list[str] = Field(description="In ascending order.")
    latest: str | None = Field(
        description="The version that the name alone refers to: its champion, else the highest release."
    )
    aliases: dict[str, str] = Field(description="Version by alias.")
    loaded: list[str] = Field(description="The loaded versions.")
    rows: list[RowsShown] = Field(description="Of each loaded version, whether its rows are independent.")


class TensorShown(WireModel):
    """Name, datatype and shape of one tensor."""

    name: str
    dtype: str
    shape: list[int]


class SignatureShown(WireModel):
    """Inputs and outputs of a model."""

    inputs: list[TensorShown]
    outputs: list[TensorShown]


class TaskDetails(WireModel):
    """One task of a loaded model."""

    kind: str = Field(examples=["vector-classification"])
    request: dict[str, Any] = Field(description="The JSON schema of a request.")
    response: dict[str, Any] = Field(description="The JSON schema of the response.")
    example: Any = Field(description="A request that the model answers; null if there is none to show.")


class ModelDetails(ModelSummary):
    """One model, and the requests that its loaded version answers."""

    path: str = Field(description="Where predictions are posted; ?task=KIND selects a task.")
    signature: SignatureShown | None = Field(description="Of the loaded version; null if none is loaded.")
    tasks: list[TaskDetails] = Field(description="Of the loaded version, the default first.")
    assumed: list[_Said] = Field(description="What neither the file nor the user states, and how to say otherwise.")
    remark: str | None = Field(default=None, description=_REMARK)


class ModelList(WireModel):
    """All models."""

    models: list[ModelSummary]
    remark: str | None = Field(default=None, description=_REMARK)


class VariantShown(WireModel):
    """One runnable form of a model."""

    name: str
    format: str
    precision: str
    sha256: str
    size_bytes: int
    num_parameters: int | None
    max_abs_error: float | None
    benchmark: dict[str, Any] | None


class VersionInfo(WireModel):
    """The manifest of one version."""

    name: str
    version: str
    digest: str | None = Field(description="sha256 of the manifest; null for a bare model file.")
    task: str
    signature: SignatureShown
    signing: dict[str, str | None] | None = Field(default=None, description="Of `model.sig`; null for a bare file.")
    created_at: str | None
    lineage: dict[str, Any]
    training_data: dict[str, Any]
    metrics: dict[str, Any]
    variants: list[VariantShown]
    golden_rows: int = Field(description="Number of golden samples that verify it at load.")
    batchable: bool | None = Field(
        description="As measured if it is loaded, else as its manifest says; null if that says nothing."
    )
    batch_difference: float | None = Field(description="As in `/model/info`; null if it is not loaded or not measured.")
    size_bytes: int
    loaded: bool


async def model_info(call: Call) -> Reply:
    """`GET /model/info`: the default model."""
    call.service.check_started()
    model = await call.service.engine.model()
    check_model(call, model.name, model.version)
    return json_reply(ModelInfo.model_validate(model.info, from_attributes=True))


async def list_models(call: Call) -> Reply:
    """`GET /models`."""
    loaded = call.service.engine.loaded()
    found, remark = await call.service.about_models(lambda models: _summaries(models, loaded))
    return json_reply(ModelList(models=[model for model in found if reaches(call, model.name)], remark=remark))


async def show_model(call: Call) -> Reply:
    """`GET /models/{name}`."""
    name = call.params["name"]
    check_model(call, name)
    loaded = call.service.engine.loaded()
    found, remark = await call.service.about_models(lambda models: _details(models, loaded, name))
    return json_reply(found.model_copy(update={"remark": remark}))


async def show_version(call: Call) -> Reply:
    """`GET /models/{name}/versions/{version}`."""
    name, version = call.params["name"], call.params["version"]
    check_model(call, name, version)
    loaded = call.service.engine.loaded()
    bare = _bare(loaded, name, version)
    if bare is not None:
        return json_reply(_bare_version(bare))
    artifact = await _artifact(call, f"{name}:{version}")
    found = next((model for model in loaded if model.key == artifact.ref), None)
    return json_reply(await asyncio.to_thread(_version, artifact, found))


async def card(call: Call) -> Reply:
    """`GET /models/{name}/card` and `/models/{name}/versions/{version}/card`: Markdown, or HTML by `Accept`."""
    name, version = call.params["name"], call.params.get("version")
    check_model(call, name, version)
    if _bare(call.service.engine.loaded(), name, version) is not None:
        raise ModelNotFound(f"{name} is a bare model file, which has no card")
    artifact = await _artifact(call, f"{name}:{version}" if version else name)
    check_model(call, artifact.name, artifact.version)
    text = await asyncio.to_thread(artifact.card_text)
    text += _found_at_load(call.service.engine.loaded(), artifact.ref) if text else ""
    if not text:
        raise ModelNotFound(f"{artifact.ref} has no card")
    if not wants_html(call.header("accept") or ""):
        return Reply(200, [("content-type", "text/markdown; charset=utf-8"), ("vary", "Accept"), *PAGE], text.encode())
    page = await asyncio.to_thread(_card_page, text, artifact.ref)
    return Reply(200, [("content-type", "text/html; charset=utf-8"), ("vary", "Accept"), _CARD_POLICY, *PAGE], page)


_CARD_POLICY = ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:")
"""A card is untrusted text: only inline styles and embedded images are allowed."""

_CARD_STYLE = (
    "body{font:16px/1.6 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1c2733}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccd;padding:.3rem .6rem;text-align:left}"
    "pre,code{background:#f3f5f8;border-radius:4px;padding:.1rem .3rem}pre{padding:.7rem;overflow:auto}"
)


def wants_html(accept: str) -> bool:
    """True if the header prefers HTML to Markdown; `*/*` alone gets Markdown."""
    weights = {"text/html": 0.0, "text/markdown": 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind == "application/xhtml+xml":
            kind = "text/html"
        if kind in weights:
            weights[kind] = max(weights[kind], _quality(parameters))
    return weights["text/html"] > weights["text/markdown"]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def _found_at_load(loaded: list[LoadedModel], ref: str) -> str:
    """A section of the card on a loaded model that is not batchable, with what was measured on this machine."""
    rows = next((model.info.row_proof for model in loaded if model.key == ref), None)
    if rows is None or not rows.influenced:
        return ""
    return f"\n## Batches\n\nNot batchable here: {rows.sentence}. Each request runs whole and alone.\n"


def _card_page(text: str, ref: str) -> bytes:
    from penstock.artifacts.card import card_html

    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{ref}</title><style>{_CARD_STYLE}</style>'
    )
    return f"{head}</head><body>{card_html(text)}</body></html>".encode()


# Models as JSON


async def _artifact(call: Call, ref: str) -> Artifact:
    engine = call.service.engine
    try:
        return await call.service.registry_reads.read(lambda: engine.registry.get(ref))
    except InvalidInput as error:  # not a valid reference, so there is no such model
        raise ModelNotFound(str(error).removeprefix("ref: ")) from None
    except ConfigError:  # without the registry, what is loaded is known
        model = engine.deployment.routed(ref) or next((one for one in engine.loaded() if one.key == ref), None)
        if model is None or model.artifact is None:
            raise
        return model.artifact


def _bare(loaded: list[LoadedModel], name: str, version: str | None) -> LoadedModel | None:
    """The loaded bare model file of that name, if there is one."""
    match = (m for m in loaded if m.artifact is None and m.name == name and version in (None, m.version))
    return next(match, None)


def _summaries(registry: Models, loaded: list[LoadedModel]) -> list[ModelSummary]:
    bare = [_bare_summary(model) for model in loaded if model.artifact is None]
    return [*bare, *(_summary(registry, loaded, name) for name in registry.list())]


def _summary_of(registry: Models, loaded: list[LoadedModel], name: str) -> ModelSummary:
    bare = _bare(loaded, name, None)
    if bare is not None:
        return _bare_summary(bare)
    if is_model_file(name) or name not in registry.list():
        known = ", ".join(registry.list()) or "none"
        raise ModelNotFound(f"there is no model {quoted(name)}; models: {known}")
    return _summary(registry, loaded, name)


def _details(registry: Models, loaded: list[LoadedModel], name: str) -> ModelDetails:
    summary = _summary_of(registry, loaded, name)
    mine = [model for model in loaded if model.name == name]
    model = next((model for model in mine if model.version == summary.latest), mine[0] if mine else None)
    return ModelDetails(
        **summary.model_dump(),
        path=f"/models/{name}/predict",
        signature=None if model is None else SignatureShown.model_validate(model.signature.to_json()),
        tasks=[] if model is None else [_task(model, runner.task) for runner in model.runners.values()],
        assumed=[] if model is None else list(model.info.assumed),
    )


def _task(model: LoadedModel, task: Task) -> TaskDetails:
    schemas = task.Request.model_json_schema(), task.Response.model_json_schema(mode="serialization")
    return TaskDetails(kind=task.kind, request=schemas[0], response=schemas[1], example=request_for(model, task))


def _summary(registry: Models, loaded: list[LoadedModel], name: str) -> ModelSummary:
    return ModelSummary(
        name=name,
        versions=list(registry.versions(name)),
        latest=_meant(registry, name),
        aliases=registry.aliases(name),
        loaded=[model.version for model in loaded if model.name == name],
        rows=[_rows(model) for model in loaded if model.name == name],
    )


def _rows(model: LoadedModel) -> RowsShown:
    return RowsShown.model_validate(model.info, from_attributes=True)


def _meant(registry: Models, name: str) -> str | None:
    """The version that a name alone means; None where its champion is gone, or the model meanwhile."""
    with suppress(ModelNotFound):
        return registry.resolve(name)[1]
    return None


def _bare_summary(model: LoadedModel) -> ModelSummary:
    version = model.version
    return ModelSummary(
        name=model.name, versions=[version], latest=version, aliases={}, loaded=[version], rows=[_rows(model)]
    )


def _version(artifact: Artifact, loaded: LoadedModel | None) -> VersionInfo:
    manifest = artifact.manifest
    return VersionInfo(
        name=manifest.name,
        version=manifest.version,
        digest=artifact.digest,
        task=manifest.task.kind,
        signature=SignatureShown.model_validate(manifest.signature.to_json()),
        signing=signature_state(artifact)._asdict(),
        created_at=manifest.created_at,
        lineage=manifest.lineage,
        training_data=manifest.training_data,
        metrics=manifest.metrics,
        variants=[_variant(variant) for variant in manifest.variants],
        golden_rows=manifest.golden.rows if manifest.golden is not None else 0,
        batchable=manifest.batchable if loaded is None else loaded.info.batchable,
        batch_difference=None if loaded is None else loaded.info.batch_difference,
        size_bytes=artifact.size_bytes,
        loaded=loaded is not None,
    )


def _variant(variant: Variant) -> VariantShown:
    return VariantShown(
        name=variant.name,
        format=variant.format,
        precision=variant.precision,
        sha256=variant.main.sha256,
        size_bytes=variant.size_bytes,
        num_parameters=variant.num_parameters,
        max_abs_error=variant.max_abs_error,
        benchmark=variant.benchmark,
    )


def _bare_version(model: LoadedModel) -> VersionInfo:
    info = model.info
    variant = VariantShown(
        name=info.variant,
        format=info.format,
        precision=info.precision,
        sha256=info.sha256,
        size_bytes=info.size_bytes,
        num_parameters=info.num_parameters,
        max_abs_error=None,
        benchmark=None,
    )
    return VersionInfo(
        name=info.name,
        version=info.version,
        digest=None,
        task=info.task,
        signature=SignatureShown.model_validate(model.signature.to_json()),
        created_at=None,
        lineage={},
        training_data={},
        metrics={},
        variants=[variant],
        golden_rows=0,
        batchable=info.batchable,
        batch_difference=info.batch_difference,
        size_bytes=info.size_bytes,
        loaded=True,
    )
