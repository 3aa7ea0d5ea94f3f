"""Scans OpenVINO IR: an XML description of a graph with its weights in a second file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from penstock.errors import quoted
from penstock.scan.external_data import external_size
from penstock.scan.findings import Finding, Refused

_OPSETS = re.compile(r"opset\d{1,2}|experimental|util|ie_internal_opset|type_relaxed_opset")
_MAX_DEPTH = 200
_MAX_BYTES = 512 * 2**20


class _Reader:
    """Collects operators and weight offsets; refuses entities, which could expand without bound or read files."""

    def __init__(self) -> None:
        self.operators: set[tuple[str, str]] = set()
        self.spans: list[tuple[str, str]] = []
        self._path: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        if not self._path and name != "net":
            raise Refused("the file is damaged or not an OpenVINO model")
        self._path.append(name)
        if len(self._path) > _MAX_DEPTH:
            raise Refused("its elements are nested too deeply")
        if name == "layer":
            self.operators.add((attributes.get("version", ""), attributes.get("type", "")))
        elif name == "data" and ("offset" in attributes or "size" in attributes):
            self.spans.append((attributes.get("offset", "0"), attributes.get("size", "0")))

    def end(self, _: str) -> None:
        """An element ends."""
        self._path.pop()

    def declare(self, _version: str, encoding: str | None, _standalone: int) -> None:
        """The encoding of the text: programs that support different encodings would read different models."""
        if encoding is not None and encoding.lower() != "utf-8":
            raise Refused(f"its text is encoded as {quoted(encoding)}; export it as UTF-8")

    def refuse(self, *_: object) -> int:
        """A document type or an entity."""
        raise Refused("it declares a document type or entities, which no model needs")


def scan(data: memoryview, path: Path | None) -> Iterator[Finding]:
    """What an OpenVINO model could do. Its weights are `<name>.bin` next to `path`."""
    if len(data) > _MAX_BYTES:
        raise Refused(f"its description has {len(data)} bytes; at most {_MAX_BYTES} are read")
    reader = _Reader()
    parser = expat.ParserCreate("UTF-8")
    parser.XmlDeclHandler = reader.declare
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = reader.refuse
    try:
        parser.Parse(bytes(data), True)
    except expat.ExpatError as error:
        raise Refused(f"the file is damaged or not an OpenVINO model ({error})") from None
    for version, kind in sorted(reader.operators):
        if not _OPSETS.fullmatch(version):
            yield Finding("native", f"the operator {quoted(f'{version}:{kind}')} needs a custom operator library")
    _require_spans(reader.spans, path)


def _require_spans(spans: list[tuple[str, str]], path: Path | None) -> None:
    if not spans:
        return
    if path is None:
        raise Refused("its weights cannot be in an archive")
    size = external_size(path, f"{path.stem}.bin")
    for offset, length in spans:
        if not all(re.fullmatch(r"[0-9]{1,19}", number) for number in (offset, length)):
            raise Refused("one of its constants has an offset or size that is not a number")
        if int(offset) + int(length) > size:
            raise Refused("its weights are shorter than the model needs")
