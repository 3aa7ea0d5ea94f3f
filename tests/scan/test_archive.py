"""Zip archives that two programs could read differently are refused."""

from __future__ import annotations

import io
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from crafted import members, packed
from hypothesis import given
from hypothesis import strategies as st

from penstock.scan.archive import opened
from penstock.scan.findings import Refused
from penstock.scan.scanner import scan_bytes

PLAIN = packed({"m/data.pkl": b"\x80\x02N.", "m/data/0": b"12345678"})


def refusal(data: bytes, **options: bool) -> str:
    with pytest.raises(Refused) as refused, opened(memoryview(data), **options):
        pass
    return str(refused.value)


def test_archives_of_python_and_of_pytorch_are_read() -> None:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3)}, buffer)
    for data in (PLAIN, packed({"m/a": b"x" * 999}, zipfile.ZIP_DEFLATED), buffer.getvalue(), packed({})):
        with opened(memoryview(data)) as archive:
            assert {name: archive.read(name) for name in archive.members} == members(data)


def test_names_beyond_ascii_are_read_where_they_are_expected_and_marked_as_utf_8() -> None:
    data = packed({"m/größe": b"x"})
    with opened(memoryview(data), unicode_names=True) as archive:
        assert list(archive.members) == ["m/größe"]
    assert "read differently" in refusal(data)
    assert "read differently" in refusal(data.replace(b"\0\x08", b"\0\0"), unicode_names=True)
    first = data.index(b"\0\x08")
    assert "differs from the central directory" in refusal(
        data[:first] + b"\0\0" + data[first + 2 :], unicode_names=True
    )
    assert "two members" in refusal(packed({"m/é": b"x", "m/e\u0301": b"y"}), unicode_names=True)
    assert "two members" in refusal(packed({"m/straße": b"x", "m/STRASSE": b"y"}), unicode_names=True)


def test_large_archives_have_a_wider_end_and_are_read() -> None:
    many = packed({f"m/{number}": b"" for number in range(70_000)})
    with opened(memoryview(many)) as archive:
        assert len(archive.members) == 70_000


def doubled() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate"):
        return raw(("m/data.pkl", b"good"), ("m/data.pkl", b"evil"))


def raw(*content: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content:
            archive.writestr(name, data)
    return buffer.getvalue()


def with_info(change: Callable[[zipfile.ZipInfo], None]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("m/a")
        change(info)
        archive.writestr(info, b"content")
    return buffer.getvalue()


def a_link(info: zipfile.ZipInfo) -> None:
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


def other_compression(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_BZIP2


def header_says(data: bytes, name: bytes) -> bytes:
    """The header of the first member with another name than the table of contents."""
    return data[:30] + name + data[30 + len(name) :]


def two_ends() -> bytes:
    """An archive in the comment of another: programs that look for the end from the front and from the back differ."""
    end = PLAIN[:-2] + struct.pack("<H", len(PLAIN))
    return end + PLAIN


def overlapping() -> bytes:
    """Two entries of the table of contents for the same bytes: how small files unpack to huge ones."""
    data = raw(("m/aa", b"x" * 50), ("m/bb", b"x" * 50))
    place = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    return data[: place + 42] + struct.pack("<L", 0) + data[place + 46 :]


def hidden_between() -> bytes:
    data = PLAIN
    table = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    offset = struct.pack("<L", table + 100)
    return data[:table] + b"h" * 100 + data[table:end] + data[end : end + 16] + offset + data[end + 20 :]


CRAFTED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a member twice": (doubled, "two members"),
    "a member twice in another case": (lambda: raw(("m/data.pkl", b"good"), ("m/DATA.pkl", b"evil")), "two members"),
    "something in front": (lambda: b"#!/bin/sh\n" + PLAIN, "is not where"),
    "something behind": (lambda: PLAIN + b"more", "its end"),
    "a comment": (lambda: PLAIN[:-2] + b"\x04\x00more", "its end"),
    "an archive in the comment": (two_ends, "is not where"),
    "something between": (hidden_between, "between its last member"),
    "overlapping members": (overlapping, "differs|overlaps"),
    "a header with another name": (lambda: header_says(PLAIN, b"m/evil.pkl"), "damaged|differs"),
    "a name that leaves": (lambda: raw(("m/../../evil", b"")), "would leave"),
    "an absolute name": (lambda: raw(("/etc/evil", b"")), "would leave"),
    "a name of Windows": (lambda: raw(("m\\..\\evil", b"")), "would leave"),
    "a drive": (lambda: raw(("c:/evil", b"")), "would leave"),
    "an empty part": (lambda: raw(("m//evil", b"")), "would leave"),
    "letters beyond ASCII": (lambda: raw(("m/dаta.pkl", b"")), "read differently"),
    "a member inside a member": (lambda: raw(("m/a", b""), ("m/a/b", b"")), "not a directory"),
    "a link": (lambda: with_info(a_link), "symbolic link"),
    "an unusual compression": (lambda: with_info(other_compression), "an unsupported method"),
    "an archive cut short": (lambda: PLAIN[:-30], "damaged"),
}


@pytest.mark.parametrize("what", CRAFTED)
def test_a_crafted_archive_is_refused(what: str) -> None:
    import re

    make, says = CRAFTED[what]
    assert re.search(says, refusal(make()))


def test_a_name_with_an_end_in_the_middle_is_refused() -> None:
    data = PLAIN.replace(b"m/data.pkl", b"m/data\0pkl")
    assert "read differently" in refusal(data)


def test_an_encrypted_member_is_refused() -> None:
    table = PLAIN.index(b"PK\x01\x02")
    data = PLAIN[:6] + b"\x01" + PLAIN[7 : table + 8] + b"\x01" + PLAIN[table + 9 :]
    assert "encrypted" in refusal(data)


def test_a_decompression_bomb_is_refused_without_decompression() -> None:
    bomb = packed({"m/data.pkl": bytes(80 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 200_000
    assert "over 10 times its size" in refusal(bomb)


def test_a_member_that_unpacks_to_more_than_it_says_is_not_unpacked_further() -> None:
    """Its size in both headers is small: Python's own reader unpacks all of it before it cuts it off."""
    bomb = packed({"m/data.pkl": bytes(64 * 2**20)}, zipfile.ZIP_DEFLATED)
    small = bomb.replace(struct.pack("<L", 64 * 2**20), struct.pack("<L", 1000))
    tracemalloc.start()
    with opened(memoryview(small)) as archive:
        assert archive.start("m/data.pkl") == bytes(8)
        with pytest.raises(Refused, match="is damaged"):
            archive.read("m/data.pkl")
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


def test_packed_content_that_goes_on_after_its_end_is_refused() -> None:
    data = packed({"m/a": b"x" * 999}, zipfile.ZIP_DEFLATED)
    with opened(memoryview(data)) as archive:
        size = archive.members["m/a"].compress_size
    for change in (2, -2):
        content = zlib_member(b"x" * 999, size + change)
        with opened(memoryview(content)) as archive, pytest.raises(Refused, match="is damaged"):
            archive.read("m/a")


def zlib_member(content: bytes, size: int) -> bytes:
    """An archive of one packed member, cut or filled up to `size` packed bytes."""
    data = packed({"m/a": content}, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        had = archive.getinfo("m/a").compress_size
    start, table = 30 + len("m/a"), data.index(b"PK\x01\x02")
    body = (data[start : start + had] + bytes(8))[:size]
    old, new = struct.pack("<L", had), struct.pack("<L", size)
    head = data[:18] + new + data[22:start]
    end = data[table:].replace(old, new, 1)
    moved = end[:-6] + struct.pack("<L", table + size - had) + end[-2:]
    return head + body + moved


@pytest.mark.parametrize(
    ("name", "says"),
    [("m/" + "a/" * 499 + "b", "at most 1000 are read"), ("m/" + "a" * 999, "at most 1000 are read")],
)
def test_the_length_of_names_is_limited(name: str, says: str) -> None:
    assert says in refusal(raw((name, b"")))
    assert says in refusal(raw(("m/" + "/" * 60_000, b"")))
    with opened(memoryview(raw((name[:990], b"x")))) as archive:
        assert archive.read(name[:990]) == b"x"


def test_extra_fields_that_take_long_to_parse_are_refused() -> None:
    def many(info: zipfile.ZipInfo) -> None:
        info.extra = struct.pack("<2H", 0xCAFE, 0) * 16_000

    assert "extra fields" in refusal(with_info(many))


def test_a_directory_and_a_file_of_one_name_are_refused() -> None:
    assert "two members 'm/a'" in refusal(raw(("m/a/", b""), ("m/a", b"x")))
    assert "'m/a/b' is inside a member" in refusal(raw(("m/a!", b""), ("m/a", b""), ("m/a/b", b"")))
    with opened(memoryview(raw(("m/", b""), ("m/a/", b""), ("m/a/b", b"x"), ("m/ab", b"y")))) as archive:
        assert len(archive.members) == 4


def test_a_member_that_is_too_large_is_not_read() -> None:
    with opened(memoryview(PLAIN)) as archive, pytest.raises(Refused, match="at most 2 are read"):
        archive.read("m/data.pkl", limit=2)


def test_a_damaged_member_is_refused_where_it_is_read() -> None:
    data = PLAIN.replace(b"12345678", b"12345679")
    with opened(memoryview(data)) as archive, pytest.raises(Refused, match="is damaged"):
        archive.read("m/data/0")


@given(st.data())
def test_no_change_of_bytes_makes_the_scan_fail(data: st.DataObject) -> None:
    content = bytearray(PLAIN)
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    scan_bytes(memoryview(content), Path("m.pt"), "pytorch").to_json()
