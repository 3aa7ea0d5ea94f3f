from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from signing_keys import KeyPair, write_pair
from sigstore_instance import IDENTITY, ISSUER, SigstoreInstance

from penstock.artifacts.artifact import SIGNATURE
from penstock.artifacts.signatures.bundle import read_bundle

Penstock = Callable[..., Any]


@pytest.fixture
def pair(tmp_path: Path) -> KeyPair:
    return write_pair(tmp_path)


def test_a_version_is_signed_and_verified(penstock: Penstock, published: str, pair: KeyPair, tmp_path: Path) -> None:
    done = penstock("models", "sign", published, "--private-key", pair.private)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("signed linear:v1.0 with key.pem (public key sha256 ")
    assert (tmp_path / "registry" / "linear" / "v1.0" / SIGNATURE).is_file()
    done = penstock("models", "verify", published, "--public-key", pair.public)
    assert (done.code, done.out) == (0, "linear:v1.0 is signed by key.pub.pem, and every file is as it was signed\n")
    shown = penstock("models", "verify", published, "--public-key", pair.public, "--json").json()
    assert (shown["ref"], shown["valid"]) == ("linear:v1.0", True)


def test_an_unsigned_altered_or_otherwise_signed_version_fails(
    penstock: Penstock, published: str, pair: KeyPair, tmp_path: Path
) -> None:
    verify = ("models", "verify", published, "--public-key", pair.public)
    done = penstock(*verify)
    assert done.code == 1
    assert "penstock: linear:v1.0: it has no signature" in done.err
    penstock("models", "sign", published, "--private-key", write_pair(tmp_path, "other").private)
    assert "signed with another key" in penstock(*verify).err
    penstock("models", "sign", published, "--private-key", pair.private)
    card = tmp_path / "registry" / "linear" / "v1.0" / "card.md"
    card.write_text(card.read_text().swapcase())
    done = penstock(*verify)
    assert done.code == 1
    assert "card.md does not match the sha256" in done.err
    done = penstock("models", "sign", published, "--private-key", pair.private)
    assert done.code == 1
    assert "card.md does not match the sha256" in done.err


def test_a_version_is_verified_by_the_identity_that_signed_it(
    penstock: Penstock, published: str, pair: KeyPair, tmp_path: Path
) -> None:
    instance = SigstoreInstance()
    root = instance.trusted_root(tmp_path / "root.json")
    penstock("models", "sign", published, "--private-key", pair.private)
    path = tmp_path / "registry" / "linear" / "v1.0" / SIGNATURE
    path.write_bytes(instance.bundle(read_bundle(path.read_bytes()).payload))
    who = ("--identity", IDENTITY, "--issuer", ISSUER, "--trust-config", root)
    done = penstock("models", "verify", published, *who)
    assert (done.code, done.out) == (0, f"linear:v1.0 is signed by {IDENTITY}, and every file is as it was signed\n")
    shown = penstock("models", "verify", published, *who, "--json").json()
    assert (shown["valid"], shown["identity"], shown["issuer"]) == (True, IDENTITY, ISSUER)
    done = penstock("models", "verify", published, "--identity", "eve@example.org", *who[2:])
    assert done.code == 1
    assert "it was not signed by eve@example.org of https://accounts.example.org" in done.err
    for options in ((), who[:4], (*who, "--public-key", pair.public)):
        done = penstock("models", "verify", published, *options)
        assert done.code == 2
        assert "give --public-key FILE, or all of --identity, --issuer and --trust-config" in " ".join(
            done.err.replace("│", " ").split()
        )


def test_a_version_shows_who_signed_it(
    penstock: Penstock, published: str, pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown() -> dict[str, Any]:
        signing: dict[str, Any] = penstock("models", "show", published, "--json").json()["signing"]
        return signing

    assert shown()["state"] == "unsigned"
    penstock("models", "sign", published, "--private-key", pair.private)
    hint = hashlib.sha256(pair.public.read_bytes()).hexdigest()
    assert shown() == {"state": "signed", "key": hint, "signer": None, "problem": ""}
    assert f"by the key with the sha256 {hint[:20]}" in "".join(penstock("models", "show", published).out.split("\n"))
    monkeypatch.setenv("PENSTOCK_REQUIRE_SIGNED", str(pair.public))
    assert shown() == {"state": "valid", "key": hint, "signer": pair.public.name, "problem": ""}
    assert f"valid, by {pair.public.name}" in penstock("models", "show", published).out
    monkeypatch.setenv("PENSTOCK_REQUIRE_SIGNED", str(write_pair(tmp_path, "other").public))
    assert (shown()["state"], shown()["key"]) == ("untrusted", hint)
    assert "signed with another key" in shown()["problem"]


def test_a_signature_may_lie_elsewhere(penstock: Penstock, published: str, pair: KeyPair, tmp_path: Path) -> None:
    out = tmp_path / "linear.sig"
    for _ in range(2):
        assert penstock("models", "sign", published, "--private-key", pair.private, "--signature", out).code == 0
    assert not (tmp_path / "registry" / "linear" / "v1.0" / SIGNATURE).exists()
    verify = ("models", "verify", published, "--public-key", pair.public)
    assert penstock(*verify).code == 1
    assert penstock(*verify, "--signature", out).code == 0
    done = penstock(*verify, "--signature", tmp_path / "gone.sig")
    assert (done.code, done.err) == (1, f"penstock: {tmp_path / 'gone.sig'} is missing\n")
    done = penstock(
        "models", "sign", published, "--private-key", pair.private, "--signature", tmp_path / "no" / "a.sig"
    )
    assert done.code == 1
    assert "a.sig cannot be written: No such file or directory" in done.err


def test_an_artifact_directory_is_signed_in_place(
    penstock: Penstock, published: str, pair: KeyPair, tmp_path: Path
) -> None:
    directory = tmp_path / "registry" / published / "v2.0"
    done = penstock("models", "sign", directory, "--private-key", pair.private, "--json")
    assert done.json()["signature"] == str(directory / SIGNATURE)
    assert penstock("models", "verify", directory, "--public-key", pair.public).code == 0
    assert sorted(path.name for path in directory.parent.iterdir()) == ["v1.0", "v2.0"]


def test_an_encrypted_key_takes_its_passphrase_from_the_environment(
    penstock: Penstock, published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = write_pair(tmp_path, "locked", passphrase="correct horse")
    sign = ("models", "sign", published, "--private-key", pair.private)
    done = penstock(*sign)
    assert done.code == 1
    assert "locked.pem is encrypted; give its passphrase in PENSTOCK_SIGNING_PASSPHRASE" in done.err
    monkeypatch.setenv("PENSTOCK_SIGNING_PASSPHRASE", "correct horse")
    assert penstock(*sign).code == 0
    assert "correct horse" not in penstock("config", "show").out
    monkeypatch.setenv("PENSTOCK_SIGNING_PASSPHRASE", "staple")
    assert "the passphrase is wrong" in penstock(*sign).err


def test_a_version_that_has_to_be_signed_can_be_signed_listed_and_verified(
    penstock: Penstock, published: str, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_REQUIRE_SIGNED", str(pair.public))
    row = json.dumps({"input_data": [0, 0, 0, 0]}).encode()
    for arguments in (
        ("predict", published, "-"),
        ("models", "export", published, "exported", "--plain"),
        ("models", "alias", published, "champion", "v2.0"),
    ):
        done = penstock(*arguments, stdin=row)
        assert done.code == 1, arguments
        assert "it has no signature (model.sig), and one by key.pub.pem is required" in done.err, arguments
    assert penstock("models", "list").code == 0
    assert penstock("models", "sign", published, "--private-key", pair.private).code == 0
    assert penstock("models", "verify", published, "--public-key", pair.public).code == 0
    assert penstock("models", "export", published, "exported", "--plain").code == 0


def test_a_file_to_predict_with_cannot_be_signed(
    penstock: Penstock, onnx_file: Path, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_REQUIRE_SIGNED", str(pair.public))
    done = penstock("predict", onnx_file, "-", stdin=b"{}")
    assert done.code == 1
    assert "it cannot have a signature" in done.err
