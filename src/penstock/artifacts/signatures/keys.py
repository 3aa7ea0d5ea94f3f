"""Key pairs for signatures: elliptic curves P-256, P-384 and P-521, as PEM files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.artifacts.files import read_given
from penstock.errors import ConfigError, first_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""The hash that each curve signs with, as Sigstore prescribes."""
_LARGEST = 1 << 20

Passphrase = Callable[[], str | None]
"""Asks for the passphrase of an encrypted key; None where there is none to give."""


@dataclass(frozen=True)
class PublicKey:
    """A public key: its file's name, its PEM, and the hint by which bundles name it."""

    name: str
    pem: bytes = field(repr=False)

    @property
    def hint(self) -> str:
        """The sha256 of the PEM, in hex."""
        return hashlib.sha256(self.pem).hexdigest()

    def has_signed(self, data: bytes, signature: bytes) -> bool:
        """True for a signature of `data` by this key; the answer for the same digest and signature is remembered."""
        hash = CURVES[_public(self.pem).curve.name]
        return _verified(self.pem, hash, hashlib.new(hash, data).digest(), signature)


def public_key(path: Path) -> PublicKey:
    """The public key in a PEM file; raises ConfigError in one sentence that says what the file holds instead."""
    data = _read(path, "public")
    if b"PRIVATE KEY-----" in data:
        raise ConfigError(
            f"{path} holds a private key; give the public key of the pair, and keep the private one secret"
        )
    if b"-----BEGIN CERTIFICATE-----" in data:
        raise ConfigError(f"{path} holds a certificate; give the public key itself: openssl x509 -pubkey -noout")
    serialization = crypto("serialization")
    try:
        key = serialization.load_pem_public_key(data)
    except Exception as error:  # of many types, by what the file holds
        raise ConfigError(f"{path} holds no public key in PEM form: {first_line(error)}") from None
    _check_curve(key, path)
    return PublicKey(path.name, _pem(key))


def sign_with(path: Path, passphrase: Passphrase, data: bytes) -> tuple[PublicKey, bytes]:
    """Sign with the private key in a PEM file: the public key of the pair, and the signature.

    `passphrase` is asked for an encrypted key. Raises ConfigError in a sentence that says what the file holds instead.
    """
    key = _private_key(path, passphrase)
    public = PublicKey(path.name, _pem(key.public_key()))
    return public, key.sign(data, crypto("asymmetric.ec").ECDSA(_hash(CURVES[key.curve.name])))


def _private_key(path: Path, passphrase: Passphrase) -> EllipticCurvePrivateKey:
    text = _read(path, "private")
    if b"PRIVATE KEY-----" not in text:
        holds = next((what for mark, what in _NOT_PRIVATE.items() if mark in text), "no private key in PEM form")
        raise ConfigError(f"{path} holds {holds}; sign with the private key of the pair")
    load = crypto("serialization").load_pem_private_key
    try:
        key = load(text, None)
    except TypeError:  # it is encrypted
        secret = passphrase()
        if not secret:
            raise ConfigError(f"{path} is encrypted; give its passphrase in PENSTOCK_SIGNING_PASSPHRASE") from None
        try:
            key = load(text, secret.encode())
        except ValueError:
            raise ConfigError(f"{path} cannot be decrypted; the passphrase is wrong, or the file is damaged") from None
    except Exception as error:  # of many types, by what the file holds
        raise ConfigError(f"{path} holds no private key that can be read: {first_line(error)}") from None
    _check_curve(key, path)
    checked: EllipticCurvePrivateKey = key
    return checked


_NOT_PRIVATE = {
    b"-----BEGIN PUBLIC KEY-----": "a public key",
    b"-----BEGIN CERTIFICATE-----": "a certificate",
    b"-----BEGIN CERTIFICATE REQUEST-----": "a certificate request",
}


def _check_curve(key: Any, path: Path) -> None:
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in CURVES:
        kind = type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey")
        raise ConfigError(
            f"{path} is a key of the kind {curve or kind}; signatures of models need one of P-256, P-384 or P-521: "
            "openssl ecparam -genkey -name prime256v1 -noout"
        )


def _read(path: Path, kind: str) -> bytes:
    return read_given(path, _LARGEST, f"{path}: the {kind} key", f"{path} is too large for a key")


def crypto(module: str) -> Any:
    """A module of cryptography's primitives, imported at the first use. Raises ConfigError naming the extra."""
    from importlib import import_module

    try:
        return import_module(f"cryptography.hazmat.primitives.{module}")
    except ImportError:
        raise ConfigError("signatures need the package cryptography; pip install 'penstock[auth]'") from None


def _hash(name: str) -> HashAlgorithm:
    algorithm: HashAlgorithm = getattr(crypto("hashes"), name)()
    return algorithm


def _pem(key: EllipticCurvePublicKey) -> bytes:
    serialization = crypto("serialization")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@lru_cache(maxsize=64)
def _public(pem: bytes) -> EllipticCurvePublicKey:
    key: EllipticCurvePublicKey = crypto("serialization").load_pem_public_key(pem)
    return key


@lru_cache(maxsize=1024)
def _verified(pem: bytes, hash: str, digest: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    prehashed = crypto("asymmetric.utils").Prehashed(_hash(hash))
    try:
        _public(pem).verify(signature, digest, crypto("asymmetric.ec").ECDSA(prehashed))
    except InvalidSignature:
        return False
    return True
