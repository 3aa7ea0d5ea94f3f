"""Signatures in both directions between Penstock and the `model-signing` tool of the OpenSSF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from signing_keys import CURVES, KeyPair, write_pair

from penstock.artifacts.artifact import SIGNATURE, Artifact
from penstock.artifacts.signatures.signers import Signers, signed_by
from penstock.errors import IntegrityError

model_signing = pytest.importorskip("model_signing", reason="pip install model-signing pyOpenSSL")
Write = Callable[..., Artifact]


@pytest.fixture(params=CURVES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> KeyPair:
    return write_pair(tmp_path, key=ec.generate_private_key(CURVES[request.param]))


def hashing(*ignored: Path, git: bool = False) -> Any:
    return model_signing.hashing.Config().set_ignored_paths(paths=list(ignored), ignore_git_paths=git)


def verify_with_the_tool(artifact: Artifact, signature: Path, pair: KeyPair) -> None:
    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=pair.public)
    config.set_hashing_config(hashing(signature)).verify(artifact.path, signature)


def sign_with_the_tool(artifact: Artifact, signature: Path, pair: KeyPair, **options: Any) -> None:
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=pair.private)
    config.set_hashing_config(hashing(**options)).sign(artifact.path, signature)


@pytest.mark.parametrize("beside", [True, False], ids=["beside the manifest", "elsewhere"])
def test_the_tool_accepts_our_signatures(pair: KeyPair, beside: bool, write: Write, tmp_path: Path) -> None:
    artifact = write()
    signature = artifact.path / SIGNATURE if beside else tmp_path / "out.sig"
    signature.write_bytes(signed_by(pair.private, lambda: None, artifact.ref, artifact.digests())[1])
    verify_with_the_tool(artifact, signature, pair)
    artifact.variant_path(artifact.variants[0]).write_bytes(b"altered")
    with pytest.raises(ValueError, match="Signature mismatch"):
        verify_with_the_tool(artifact, signature, pair)


def test_we_accept_the_signatures_of_the_tool(pair: KeyPair, write: Write, tmp_path: Path) -> None:
    artifact = write()
    sign_with_the_tool(artifact, tmp_path / SIGNATURE, pair)
    (tmp_path / SIGNATURE).rename(artifact.path / SIGNATURE)
    signed = replace(artifact, signers=Signers.of([pair.public]))
    signed.verify()
    artifact.variant_path(artifact.variants[0]).write_bytes(b"altered")
    with pytest.raises(IntegrityError):
        signed.verify()


def test_a_signature_of_the_tool_that_leaves_files_out_is_refused(write: Write, tmp_path: Path) -> None:
    artifact, pair = write(), write_pair(tmp_path)
    sign_with_the_tool(artifact, artifact.path.parent / SIGNATURE, pair, git=True)
    (artifact.path.parent / SIGNATURE).rename(artifact.path / SIGNATURE)
    with pytest.raises(
        IntegrityError, match=r"leaves out .git, .gitattributes, .github, .gitignore; .*`--no-ignore-git-"
    ):
        replace(artifact, signers=Signers.of([pair.public])).verify()
