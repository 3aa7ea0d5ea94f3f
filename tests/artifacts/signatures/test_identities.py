"""Signatures by an identity that a Sigstore instance has certified, without a network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from signing_keys import write_pair
from sigstore_instance import IDENTITY, ISSUER, SigstoreInstance

from penstock.artifacts.artifact import SIGNATURE, Artifact
from penstock.artifacts.signatures.identities import identity_of
from penstock.artifacts.signatures.signers import Signers, signed_by
from penstock.artifacts.signatures.state import signature_state
from penstock.artifacts.signatures.statement import statement_of
from penstock.errors import ConfigError, IntegrityError, Untrusted

Write = Callable[..., Artifact]
DIGESTS = {"manifest.json": "a" * 64, "variants/onnx-fp32/model.onnx": "b" * 64}
STATEMENT = statement_of("m:v1", DIGESTS)


@pytest.fixture(scope="module")
def instance() -> SigstoreInstance:
    return SigstoreInstance()


@pytest.fixture
def signers(instance: SigstoreInstance, tmp_path: Path) -> Signers:
    found = Signers.of([required(instance, tmp_path)], "require_signed")
    assert found is not None
    return found


def required(instance: SigstoreInstance, directory: Path, **other: str) -> Path:
    """A file that says who has to have signed."""
    instance.trusted_root(directory / "trusted_root.json")
    path = directory / "release.json"
    path.write_text(json.dumps({"identity": IDENTITY, "issuer": ISSUER, "trusted_root": "trusted_root.json"} | other))
    return path


def test_a_signature_is_valid_for_its_identity_and_its_files(signers: Signers, instance: SigstoreInstance) -> None:
    assert signers.check("m:v1", instance.bundle(STATEMENT), DIGESTS).name == "release.json"


@pytest.mark.parametrize(
    ("made", "error", "says"),
    [
        ({"identity": "eve@example.org"}, Untrusted, "it was not signed by release@example.org of https://accounts"),
        ({"issuer": "https://elsewhere.org"}, Untrusted, "it was not signed by release@example.org of https://acc"),
        ({"signed": b"{}"}, IntegrityError, "its signature is not valid"),
        ({"logged": b"{}"}, IntegrityError, "its signature is not valid: log entry payload hash does not match"),
    ],
)
def test_a_signature_by_or_of_something_else_is_refused(
    made: dict[str, Any], error: type[Exception], says: str, signers: Signers, instance: SigstoreInstance
) -> None:
    with pytest.raises(error, match=f"^m:v1: {says}"):
        signers.check("m:v1", instance.bundle(STATEMENT, **made), DIGESTS)


def test_files_that_were_not_signed_are_refused(signers: Signers, instance: SigstoreInstance) -> None:
    with pytest.raises(IntegrityError, match=r"^m:v1: .*card.md"):
        signers.check("m:v1", instance.bundle(STATEMENT), {**DIGESTS, "card.md": "c" * 64})


def test_another_instance_is_not_trusted(signers: Signers) -> None:
    with pytest.raises(Untrusted, match=r"^m:v1: its certificate is none of those that release.json trusts"):
        signers.check("m:v1", SigstoreInstance().bundle(STATEMENT), DIGESTS)


@pytest.mark.parametrize("part", ["tlogEntries", "certificate"])
def test_a_bundle_without_one_of_its_parts_is_refused(part: str, signers: Signers, instance: SigstoreInstance) -> None:
    document = json.loads(instance.bundle(STATEMENT))
    del document["verificationMaterial"][part]
    with pytest.raises(IntegrityError, match=r"^m:v1: its signature is no Sigstore bundle"):
        signers.check("m:v1", json.dumps(document).encode(), DIGESTS)


@pytest.mark.parametrize("log", ["certificates", "signatures"])
def test_what_no_trusted_log_has_recorded_is_refused(log: str, signers: Signers, instance: SigstoreInstance) -> None:
    other = SigstoreInstance()
    other.authority, other._root = instance.authority, instance._root
    for name in {"certificates", "signatures"} - {log}:
        setattr(other, name, getattr(instance, name))
    with pytest.raises(IntegrityError, match=r"^m:v1: its signature is not valid: (failed to verify SCT|invalid log)"):
        signers.check("m:v1", other.bundle(STATEMENT), DIGESTS)


def test_keys_and_identities_stand_beside_each_other(instance: SigstoreInstance, tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    both = Signers.of([pair.public, required(instance, tmp_path)])
    only_key, only_identity = Signers.of([pair.public]), Signers.of([required(instance, tmp_path)])
    assert both is not None
    assert only_key is not None
    assert only_identity is not None
    by_key = signed_by(pair.private, lambda: None, "m:v1", DIGESTS)[1]
    by_identity = instance.bundle(STATEMENT)
    assert [both.check("m:v1", bundle, DIGESTS).name for bundle in (by_key, by_identity)] == [
        "key.pub.pem",
        "release.json",
    ]
    with pytest.raises(Untrusted, match=r"signed with a certificate, and a signature by key.pub.pem is required"):
        only_key.check("m:v1", by_identity, DIGESTS)
    with pytest.raises(Untrusted, match=r"signed with another key .* release.json is required"):
        only_identity.check("m:v1", by_key, DIGESTS)


def test_the_state_of_a_version_names_who_signed(signers: Signers, instance: SigstoreInstance, write: Write) -> None:
    artifact = write()
    statement = statement_of(artifact.ref, artifact.digests())
    (artifact.path / SIGNATURE).write_bytes(instance.bundle(statement))
    assert signature_state(artifact).state == "untrusted"  # nobody is required, and a certificate says nothing alone
    state = signature_state(replace(artifact, signers=signers))
    assert (state.state, state.signer) == ("valid", "release.json")
    replace(artifact, signers=signers).verify()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "does not say who"),
        ("[]", "does not say who"),
        ('{"identity": "a"}', "does not say who"),
        ('{"identity": "a", "issuer": 5, "trusted_root": "x"}', "does not say who"),
        ('{"identity": "a", "issuer": "b", "trusted_root": "x", "more": "y"}', "does not say who"),
        ('{"identity": "a", "issuer": "b", "trusted_root": "gone.json"}', "trusted_root .*gone.json cannot be read"),
        ('{"identity": "a", "issuer": "b", "trusted_root": "release.json"}', "is no document of trust of Sigstore"),
    ],
)
def test_a_file_that_names_nobody_is_refused_in_one_sentence(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "release.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"^require_signed: .*{says}") as caught:
        Signers.of([path], "require_signed")
    assert "\n" not in str(caught.value)


def test_without_the_extra_the_error_names_it(
    instance: SigstoreInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = required(instance, tmp_path)
    monkeypatch.setattr("penstock.artifacts.signatures.identities.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'penstock\[sigstore\]'"):
        Signers.of([path])


def test_the_tool_agrees_about_our_instance(instance: SigstoreInstance, write: Write, tmp_path: Path) -> None:
    """What `model-signing` calls valid, with the configuration of a client that holds the same root."""
    tool = pytest.importorskip("model_signing", reason="pip install model-signing pyOpenSSL")
    artifact = write()
    signature = tmp_path / "m.sig"
    signature.write_bytes(instance.bundle(statement_of(artifact.ref, artifact.digests())))
    root = json.loads(instance.trusted_root(tmp_path / "root.json").read_text())
    client = {
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": root,
        "signingConfig": {"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"},
    }
    trust = tmp_path / "client.json"
    trust.write_text(json.dumps(client))
    config = tool.verifying.Config().use_sigstore_verifier(identity=IDENTITY, oidc_issuer=ISSUER, trust_config=trust)
    config.set_hashing_config(tool.hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False))
    config.verify(artifact.path, signature)
    ours = Signers((identity_of("ann", IDENTITY, ISSUER, trust),))
    ours.check(artifact.ref, signature.read_bytes(), artifact.digests())


def test_nothing_of_sigstore_is_imported_for_keys(tmp_path: Path) -> None:
    before = {name for name in sys.modules if name.split(".")[0] == "sigstore"}
    assert Signers.of([write_pair(tmp_path).public]) is not None
    assert {name for name in sys.modules if name.split(".")[0] == "sigstore"} == before
