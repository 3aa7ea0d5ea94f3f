"""Key pairs for signatures, as PEM files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


class KeyPair(NamedTuple):
    private: Path
    public: Path


def write_pair(directory: Path, name: str = "key", key: Any = None, passphrase: str | None = None) -> KeyPair:
    """A key pair on P-256, or of the private key that is given."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    encryption: Any = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    pair = KeyPair(directory / f"{name}.pem", directory / f"{name}.pub.pem")
    pem = serialization.Encoding.PEM
    pair.private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption))
    pair.public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return pair
