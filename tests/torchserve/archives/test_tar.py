"""Our reader of `.tar.gz` beside Python's: the same members, and one kind of error for everything else."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_archives import MODEL, tarred

from penstock.scan.findings import Refused
from penstock.torchserve.archives.tar import opened_tar

LIMIT = 2**30
WORDS = st.text(st.sampled_from("abcé.-_"), min_size=1, max_size=70)
PATHS = st.lists(WORDS, min_size=1, max_size=5).map("/".join)


def read(path: Path, limit: int = LIMIT) -> dict[str, bytes]:
    with opened_tar(path, limit) as members:
        return {member.name: b"".join(member.blocks) for member in members if not member.is_directory}


def refusal(path: Path, limit: int = LIMIT) -> str:
    with pytest.raises(Refused) as refused:
        read(path, limit)
    return str(refused.value)


@settings(max_examples=60)
@given(
    files=st.dictionaries(PATHS, st.binary(max_size=1500), max_size=4),
    format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_what_python_writes_is_read(
    files: dict[str, bytes], format: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tarred(tmp_path_factory.mktemp("tar") / "m.tar.gz", files, format)
    assert read(path) == files


def test_old_headers_with_a_prefix_are_read(tmp_path: Path) -> None:
    files = {f"{'d' * 90}/{'e' * 60}/{'f' * 90}": b"x"}
    assert read(tarred(tmp_path / "m.tar.gz", files, tarfile.USTAR_FORMAT)) == files


def test_directories_are_members_without_content(tmp_path: Path) -> None:
    directory = tarfile.TarInfo("m")
    directory.type = tarfile.DIRTYPE
    with opened_tar(tarred(tmp_path / "m.tar.gz", {"m": directory, "m/a": b"1"}), LIMIT) as members:
        assert [(member.name, member.is_directory) for member in members] == [("m/", True), ("m/a", False)]


def test_a_member_that_is_not_taken_is_passed_over(tmp_path: Path) -> None:
    with opened_tar(tarred(tmp_path / "m.tar.gz", {"a": b"x" * 5000, "b": b"y"}), LIMIT) as members:
        assert [member.name for member in members] == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (tarfile.SYMTYPE, "'m/x' is a link"),
        (tarfile.LNKTYPE, "'m/x' is a link"),
        (tarfile.FIFOTYPE, "'m/x' is a device or a pipe"),
        (tarfile.CHRTYPE, "'m/x' is a device or a pipe"),
        (tarfile.BLKTYPE, "'m/x' is a device or a pipe"),
        (tarfile.GNUTYPE_SPARSE, "'m/x' is of an unsupported kind"),
        (b"V", "'m/x' is of an unsupported kind"),
    ],
)
def test_what_is_no_file_is_refused(tmp_path: Path, kind: bytes, says: str) -> None:
    member = tarfile.TarInfo("m/x")
    member.type, member.linkname = kind, "../../etc/passwd"
    assert says in refusal(tarred(tmp_path / "m.tar.gz", {"m/x": member}))


def packed(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "m.tar.gz"
    path.write_bytes(gzip.compress(data, 1))
    return path


def plain(**headers: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
        member = tarfile.TarInfo("m/x")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    return buffer.getvalue()


def test_headers_for_all_members_may_not_name_them(tmp_path: Path) -> None:
    assert read(packed(tmp_path, plain(comment="by git"))) == {"m/x": b"abc"}
    assert "not supported" in refusal(packed(tmp_path, plain(path="../evil")))


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("m/x")
    member.pax_headers = {"GNU.sparse.major": "1"}
    assert "not supported" in refusal(tarred(tmp_path / "m.tar.gz", {"m/x": member}))


def test_a_header_that_would_take_memory_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("m/x")
    member.pax_headers = {"comment": "x" * 70_000}
    assert "at most 65536 are read" in refusal(tarred(tmp_path / "m.tar.gz", {"m/x": member}))


def test_damage_is_refused(tmp_path: Path) -> None:
    data = plain()
    assert "checksum" in refusal(packed(tmp_path, b"n" + data[1:]))
    assert "cut short" in refusal(packed(tmp_path, data[:514]))
    assert "bytes follow its end" in refusal(packed(tmp_path, data + b"x" * 600))
    path = packed(tmp_path, data)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert "damaged" in refusal(path)
    path.write_bytes(content[:-8] + bytes(8))  # its checksum
    assert "damaged" in refusal(path)


def test_what_unpacks_to_more_than_its_size_allows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        header = tarfile.TarInfo("m/zeros")
        header.size = 70 << 20
        file.write(header.tobuf())
        for _ in range(70):
            file.write(bytes(1 << 20))
    assert "unpacks to more than 67108864 bytes" in refusal(path)
    assert "unpacks to more than 100 bytes" in refusal(path, 100)


@settings(max_examples=150)
@given(place=st.integers(0, 3000), value=st.integers(0, 255), cut=st.integers(0, 6000))
def test_damaged_bytes_are_read_or_refused(
    place: int, value: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.getbasetemp()
    whole = directory / "whole.tar.gz"
    if not whole.exists():
        tarred(whole, MODEL)
    data = bytearray(gzip.decompress(whole.read_bytes()))
    data[place] = value
    path = directory / "damaged.tar.gz"
    path.write_bytes(gzip.compress(bytes(data[: max(cut, place)]), 1))
    try:
        read(path)
    except Refused:
        return
