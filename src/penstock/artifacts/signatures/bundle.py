"""The file `model.sig`: a Sigstore bundle (v0.3) with a DSSE envelope around the statement."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple

from penstock.errors import IntegrityError

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
LARGEST = 16 << 20
"""Bytes of a bundle; one of ten thousand files has about 2 MiB."""


class Bundle(NamedTuple):
    """What a bundle holds. `hint` is the sha256 of the PEM of the public key; None: it was not signed by a key pair."""

    payload: bytes
    signature: bytes
    hint: str | None


def signed_bytes(payload: bytes) -> bytes:
    """What is signed: the payload with its type and length (DSSE's pre-authentication encoding)."""
    return f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def bundle_bytes(payload: bytes, signature: bytes, hint: str) -> bytes:
    """The content of `model.sig` for a signature by the key with this hint."""
    document = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(document).encode() + b"\n"


def read_bundle(data: bytes) -> Bundle:
    """The inverse of `bundle_bytes`; raises IntegrityError, in a sentence about the signature, for anything else."""
    try:
        document = json.loads(data)
        media_type, material = document["mediaType"], document["verificationMaterial"]
        envelope = document["dsseEnvelope"]
        (signature,) = envelope["signatures"]
        payload_type, payload = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
        hint = _hint(material)
        found = Bundle(payload, base64.b64decode(signature["sig"], validate=True), hint)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise IntegrityError("its signature is no Sigstore bundle with one signature") from None
    if media_type != MEDIA_TYPE or payload_type != PAYLOAD_TYPE:
        raise IntegrityError(f"its signature is no Sigstore bundle of version 0.3 around {PAYLOAD_TYPE}")
    return found


def _hint(material: Any) -> str | None:
    """The hint of a key; None for a certificate. Bundles from before model-signing 1.0 have none and are refused."""
    if "publicKey" not in material:
        return None
    hint = material["publicKey"]["hint"]
    if not isinstance(hint, str) or not hint:
        raise ValueError("hint")
    return hint
