"""Signatures of artifacts: what they cover, who gave them, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from signing_keys import CURVES, KeyPair, write_pair

from penstock.artifacts.artifact import SIGNATURE, Artifact
from penstock.artifacts.signatures.bundle import bundle_bytes, signed_bytes
from penstock.artifacts.signatures.keys import sign_with
from penstock.artifacts.signatures.signers import Signers, signed_by
from penstock.artifacts.signatures.state import signature_state
from penstock.artifacts.signatures.statement import statement_of
from penstock.errors import ConfigError, IntegrityError, Untrusted

Write = Callable[..., Artifact]
DIGESTS = {"manifest.json": "a" * 64, "variants/onnx-fp32/model.onnx": "b" * 64, "card.md": "c" * 64}


@pytest.fixture
def pair(tmp_path: Path) -> KeyPair:
    return write_pair(tmp_path)


def without_passphrase() -> None:
    return None


def sign(pair: KeyPair, digests: dict[str, str] = DIGESTS) -> bytes:
    return signed_by(pair.private, without_passphrase, "m:v1", digests)[1]


def check(pair: KeyPair, bundle: bytes | None, digests: dict[str, str] = DIGESTS) -> str:
    signers = Signers.of([pair.public])
    assert signers is not None
    return signers.check("m:v1", bundle, digests).name


def signing(pair: KeyPair, payload: bytes) -> bytes:
    """A bundle that signs any payload."""
    key, signature = sign_with(pair.private, without_passphrase, signed_bytes(payload))
    return bundle_bytes(payload, signature, key.hint)


def edited(pair: KeyPair, edit: Callable[[dict[str, Any]], object], digests: dict[str, str] = DIGESTS) -> bytes:
    """A valid signature of a statement that was changed before it was signed."""
    document = json.loads(statement_of("m:v1", digests))
    edit(document)
    return signing(pair, json.dumps(document).encode())


@pytest.mark.parametrize("curve", CURVES)
def test_a_signature_is_valid_for_its_key_and_its_files(curve: str, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, key=ec.generate_private_key(CURVES[curve]))
    assert check(pair, sign(pair)) == "key.pub.pem"


def test_a_signature_says_which_files_it_covers_and_who_gave_it(pair: KeyPair) -> None:
    document = json.loads(sign(pair))
    assert document["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    hint = document["verificationMaterial"]["publicKey"]["hint"]
    assert hint == hashlib.sha256(pair.public.read_bytes()).hexdigest()
    statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    assert statement["predicate"]["serialization"] == {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
    }
    assert [resource["name"] for resource in statement["predicate"]["resources"]] == sorted(DIGESTS)


def test_a_model_without_a_signature_is_not_trusted(pair: KeyPair) -> None:
    with pytest.raises(
        Untrusted, match=r"^m:v1: it has no signature \(model.sig\), and one by key.pub.pem is required"
    ):
        check(pair, None)


def test_another_key_is_not_trusted(pair: KeyPair, tmp_path: Path) -> None:
    other = write_pair(tmp_path, "other")
    with pytest.raises(Untrusted, match=r"^m:v1: it was signed with another key .* by other.pub.pem is required"):
        check(other, sign(pair))


def test_another_key_is_not_trusted_under_the_name_of_ours(pair: KeyPair, tmp_path: Path) -> None:
    document = json.loads(sign(write_pair(tmp_path, "other")))
    document["verificationMaterial"]["publicKey"]["hint"] = hashlib.sha256(pair.public.read_bytes()).hexdigest()
    with pytest.raises(IntegrityError, match=r"its signature is not valid for key.pub.pem"):
        check(pair, json.dumps(document).encode())


def test_one_of_several_keys_is_enough(pair: KeyPair, tmp_path: Path) -> None:
    signers = Signers.of([write_pair(tmp_path, "next").public, pair.public])
    assert signers is not None
    assert signers.check("m:v1", sign(pair), DIGESTS).name == "key.pub.pem"


@pytest.mark.parametrize(
    ("digests", "match"),
    [
        (DIGESTS | {"manifest.json": "d" * 64}, "other content: manifest.json has another sha256"),
        (DIGESTS | {"more.bin": "d" * 64}, "does not cover more.bin"),
        ({"manifest.json": "a" * 64}, "covers card.md, which is not part of it"),
    ],
)
def test_a_signature_of_other_files_is_refused(pair: KeyPair, digests: dict[str, str], match: str) -> None:
    with pytest.raises(IntegrityError, match=f"^m:v1: its signature (is of )?{match}"):
        check(pair, sign(pair), digests)


def ignore(*paths: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["predicate"]["serialization"].update(ignore_paths=list(paths))


def set_serialization(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["predicate"]["serialization"].update(values)


def list_twice(document: dict[str, Any]) -> None:
    document["predicate"]["resources"].append(document["predicate"]["resources"][0])


def another_root(document: dict[str, Any]) -> None:
    document["subject"][0]["digest"]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (ignore(".git"), r"leaves out .git; sign every file, with the model-signing tool by `--no-ignore-git-paths`"),
        (ignore("variants"), "leaves out variants"),
        (set_serialization(allow_symlinks=True), "one sha256 for each file"),
        (set_serialization(method="shards"), "one sha256 for each file"),
        (set_serialization(hash_type="blake2"), "one sha256 for each file"),
        (list_twice, "holds no statement"),
        (another_root, "contradicts itself"),
        (lambda document: document.update(predicateType="https://model_signing/Digests/v0.1"), "states something else"),
        (lambda document: document.update(_type="https://in-toto.io/Statement/v0.1"), "states something else"),
        (lambda document: document.pop("predicate"), "holds no statement"),
        (lambda document: document["subject"].append(document["subject"][0]), "contradicts itself"),
    ],
)
def test_a_valid_signature_of_a_wrong_statement_is_refused(
    pair: KeyPair, edit: Callable[[dict[str, Any]], object], match: str
) -> None:
    with pytest.raises(IntegrityError, match=match):
        check(pair, edited(pair, edit))


WRONG = (None, 1, "text", [], {}, [1], [None], [[]], {"a": 1}, 1e400)
PLACES = [
    *(("_type",), ("subject",), ("subject", 0), ("subject", 0, "digest"), ("predicateType",), ("predicate",)),
    *(("predicate", "serialization"), ("predicate", "serialization", "hash_type"), ("predicate", "resources")),
    *(("predicate", "resources", 0), ("predicate", "resources", 0, "name"), ("predicate", "resources", 0, "digest")),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_statement_of_any_wrong_shape_is_refused_in_a_sentence(pair: KeyPair, place: tuple[Any, ...]) -> None:
    for value in WRONG:

        def spoil(document: Any, value: Any = value) -> None:
            *steps, last = place
            for step in steps:
                document = document[step]
            document[last] = value

        with pytest.raises(IntegrityError, match=r"^m:v1: its signature "):
            check(pair, edited(pair, spoil))


@pytest.mark.parametrize("value", [1, True, {"a": 1}, [None], [["a"]], "model.sig", [".git\n"]])
def test_a_list_of_what_is_left_out_of_any_shape_is_refused(pair: KeyPair, value: Any) -> None:
    with pytest.raises(IntegrityError, match=r"^m:v1: its signature (leaves out|holds no statement)"):
        check(pair, edited(pair, lambda document: document["predicate"]["serialization"].update(ignore_paths=value)))


def test_the_signature_itself_may_be_left_out(pair: KeyPair) -> None:
    assert check(pair, edited(pair, ignore("model.sig"))) == "key.pub.pem"


def test_the_encoding_from_before_model_signing_1_0_is_refused(pair: KeyPair) -> None:
    payload = statement_of("m:v1", DIGESTS)
    old = f"DSSEV1 28 application/vnd.in-toto+json {len(payload)} {payload!r}".encode()
    key, signature = sign_with(pair.private, without_passphrase, old)
    with pytest.raises(IntegrityError, match="is not valid"):
        check(pair, bundle_bytes(payload, signature, key.hint))


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"mediaType": 1}'])
def test_what_is_no_bundle_is_refused_in_a_sentence(pair: KeyPair, content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^m:v1: its signature is no Sigstore bundle"):
        check(pair, content)


@pytest.mark.parametrize("place", [0, 40, -1])
@pytest.mark.parametrize("field", ["payload", "sig"])
def test_a_flipped_bit_is_refused(pair: KeyPair, field: str, place: int) -> None:
    document = json.loads(sign(pair))
    envelope = document["dsseEnvelope"]
    holder = envelope if field == "payload" else envelope["signatures"][0]
    content = bytearray(base64.b64decode(holder[field]))
    content[place] ^= 1
    holder[field] = base64.b64encode(content).decode()
    with pytest.raises(
        IntegrityError, match=r"^m:v1: its signature is not valid for key.pub.pem; sign it with `penstock"
    ):
        check(pair, json.dumps(document).encode())


def test_two_signatures_and_a_certificate_are_refused(pair: KeyPair) -> None:
    document = json.loads(sign(pair))
    document["dsseEnvelope"]["signatures"] *= 2
    with pytest.raises(IntegrityError, match="no Sigstore bundle with one signature"):
        check(pair, json.dumps(document).encode())
    document = json.loads(sign(pair))
    document["verificationMaterial"] = {"certificate": {"rawBytes": ""}}
    with pytest.raises(Untrusted, match="signed with a certificate"):
        check(pair, json.dumps(document).encode())


# Keys


def certificate(directory: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "m")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 7, start, start.replace(year=2036))
    path = directory / "certificate.pem"
    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (rsa.generate_private_key(65537, 2048), "RSA"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
    ],
)
def test_keys_of_another_kind_are_refused_in_a_sentence(key: Any, kind: str, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, "other", key)
    for attempt in (lambda: sign(pair), lambda: Signers.of([pair.public])):
        with pytest.raises(ConfigError, match=rf"is a key of the kind {kind}; .* P-256, P-384 or P-521"):
            attempt()


def test_the_wrong_file_is_named_with_what_it_holds(pair: KeyPair, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a key")
    for path, holds in ((pair.public, "a public key"), (certificate(tmp_path), "a certificate"), (text, "no private")):
        with pytest.raises(ConfigError, match=rf"{path.name} holds {holds}.*; sign with the private key"):
            sign(KeyPair(path, pair.public))
    for path, holds in ((pair.private, "a private key"), (certificate(tmp_path), "a certificate"), (text, "no public")):
        with pytest.raises(ConfigError, match=rf"{path.name} holds {holds}"):
            Signers.of([path])
    for attempt in (lambda: Signers.of([tmp_path / "gone.pem"]), lambda: sign(KeyPair(tmp_path / "gone.pem", text))):
        with pytest.raises(ConfigError, match=r"gone.pem: the (public|private) key cannot be read: No such file"):
            attempt()


def test_no_sentence_about_a_key_repeats_it(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    damaged = tmp_path / "damaged.pem"
    damaged.write_text(pair.private.read_text().replace("M", "!", 1))
    with pytest.raises(ConfigError) as raised:
        sign(KeyPair(damaged, pair.public))
    secret = "".join(pair.private.read_text().splitlines()[1:-1])
    assert not any(secret[at : at + 12] in str(raised.value) for at in range(len(secret) - 12))


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, passphrase="correct horse")
    _, bundle = signed_by(pair.private, lambda: "correct horse", "m:v1", DIGESTS)
    assert check(pair, bundle) == "key.pub.pem"
    with pytest.raises(ConfigError, match=r"cannot be decrypted; the passphrase is wrong") as raised:
        signed_by(pair.private, lambda: "staple", "m:v1", DIGESTS)
    assert "staple" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"is encrypted; give its passphrase in PENSTOCK_SIGNING_PASSPHRASE"):
        signed_by(pair.private, without_passphrase, "m:v1", DIGESTS)


def test_a_missing_package_is_named_with_its_extra(pair: KeyPair) -> None:
    code = f"""
import sys
sys.modules["cryptography"] = None
from penstock.artifacts.signatures.signers import Signers
try:
    Signers.of([{str(pair.public)!r}])
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ConfigError signatures need the package cryptography; pip install 'penstock[auth]'\n"


# Artifacts


@pytest.fixture
def signed(write: Write, pair: KeyPair) -> Artifact:
    """An artifact with a signature, which it must have."""
    artifact = write()
    (artifact.path / SIGNATURE).write_bytes(signed_by(pair.private, without_passphrase, "m:v1", artifact.digests())[1])
    return Artifact(artifact.path, artifact.manifest, artifact.digest, Signers.of([pair.public]))


def test_an_artifact_is_verified_with_its_signature_which_is_not_part_of_the_digest(signed: Artifact) -> None:
    signed.verify()
    assert Artifact.open(signed.path).digest == signed.digest
    (signed.path / SIGNATURE).unlink()
    assert Artifact.open(signed.path).digest == signed.digest
    with pytest.raises(Untrusted, match="it has no signature"):
        signed.verify()


@pytest.mark.parametrize("required", [True, False])
def test_the_state_of_a_signature_says_what_is_known_of_it(signed: Artifact, pair: KeyPair, required: bool) -> None:
    artifact = signed if required else replace(signed, signers=None)
    content = artifact.signature_bundle()
    assert content is not None
    expected = ("valid", pair.public.name) if required else ("signed", None)
    found = signature_state(artifact)
    assert (found.state, found.signer) == expected
    file, changed = artifact.path / SIGNATURE, json.loads(content)
    file.write_bytes(signed_by(pair.private, without_passphrase, "m:v1", DIGESTS)[1])
    assert signature_state(artifact).state == "invalid"  # of other files
    file.write_bytes(content[:100])
    assert signature_state(artifact)[:3] == ("invalid", None, None)
    changed["verificationMaterial"]["publicKey"]["hint"] = "\x1b[31m" + "x" * 200
    file.write_text(json.dumps(changed))
    found = signature_state(artifact)
    assert (found.state, (found.key or "\n").isprintable()) == ("untrusted" if required else "signed", True)
    assert found.sentence.isprintable()
    changed["verificationMaterial"] = {"certificate": {"rawBytes": ""}}
    file.write_text(json.dumps(changed))
    assert signature_state(artifact).state == "untrusted"
    file.unlink()
    assert signature_state(artifact) == ("unsigned", None, None, "")


def test_a_signed_artifact_with_another_file_or_a_link_is_refused(signed: Artifact) -> None:
    extra = signed.path / "extra.bin"
    extra.write_bytes(b"1")
    with pytest.raises(IntegrityError, match=r"extra.bin is not listed"):
        signed.verify()
    extra.unlink()
    (signed.path / SIGNATURE).rename(signed.path.parent / "elsewhere.sig")
    (signed.path / SIGNATURE).symlink_to(signed.path.parent / "elsewhere.sig")
    with pytest.raises(IntegrityError, match=r"model.sig is a symbolic link"):
        signed.verify()


def test_a_directory_or_a_huge_file_in_the_place_of_a_signature_is_refused(signed: Artifact) -> None:
    path = signed.path / SIGNATURE
    path.unlink()
    path.mkdir()
    with pytest.raises(IntegrityError, match=r"model.sig is not a plain file"):
        signed.verify()
    with pytest.raises(IntegrityError, match=r"model.sig is not listed"):
        Artifact.open(signed.path).verify()
    path.rmdir()
    with path.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(IntegrityError, match=r"model.sig has 17825792 bytes; at most 16777216 are read"):
        signed.verify()


def test_a_manifest_cannot_list_the_signature(write: Write) -> None:
    document = write().manifest.to_json()
    document["card"]["path"] = SIGNATURE
    from penstock.artifacts.manifest import Manifest
    from penstock.errors import InvalidInput

    with pytest.raises(InvalidInput, match=r"'model.sig' is the name of a signature"):
        Manifest.from_bytes(json.dumps(document).encode())
