"""Requests that are well-formed, malformed, or read differently by different servers, each with the right verdict.

The kinds are those of public collections of request smuggling and of parser quirks; the bytes are our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

End: TypeAlias = Literal["open", "closed", "waits"]

BODY = b'{"input_data":[1,2,3,4]}'
"""24 bytes, hexadecimal 18."""
HOST = b"Host: localhost\r\n"
GET = b"GET /health/live HTTP/1.1\r\n" + HOST
TYPED = b"Content-Type: application/json\r\n"
POST = b"POST /predict HTTP/1.1\r\n" + HOST + TYPED
HIDDEN = b"GET /hidden HTTP/1.1\r\n" + HOST + b"\r\n"
"""Where a body or a discarded rest is read as a request, it is answered with 404."""
CHUNK = b"18\r\n" + BODY + b"\r\n"
LAST = b"0\r\n\r\n"
LENGTH = b"Content-Length: 24\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
MAX_HEAD = 64 * 1024
MAX_HEADERS = 128


@dataclass(frozen=True)
class Case:
    """What is sent, and what has to come back: the statuses of all replies, and what becomes of the connection.

    `waits`: the request is not complete, so nothing comes before a time-out.
    """

    group: str
    name: str
    sent: bytes
    statuses: tuple[int, ...]
    end: End

    @property
    def verdict(self) -> str:
        """As the documentation writes it."""
        return verdict(self.statuses, self.end)


def verdict(statuses: tuple[int, ...], end: str) -> str:
    """A short text for the replies and the end of a connection."""
    return f"{' '.join(map(str, statuses)) or 'nothing'}, {end}"


Row: TypeAlias = tuple[str, bytes, tuple[int, ...], End]


def good(name: str, sent: bytes, *statuses: int) -> Row:
    """Answered; the connection stays usable."""
    return name, sent, statuses or (200,), "open"


def bad(name: str, sent: bytes, *statuses: int) -> Row:
    """Refused, with one reply after those of earlier requests; the connection is closed."""
    return name, sent, statuses or (400,), "closed"


def sized(*lines: bytes, body: bytes = BODY) -> bytes:
    """A prediction with these header lines."""
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def chunked(chunks: bytes, *lines: bytes) -> bytes:
    """A prediction with a chunked body."""
    return POST + CHUNKED + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + chunks


def live(*lines: bytes) -> bytes:
    """A request without a body, with these header lines."""
    return GET + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def target(text: bytes, method: bytes = b"GET") -> bytes:
    """A request for this target."""
    return method + b" " + text + b" HTTP/1.1\r\n" + HOST + b"\r\n"


def version(text: bytes) -> bytes:
    """A request whose line ends like this."""
    return b"GET /health/live" + text + b"\r\n" + HOST + b"\r\n"


LENGTHS: tuple[Row, ...] = (
    good("a length and a body", sized(b"Content-Length: 24")),
    good("a length with leading zeros", sized(b"Content-Length: 0000024")),
    good("a length with spaces and tabs around it", sized(b"Content-Length: \t 24 \t ")),
    good("a length without a space before it", sized(b"Content-Length:24")),
    good("a length of 0 with GET", live(b"Content-Length: 0")),
    good("GET with a body that looks like a request", live(b"Content-Length: %d" % len(HIDDEN)) + HIDDEN),
    good(
        "an unknown route whose body looks like a request",
        b"POST /unknown HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
        404,
    ),
    good(
        "a body of another type that looks like a request",
        b"POST /predict HTTP/1.1\r\n"
        + HOST
        + b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN)
        + HIDDEN,
        415,
    ),
    good("POST without a length, then a request", sized(body=HIDDEN), 422, 404),
    bad("POST without a length, then a body", sized(body=BODY), 422, 400),
    bad("a body longer than its length", sized(b"Content-Length: 24", body=BODY + b"{}"), 200, 400),
    bad("a length with a plus sign", sized(b"Content-Length: +24")),
    bad("a negative length", sized(b"Content-Length: -1")),
    bad("a hexadecimal length", sized(b"Content-Length: 0x18")),
    bad("a length with an exponent", sized(b"Content-Length: 24e0")),
    bad("a length with a decimal point", sized(b"Content-Length: 24.0")),
    bad("a length with an underscore", sized(b"Content-Length: 2_4")),
    bad("a length with a space inside", sized(b"Content-Length: 2 4")),
    bad("a length in quotes", sized(b'Content-Length: "24"')),
    bad("a length with letters after it", sized(b"Content-Length: 24abc")),
    bad("a length in digits of another script", sized("Content-Length: ٢٤".encode())),
    bad("an empty length", sized(b"Content-Length: ")),
    bad("a length after a vertical tab", sized(b"Content-Length: \x0b24")),
    bad("the same length twice in a list", sized(b"Content-Length: 24, 24")),
    bad("two lengths in a list", sized(b"Content-Length: 24, 25")),
    bad("the same length in two headers", sized(b"Content-Length: 24", b"Content-Length: 24")),
    bad("two lengths in two headers", sized(b"Content-Length: 24", b"Content-Length: 0", body=BODY + HIDDEN)),
    bad("two lengths, the larger last", sized(b"Content-Length: 0", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN)),
    bad("a length beyond 64 bits", sized(b"Content-Length: 18446744073709551640")),
    bad("a length that overflows to a small one", sized(b"Content-Length: 36893488147419103256")),
    bad("a length of 63 bits", sized(b"Content-Length: 9223372036854775807"), 413),
    bad("a length beyond the limit, then a request", sized(b"Content-Length: 999999999", body=HIDDEN), 413),
    bad("a space before the colon of a length", sized(b"Content-Length : 24")),
    bad("a space before the name of a length", sized(b" Content-Length: 24")),
    bad("a NUL within the name of a length", sized(b"Content\x00-Length: 24")),
    ("a body that is not complete", sized(b"Content-Length: 25"), (), "waits"),
    ("a head that is not complete", GET, (), "waits"),
)

CODINGS: tuple[Row, ...] = (
    good("a chunked body", chunked(CHUNK + LAST)),
    good("the coding in other letter case", sized(b"transfer-ENCODING: ChunKed", body=CHUNK + LAST)),
    bad("the coding with spaces and tabs around it", sized(b"Transfer-Encoding: \t chunked \t ", body=CHUNK + LAST)),
    good("the coding without a space before it", sized(b"Transfer-Encoding:chunked", body=CHUNK + LAST)),
    good("a header named almost like it", sized(b"Transfer_Encoding: chunked", b"Content-Length: 24")),
    good("TE: chunked, which only asks", sized(b"TE: chunked", b"Content-Length: 24")),
    good(
        "GET with a chunked body that looks like a request",
        live(b"Transfer-Encoding: chunked") + b"%x\r\n" % len(HIDDEN) + HIDDEN + b"\r\n" + LAST,
    ),
    bad("length, then coding", sized(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=LAST + HIDDEN)),
    bad("coding, then length", sized(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=CHUNK + LAST)),
    bad("coding and a length of 0", sized(b"Transfer-Encoding: chunked", b"Content-Length: 0", body=LAST)),
    bad(
        "length, and coding with a space before the colon", sized(b"Content-Length: 24", b"Transfer-Encoding : chunked")
    ),
    bad(
        "length, and coding with a tab before the colon", sized(b"Content-Length: 24", b"Transfer-Encoding\t: chunked")
    ),
    bad("length, and coding after a bare line feed", sized(b"Content-Length: 24", b"A: b\nTransfer-Encoding: chunked")),
    bad(
        "length, and coding after a bare carriage return",
        sized(b"Content-Length: 24", b"A: b\rTransfer-Encoding: chunked"),
    ),
    bad("length, and coding on a folded line", sized(b"Content-Length: 24", b"A: b", b" Transfer-Encoding: chunked")),
    bad("length, and a coding with a NUL", sized(b"Content-Length: 24", b"Transfer-Encoding: chunked\x00")),
    bad("length, and a coding after a vertical tab", sized(b"Content-Length: 24", b"Transfer-Encoding: \x0bchunked")),
    bad("length, and a coding after a form feed", sized(b"Content-Length: 24", b"Transfer-Encoding: \x0cchunked")),
    bad("a coding on a folded line", sized(b"Transfer-Encoding:", b" chunked", body=CHUNK + LAST)),
    bad("an unknown coding", sized(b"Transfer-Encoding: xchunked", body=CHUNK + LAST)),
    bad("a coding with a letter after it", sized(b"Transfer-Encoding: chunkedx", body=CHUNK + LAST)),
    bad("a coding with a parameter", sized(b"Transfer-Encoding: chunked;q=1", body=CHUNK + LAST)),
    bad("a coding in quotes", sized(b'Transfer-Encoding: "chunked"', body=CHUNK + LAST)),
    bad("a coding with a comma after it", sized(b"Transfer-Encoding: chunked,", body=CHUNK + LAST)),
    bad("a coding with a comma before it", sized(b"Transfer-Encoding: , chunked", body=CHUNK + LAST), 501),
    bad("chunked twice in a list", sized(b"Transfer-Encoding: chunked, chunked", body=CHUNK + LAST)),
    bad(
        "chunked in two headers", sized(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=CHUNK + LAST)
    ),
    bad("chunked, then identity", sized(b"Transfer-Encoding: chunked, identity", body=CHUNK + LAST)),
    bad(
        "chunked, then identity, in two headers",
        sized(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=CHUNK + LAST),
    ),
    bad(
        "identity, then chunked, in two headers",
        sized(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=CHUNK + LAST),
    ),
    bad("identity", sized(b"Transfer-Encoding: identity", b"Content-Length: 24")),
    bad("an empty coding and a length", sized(b"Transfer-Encoding:", b"Content-Length: 24")),
    bad("gzip, then chunked", sized(b"Transfer-Encoding: gzip, chunked", body=CHUNK + LAST), 501),
    bad("gzip alone", sized(b"Transfer-Encoding: gzip", body=BODY)),
    bad(
        "a chunked body with HTTP/1.0", b"POST /predict HTTP/1.0\r\n" + HOST + TYPED + CHUNKED + b"\r\n" + CHUNK + LAST
    ),
    bad(
        "a coding and a length with HTTP/1.0",
        b"POST /predict HTTP/1.0\r\n" + HOST + TYPED + CHUNKED + LENGTH + b"Connection: keep-alive\r\n\r\n" + LAST,
    ),
)

CHUNKS: tuple[Row, ...] = (
    good("several chunks", chunked(b"1\r\n{\r\n17\r\n" + BODY[1:] + b"\r\n" + LAST)),
    good("a size with leading zeros", chunked(b"000018\r\n" + BODY + b"\r\n" + LAST)),
    good("a last chunk of several zeros", chunked(CHUNK + b"000\r\n\r\n")),
    good(
        "sizes in capital and small letters", chunked(b"a\r\n" + BODY[:10] + b"\r\nE\r\n" + BODY[10:] + b"\r\n" + LAST)
    ),
    good("an extension", chunked(b"18;name=value\r\n" + BODY + b"\r\n" + LAST)),
    good("an extension in quotes", chunked(b'18;name="a; \\"b\\" c"\r\n' + BODY + b"\r\n" + LAST)),
    good("an extension of the last chunk", chunked(CHUNK + b"0;end\r\n\r\n")),
    good("a request behind the last chunk", chunked(CHUNK + LAST + HIDDEN), 200, 404),
    good("a trailer", chunked(CHUNK + b"0\r\nX-Check: 1\r\n\r\n")),
    good("a trailer that is a header of framing elsewhere", chunked(CHUNK + b"0\r\nHost: other\r\n\r\n")),
    bad("a length as trailer", chunked(CHUNK + b"0\r\nContent-Length: 5\r\n\r\n" + HIDDEN)),
    bad("a coding as trailer", chunked(CHUNK + b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + HIDDEN)),
    bad("a trailer without a colon", chunked(CHUNK + b"0\r\nnonsense\r\n\r\n")),
    bad("a folded trailer", chunked(CHUNK + b"0\r\nA: b\r\n c\r\n\r\n")),
    bad("a trailer with a bare line feed", chunked(CHUNK + b"0\r\nA: b\n\r\n")),
    bad("a trailer of 1 MB", chunked(CHUNK + b"0\r\nA: " + b"a" * 1_000_000 + b"\r\n\r\n")),
    bad("200,000 trailers", chunked(CHUNK + b"0\r\n" + b"A: b\r\n" * 200_000 + b"\r\n")),
    bad("an extension with a bare line feed", chunked(b"18;a\n" + BODY + b"\r\n" + LAST)),
    bad("an extension with a bare carriage return", chunked(b"18;a\rb\r\n" + BODY + b"\r\n" + LAST)),
    bad("an extension with a NUL", chunked(b"18;a\x00b\r\n" + BODY + b"\r\n" + LAST)),
    bad("an extension with a control byte", chunked(b"18;a=\x01\r\n" + BODY + b"\r\n" + LAST)),
    bad("an extension whose quotes hold a line feed", chunked(b'18;a="\n"\r\n' + BODY + b"\r\n" + LAST)),
    bad("an extension of 1 MB", chunked(b"18;" + b"a" * 1_000_000 + b"\r\n" + BODY + b"\r\n" + LAST)),
    bad("a size with 0x", chunked(b"0x18\r\n" + BODY + b"\r\n" + LAST)),
    bad("a size with a plus sign", chunked(b"+18\r\n" + BODY + b"\r\n" + LAST)),
    bad("a negative size", chunked(b"-18\r\n" + BODY + b"\r\n" + LAST)),
    bad("a size with an underscore", chunked(b"1_8\r\n" + BODY + b"\r\n" + LAST)),
    bad("a space before a size", chunked(b" 18\r\n" + BODY + b"\r\n" + LAST)),
    bad("a space after a size", chunked(b"18 \r\n" + BODY + b"\r\n" + LAST)),
    bad("an empty size", chunked(b"\r\n" + BODY + b"\r\n" + LAST)),
    bad("a size that is no number", chunked(b"xyz\r\n" + BODY + b"\r\n" + LAST)),
    bad("a size beyond 64 bits", chunked(b"10000000000000018\r\n" + BODY + b"\r\n" + LAST)),
    ("a size of 64 bits", chunked(b"ffffffffffffffff\r\n" + BODY + b"\r\n" + LAST), (), "waits"),
    bad("a chunk longer than its size", chunked(b"17\r\n" + BODY + b"\r\n" + LAST)),
    bad("a chunk shorter than its size", chunked(b"19\r\n" + BODY + b"\r\n" + LAST)),
    bad("a bare line feed after a size", chunked(b"18\n" + BODY + b"\r\n" + LAST)),
    bad("a bare carriage return after a size", chunked(b"18\r" + BODY + b"\r\n" + LAST)),
    bad("a bare line feed after a chunk", chunked(b"18\r\n" + BODY + b"\n" + LAST)),
    bad("two carriage returns after a chunk", chunked(b"18\r\n" + BODY + b"\r\r\n" + LAST)),
    bad("a bare line feed at the end", chunked(CHUNK + b"0\r\n\n" + HIDDEN)),
    ("no empty line at the end", chunked(CHUNK + b"0\r\n"), (), "waits"),
)


def cases() -> Iterator[Case]:
    """All of them, in the order of the documentation."""
    from framing_heads import HEADS

    for group, rows in {"Lengths": LENGTHS, "Codings": CODINGS, "Chunks": CHUNKS, **HEADS}.items():
        for name, sent, statuses, end in rows:
            yield Case(group, name, sent, statuses, end)
