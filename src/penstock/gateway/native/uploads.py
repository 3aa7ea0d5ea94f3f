"""Decodes uploaded files (multipart forms and raw bodies) into Task requests."""

from __future__ import annotations

from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from penstock.errors import InvalidInput
from penstock.gateway.problems import Refusal
from penstock.tasks.base import Task
from penstock.tasks.validation_errors import parse_request

MAX_PARTS = 64
"""Maximum parts of a form. Real forms have a few; thousands of empty ones are an attack."""

_RAW = ("image/", "application/octet-stream")
_FILE_NAMES = ("file", "image")
"""Other names that clients use for the file field, besides the Task's own."""


def read_upload(task: Task, body: bytes, content_type: str) -> Any:
    """The request of a Task that takes a file. `content_type` is the whole header, with its parameters.

    Raises InvalidInput naming the missing, unknown or truncated field, Refusal (415) for another media type.
    """
    kind = content_type.partition(";")[0].strip().lower()
    field = task.upload_field or "file"
    if kind == "multipart/form-data":
        fields = _rename_file(parse_form(body, content_type), field)
    elif kind.startswith(_RAW):
        fields = {field: body}
    else:
        raise Refusal(415, f"this model takes a file: multipart/form-data with a field {field!r}, or image/*")
    return parse_request(task.Request, fields)


def _rename_file(fields: dict[str, str | bytes], wanted: str) -> dict[str, str | bytes]:
    given = [name for name in _FILE_NAMES if isinstance(fields.get(name), bytes)]
    if wanted not in fields and len(given) == 1:
        fields[wanted] = fields.pop(given[0])
    return fields


def parse_form(body: bytes, content_type: str) -> dict[str, str | bytes]:
    """The fields of a multipart form: files as bytes, the others as text. Raises InvalidInput."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise InvalidInput("body: the multipart Content-Type names no boundary", field="body")
    form = _Form()
    try:
        MultipartParser(boundary, form.callbacks()).write(body)  # type: ignore[arg-type]
    except FormParserError:
        raise InvalidInput("body: not a valid multipart form", field="body") from None
    if not form.ended:
        raise InvalidInput(f"{form.name or 'body'}: the upload is truncated", field=form.name or "body")
    return form.fields


class _Form:
    """Collects the parts of a form from the parser's callbacks."""

    def __init__(self) -> None:
        self.fields: dict[str, str | bytes] = {}
        self.name = ""
        self.ended = False
        self._header = b""
        self._value = b""
        self._disposition: dict[bytes, bytes] = {}
        self._data: list[bytes] = []
        self._parts = 0

    def callbacks(self) -> dict[str, Any]:
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        found = {f"on_{name}": getattr(self, f"_{name}") for name in names}
        return {**found, "on_headers_finished": self._headers_finished, "on_end": self._end}

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidInput(f"body: the form has more than {MAX_PARTS} fields", field="body")
        self.name, self._disposition, self._data = "", {}, []

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, self._disposition = parse_options_header(self._value)
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        self.name = self._disposition.get(b"name", b"").decode(errors="replace")
        if not self.name:
            raise InvalidInput("body: a part of the form has no name", field="body")
        if self.name in self.fields:
            raise InvalidInput(f"{self.name}: this field is given twice", field=self.name)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _part_end(self) -> None:
        content = b"".join(self._data)
        if b"filename" in self._disposition:
            self.fields[self.name] = content
            return
        try:
            self.fields[self.name] = content.decode()
        except UnicodeDecodeError:
            raise InvalidInput(f"{self.name}: this field is not UTF-8 text", field=self.name) from None

    def _end(self) -> None:
        self.ended = True
