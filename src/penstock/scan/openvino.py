"""OpenVINO IR: an XML description of a graph beside a file of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from penstock.scan.external_data import size_beside
from penstock.scan.findings import Finding, Refused, shown

_OPSETS = re.compile(r"opset\d{1,2}|experimental|util|ie_internal_opset|type_relaxed_opset")
_DEEPEST = 200
_LARGEST = 512 * 2**20


class _Reader:
    """Collects what the elements say; entities are refused, which could grow without end or name files."""

    def __init__(self) -> None:
        self.operators: set[tuple[str, str]] = set()
        self.places: list[tuple[str, str]] = []
        self._path: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        if not self._path and name != "net":
            raise Refused("the file is damaged or no OpenVINO model")
        self._path.append(name)
        if len(self._path) > _DEEPEST:
            raise Refused("its elements lie too deep in each other")
        if name == "layer":
            self.operators.add((attributes.get("version", ""), attributes.get("type", "")))
        elif name == "data" and ("offset" in attributes or "size" in attributes):
            self.places.append((attributes.get("offset", "0"), attributes.get("size", "0")))

    def end(self, _: str) -> None:
        """An element ends."""
        self._path.pop()

    def declare(self, _version: str, encoding: str | None, _standalone: int) -> None:
        """How the text is encoded: where programs know different encodings, they see different models."""
        if encoding is not None and encoding.lower() != "utf-8":
            raise Refused(f"its text is encoded as {shown(encoding)}; export it as UTF-8")

    def refuse(self, *_: object) -> int:
        """A document type or an entity."""
        raise Refused("it declares a document type or entities, which no model needs")


def scan(data: memoryview, path: Path | None) -> Iterator[Finding]:
    """What an OpenVINO model could do. Its weights are `<name>.bin` beside `path`."""
    if len(data) > _LARGEST:
        raise Refused(f"its description has {len(data)} bytes")
    reader = _Reader()
    parser = expat.ParserCreate("UTF-8")
    parser.XmlDeclHandler = reader.declare
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = reader.refuse
    try:
        parser.Parse(bytes(data), True)
    except expat.ExpatError as error:
        raise Refused(f"the file is damaged or no OpenVINO model ({error})") from None
    for version, kind in sorted(reader.operators):
        if not _OPSETS.fullmatch(version):
            yield Finding("native", f"the operator {shown(f'{version}:{kind}')} comes from a library of its own")
    _require_places(reader.places, path)


def _require_places(places: list[tuple[str, str]], path: Path | None) -> None:
    if not places:
        return
    if path is None:
        raise Refused("its weights cannot lie in an archive")
    size = size_beside(path, f"{path.stem}.bin")
    for offset, length in places:
        if not all(re.fullmatch(r"[0-9]{1,19}", number) for number in (offset, length)):
            raise Refused("a constant in it has a place that is no number")
        if int(offset) + int(length) > size:
            raise Refused("its weights are shorter than the model needs")
