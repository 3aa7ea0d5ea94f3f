"""Archives as upstream's archiver writes them: the same options, the same members."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_archives import CONFIG, HANDLER, Upstream, contents, written

from penstock.errors import InvalidInput
from penstock.torchserve.archives.archive import open_archive
from penstock.torchserve.packing.model import ModelFiles, pack_model
from penstock.torchserve.packing.writing import SUFFIXES

MANIFEST = "MAR-INF/MANIFEST.json"
OPTIONS: dict[str, dict[str, Any]] = {
    "a handler": {"handler": "src/handler.py"},
    "a function": {"handler": "src/handler:handle"},
    "built in": {"handler": "image_classifier", "serialized_file": "src/m.pt", "extra_files": "src/index.json"},
    "everything": {
        "handler": "src/handler",
        "serialized_file": "src/m.pt",
        "model_file": "src/net.py",
        "extra_files": "src/index.json,data,src/*.txt",
        "runtime": "python3",
        "requirements_file": "src/requirements.txt",
        "config_file": "src/model-config.yaml",
    },
    "the same file twice": {"handler": "src/handler.py", "extra_files": "src/handler.py,src/index.json"},
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a user of TorchServe has, in the current directory."""
    monkeypatch.chdir(tmp_path)
    content = {
        "src/handler.py": HANDLER.encode(),
        "src/net.py": b"class Net: ...\n",
        "src/m.pt": os.urandom(5000),
        "src/index.json": b'{"0": "cat"}',
        "src/requirements.txt": b"numpy\n",
        "src/vocabulary.txt": b"a\n",
        "src/model-config.yaml": CONFIG.encode(),
        "data/words": b"1",
        "data/größe/名.txt": b"7",
        "data/deep/er/words": b"2",
        "data/.hidden": b"3",
        "data/.git/config": b"4",
        "data/deep/__pycache__/x.pyc": b"5",
        "data/__MACOSX/x": b"6",
    }
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    return written(tmp_path, content)


def arguments(options: dict[str, Any]) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]


def ours(options: dict[str, Any], archive_format: str = "default", **more: Any) -> Path:
    paths = ("serialized_file", "model_file", "requirements_file", "config_file")
    given = {name: Path(value) if name in paths else value for name, value in options.items()}
    return pack_model(ModelFiles("m", "1.0", **given), Path("ours"), archive_format, **more).path


def without_time(files: dict[str, bytes]) -> dict[str, Any]:
    """With the manifest parsed, and without when it was written and by what."""
    manifest = json.loads(files[MANIFEST])
    del manifest["createdOn"], manifest["archiverVersion"]
    return {**files, MANIFEST: manifest}


@pytest.mark.parametrize("archive_format", SUFFIXES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_archives_hold_what_upstreams_hold(
    files: Path, upstream: Upstream, options: dict[str, Any], archive_format: str
) -> None:
    upstream.model(
        "--model-name", "m", "-v", "1.0", "--export-path", "theirs", "--archive-format", archive_format,
        *arguments(options),
    )  # fmt: skip
    mine = ours(options, archive_format)
    theirs = Path("theirs") / mine.name
    assert without_time(contents(mine)) == without_time(contents(theirs))
    fields = list(json.loads(contents(theirs)[MANIFEST])["model"])
    assert list(json.loads(contents(mine)[MANIFEST])["model"]) == fields
    for path in (mine, theirs):
        archive = open_archive(path)
        digest = archive.unpack(Path("unpacked") / path.parent.name)
        assert contents(Path("unpacked") / path.parent.name) == contents(path)
        assert (archive.default_name, archive.warnings, digest) == ("m", [], archive.digest())


def test_a_library_is_the_handler_of_lsp(files: Path, upstream: Upstream) -> None:
    written(files, {"libh.so": b"\x7fELF"})
    for handler, held in (("libh:Handler", {"libh.so"}), ("BaseHandler", set())):
        upstream.model(
            "--model-name", "m", "-v", "1", "--export-path", "theirs", "-f", "--runtime", "LSP", "--handler", handler
        )
        mine = pack_model(ModelFiles("m", "1", handler, runtime="LSP"), Path("ours"), force=True).path
        assert without_time(contents(mine)) == without_time(contents(Path("theirs/m.mar")))
        assert contents(mine).keys() == {MANIFEST, *held}


def test_an_archive_that_is_there_is_kept_unless_told_otherwise(files: Path) -> None:
    for archive_format in SUFFIXES:
        path = ours({"handler": "src/handler.py"}, archive_format)
        before = contents(path)
        with pytest.raises(InvalidInput, match="already exists; force=True overwrites it"):
            ours({"handler": "src/net.py"}, archive_format)
        assert contents(path) == before
        ours({"handler": "src/net.py"}, archive_format, force=True)
        assert contents(path).keys() == {MANIFEST, "net.py"}
        assert {path.name for path in Path("ours").iterdir()} == {path.name}
        path.rename(files / f"old-{archive_format}")


def test_a_directory_that_holds_no_model_is_never_overwritten(files: Path) -> None:
    written(files / "ours" / "m", {"thesis.tex": b"1"})
    with pytest.raises(InvalidInput, match="is no directory of a model, so it is not overwritten; remove it"):
        ours({"handler": "src/handler.py"}, "no-archive", force=True)
    assert contents(files / "ours") == {"m/thesis.tex": b"1"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"handler": "nobody"}, "handler: there is no file 'nobody.py', and 'nobody' is none of base_handler"),
        ({"handler": "h", "runtime": "LSP"}, "handler: there is no file 'h.so', and 'h' is none of BaseHandler"),
        ({"handler": "base_handler", "runtime": "ruby"}, "runtime: 'ruby' should be one of python, python3, LSP"),
        ({"handler": "base_handler", "serialized_file": "none.pt"}, "serialized_file: there is no file 'none.pt'"),
        ({"handler": "base_handler", "config_file": "data"}, "config_file: there is no file 'data'"),
        ({"handler": "base_handler", "extra_files": "src/m.pt,none"}, "there is no file or directory 'none'"),
        (
            {"handler": "src/handler.py", "extra_files": "other"},
            "would both be 'handler.py' in the archive",
        ),
        ({"handler": "base_handler", "extra_files": "odd"}, "Windows reserves; rename it"),
        ({"handler": "base_handler", "extra_files": "loop"}, "is a link to a directory that it lies in"),
    ],
)
def test_what_cannot_be_packed_is_named_and_nothing_is_written(files: Path, options: dict[str, Any], says: str) -> None:
    written(files, {"other/handler.py": b"2", "odd/nul.txt": b"1", "loop/a": b"1"})
    (files / "loop" / "b").symlink_to(files / "loop")
    with pytest.raises(InvalidInput, match=says):
        ours(options)
    assert list((files / "ours").iterdir()) == []


@pytest.mark.parametrize("name", ["", "-m", ".m", "a/b", "a b", "é", "m\n"])
def test_a_name_that_upstream_refuses_is_refused(files: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"model_name: .* should begin with a letter or digit"):
        pack_model(ModelFiles(name, "1.0", "base_handler"), Path("ours"))


def test_a_place_that_is_no_directory_is_refused(files: Path) -> None:
    with pytest.raises(InvalidInput, match="export_path: 'nowhere' is not a directory"):
        pack_model(ModelFiles("m", "1.0", "base_handler"), Path("nowhere"))
    with pytest.raises(InvalidInput, match="version: it should not be empty"):
        pack_model(ModelFiles("m", " ", "base_handler"), Path("ours"))


def test_an_archive_that_would_be_refused_is_not_written(files: Path) -> None:
    with Path("zeros").open("wb") as file:
        file.truncate(70 << 20)
    options = {"handler": "base_handler", "extra_files": "zeros"}
    with pytest.raises(InvalidInput, match="over 10 times its size, and would be refused; store its files with"):
        ours(options)
    assert list(Path("ours").iterdir()) == []
    assert open_archive(ours(options, "zip-store")).members["zeros"] == 70 << 20


def test_what_is_left_out_is_said(files: Path) -> None:
    written(files, {"unpacked/MAR-INF/MANIFEST.json": b"{}", "unpacked/x": b"1"})
    packed = pack_model(ModelFiles("m", "1.0", "base_handler", extra_files="unpacked,*.none"), Path("ours"))
    assert packed.remarks == [
        "unpacked/MAR-INF/MANIFEST.json is left out: the archive gets a manifest of its own",
        "extra_files: no file matches '*.none'",
    ]
    assert contents(packed.path).keys() == {MANIFEST, "x"}


NAMES = st.text(st.sampled_from("abC1_.- "), min_size=1, max_size=6).filter(lambda name: name.strip(". ") == name)
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=50), max_size=5)


@settings(max_examples=40)
@given(tree=TREES, archive_format=st.sampled_from(sorted(SUFFIXES)))
def test_any_directory_is_read_back_as_it_was(
    tree: dict[str, bytes], archive_format: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("tree")
    (place / "extra").mkdir()
    try:
        written(place / "extra", tree)
    except OSError:  # one is below another
        return
    folded = [name.casefold().split("/") for name in tree]
    if any(a[: len(b)] == b for a in folded for b in folded if a is not b):
        return
    model = ModelFiles("m", "1.0", "base_handler", extra_files=str(place / "extra"))
    open_archive(pack_model(model, place, archive_format).path).unpack(place / "unpacked")
    unpacked = contents(place / "unpacked")
    del unpacked[MANIFEST]
    assert unpacked == tree
