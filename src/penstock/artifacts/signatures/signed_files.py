"""The files of an artifact, as a signature covers them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from penstock.artifacts import files
from penstock.artifacts.manifest import Manifest
from penstock.artifacts.signatures.bundle import LARGEST
from penstock.artifacts.signatures.signers import Signers
from penstock.artifacts.variant import MANIFEST, SIGNATURE


@dataclass(frozen=True)
class SignedFiles:
    """A directory with a manifest, what it lists, and `model.sig` if it is signed.

    Where `signers` are set, nothing of it is used without a signature by one of their keys.
    """

    path: Path
    manifest: Manifest
    digest: str
    signers: Signers | None = field(default=None, compare=False, repr=False)

    def check_files(self) -> None:
        """Check which files there are, and their sizes, without reading them. Raises IntegrityError."""
        listed = {entry.path: entry for entry in self.manifest.files()}
        files.check_tree(self.path, listed, (MANIFEST, SIGNATURE))

    def check_signed(self) -> None:
        """Raise Untrusted or IntegrityError unless one of the `signers` has signed it; without them, do nothing."""
        if self.signers is not None:
            ref = f"{self.manifest.name}:{self.manifest.version}"
            self.signers.check(ref, self.signature_bundle(), self.digests())

    def signature_bundle(self) -> bytes | None:
        """The content of `model.sig`, None without one; raises IntegrityError for a link, or a file beyond 16 MiB."""
        path = self.path / SIGNATURE
        if not path.exists() and not path.is_symlink():
            return None
        return files.read_plain(path, LARGEST)

    def digests(self) -> dict[str, str]:
        """The sha256 by path of every file that a signature covers: the manifest and what it lists."""
        return {MANIFEST: self.digest, **{entry.path: entry.sha256 for entry in self.manifest.files()}}
