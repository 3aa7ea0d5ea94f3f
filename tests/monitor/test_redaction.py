"""Personal data and credentials are redacted, and text that an operator needs is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.monitor.redaction import LONGEST, redact_also, scrub, scrub_field
from penstock.patterns import checked_pattern


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("ann.lee+x@mail.example.co.uk wrote", "[email] wrote"),
        ("müller@bücher.de", "[email]"),
        ('"odd name"@example.com', "[email]"),
        ("<ann@example.com>,<bob@example.org>", "<[email]>,<[email]>"),
        ("+49 (0)30 1234-567", "[phone]"),
        ("+14155552671", "[phone]"),
        ("call (415) 555-2671 or 415.555.2671 now", "call [phone] or [phone] now"),
        ("030 1234567", "[phone]"),
        ("0049 30 1234567", "[phone]"),
        ("phone=4155552671", "[phone]"),
        ("/users/+41791234567/history", "/users/[phone]/history"),
        ("/users/+41791234567/12345", "/users/[phone]/12345"),
        ("GET /users/%2B41%2079%20123%2045%2067?x=1", "GET /users/[phone]?x=1"),
        ("/users/0041 79 123 45 67", "/users/[phone]"),
        ("/call/415-555-2671/now", "/call/[phone]/now"),
        ("/call/(415) 555-2671", "/call/[phone]"),
        ("/call/030-1234567", "/call/[phone]"),
        ("/equipment/0791234567", "/equipment/[phone]"),
        ("/equipment/4155552671/history", "/equipment/[phone]/history"),
        ("/find?phone=%2B41791234567", "/find?[phone]"),
        ("CH93 0076 2011 6238 5295 7", "[iban]"),
        ("de89370400440532013000 was refused", "[iban] was refused"),
        ("/accounts/GB29NWBK60161331926819", "/accounts/[iban]"),
        ("/accounts/FR14%202004%201010%200505%200001%203M02%20606/x", "/accounts/[iban]/x"),
        ("NO93-8601-1117-947, MT84MALT011000012345MTLCAST001S", "[iban], [iban]"),
        ("123-45-6789", "[ssn]"),
        ("/patients/123-45-6789/scans", "/patients/[ssn]/scans"),
        ("SSN: 123 45 6789, ssn=123456789", "SSN: [ssn], ssn=[ssn]"),
        ("756.1234.5678.97", "[ahv]"),
        ("/insured/756.9217.0769.85/x", "/insured/[ahv]/x"),
        ("756 9217 0769 85 and 756-9217-0769-85", "[ahv] and [ahv]"),
        ("7569217076985", "[ahv]"),
        ("4111 1111 1111 1111", "[card]"),
        ("card 5500-0000-0000-0004, 4111111111111111", "card [card], [card]"),
        ("378282246310005", "[card]"),
        ("Authorization: Bearer abc.def.ghi123", "Authorization: [secret]"),
        ("authorization: Basic dXNlcjpwYXNz", "authorization: [secret]"),
        ("sent bearer f00ba2bazf00ba2baz", "sent bearer [token]"),
        ("Bearer eyJhbGciOi.eyJzdWIi.SflKxw", "Bearer [token]"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.SflKxwRJSM", "jwt [token]"),
        ("/predict?api_key=xyz123&x=1", "/predict?api_key=[secret]&x=1"),
        ("X-Penstock-Admin-Key: abcdef", "X-Penstock-Admin-Key: [secret]"),
        ("PENSTOCK_ADMIN_KEY=abc-def", "PENSTOCK_ADMIN_KEY=[secret]"),
        ('{"password": "hun ter2", "user": 1}', '{"password": [secret], "user": 1}'),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = [secret]"),
        ("key AKIAIOSFODNN7EXAMPLE", "key [token]"),
        ("gh ghp_abcdefghijklmnopqrstuvwxyz0123456789", "gh [token]"),
        ("hf_abcdefghijklmnopqrstuv", "[token]"),
        ("sk-proj-abcdefghijklmnop1234", "[token]"),
        ("postgresql://u:p@ss/w@host.example.com:5432/db", "postgresql://[secret]@host.example.com:5432/db"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nend", "[key]\nend"),
    ],
)
def test_personal_data_and_credentials_are_redacted(text: str, clean: str) -> None:
    assert scrub(text) == clean
    assert scrub(f"({text})") == f"({clean})"
    assert scrub(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "digits@champion is now digits:v1.0",
        "digits@champion.v2",
        "2026-11-21T10:51:43.123456Z",
        "550e8400-e29b-41d4-a716-446655440000",
        "00000000-0000-4000-8000-000000000000",
        "ad7742ea-7",
        "12345678-1f",
        "1234567890123456",
        "0000000000000000",
        "0.123456789012345678",
        "192.168.100.200:8002",
        "listening on http://127.0.0.1:8002",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "input_data: 3 numbers given, the model takes 784",
        "the shape is [1, 3, 224, 224]",
        "missing key: layer1.weight",
        "the key of the model is digits:v1.0",
        "a bearer token is needed",
        "basic configuration",
        "version 1.0.0+20241212",
        "/models/digits/versions/v1.0/predict",
        "penstock.engine.loading.loaded_model",
        "16777216 bytes at most, 1024 items",
        "/models/digits/versions/2026-11-28/predict",
        "/equipment/12345678",
        "/equipment/1764323289",
        "/archive/2026/11/28/0123",
        "http://192.168.100.200:8002/health",
        "/v2/models/resnet50-v1.5/infer",
        "DE89370400440532013001",
        "ab12cdefabcdefabcdef is a commit",
        "7561234567890",
        "756.123.456",
        "2026-11-28 10:51:43",
        "shape [756, 1234, 5678, 97]",
    ],
)
def test_text_that_an_operator_needs_is_kept(text: str) -> None:
    assert scrub(text) == text


@given(st.text(st.characters(codec="utf-8"), max_size=300))
def test_any_text_is_redacted_and_redacting_twice_changes_no_mark(text: str) -> None:
    once = scrub(f"{text} ann@example.com 4111 1111 1111 1111 ")
    assert "ann@example.com" not in once
    assert "4111 1111" not in once


@given(st.from_regex(r"[a-z]{1,10}(\.[a-z]{1,10})?", fullmatch=True), st.sampled_from(["example.com", "a-b.co.uk"]))
def test_every_plain_address_is_found(local: str, domain: str) -> None:
    assert scrub(f"from {local}@{domain}.") == "from [email]."


@pytest.fixture
def own() -> Iterator[None]:
    redact_also((r"\bEMP-\d{4,8}\b", r"(?i)patient[- ]\w+"))
    yield
    redact_also(())


def test_patterns_of_the_settings_are_redacted_too(own: None) -> None:
    assert scrub("EMP-12345 saw Patient Miller, ann@example.com") == "[redacted] saw [redacted], [email]"
    assert scrub_field("path", "/staff/EMP-1234/x") == "/staff/[redacted]/x"
    assert scrub("EMP-123") == "EMP-123"
    long = "word " * 150 + "EMP-12345 " + "x" * 2000 + " EMP-12345"
    assert scrub(long) == long.replace("EMP-12345", "[redacted]")
    redact_also(())
    assert scrub("EMP-12345") == "EMP-12345"


def test_slow_patterns_that_are_allowed_stay_quick_on_long_texts() -> None:
    redact_also([checked_pattern(r"\w+!").pattern])
    started = time.thread_time()
    scrub("a" * LONGEST)
    redact_also(())
    assert time.thread_time() - started < 1


LONG = ("a" * 10**6, "1 " * 10**5, "a@" * 10**4, "key_" * 5000, "+1 " * 7000, "token " * 4000, "eyJ" * 7000)
ODD = (
    "+1234567890" * 2000,
    "://:" * 5000,
    '"' * 20_000,
    "-----BEGIN PRIVATE KEY-----" * 800,
    "1-" * 10**4,
    "1-eyJ" * 4000,
    "CH93" * 5000,
    "/+1" * 7000,
    "756." * 5000,
    "ssn " * 5000,
    "DE89 " * 4000,
)


@pytest.mark.parametrize("text", [*LONG, *ODD], ids=lambda text: text[:6])
def test_redaction_of_any_text_is_fast(text: str) -> None:
    started = time.perf_counter()
    scrub(text)
    assert time.perf_counter() - started < 0.2


def test_a_very_long_text_is_shortened_without_leaving_part_of_a_secret() -> None:
    secret = "ghp_" + "a1" * 20
    for place in range(LONGEST // 2 - 60, LONGEST // 2 + 10, 5):
        clean = scrub("x " * (place // 2) + secret + " y" * LONGEST)
        assert len(clean) <= LONGEST + 100
        assert "a1a1" not in clean
        assert "characters left out" in clean


@pytest.mark.parametrize("name", ["password", "admin_key", "X-Penstock-Admin-Key", "apiKey", "Authorization", "token"])
def test_a_field_with_the_name_of_a_secret_is_hidden(name: str) -> None:
    assert scrub_field(name, "whatever") == "[secret]"
    assert scrub_field("headers", {name: ["whatever"]}) == {name: "[secret]"}


@pytest.mark.parametrize("name", ["key", "monkey", "path", "author", "passed", "tokenizer"])
def test_a_field_with_a_name_similar_to_a_secret_is_shown(name: str) -> None:
    assert scrub_field(name, "whatever") == "whatever"


def test_nested_lists_and_mappings_are_redacted() -> None:
    value = {"to": ["ann@example.com", {"cc": ("bob@example.org",)}], "ann@example.com": 3, "ok": True}
    assert scrub_field("mail", value) == {"to": ["[email]", {"cc": ["[email]"]}], "[email]": 3, "ok": True}


def test_a_list_that_contains_itself_is_cut_off() -> None:
    endless: list[object] = ["ann@example.com"]
    endless.append(endless)
    assert "ann" not in str(scrub_field("x", endless))


def test_only_type_and_size_of_arrays_and_bytes_are_shown() -> None:
    assert scrub_field("x", np.array([[1.5, 2.5]], np.float32)) == "ndarray of float32 [1, 2]"
    assert scrub_field("x", b"ann@example.com") == "15 bytes"
