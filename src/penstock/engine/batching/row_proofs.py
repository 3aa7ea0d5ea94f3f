"""Proofs of row independence from earlier loads on this machine: one small file for each model and way to run it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penstock.backends.devices import cpu_flags, usable_cores
from penstock.backends.row_independence import RowProof
from penstock.errors import is_full, not_written
from penstock.formats import FORMATS, runtime_version
from penstock.options import BackendOptions

log = logging.getLogger(__name__)

_SCHEMA = 2


@dataclass(frozen=True, slots=True)
class KnownProofs:
    """The proofs of one model, by the way it runs. `identity` is the digest of its files.

    Without a directory or an identity every load measures; a model whose class is code outside of its files has none.
    `recorded` is what was measured when the model was published, as `record` writes it.
    """

    directory: Path | None = None
    identity: str = ""
    recorded: Mapping[str, Any] = field(default_factory=dict)

    def path(self, format: str, options: BackendOptions, batch_rows: int) -> Path | None:
        """The file for a proof; a new CPU, runtime version or option means a new file."""
        if self.directory is None or not self.identity:
            return None
        relevant = FORMATS[format].options | {"device", "precision", "threads"} if format in FORMATS else set()
        machine = [platform.machine(), sorted(cpu_flags()), usable_cores()]
        read = options.model_dump(mode="json", include=set(relevant) - {"cache_dir", "trust"})
        facts = [_SCHEMA, self.identity, format, runtime_version(format), machine, batch_rows, read]
        return self.directory / f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]}.json"


def record(proof: RowProof) -> dict[str, Any]:
    """A proof as it is kept in files and in the lineage of an artifact."""
    return asdict(proof)


def from_record(data: Any) -> RowProof | None:
    """The inverse of `record`; None for anything else."""
    try:
        proof = RowProof(**data)
        figures = (proof.difference, proof.noise)
        sound = all(figure is None or math.isfinite(figure) for figure in figures) and isinstance(proof.why, str)
    except TypeError:
        return None
    return proof if sound and isinstance(proof.batchable, bool) else None


def read_proof(path: Path | None) -> RowProof | None:
    """The proof of an earlier load, or None; a file that is damaged is ignored."""
    if path is None:
        return None
    try:
        data = json.loads(path.read_bytes())
        return from_record(data["proof"]) if data["schema"] == _SCHEMA else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def write_proof(path: Path | None, proof: RowProof) -> None:
    """Keep a proof for the next load. If it cannot be written, the next load measures again."""
    if path is None:
        return
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"schema": _SCHEMA, "proof": record(proof)}, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        level = logging.WARNING if is_full(error) else logging.DEBUG
        log.log(level, "the proof that rows are independent is not kept: %s", not_written(error, path.parent))
        with suppress(OSError):
            temporary.unlink()
