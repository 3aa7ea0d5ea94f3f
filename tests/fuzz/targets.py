"""What is fuzzed: each parser of foreign files, with seeds, and what must hold for any bytes at all.

A target takes bytes and raises for a finding: an error of another kind than the parser describes, or two readers that
disagree. What a parser costs is counted in tests/scan/test_cost.py.
"""

from __future__ import annotations

import gzip
import io
import json
import pickletools
import random
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SUPPORT = Path(__file__).resolve().parents[1] / "support"
if str(SUPPORT) not in sys.path:
    sys.path.insert(0, str(SUPPORT))

from costly_files import FAMILIES, MANIFESTS, YAML, manifest  # noqa: E402
from crafted import model, packed  # noqa: E402
from hostile_pickles import CALLS, FORMS, dumped, whole  # noqa: E402

from penstock.artifacts.card import card_html  # noqa: E402
from penstock.artifacts.manifest import Manifest  # noqa: E402
from penstock.artifacts.reference.reference import Reference  # noqa: E402
from penstock.documents import read_yaml  # noqa: E402
from penstock.errors import InvalidInput, UnsupportedFormat  # noqa: E402
from penstock.scan.archive import opened  # noqa: E402
from penstock.scan.findings import Refused, Report  # noqa: E402
from penstock.scan.pickles import names_of  # noqa: E402
from penstock.scan.scanner import scan_bytes  # noqa: E402
from penstock.torchserve.archives.manifest import parse_manifest, parse_workflow_manifest  # noqa: E402
from penstock.torchserve.archives.tar import opened_tar  # noqa: E402

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 4000


class Finding(Exception):
    """What must not be."""


class Target(NamedTuple):
    """A parser: what it is called with, and inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def _scan(name: str, data: bytes) -> Report:
    report = scan_bytes(memoryview(data), Path(name))
    json.dumps(report.to_json())
    return report


def _scan_only(name: str, data: bytes) -> None:
    _scan(name, data)


def _pickle(data: bytes) -> None:
    """What ours calls data looks up nothing that `pickletools` sees and weights do not need."""
    text, plain = _scan("m.txt", data), _scan("m.pkl", data)
    if plain.against("data"):
        return
    if text.kind == "data" and text.tier != "data" and not names_of(data):
        raise Finding("text that looks up names, and a pickle that looks up none")
    with suppress(ValueError):  # of arguments that unpicklers refuse as well
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name in ("GLOBAL", "INST") and "system" in str(argument):
                raise Finding(f"{argument} is called data")


def _array(data: bytes) -> None:
    """What ours calls data, NumPy reads without pickles."""
    report = _scan("m.npy", data)
    if report.kind == "array" and not report.against("data"):
        np.load(io.BytesIO(data), allow_pickle=False)


def _archive(data: bytes) -> None:
    """What is read of a member is what its table of contents says, and no more."""
    _scan("m.pt", data)
    try:
        with opened(memoryview(data)) as archive:
            for name, member in archive.members.items():
                if len(archive.read(name)) != member.file_size:
                    raise Finding(f"{name} has another size")
    except Refused:
        return


def _tar(data: bytes) -> None:
    """What is read of a `.tar.gz`, Python reads in the same way."""
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as file:
        file.write(gzip.compress(data, 1))
        file.flush()
        try:
            with opened_tar(Path(file.name), 1 << 20) as members:
                found = [(each.name.rstrip("/"), b"".join(each.blocks)) for each in members]
        except Refused:
            return
        with tarfile.open(file.name) as theirs:
            seen = [(each.name, theirs.extractfile(each).read() if each.isfile() else b"") for each in theirs]  # type: ignore[union-attr]
        if found != seen:
            raise Finding(f"Python reads {seen}, not {found}"[:400])


def _model_manifest(data: bytes) -> None:
    for parse in (parse_manifest, parse_workflow_manifest):
        with suppress(Refused):
            parse(data).missing(())


def _manifest(data: bytes) -> None:
    """What is read is written in the same way again and again."""
    try:
        first = Manifest.from_bytes(data)
        written = first.to_bytes()
    except InvalidInput:
        return
    if Manifest.from_bytes(written).to_bytes() != written:
        raise Finding("a manifest changes when it is written and read")


def _reference(data: bytes) -> None:
    try:
        Reference.from_bytes(data)
    except InvalidInput:
        return


def _yaml(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(data)
        file.flush()
        try:
            read_yaml(Path(file.name))
        except UnsupportedFormat:
            return


def _card(data: bytes) -> None:
    """No card makes a page that runs something or asks another host."""
    page = card_html(data.decode(errors="replace")).lower()
    if "<script" in page or "<img" in page or 'href="javascript:' in page:
        raise Finding(page[:200])


def _of(kind: str, *more: bytes) -> list[bytes]:
    return [make(600)[1] for name, make in FAMILIES.items() if name.startswith(kind)] + list(more)


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


def _tars() -> list[bytes]:
    made = []
    gnu, pax = tarfile.GNU_FORMAT, tarfile.PAX_FORMAT
    for format, name in (
        (gnu, "m/h"),
        (gnu, "m/" + "h" * 120),
        (pax, "é"),
    ):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format, bufsize=512) as archive:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
        made.append(buffer.getvalue()[:LONGEST].rstrip(b"\0") + bytes(512))
    return made


TARGETS: dict[str, Target] = {
    "pickle": Target(_pickle, lambda: [*CALLS.values(), *FORMS.values(), *dumped({"a": [1, ("b",)]})]),
    "array": Target(_array, lambda: _of("array", _saved(np.ones(3)), _saved(np.array([{}], dtype=object)))),
    "archive": Target(_archive, lambda: _of("archive", packed({"m/data.pkl": b"\x80\x02N.", "m/data/0": b"1234"}))),
    "safetensors": Target(partial(_scan_only, "m.safetensors"), lambda: _of("safetensors")),
    "onnx": Target(partial(_scan_only, "m.onnx"), lambda: _of("ONNX", model().SerializeToString())),
    "openvino": Target(partial(_scan_only, "m.xml"), lambda: _of("OpenVINO")),
    "pt2": Target(partial(_scan_only, "m.pt2"), lambda: _of(".pt2")),
    "mar": Target(partial(_scan_only, "m.mar"), lambda: [packed({"MAR-INF/MANIFEST.json": b"{}", "m.txt": b"x"})]),
    "tar": Target(_tar, _tars),
    "model manifest": Target(
        _model_manifest, lambda: [b'{"model":{"modelName":"m","handler":"h.py","modelVersion":1}}']
    ),
    "any": Target(partial(_scan_only, "m"), lambda: list(whole().values())),
    "manifest": Target(_manifest, lambda: [manifest(), *(make(600) for make in MANIFESTS.values())]),
    "reference": Target(_reference, lambda: [b'{"schema_version":"1.0","rows":1,"inputs":[],"input_features":[]}']),
    "yaml": Target(_yaml, lambda: [make(200).encode() for make in YAML.values()]),
    "card": Target(_card, lambda: [b"---\na: b\n---\n# A [b](http://c) `d` <e>\n\n|a|\n|-|\n|b|\n![x](y)"]),
}
"""By name; `python tests/fuzz NAME` runs one for long."""


def corpus(name: str) -> Iterator[Path]:
    """Inputs that were findings once, or reach what no seed does."""
    return iter(sorted((CORPUS / name).glob("*")))


def inputs(name: str) -> list[bytes]:
    """The seeds of a target and its corpus, none longer than a fuzzer handles well."""
    found = [*TARGETS[name].seeds(), *(path.read_bytes() for path in corpus(name))]
    return [data for data in found if len(data) <= LONGEST]


TOKENS = (
    b"\0",
    b"\xff",
    b"\x80",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"cos\nsystem\n",
    b"(",
    b")R.",
    b"\x93",
    b"{",
    b"[",
    b'"',
)
"""What formats are made of."""


def mutated(chance: random.Random, pool: list[bytes]) -> bytes:
    """One of the pool with a few changes."""
    data = bytearray(chance.choice(pool))
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            data[at:at] = chance.choice(TOKENS)
        elif kind == 1:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 2:
            del data[at : at + chance.choice((1, 2, 8, 40))]
        elif kind == 3:
            data[at:at] = data[at : at + chance.choice((1, 4, 30))] * chance.choice((1, 2, 20))
        else:
            other = chance.choice(pool)
            start = chance.randrange(len(other) + 1)
            data[at:at] = other[start : start + chance.choice((1, 5, 40))]
    return bytes(data[:LONGEST])
