"""Who may have signed a model: public keys and identities of an operator, and the check of a signature against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from penstock.artifacts.signatures.bundle import Bundle, bundle_bytes, read_bundle, signed_bytes
from penstock.artifacts.signatures.identities import Identity, read_identity
from penstock.artifacts.signatures.keys import Passphrase, PublicKey, public_key, sign_with
from penstock.artifacts.signatures.statement import check_statement, statement_of
from penstock.artifacts.variant import SIGNATURE
from penstock.errors import ConfigError, IntegrityError, Untrusted

Signer: TypeAlias = PublicKey | Identity

HOW_TO_SIGN = "sign it with `penstock models sign {ref} --private-key FILE`"


@dataclass(frozen=True)
class Signers:
    """Public keys and identities of which one has to have signed a model."""

    signers: tuple[Signer, ...]

    @classmethod
    def of(cls, paths: Iterable[Path | str], field: str = "") -> Signers | None:
        """Those in these files, None without any. Raises ConfigError naming the `field` and the file without one.

        A file holds a public key (PEM), or says in JSON which identity has to have signed.
        """
        try:
            found = tuple(_signer_in(Path(path)) for path in paths)
        except ConfigError as error:
            raise ConfigError(f"{field}: {error}" if field else str(error)) from None
        return cls(found) if found else None

    @property
    def names(self) -> str:
        """The files of the keys and identities, for sentences."""
        return " or ".join(signer.name for signer in self.signers)

    def check(self, ref: str, bundle: bytes | None, digests: Mapping[str, str]) -> Signer:
        """The one of them who signed exactly these files (sha256 by path); `bundle` is what `model.sig` holds.

        Raises Untrusted if none of them has signed it, IntegrityError if the signature is damaged or of something
        else. Each begins with `ref`.
        """
        if bundle is None:
            raise Untrusted(
                f"{ref}: it has no signature ({SIGNATURE}), and one by {self.names} is required; "
                f"{HOW_TO_SIGN.format(ref=ref)}"
            )
        try:
            found = read_bundle(bundle)
            signer, statement = self._by_identity(bundle) if found.hint is None else self._by_key(found)
            check_statement(statement, digests)
        except (IntegrityError, Untrusted) as error:
            raise type(error)(f"{ref}: {error}; {HOW_TO_SIGN.format(ref=ref)}") from None
        return signer

    def _by_key(self, bundle: Bundle) -> tuple[Signer, bytes]:
        """The key pair that signed, and the statement."""
        key = next((key for key in self.signers if isinstance(key, PublicKey) and key.hint == bundle.hint), None)
        if key is None:
            raise Untrusted(
                f"it was signed with another key (sha256 {(bundle.hint or '')[:16]!r}), and a signature by "
                f"{self.names} is required"
            )
        if not key.has_signed(signed_bytes(bundle.payload), bundle.signature):
            raise IntegrityError(f"its signature is not valid for {key.name}")
        return key, bundle.payload

    def _by_identity(self, bundle: bytes) -> tuple[Signer, bytes]:
        """The identity that signed, and the statement."""
        why = Untrusted(f"it was signed with a certificate, and a signature by {self.names} is required")
        for signer in self.signers:
            if isinstance(signer, Identity):
                try:
                    return signer, signer.statement(bundle)
                except Untrusted as error:
                    why = error
        raise why


def _signer_in(path: Path) -> Signer:
    return read_identity(path) if path.suffix == ".json" else public_key(path)


def signed_by(
    private_key: Path, passphrase: Passphrase, name: str, digests: Mapping[str, str]
) -> tuple[PublicKey, bytes]:
    """A signature over these files (sha256 by path): the public key, and what `model.sig` holds.

    Raises ConfigError for a file that holds no private key of the right kind, or cannot be decrypted.
    """
    statement = statement_of(name, digests)
    key, signature = sign_with(private_key, passphrase, signed_bytes(statement))
    return key, bundle_bytes(statement, signature, key.hint)
