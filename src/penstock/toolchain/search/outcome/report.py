"""The report of a search as one document: what was tried, how each candidate fared, and where and with what."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.artifacts.artifact import Artifact
from penstock.errors import ConfigError, InvalidInput, disk_problem, first_line
from penstock.toolchain.report.plots import bins
from penstock.toolchain.search.candidate import Candidate, Form, Judgement, Speed

SCHEMA = "1.0"
"""Version of the document: a new minor only adds fields, a new major changes their meaning."""
REPORT = "report.json"
PAGE = "report.html"


def candidate_document(candidate: Candidate, *, pareto: bool) -> dict[str, Any]:
    """One candidate: `recipe` is what `--recipe` takes; figures that are not known are null."""
    return {
        "name": candidate.name,
        "recipe": json.loads(json.dumps(candidate.planned.recipe.to_json())),  # lists, as in the file
        "status": candidate.status,
        "why": candidate.why,
        **_form(candidate.form),
        **_judgement(candidate.judgement),
        **_speed(candidate.speed),
        "build_s": candidate.build_s,
        "pareto": pareto,
    }


def form_document(form: Form, speed: Speed, judgement: Judgement | None) -> dict[str, Any]:
    """A form that was there before: the baseline, or eager PyTorch."""
    return {"name": form.name, "recipe": None, **_form(form), **_judgement(judgement), **_speed(speed)}


def _form(form: Form | None) -> dict[str, Any]:
    if form is None:
        return {"format": None, "precision": None, "size_bytes": None, "notes": []}
    return {
        "format": form.format,
        "precision": form.precision,
        "size_bytes": form.size_bytes,
        "notes": list(form.notes),
    }


def _judgement(found: Judgement | None) -> dict[str, Any]:
    found = found or Judgement()
    names = ("accuracy", "agreement", "kl", "max_abs", "max_rel", "cosine", "samples", "batch_invariant")
    return {**{name: getattr(found, name) for name in names}, "error_histogram": bins(found.errors)}


def _speed(speed: Speed | None) -> dict[str, Any]:
    if speed is None:
        return {"threads": None, "p50_ms": {}, "p99_ms": {}, "throughput_per_second": None} | {
            "peak_memory_bytes": None,
            "load_s": None,
            "ratio": None,
        }
    row_ms = speed.row_ms()
    return {
        "threads": speed.threads,
        "p50_ms": curve_document(speed.p50_ms),
        "p99_ms": curve_document(speed.p99_ms),
        "throughput_per_second": round(1e3 / row_ms, 1) if row_ms else None,
        "peak_memory_bytes": speed.memory_bytes,
        "load_s": speed.load_s,
        "ratio": None if speed.ratio is None else _ratio(speed.ratio),
    }


def _ratio(ratio: tuple[float, float, float]) -> dict[str, float | None]:
    median, low, high = ratio
    return {"median": median, "low": low or None, "high": high if high < 1e9 else None}


def curve_document(curve: Mapping[int, float]) -> dict[str, float]:
    """Milliseconds by batch size, with text keys as in every JSON of the toolchain."""
    return {str(rows): round(value, 5) for rows, value in curve.items()}


def published_document(artifact: Artifact) -> dict[str, Any]:
    """What `--check` compares a published version with: its digest, and the files and errors of every variant."""
    variants = {
        variant.name: {
            "files": {entry.path: entry.sha256 for entry in variant.files},
            "requires": list(variant.requires),
            "errors": None if variant.errors is None else variant.errors.model_dump(mode="json"),
        }
        for variant in artifact.variants
    }
    return {"ref": artifact.ref, "digest": artifact.digest, "variants": variants}


def command_line(ref: str, options: Mapping[str, Any]) -> str:
    """The command that repeats a search; options that were not given are left out."""
    words = ["penstock", "optimize", ref]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def write_report(directory: Path, document: Mapping[str, Any]) -> Path:
    """Write `report.json` and `report.html`; the path of the first. Raises ConfigError if that fails."""
    from penstock.toolchain.report.page import optimize_page

    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory / REPORT, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        _write(directory / PAGE, optimize_page(document))
    except OSError as error:
        raise ConfigError(
            disk_problem(error, directory) or f"the report cannot be written to {directory}: {error.strerror or error}"
        ) from None
    return directory / REPORT


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_report(path: Path) -> dict[str, Any]:
    """The document in a `report.json`. Raises InvalidInput for any other file, and for one of a newer major version."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"check: {path}: there is no such file", field="check") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"check: {path} cannot be read: {first_line(error)}", field="check") from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, str) or not isinstance(document.get("candidates"), list):
        raise InvalidInput(f"check: {path} is no report of penstock optimize", field="check")
    if version.partition(".")[0] != SCHEMA.partition(".")[0]:
        raise InvalidInput(
            f"check: {path} is a report of version {version}; this Penstock reads version {SCHEMA}", field="check"
        )
    return dict(document)
