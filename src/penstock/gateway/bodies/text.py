"""The encoding of JSON documents: UTF-8, with or without a byte order mark."""

from __future__ import annotations

from penstock.errors import InvalidInput, shortened
from penstock.gateway.problems import Refusal

_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32, little-endian"),
    (b"\0\0\xfe\xff", "UTF-32, big-endian"),
    (b"\xff\xfe", "UTF-16, little-endian"),
    (b"\xfe\xff", "UTF-16, big-endian"),
    (b"+/v8", "UTF-7"),
)
_ZEROS = {
    (False, True, True, True): "UTF-32, little-endian",
    (True, True, True, False): "UTF-32, big-endian",
    (False, True, False, True): "UTF-16, little-endian",
    (True, False, True, False): "UTF-16, big-endian",
}
"""Which of the first four bytes are zero in a document without a mark (RFC 4627)."""


def json_text(body: bytes) -> bytes:
    """A JSON document without its byte order mark. Raises InvalidInput that names an encoding other than UTF-8."""
    if body.startswith(_MARK):
        return body[len(_MARK) :]
    name = next((name for mark, name in _OTHER_MARKS if body.startswith(mark)), None)
    name = name or _ZEROS.get(tuple(byte == 0 for byte in body[:4]))  # type: ignore[arg-type]  # shorter ones too
    if name is not None:
        raise InvalidInput(
            f"body: the document is in {name}; JSON is sent in UTF-8, so encode it as UTF-8", field="body"
        )
    return body


def check_charset(content_type: str) -> None:
    """Raises Refusal (415) for JSON that is declared to be UTF-16 or UTF-32; others are like UTF-8 for plain ASCII."""
    for parameter in content_type.lower().split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        charset = value.strip().strip("\"'")
        if name.strip() == "charset" and charset.startswith(("utf-16", "utf16", "utf-32", "utf32", "ucs", "unicode")):
            shown = shortened(charset, 30)
            raise Refusal(
                415, f"JSON is sent in UTF-8, not {shown}: encode the body as UTF-8 and leave out the charset"
            )
