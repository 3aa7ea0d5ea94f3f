from __future__ import annotations

import pytest

from penstock.errors import ConfigError, InvalidInput
from penstock.registry.remote.locations import is_remote, location

ALLOWED = ("https://models.example.org/team/", "s3://bucket", "gs://other/prefix")


@pytest.mark.parametrize("text", ["https://a/b", "s3://b/c", "gs://b", "ftp://a/b", "file:///etc/passwd"])
def test_an_address_is_no_path(text: str) -> None:
    assert is_remote(text)


@pytest.mark.parametrize("text", ["model.onnx", "./a/b", "/a//b", "C:/models/m.onnx", "digits:v1.0"])
def test_a_path_is_no_address(text: str) -> None:
    assert not is_remote(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://models.example.org/team/digits/v1.0",
        "https://MODELS.example.org/team/m.onnx",
        "s3://bucket/a/b/c",
        "gs://other/prefix/m",
        f"https://models.example.org/team/m#sha256={'a' * 64}",
    ],
)
def test_what_is_below_an_entry_of_the_list_is_allowed(text: str) -> None:
    assert location(text, ALLOWED).url == text.partition("#")[0]


@pytest.mark.parametrize(
    "text",
    [
        "https://models.example.org/teammate/m",
        "https://models.example.org/",
        "http://models.example.org/team/m",
        "https://models.example.org:8443/team/m",
        "https://models.example.org.evil.org/team/m",
        "https://evil.org/models.example.org/team/m",
        "s3://bucket2/m",
        "gs://other/prefixes/m",
        "s3://other/prefix/m",
    ],
)
def test_what_is_not_below_an_entry_is_refused(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"is not in the setting remote_registries \(it allows https://models.example"
    ):
        location(text, ALLOWED)


def test_without_a_list_nothing_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"remote_registries \(it is empty\); add the address of the directory"):
        location("https://models.example.org/team/m", ())


@pytest.mark.parametrize(
    "text",
    [
        "https://models.example.org/team/../other/m",
        "https://models.example.org/team/%2e%2e/other",
        "https://models.example.org/team/..%2fother",
        "https://models.example.org/team//m",
        "https://models.example.org\\@evil.org/team/m",
        "https://models.example.org/team/m\n",
        "https://user:secret@models.example.org/team/m",
        "https://models.example.org/team/m?X-Amz-Signature=secret",
        "https:///team/m",
        "ftp://models.example.org/team/m",
        "file:///team/m",
        "https://models.example.org/team/m#sha256=abc",
        "https://[::1/team/m",
    ],
)
def test_an_address_that_is_not_plain_is_refused_without_its_secrets(text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        location(text, ALLOWED)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
