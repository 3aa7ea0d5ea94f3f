"""Archives of every form: read, checked, and unpacked completely or not at all."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from model_archives import FILES, MODEL, WORKFLOW, contents, manifest, tarred, written, zipped
from small_disks import small_disk

from penstock.errors import IntegrityError, InvalidInput
from penstock.torchserve.archives.archive import is_archive, open_archive
from penstock.torchserve.archives.manifest import Manifest


def inside(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"m/{name}": content for name, content in files.items()}


FORMS: dict[str, Callable[[Path], Path]] = {
    "mar": lambda place: zipped(place / "m.mar", MODEL),
    "nested mar": lambda place: zipped(place / "m.mar", inside(MODEL)),
    "tar.gz": lambda place: tarred(place / "m.tar.gz", inside(MODEL)),
    "flat tar.gz": lambda place: tarred(place / "m.tar.gz", {f"./{name}": content for name, content in MODEL.items()}),
    "model": lambda place: tarred(place / "m.model", inside(MODEL)),
    "directory": lambda place: written(place / "m", MODEL),
    "nested directory": lambda place: written(place / "around", inside(MODEL)),
}


def sentence(path: Path, target: Path) -> str:
    """Why an archive is refused; nothing is left of it, and nothing was written elsewhere."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(IntegrityError) as error:
        open_archive(path).unpack(target)
    assert sorted(path.parent.rglob("*")) == before
    assert str(error.value).startswith(str(path))
    assert str(error.value).endswith("pack its files again with `penstock archive create`")
    return str(error.value)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_unpacks_to_the_same_files(tmp_path: Path, form: str) -> None:
    archive = open_archive(FORMS[form](tmp_path))
    assert isinstance(archive.manifest, Manifest)
    assert (archive.default_name, archive.has_manifest, archive.warnings) == ("m", True, [])
    assert archive.members == {name: len(content) for name, content in MODEL.items()}
    assert archive.read("data/words.txt", 100) == b"a\nb\n"
    digest = archive.unpack(tmp_path / "unpacked")
    assert contents(tmp_path / "unpacked") == MODEL
    assert digest == archive.digest() == open_archive(tmp_path / "unpacked").digest()


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    digests = set()
    for form, make in FORMS.items():
        (tmp_path / form).mkdir()
        digests.add(open_archive(make(tmp_path / form)).digest())
    assert len(digests) == 1
    assert open_archive(zipped(tmp_path / "x.mar", MODEL | {"empty": b"0"})).digest() not in digests
    assert open_archive(zipped(tmp_path / "x.mar", MODEL | {"empty2": b""})).digest() not in digests


@pytest.mark.parametrize("suffix", [".mar", ".tar.gz", ".model", ""])
def test_without_a_manifest_there_are_defaults(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"fraud{suffix}"
    archive = open_archive(tarred(path, inside(FILES)) if suffix else written(path, FILES))
    assert archive.manifest == Manifest()
    assert archive.default_name == "fraud"
    assert archive.warnings == ["it has no manifest: the runtime is python and the version 1.0"]
    assert not is_archive(path)


def test_a_workflow_is_told_by_its_manifest(tmp_path: Path) -> None:
    manifest = b'{"workflow": {"workflowName": "w", "specFile": "w.yaml", "handler": "h.py"}}'
    archive = open_archive(zipped(tmp_path / "w.war", {"w.yaml": WORKFLOW.encode(), "WAR-INF/MANIFEST.json": manifest}))
    assert (archive.is_workflow, archive.default_name) == (True, "w")
    assert archive.warnings == ["handler names 'h.py', which is not in the archive"]


def linked(name: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, b"/etc/passwd"


def special(name: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFCHR | 0o666) << 16
    return info, b""


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("../evil.py", b"1", "'../evil.py' would leave"),
        ("a/../../evil.py", b"1", "would leave"),
        ("/evil.py", b"1", "would leave"),
        ("C:/evil.py", b"1", "would leave"),
        ("a\\..\\evil.py", b"1", "would leave"),
        ("nul.txt", b"1", "'nul.txt' has a name that Windows reserves"),
        ("HANDLER.PY", b"1", "two members 'handler.py'"),
        ("handler.py/x", b"1", "inside a member that is not a directory"),
        ("link", linked("link"), "'link' is a symbolic link"),
        ("tty", special("tty"), "'tty' is neither a file nor a directory"),
        ("MAR-INF/MANIFEST.json", b"{", "its manifest is not JSON"),
    ],
)
def test_a_hostile_mar_writes_nothing(
    tmp_path: Path, name: str, content: bytes | tuple[zipfile.ZipInfo, bytes], says: str
) -> None:
    path = zipped(tmp_path / "m.mar", {**MODEL, name: content})
    assert says in sentence(path, tmp_path / "target")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../evil.py", "'../evil.py' would leave"),
        ("m/../../evil.py", "would leave"),
        ("/evil.py", "'/evil.py' has an absolute path"),
        ("m/C:evil.py", "read differently"),
        ("m/aux", "Windows reserves"),
        ("m/HANDLER.PY", "two members 'm/HANDLER.PY'"),
        ("m/handler.py/x", "inside a member that is not a directory"),
    ],
)
def test_a_hostile_tar_writes_nothing(tmp_path: Path, name: str, says: str) -> None:
    assert says in sentence(tarred(tmp_path / "m.tar.gz", {**inside(MODEL), name: b"1"}), tmp_path / "target")


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("m/handler.py"))
    assert "two members" in sentence(path, tmp_path / "target")


def test_links_in_a_directory_stay_inside(tmp_path: Path) -> None:
    model = written(tmp_path / "m", MODEL)
    (model / "weights.pt").symlink_to("data/words.txt")
    (tmp_path / "linked").symlink_to(model)
    open_archive(tmp_path / "linked").unpack(tmp_path / "target")
    assert contents(tmp_path / "target") == {**MODEL, "weights.pt": b"a\nb\n"}
    (model / "passwd").symlink_to("/etc/passwd")
    assert "'passwd' is a link that does not lead to a file inside" in sentence(model, tmp_path / "other")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.mar").write_bytes(b"not an archive")
    assert "neither a zip archive" in sentence(tmp_path / "m.mar", tmp_path / "target")
    (tmp_path / "m.mar").write_bytes(zipped(tmp_path / "whole.mar", MODEL).read_bytes()[:-30])
    assert "m.mar: " in sentence(tmp_path / "m.mar", tmp_path / "target")
    with pytest.raises(IntegrityError, match=r"none\.mar: the file cannot be read"):
        open_archive(tmp_path / "none.mar")


def damaged(path: Path, name: str) -> Path:
    """Change a byte of the content of a stored member."""
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in MODEL.items():
            archive.writestr(each, content)
    data = bytearray(path.read_bytes())
    data[data.index(MODEL[name])] ^= 1
    path.write_bytes(data)
    return path


def test_a_member_that_is_damaged_leaves_nothing_behind(tmp_path: Path) -> None:
    assert "'data/words.txt' is damaged" in sentence(damaged(tmp_path / "m.mar", "data/words.txt"), tmp_path / "target")


def test_the_size_of_an_archive_is_limited(tmp_path: Path) -> None:
    for path in (
        zipped(tmp_path / "m.mar", MODEL),
        tarred(tmp_path / "m.tar.gz", MODEL),
        written(tmp_path / "m", MODEL),
    ):
        with pytest.raises(IntegrityError, match=f"{path}: it unpacks to .*100"):
            open_archive(path, max_bytes=100)
    bomb = zipped(tmp_path / "bomb.mar", {**MODEL, "zeros": bytes(70 << 20)})
    with pytest.raises(IntegrityError, match="over 10 times its size"):
        open_archive(bomb)


def test_a_manifest_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.mar", {"MAR-INF/MANIFEST.json": manifest(extensions={"x": "y" * (1 << 20)})})
    with pytest.raises(IntegrityError, match=r"'MAR-INF/MANIFEST\.json' has .* bytes; at most 1048576 are read"):
        open_archive(path)


def test_an_archive_that_changed_since_it_was_opened_is_refused(tmp_path: Path) -> None:
    archive = open_archive(zipped(tmp_path / "m.mar", MODEL))
    zipped(tmp_path / "m.mar", {**MODEL, "handler.py": b"import os"})
    with pytest.raises(IntegrityError, match="changed since it was opened"):
        archive.unpack(tmp_path / "target")
    zipped(tmp_path / "m.mar", {name: content for name, content in MODEL.items() if name != "empty"})
    with pytest.raises(IntegrityError, match="changed since it was opened"):
        archive.unpack(tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_directory_with_files_is_not_unpacked_into(tmp_path: Path) -> None:
    archive = open_archive(zipped(tmp_path / "m.mar", MODEL))
    written(tmp_path / "target", {"mine": b"1"})
    with pytest.raises(InvalidInput, match="already exists"):
        archive.unpack(tmp_path / "target")
    assert contents(tmp_path / "target") == {"mine": b"1"}


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    archive = open_archive(zipped(tmp_path / "m.mar", {**MODEL, "weights": b"0123456789abcdef" * 100_000}))
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(InvalidInput, match="is full; free space on it"):
            archive.unpack(disk / "target")
        assert list(disk.iterdir()) == []
