"""Models fetched from real servers on loopback, which `private` allows."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from remote_store import Store, served

from penstock.artifacts.artifact import SIGNATURE, Artifact
from penstock.errors import ConfigError, DeadlineExceeded, IntegrityError, ModelNotFound, PenstockError
from penstock.registry.remote.fetching import RemotePolicy, fetched

pytest.importorskip("aiohttp", reason="pip install 'penstock[remote]'")
Write = Callable[..., Artifact]


@pytest.fixture
def store(write: Write, tmp_path: Path) -> Iterator[Store]:
    root = tmp_path / "store"
    shutil.copytree(write().path, root / "team" / "m" / "v1")
    with served(root) as store:
        yield store


@pytest.fixture
def policy(store: Store) -> RemotePolicy:
    return RemotePolicy((f"{store.url}/team/",), private=True, timeout_s=30)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where downloads go; nothing may stay there."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    assert list(directory.iterdir()) == []


def fetch(url: str, policy: RemotePolicy) -> Artifact:
    with fetched(url, policy) as path:
        artifact = Artifact.open(path)
        artifact.verify()
        return artifact


def refused(url: str, policy: RemotePolicy, error: type[PenstockError], match: str) -> None:
    with pytest.raises(error, match=match), fetched(url, policy):
        pass


def test_an_artifact_is_fetched_with_its_signature(store: Store, policy: RemotePolicy) -> None:
    (store.root / "team" / "m" / "v1" / SIGNATURE).write_bytes(b"{}")
    with fetched(f"{store.url}/team/m/v1/", policy) as path:
        artifact = Artifact.open(path)
        artifact.verify()
        assert artifact.ref == "m:v1"
        assert artifact.signature_bundle() == b"{}"
    assert fetch(f"{store.url}/team/m/v1#sha256={artifact.digest}", policy).digest == artifact.digest


def test_a_file_is_fetched_under_its_name(store: Store, policy: RemotePolicy) -> None:
    content = b"weights" * 1000
    (store.root / "team" / "net.onnx").write_bytes(content)
    with fetched(f"{store.url}/team/net.onnx#sha256={hashlib.sha256(content).hexdigest()}", policy) as path:
        assert (path.name, path.read_bytes()) == ("net.onnx", content)
    refused(f"{store.url}/team/net.onnx#sha256={'0' * 64}", policy, IntegrityError, "does not match its sha256")


def test_an_altered_missing_or_longer_file_is_refused(store: Store, policy: RemotePolicy) -> None:
    url, home = f"{store.url}/team/m/v1", store.root / "team" / "m" / "v1"
    refused(f"{url}#sha256={'0' * 64}", policy, IntegrityError, r"manifest.json does not match its sha256")
    model = home / "variants" / "onnx-fp32" / "model.onnx"
    store.extra_bytes["/team/m/v1/variants/onnx-fp32/model.onnx"] = 1
    refused(url, policy, IntegrityError, r"model.onnx has more than \d+ bytes, which is all that it may have")
    store.extra_bytes.clear()
    content = bytearray(model.read_bytes())
    content[3] ^= 1
    model.write_bytes(content)
    refused(url, policy, IntegrityError, r"model.onnx does not match its sha256")
    model.unlink()
    refused(url, policy, ModelNotFound, r"there is no http://127.0.0.1:\d+/team/m/v1/variants/onnx-fp32/model.onnx")


def test_a_manifest_that_leaves_its_directory_is_refused(store: Store, policy: RemotePolicy) -> None:
    path = store.root / "team" / "m" / "v1" / "manifest.json"
    document = json.loads(path.read_text())
    document["card"]["path"] = "../../escaped.md"
    path.write_text(json.dumps(document))
    refused(f"{store.url}/team/m/v1", policy, IntegrityError, "is not a path inside the artifact")


def test_loopback_is_refused_unless_the_policy_allows_it(store: Store, policy: RemotePolicy) -> None:
    refused(
        f"{store.url}/team/m/v1",
        replace(policy, private=False),
        ConfigError,
        r"is at an address that is refused: 127.0.0.1 is not a public address; remote_private allows",
    )
    assert store.asked == []


def test_a_name_is_checked_by_the_address_that_is_connected_to(
    store: Store, policy: RemotePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that changes its address between two look-ups, as in DNS rebinding: only the last one counts."""
    answers: list[str] = []

    def resolve(host: str, port: Any, *arguments: Any, **keywords: Any) -> Any:
        answers.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    port = store.url.rpartition(":")[2]
    address = f"http://models.example.org:{port}/team/"
    allowed = replace(policy, allowed=(address,))
    assert fetch(f"{address}m/v1", allowed).ref == "m:v1"
    refused(
        f"{address}m/v1", replace(allowed, private=False), ConfigError, "is at an address that is refused: 127.0.0.1"
    )
    assert answers


def test_redirects_lead_to_what_is_allowed_only(store: Store, policy: RemotePolicy) -> None:
    target = f"{store.url}/team/m/v1/manifest.json"
    store.redirects["/team/moved/manifest.json"] = target
    (store.root / "private").mkdir()
    shutil.copy(store.root / "team" / "m" / "v1" / "manifest.json", store.root / "private" / "manifest.json")
    refused(f"{store.url}/team/moved", policy, ModelNotFound, "there is no .*/team/moved/variants")
    for place, match in (
        (f"{store.url}/private/manifest.json", "private/manifest.json is not in the setting remote_registries"),
        ("http://169.254.169.254/latest/meta-data", "meta-data is not in the setting remote_registries"),
        ("file:///etc/passwd", "redirects to an address that should begin with https"),
    ):
        store.redirects["/team/moved/manifest.json"] = place
        refused(f"{store.url}/team/moved", policy, PenstockError, match)


def test_a_model_that_is_too_large_or_too_slow_is_given_up(store: Store, policy: RemotePolicy) -> None:
    url = f"{store.url}/team/m/v1"
    refused(url, replace(policy, max_bytes=100), ConfigError, r"larger than remote_max_bytes \(100\) allows")
    manifest = (store.root / "team" / "m" / "v1" / "manifest.json").stat().st_size
    small = replace(policy, max_bytes=manifest + 100)
    refused(url, small, ConfigError, r"team/m/v1 \(\d+ bytes\) is larger than remote_max_bytes")
    assert store.asked[-1].endswith("manifest.json")
    (store.root / "team" / "net.onnx").write_bytes(bytes(3 << 20))
    refused(
        f"{store.url}/team/net.onnx", replace(policy, max_bytes=1 << 20), ConfigError, "larger than remote_max_bytes"
    )
    store.pause_s = 0.2
    refused(url, replace(policy, timeout_s=0.1), DeadlineExceeded, r"took longer than remote_timeout_s \(0.1 s\)")


def test_a_store_that_forbids_what_it_does_not_have_serves_unsigned_models(store: Store, policy: RemotePolicy) -> None:
    store.forbidden.add(f"/team/m/v1/{SIGNATURE}")
    assert fetch(f"{store.url}/team/m/v1", policy).signature_bundle() is None
    store.forbidden.add("/team/m/v1/manifest.json")
    refused(f"{store.url}/team/m/v1", policy, ModelNotFound, r"manifest.json may not be read: 403")


def test_many_empty_files_end_at_the_time_limit(store: Store, policy: RemotePolicy) -> None:
    home = store.root / "team" / "m" / "v1"
    document = json.loads((home / "manifest.json").read_text())
    empty = hashlib.sha256(b"").hexdigest()
    names = [f"variants/onnx-fp32/{number}" for number in range(2000)]
    document["variants"][0]["files"] += [{"path": name, "sha256": empty, "size": 0} for name in names]
    (home / "manifest.json").write_text(json.dumps(document))
    for name in names:
        (home / name).write_bytes(b"")
    refused(
        f"{store.url}/team/m/v1", replace(policy, timeout_s=0.4), DeadlineExceeded, "took longer than remote_timeout_s"
    )


def test_a_server_that_is_down_is_named(policy: RemotePolicy) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/team/"
        refused(f"{url}m", replace(policy, allowed=(url,)), ConfigError, r"/team/m/manifest.json cannot be fetched: ")


# S3


@pytest.fixture
def bucket(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    pytest.importorskip("s3fs", reason="pip install 'penstock[remote]'")
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    return store


def test_an_artifact_is_fetched_from_a_bucket(bucket: Store, policy: RemotePolicy) -> None:
    policy = replace(policy, allowed=("s3://team/m",))
    assert fetch("s3://team/m/v1", policy).ref == "m:v1"
    assert "/team/m/v1/manifest.json" in bucket.asked
    refused("s3://team/m/v2", policy, ModelNotFound, "there is no s3://team/m/v2/manifest.json")
    refused("s3://other/m/v1", policy, ConfigError, "is not in the setting remote_registries")


def test_a_bucket_at_a_private_address_is_refused(bucket: Store, policy: RemotePolicy) -> None:
    policy = replace(policy, allowed=("s3://team",), private=False)
    refused("s3://team/m/v1", policy, ConfigError, "is at an address that is refused: 127.0.0.1")
    assert bucket.asked == []
