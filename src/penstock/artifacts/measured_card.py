"""The model card of a version: what its author declares, and what its manifest records as measured."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from penstock.artifacts.card import front_matter, section, table
from penstock.artifacts.manifest import Manifest
from penstock.artifacts.variant import Variant, figures_by_batch

Relation = Literal["adapter", "merge", "quantized", "finetune"]
"""How a model was made from its base model, in the words of Hugging Face."""

NOT_STATED = "Not stated."
GOLDEN_SAMPLES = "golden samples"
BASE = ("base_model", "parent", "source_ref")
"""Keys of the lineage that name the version from which this one was made; the first that is there counts."""

_PIPELINE_TAGS = {
    "image-classification": "image-classification",
    "text-classification": "text-classification",
    "vector-classification": "tabular-classification",
    "tabular": "tabular-classification",
}
_LIBRARIES = {"onnx": "onnx", "openvino": "openvino"}
_SHOWN_ELSEWHERE = ("environment", "machine", "rows")
"""Keys of the lineage that have a section of their own; `rows` is the proof that rows are independent."""
_FULL = ("fp32", "fp64", "mixed")
_FIGURES = ("p50_ms", "p95_ms", "p99_ms", "throughput_per_second")


@dataclass(frozen=True, kw_only=True)
class DeclaredCard:
    """What only the author of a model can say of it; prose is Markdown, and all of it is marked as declared.

    `license` is an SPDX identifier, or `other`. `dataset_name` is what the manifest's metrics were measured on;
    `metrics_measured` says that Penstock measured them. `base_model` is the model that this one was made from (by
    default the lineage's), `relation` how. `sections` are more sections by their titles.
    """

    summary: str = ""
    intended_use: str = NOT_STATED
    limits: str = NOT_STATED
    training_data: str = NOT_STATED
    license: str = "other"
    datasets: Sequence[str] = ()
    tags: Sequence[str] = ()
    task_type: str | None = None
    dataset_name: str = ""
    metrics_measured: bool = False
    base_model: str | None = None
    relation: Relation | None = None
    sections: Mapping[str, str] = field(default_factory=dict)


def card_of(manifest: Manifest, declared: DeclaredCard | None = None) -> str:
    """The text of `card.md`: front matter as Hugging Face reads it, then sections, each declared, measured or recorded.

    Figures come from the manifest only, so that the card never says anything else. The front matter's `penstock` lists
    which of its fields are declared and which measured.
    """
    about = declared or DeclaredCard()
    parts = [
        f"# {manifest.name} {manifest.version}\n\n{about.summary.strip()}".rstrip(),
        section("Intended use (declared)", about.intended_use),
        section("Inputs and outputs (recorded)", _tensors(manifest)),
        section("Training data (declared)", _training_data(manifest, about)),
        section(f"Metrics ({_by(about)})", _metrics(manifest, about)),
        section("Variants (measured)", _variants(manifest.variants)),
        section("Latency (measured)", _latency(manifest.variants)),
        section("Environment (measured)", _environment(manifest)),
        section("Batches (measured)", _batches(manifest)),
        section("Golden samples (recorded)", _golden(manifest)),
        section("Lineage (recorded)", _lineage(manifest, about)),
        *(section(f"{title} (declared)", text) for title, text in about.sections.items()),
        section("Limits (declared)", about.limits),
    ]
    return f"{front_matter(_front(manifest, about))}\n" + "\n\n".join(part for part in parts if part) + "\n"


def updated_card(text: str, manifest: Manifest, before: str) -> str:
    """The card of the version `before`, for one that was made from it: what is declared stays as it is.

    Sections that are recorded or measured are written anew, and the front matter names the base model.
    """
    front = _FRONT.match(text)
    body = text[front.end() :] if front else text
    fresh = dict(_titled(card_of(manifest)))
    title, *parts = re.split(r"^(?=## )", body, flags=re.MULTILINE)
    kept = [_anew(part, fresh) for part in parts]
    heading = title.replace(f"# {manifest.name} {before}", f"# {manifest.name} {manifest.version}", 1)
    head = _with_base(front[0], manifest) if front else ""
    return head + heading + "".join(part for part in kept if part)


_FRONT = re.compile(r"\A---\n.*?^---$\n?", re.DOTALL | re.MULTILINE)
_BY_US = ("(measured)", "(recorded)")


def _titled(text: str) -> Iterator[tuple[str, str]]:
    """The sections of a card by their headings."""
    for part in re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]:
        yield part.partition("\n")[0], part


def _anew(part: str, fresh: Mapping[str, str]) -> str:
    heading = part.partition("\n")[0]
    if not heading.endswith(_BY_US) or heading.startswith("## Metrics"):
        return part
    return f"{fresh[heading].rstrip()}\n\n" if heading in fresh else ""


def _with_base(front: str, manifest: Manifest) -> str:
    """The front matter with the base model that the lineage records, in place of an earlier one."""
    fields = {"base_model": base_model(manifest, DeclaredCard())}
    fields["base_model_relation"] = _relation(manifest, DeclaredCard()) if fields["base_model"] else None
    lines = [line for line in front.splitlines() if line.partition(":")[0] not in fields]
    added = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items() if value]
    return "\n".join([*lines[:-1], *added, lines[-1], ""])


def _by(about: DeclaredCard) -> str:
    return "measured" if about.metrics_measured else "declared"


# Front matter


def _front(manifest: Manifest, about: DeclaredCard) -> dict[str, Any]:
    task = about.task_type or _PIPELINE_TAGS.get(manifest.task.kind, "other")
    base = base_model(manifest, about)
    formats = [variant.format for variant in manifest.variants]
    precisions = [variant.precision for variant in manifest.variants if variant.precision not in _FULL]
    fields: dict[str, Any] = {
        "license": about.license,
        "library_name": next((_LIBRARIES[name] for name in formats if name in _LIBRARIES), "pytorch"),
        "pipeline_tag": task,
        "tags": list(dict.fromkeys([*about.tags, "penstock", *formats, *precisions])),
        "datasets": list(about.datasets),
        "metrics": list(_numbers(manifest.metrics)),
        "base_model": base,
        "base_model_relation": _relation(manifest, about) if base else None,
        "model-index": _model_index(manifest, about, task),
    }
    measured = [name for name, by_us in (("metrics", about.metrics_measured), ("model-index", True)) if by_us]
    stated = [name for name, value in fields.items() if value]
    marks = {
        "declared": [name for name in stated if name not in measured],
        "measured": [name for name in stated if name in measured],
    }
    return {**fields, "penstock": marks}


def base_model(manifest: Manifest, about: DeclaredCard) -> str | None:
    """The reference of what this version was made from; None if nothing is recorded."""
    recorded = (manifest.lineage.get(key) for key in BASE)
    return about.base_model or next((value for value in recorded if isinstance(value, str) and value), None)


def _relation(manifest: Manifest, about: DeclaredCard) -> str | None:
    reduced = any(variant.precision not in _FULL for variant in manifest.variants)
    recorded = manifest.lineage.get("base_model_relation")
    return about.relation or (recorded if isinstance(recorded, str) else None) or ("quantized" if reduced else None)


def _model_index(manifest: Manifest, about: DeclaredCard, task: str) -> list[dict[str, Any]]:
    """The metrics, and the agreement of each variant with the reference on the golden samples."""
    dataset = about.dataset_name or (about.datasets[0] if about.datasets else "not stated")
    kind = about.datasets[0] if about.datasets else dataset
    stated = [{"type": name, "value": value} for name, value in _numbers(manifest.metrics).items()]
    results = [_result(task, dataset, kind, stated), _result(task, GOLDEN_SAMPLES, "golden", [*_agreement(manifest)])]
    found = [result for result in results if result["metrics"]]
    return [{"name": manifest.name, "results": found}] if found else []


def _result(task: str, dataset: str, kind: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    return {"task": {"type": task}, "dataset": {"name": dataset, "type": kind}, "metrics": metrics}


def _agreement(manifest: Manifest) -> Iterator[dict[str, Any]]:
    for variant in manifest.variants:
        errors = variant.errors
        figures = {
            "max_abs_error": variant.max_abs_error if errors is None else errors.max_abs,
            "top1_agreement": None if errors is None else errors.top1,
        }
        for kind, value in figures.items():
            if value is not None and math.isfinite(value):
                yield {"type": kind, "value": value, "name": f"{kind} of {variant.name}"}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


# Sections


def _tensors(manifest: Manifest) -> str:
    signature = manifest.signature
    rows = [
        (side, spec.name, spec.dtype, f"[{', '.join(map(str, spec.shape))}]")
        for side, specs in (("input", signature.inputs), ("output", signature.outputs))
        for spec in specs
    ]
    return f"Task: {manifest.task.kind}. -1 is a free length.\n\n" + table(("", "name", "type", "shape"), rows)


def _training_data(manifest: Manifest, about: DeclaredCard) -> str:
    recorded = _pairs(manifest.training_data)
    if recorded and about.training_data == NOT_STATED:
        return recorded
    return "\n\n".join(filter(None, (about.training_data.strip(), recorded)))


def _metrics(manifest: Manifest, about: DeclaredCard) -> str:
    on = f"Measured on {about.dataset_name}.\n\n" if about.dataset_name else ""
    return on + table(("metric", "value"), manifest.metrics.items()) if manifest.metrics else ""


def _variants(variants: Sequence[Variant]) -> str:
    columns = (
        "variant", "format", "precision", "bytes", "parameters", "max abs error", "max rel error", "cosine",
        "top-1 agreement", "rows independent", "written by",
    )  # fmt: skip
    rows = [(*_facts(variant), *_errors(variant), variant.exporter) for variant in variants]
    kept = [n for n in range(len(columns)) if any(row[n] is not None for row in rows)]
    shown = table([columns[n] for n in kept], [[row[n] for n in kept] for row in rows])
    return f"Errors are differences from the reference, eager PyTorch in fp32 where it was exported here.\n\n{shown}"


def _facts(variant: Variant) -> tuple[object, ...]:
    return variant.name, variant.format, variant.precision, variant.size_bytes, variant.num_parameters


def _errors(variant: Variant) -> tuple[object, ...]:
    errors, invariant = variant.errors, variant.batch_invariant
    independent = None if invariant is None else "yes" if invariant else "no"
    if errors is None:
        return variant.max_abs_error, None, None, None, independent
    return errors.max_abs, errors.max_rel, errors.cosine, errors.top1, independent


def _latency(variants: Sequence[Variant]) -> str:
    rows = [
        (variant.name, batch, *(figures.get(name) for name in _FIGURES))
        for variant in variants
        for batch, figures in figures_by_batch(variant.benchmark or {}).items()
    ]
    kept = [n for n in range(2 + len(_FIGURES)) if any(row[n] is not None for row in rows)]
    columns = ("variant", "batch", "p50 ms", "p95 ms", "p99 ms", "rows per second")
    return table([columns[n] for n in kept], [[row[n] for n in kept] for row in rows]) if len(kept) > 2 else ""


def _environment(manifest: Manifest) -> str:
    places = [variant.benchmark or {} for variant in manifest.variants] + [manifest.lineage]
    found = (place[key] for place in places for key in ("environment", "machine") if key in place)
    environment = next((value for value in found if isinstance(value, Mapping)), {})
    return _pairs(environment)


def _batches(manifest: Manifest) -> str:
    if manifest.batchable is None:
        return ""
    if manifest.batchable:
        return "Requests may share a run: a row was shown to have the same answer alone and among others."
    return "Not batchable: rows influence one another, or are not known not to. Each request runs whole and alone."


def _golden(manifest: Manifest) -> str:
    golden = manifest.golden
    if golden is None:
        return "None: a load cannot compare the outputs with earlier ones."
    return f"{golden.rows} rows. A load is refused beyond {golden.atol:g} + {golden.rtol:g} × value."


def _lineage(manifest: Manifest, about: DeclaredCard) -> str:
    base = base_model(manifest, about)
    made = {"made from": base} if base else {}
    rest = {key: value for key, value in manifest.lineage.items() if key not in (*BASE, *_SHOWN_ELSEWHERE)}
    return _pairs({"created": manifest.created_at, **made, **rest})


def _pairs(values: Mapping[str, Any]) -> str:
    rows = [(key, value if isinstance(value, str | int | float) else _json(value)) for key, value in values.items()]
    return table(("", ""), rows) if rows else ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
