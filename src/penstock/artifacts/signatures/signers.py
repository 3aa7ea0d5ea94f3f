"""Who may have signed a model: the public keys of an operator, and the check of a signature against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.artifacts.signatures.bundle import bundle_bytes, read_bundle, signed_bytes
from penstock.artifacts.signatures.keys import Passphrase, PublicKey, public_key, sign_with
from penstock.artifacts.signatures.statement import check_statement, statement_of
from penstock.artifacts.variant import SIGNATURE
from penstock.errors import ConfigError, IntegrityError, Untrusted

HOW_TO_SIGN = "sign it with `penstock models sign {ref} --private-key FILE`"


@dataclass(frozen=True)
class Signers:
    """Public keys of which one has to have signed a model."""

    keys: tuple[PublicKey, ...]

    @classmethod
    def of(cls, paths: Iterable[Path | str], field: str = "") -> Signers | None:
        """The keys in these files, None without any. Raises ConfigError naming the `field` and the file without one."""
        try:
            keys = tuple(public_key(Path(path)) for path in paths)
        except ConfigError as error:
            raise ConfigError(f"{field}: {error}" if field else str(error)) from None
        return cls(keys) if keys else None

    @property
    def names(self) -> str:
        """The files of the keys, for sentences."""
        return " or ".join(key.name for key in self.keys)

    def check(self, ref: str, bundle: bytes | None, digests: Mapping[str, str]) -> PublicKey:
        """The key that signed exactly these files (sha256 by path); `bundle` is what `model.sig` holds.

        Raises Untrusted if none of the keys has signed it, IntegrityError if the signature is damaged or of something
        else. Each begins with `ref`.
        """
        if bundle is None:
            raise Untrusted(
                f"{ref}: it has no signature ({SIGNATURE}), and one by {self.names} is required; "
                f"{HOW_TO_SIGN.format(ref=ref)}"
            )
        try:
            found = read_bundle(bundle)
            key = self._signer(ref, found.hint)
            if not key.has_signed(signed_bytes(found.payload), found.signature):
                raise IntegrityError(f"its signature is not valid for {key.name}")
            check_statement(found.payload, digests)
        except IntegrityError as error:
            raise IntegrityError(f"{ref}: {error}; {HOW_TO_SIGN.format(ref=ref)}") from None
        return key

    def _signer(self, ref: str, hint: str | None) -> PublicKey:
        if hint is None:
            raise Untrusted(f"{ref}: it was signed with a certificate, and a signature by {self.names} is required")
        key = next((key for key in self.keys if key.hint == hint), None)
        if key is None:
            raise Untrusted(
                f"{ref}: it was signed with another key (sha256 {hint[:16]!r}), and a signature by {self.names} is "
                f"required; {HOW_TO_SIGN.format(ref=ref)}"
            )
        return key


def signed_by(
    private_key: Path, passphrase: Passphrase, name: str, digests: Mapping[str, str]
) -> tuple[PublicKey, bytes]:
    """A signature over these files (sha256 by path): the public key, and what `model.sig` holds.

    Raises ConfigError for a file that holds no private key of the right kind, or cannot be decrypted.
    """
    statement = statement_of(name, digests)
    key, signature = sign_with(private_key, passphrase, signed_bytes(statement))
    return key, bundle_bytes(statement, signature, key.hint)
