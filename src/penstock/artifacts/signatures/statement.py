"""What a signature states: the in-toto statement of the OpenSSF model-signing format, with the digest of every file.

The statement covers the manifest and every file that the manifest lists, under its path. The subject is the model, its
digest the sha256 of all their digests in order.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from penstock.artifacts.variant import SIGNATURE
from penstock.errors import IntegrityError, printable

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
SERIALIZATION = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}

_SHA256 = re.compile(r"[0-9a-f]{64}")


def statement_of(name: str, digests: Mapping[str, str]) -> bytes:
    """The statement about a model: `digests` are sha256 by path, the manifest's included."""
    resources = [
        {"name": path, "algorithm": "sha256", "digest": digests[path]}
        for path in sorted(digests, key=lambda path: path.split("/"))
    ]
    document = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": _root(digest["digest"] for digest in resources)}}],
        "predicateType": PREDICATE,
        "predicate": {"serialization": SERIALIZATION, "resources": resources},
    }
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def _root(digests: Any) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def check_statement(payload: bytes, digests: Mapping[str, str]) -> None:
    """Raise IntegrityError, in a sentence about the signature, unless the statement covers exactly these files."""
    try:
        document = json.loads(payload)
        kind, predicate_type = document["_type"], document["predicateType"]
        subjects, predicate = document["subject"], document["predicate"]
        serialization, resources = predicate["serialization"], predicate["resources"]
        signed = _signed(resources)
        root, left_out = subjects[0]["digest"]["sha256"], {*map(str, serialization.get("ignore_paths") or [])}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise IntegrityError("its signature holds no statement of the model-signing format") from None
    if (kind, predicate_type) != (STATEMENT, PREDICATE):
        raise IntegrityError(
            "its signature states something else than the files of a model; sign it with model-signing 1.0 or newer"
        )
    _check_serialization(serialization, left_out)
    if len(subjects) != 1 or root != _root(resource["digest"] for resource in resources):
        raise IntegrityError("its signature contradicts itself: the digest of its subject is not that of its files")
    _check_files(signed, digests)


def _signed(resources: Any) -> dict[str, str]:
    """The signed sha256 by path. Raises ValueError, LookupError or TypeError for what is none, or listed twice."""
    signed: dict[str, str] = {}
    for resource in resources:
        name, digest = resource["name"], resource["digest"]
        if not isinstance(name, str) or name in signed:
            raise ValueError("name")
        if resource["algorithm"] != "sha256" or not _SHA256.fullmatch(digest):
            raise ValueError("digest")
        signed[name] = digest
    return signed


def _check_serialization(found: Mapping[str, Any], left_out: set[str]) -> None:
    """Nothing but the signature itself may be left out, and links are no files."""
    if not left_out <= {SIGNATURE}:
        raise IntegrityError(
            f"its signature leaves out {printable(', '.join(sorted(left_out)), 200)}; sign every file, with the "
            "model-signing tool by `--no-ignore-git-paths`"
        )
    if any(found.get(name) != value for name, value in SERIALIZATION.items()):
        raise IntegrityError(
            "its signature does not hold one sha256 for each file; sign files, without links, by sha256"
        )


def _check_files(signed: Mapping[str, str], digests: Mapping[str, str]) -> None:
    for path in sorted(signed.keys() | digests.keys()):
        if path not in signed:
            raise IntegrityError(f"its signature does not cover {path}")
        if path not in digests:
            raise IntegrityError(f"its signature covers {printable(path, 200)}, which is not part of it")
        if signed[path] != digests[path]:
            raise IntegrityError(f"its signature is of other content: {path} has another sha256")
