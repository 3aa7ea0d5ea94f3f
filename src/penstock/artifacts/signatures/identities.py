"""Signers without a key of their own: a person or a workflow, certified for minutes by a Sigstore instance.

A JSON file says who has to have signed, and what is trusted to say so: `{"identity": "release@example.org", "issuer":
"https://accounts.example.org", "trusted_root": "trusted_root.json"}`. Nothing is fetched: the file of trust is the
operator's, from `sigstore trust-instance` or the operators of the instance.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.artifacts.files import read_given
from penstock.artifacts.signatures.bundle import PAYLOAD_TYPE
from penstock.errors import ConfigError, IntegrityError, Untrusted, first_line

if TYPE_CHECKING:
    from sigstore.verify import Verifier

LARGEST = 4 << 20
_FIELDS = ("identity", "issuer", "trusted_root")


@dataclass(frozen=True)
class Identity:
    """Who has to have signed: the name in the certificate (an address of mail or of a workflow), and who vouched."""

    name: str
    """The file, for sentences."""
    identity: str
    issuer: str
    trust: bytes = field(repr=False)
    """The document of trust."""

    @property
    def hint(self) -> str:
        """What stands for it where a key has the sha256 of its PEM."""
        return hashlib.sha256(f"{self.identity}\n{self.issuer}".encode()).hexdigest()

    def statement(self, bundle: bytes) -> bytes:
        """The statement that was signed. Raises Untrusted if another one has, IntegrityError for what is damaged."""
        from sigstore.errors import CertValidationError, Error, VerificationError
        from sigstore.models import Bundle
        from sigstore.verify import policy

        wanted = policy.Identity(identity=self.identity, issuer=self.issuer)
        try:
            read = Bundle.from_json(bundle)
            wanted.verify(read.signing_certificate)
        except VerificationError:
            raise Untrusted(f"it was not signed by {self.identity} of {self.issuer} ({self.name})") from None
        except (Error, ValueError) as error:
            raise IntegrityError(f"its signature is no Sigstore bundle: {first_line(error)}") from None
        try:
            kind, payload = self._verifier.verify_dsse(read, wanted)
        except CertValidationError as error:
            raise Untrusted(f"its certificate is none of those that {self.name} trusts: {first_line(error)}") from None
        except (Error, ValueError) as error:
            raise IntegrityError(f"its signature is not valid: {first_line(error)}") from None
        if kind != PAYLOAD_TYPE:
            raise IntegrityError(f"its signature is no Sigstore bundle around {PAYLOAD_TYPE}")
        return payload

    @cached_property
    def _verifier(self) -> Verifier:
        from sigstore.verify import Verifier

        return Verifier(trusted_root=_trusted_root(self.name, self.trust))


def read_identity(path: Path) -> Identity:
    """The identity in a JSON file. Raises ConfigError, without the extra `sigstore` too."""
    try:
        document = json.loads(_read(path, path.name))
        found = [document[name] for name in _FIELDS]
        if not all(isinstance(value, str) and value for value in found) or set(document) != set(_FIELDS):
            raise ValueError
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ConfigError(
            f"{path} does not say who has to have signed; it needs the texts identity, issuer and trusted_root (a file)"
        ) from None
    identity, issuer, place = found
    return identity_of(path.name, identity, issuer, path.parent / Path(place).expanduser())


def identity_of(name: str, identity: str, issuer: str, trusted_root: Path) -> Identity:
    """Somebody whom the instance of a file of trust certifies. Raises ConfigError."""
    if find_spec("sigstore") is None:
        raise ConfigError(f"{name}: identities need the extra sigstore: pip install 'penstock[sigstore]'")
    trust = _read(trusted_root, f"{name}: trusted_root {trusted_root}")
    _trusted_root(str(trusted_root), trust)  # say what is wrong with it now, not at the first load
    return Identity(name, identity, issuer, trust)


def _read(path: Path, what: str) -> bytes:
    return read_given(path, LARGEST, what, f"{what} has more than {LARGEST} bytes")


def _trusted_root(name: str, document: bytes) -> Any:
    """The root of trust in `trusted_root.json`, or in the configuration of a client, which holds one."""
    from sigstore.errors import Error
    from sigstore.models import ClientTrustConfig, TrustedRoot
    from sigstore_models.trustroot.v1 import TrustedRoot as Document

    try:
        if b"trustedRoot" in document:
            return ClientTrustConfig.from_json(document.decode()).trusted_root
        return TrustedRoot(Document.from_json(document))
    except (Error, ValueError) as error:
        raise ConfigError(f"{name} is no document of trust of Sigstore: {first_line(error)}") from None
