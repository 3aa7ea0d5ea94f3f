"""What can be said about the signature of a version: whether there is one, by whom, and whether that was checked."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from penstock.artifacts.signatures.bundle import read_bundle
from penstock.artifacts.signatures.signed_files import SignedFiles
from penstock.artifacts.signatures.statement import check_statement
from penstock.errors import IntegrityError, Untrusted, printable

Word: TypeAlias = Literal["unsigned", "signed", "valid", "untrusted", "invalid"]

_HINT = 64
"""Characters of a sha256; a bundle may hold anything there."""


class SignatureState(NamedTuple):
    """Whether a version is signed.

    `signed`: by the key that the signature names, which nobody has checked, since no public key is known here. `valid`:
    checked with the public key of `signer`. `untrusted`: by none of the keys that are required. `invalid`: damaged, or
    of other content.
    """

    state: Word
    key: str | None = None
    """The sha256 of the PEM of the public key, as the signature says."""
    signer: str | None = None
    """The file of the public key that has signed it."""
    problem: str = ""

    @property
    def sentence(self) -> str:
        """For people."""
        if self.state == "unsigned":
            return "none"
        if self.state == "valid":
            return f"valid, by {self.signer}"
        if self.state == "signed":
            return f"not checked, since `require_signed` names no key; it says by the key with the sha256 {self.key}"
        return f"{self.state}: {self.problem}"


def signature_state(files: SignedFiles) -> SignatureState:
    """The state of the signature beside a manifest; the files themselves are not read."""
    ref, key = f"{files.manifest.name}:{files.manifest.version}", None
    try:
        content = files.signature_bundle()
        if content is None:
            return SignatureState("unsigned")
        bundle = read_bundle(content)
        key = None if bundle.hint is None else printable(bundle.hint, _HINT)
        if files.signers is not None:
            return SignatureState("valid", key, files.signers.check(ref, content, files.digests()).name)
        if key is None:
            return SignatureState("untrusted", problem="it was signed with a certificate, not with a key pair")
        check_statement(bundle.payload, files.digests())
    except Untrusted as error:
        return SignatureState("untrusted", key, problem=str(error).removeprefix(f"{ref}: "))
    except IntegrityError as error:
        return SignatureState("invalid", key, problem=str(error).removeprefix(f"{ref}: "))
    return SignatureState("signed", key)
