"""A Sigstore instance of the tests: its authority certifies identities, and its logs record what they sign.

It makes what the public instance makes, with keys of its own, so that bundles can be verified without a network.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from penstock.artifacts.signatures.bundle import PAYLOAD_TYPE, signed_bytes

ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
SCT_OID = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
IDENTITY = "release@example.org"
ISSUER = "https://accounts.example.org"
Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sign(key: Key, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(SHA256()))


class SigstoreInstance:
    """An authority (Fulcio), a log of certificates and a log of signatures (Rekor)."""

    def __init__(self) -> None:
        self.authority, self.certificates, self.signatures = new_key(), new_key(), new_key()
        self._now = datetime.now(UTC).replace(microsecond=0)
        self._root = self._root_certificate()

    def trusted_root(self, path: Path) -> Path:
        """What a client trusts, as `trusted_root.json`."""
        period = {"start": (self._now - timedelta(days=30)).isoformat()}
        document = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self._log(self.signatures, period)],
            "ctlogs": [self._log(self.certificates, period)],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "example.org", "commonName": "tests"},
                    "uri": "https://fulcio.example.org",
                    "certChain": {"certificates": [{"rawBytes": text(self._root.public_bytes(Encoding.DER))}]},
                    "validFor": period,
                }
            ],
        }
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    def bundle(self, statement: bytes, identity: str = IDENTITY, issuer: str = ISSUER, **wrong: Any) -> bytes:
        """`statement`, signed by an identity. `wrong` may replace the `signed` bytes, or the `logged` statement."""
        key = new_key()
        certificate = self._certify(key, identity, issuer)
        signature = sign(key, signed_bytes(wrong.get("signed", statement)))
        envelope = {
            "payload": text(statement),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": text(signature), "keyid": ""}],
        }
        entry = self._entry(certificate, wrong.get("logged", statement), signature)
        document = {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": text(certificate.public_bytes(Encoding.DER))},
                "tlogEntries": [entry],
            },
            "dsseEnvelope": envelope,
        }
        return json.dumps(document).encode()

    def _log(self, key: Key, period: dict[str, str]) -> dict[str, Any]:
        return {
            "baseUrl": "https://log.example.org",
            "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": text(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": period},
            "logId": {"keyId": text(hashlib.sha256(spki(key)).digest())},
        }

    def _root_certificate(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        usage = dict.fromkeys(_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
        return (
            self._builder(name, name, self.authority, timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.authority.public_key()), critical=False)
            .sign(self.authority, SHA256())
        )

    def _builder(self, subject: x509.Name, issuer: x509.Name, key: Key, long: timedelta) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        start = self._now - timedelta(minutes=5)
        return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(start + long)

    def _certify(self, key: Key, identity: str, issuer: str) -> x509.Certificate:
        """For ten minutes, recorded in the log of certificates."""
        usage = dict.fromkeys(_USAGES, False) | {"digital_signature": True}
        of = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key())
        builder = (
            self._builder(x509.Name([]), self._root.subject, key, timedelta(minutes=10))
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(identity)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(ISSUER_OID, issuer.encode()), critical=False)
            .add_extension(of, critical=False)
        )
        draft = builder.sign(self.authority, SHA256()).tbs_certificate_bytes
        recorded = x509.UnrecognizedExtension(SCT_OID, self._recorded(draft))
        return builder.add_extension(recorded, critical=False).sign(self.authority, SHA256())

    def _recorded(self, draft: bytes) -> bytes:
        """The promise of the log of certificates to record a draft (RFC 6962, 3.2 and 3.3)."""
        at = int(self._now.timestamp() * 1000)
        entry = hashlib.sha256(spki(self.authority)).digest() + len(draft).to_bytes(3, "big") + draft
        signature = sign(self.certificates, struct.pack("!BBQH", 0, 0, at, 1) + entry + b"\0\0")
        log = hashlib.sha256(spki(self.certificates)).digest()
        promise = struct.pack("!B32sQHBBH", 0, log, at, 0, 4, 3, len(signature)) + signature
        listed = struct.pack("!HH", len(promise) + 2, len(promise)) + promise
        assert len(listed) < 256
        return bytes([0x04, *([len(listed)] if len(listed) < 128 else [0x81, len(listed)])]) + listed

    def _entry(self, certificate: x509.Certificate, statement: bytes, signature: bytes) -> dict[str, Any]:
        """The record of a signature, the only one in its log (Rekor, dsse 0.0.1)."""
        verifier = text(certificate.public_bytes(Encoding.PEM))
        spec = {
            "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(statement).hexdigest()},
            "signatures": [{"signature": text(signature), "verifier": verifier}],
        }
        body = json.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}, separators=(",", ":")).encode()
        log, at = hashlib.sha256(spki(self.signatures)).digest(), int(self._now.timestamp())
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"log.example.org - 1\n1\n{text(root)}\n"
        noted = text(log[:4] + sign(self.signatures, note.encode()))
        promised = {"body": text(body), "integratedTime": at, "logID": log.hex(), "logIndex": 0}
        promise = sign(self.signatures, json.dumps(promised, separators=(",", ":"), sort_keys=True).encode())
        return {
            "logIndex": "0",
            "logId": {"keyId": text(log)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(at),
            "inclusionPromise": {"signedEntryTimestamp": text(promise)},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": text(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n\u2014 log.example.org {noted}\n"},
            },
            "canonicalizedBody": text(body),
        }


_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
