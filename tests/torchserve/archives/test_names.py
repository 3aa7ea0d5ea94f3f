"""A member's name is a path inside its directory, and no two are one file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.scan.findings import Refused
from penstock.torchserve.archives.names import Names, checked_name, root_of

PARTS = st.text(st.sampled_from("aB.. ~:\\/\x00\ncon1ß"), max_size=12)


@pytest.mark.parametrize(
    ("name", "path"),
    [("a", "a"), ("./a/b", "a/b"), ("a/", "a"), (".", ""), ("./", ""), ("größe.txt", "größe.txt"), (".env", ".env")],
)
def test_a_plain_name_is_a_path(name: str, path: str) -> None:
    assert checked_name(name) == path


@pytest.mark.parametrize(
    "name",
    [
        "../a", "a/../../b", "..", "/etc/passwd", ".//etc", "//host/share", "a//b", "a/./b", "C:\\a", "C:a", "a\\..\\b",
        "a\nb", "a\0b", "con", "Con.txt", "a/NUL", "com1.tar.gz", "a.", "a ", "b./c", "\udcff", "x" * 1001,
    ],
)  # fmt: skip
def test_a_name_that_leaves_its_directory_or_is_read_differently_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        checked_name(name)


@given(st.lists(PARTS, max_size=5).map("/".join))
def test_every_name_that_is_taken_stays_inside(name: str) -> None:
    try:
        path = checked_name(name)
    except Refused:
        return
    for flavour in (PurePosixPath, PureWindowsPath):
        found = flavour(path)
        assert not found.is_absolute()
        assert not found.drive
        assert ".." not in found.parts
    assert (Path("/d") / path).resolve().is_relative_to("/d")


@pytest.mark.parametrize(
    "names", [["a", "a"], ["a", "A"], ["straße", "STRASSE"], ["é", "e\u0301"], ["a", "a/b"], ["a/b", "A"]], ids=repr
)
def test_two_members_that_would_be_one_file_are_refused(names: list[str]) -> None:
    known = Names()
    known.add(names[0])
    with pytest.raises(Refused):
        known.add(names[1])


def test_a_directory_may_be_named_again() -> None:
    names = Names()
    names.add("a/b")
    names.add("a", is_directory=True)
    names.add("a/c")


@pytest.mark.parametrize(
    ("names", "root"),
    [
        (["h.py", "MAR-INF/MANIFEST.json"], ""),
        (["MAR-INF/MANIFEST.json"], ""),
        (["m/h.py", "m/MAR-INF/MANIFEST.json"], "m/"),
        (["m/h.py", "m/data/x"], "m/"),
        (["m/h.py", "__MACOSX/m/._h.py"], "m/"),
        (["m/h.py", "n/x"], ""),
        (["m/h.py", "x"], ""),
        (["a/b/h.py"], "a/"),
        ([], ""),
    ],
)
def test_one_directory_around_everything_is_left_out(names: list[str], root: str) -> None:
    assert root_of(names) == root
