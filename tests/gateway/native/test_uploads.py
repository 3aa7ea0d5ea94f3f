"""Valid and invalid multipart forms."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.gateway.native.uploads import MAX_PARTS, parse_form

TYPE = "multipart/form-data; boundary=XYZ"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return b"--XYZ\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XYZ--\r\n"


def test_files_come_as_bytes_and_fields_as_text() -> None:
    fields = parse_form(form(part("file", b"\0\xff\r\n--XY\r\n", "a.png"), part("top_k", "dreißig".encode())), TYPE)
    assert fields == {"file": b"\0\xff\r\n--XY\r\n", "top_k": "dreißig"}


@settings(max_examples=150)
@given(st.binary(max_size=300), st.binary(max_size=300))
@example(b"\r\n--XYZ", b"")
@example(b"--XYZ--\r\n", b"\r\n")
def test_any_bytes_survive(one: bytes, two: bytes) -> None:
    if b"\r\n--XYZ" in b"\r\n" + one + b"\r\n" or b"\r\n--XYZ" in b"\r\n" + two + b"\r\n":
        return  # clients choose a boundary that does not occur in the data
    assert parse_form(form(part("a", one, "x"), part("b", two, "y")), TYPE) == {"a": one, "b": two}


@settings(max_examples=300)
@given(st.binary(max_size=200))
@example(form(part("a", b"", "x"))[:-10])
def test_any_body_is_a_form_or_refused(body: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        assert all(isinstance(name, str) for name in parse_form(body, TYPE))


WHOLE = form(part("file", b"some bytes", "x"), part("top_k", b"3"))


@pytest.mark.parametrize("length", range(len(WHOLE) - 4))
def test_a_form_truncated_anywhere_is_refused(length: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_form(WHOLE[:length], TYPE)
    assert caught.value.errors


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        (form(part("a", b"1"), part("a", b"2")), TYPE, "a"),
        (form(part("a", b"\xff")), TYPE, "a"),
        (form(part("", b"x")), TYPE, "body"),
        (form(b"--XYZ\r\nX: y\r\n\r\nz\r\n"), TYPE, "body"),
        (form(*(part(f"f{n}", b"") for n in range(MAX_PARTS + 1))), TYPE, "body"),
        (form(part("a", b"1")), "multipart/form-data", "body"),
        (form(part("a", b"1")), "multipart/form-data; boundary=other", "body"),
        (b"--XYZ\r\n" + b"H: v\r\n" * 500 + b"\r\nx\r\n--XYZ--\r\n", TYPE, "body"),
        (form(part("a", b"1")), "multipart/form-data; boundary=" + "x" * 5000, "body"),
    ],
)
def test_an_invalid_form_names_the_field(body: bytes, kind: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_form(body, kind)
    assert caught.value.errors[0].field == field
