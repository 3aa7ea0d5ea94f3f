"""`.properties` by Java's rules: beside a slow reader that goes character by character, as Java's own does."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.torchserve.migration.properties import parse_properties

TEXTS = st.text(st.sampled_from("ab #!=:\\\\\n\r\t\f0u4é\xa0$"), max_size=40)


class Reader:
    """`java.util.Properties.LineReader` of JDK 17, state by state."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def line(self) -> str | None:
        found: list[str] = []
        skip_white, appended, backslash = True, False, False
        while True:
            if self.at >= len(self.text):
                if not found:
                    return None
                return "".join(found[:-1] if backslash else found)
            sign = self.text[self.at]
            self.at += 1
            if skip_white:
                if sign in " \t\f":
                    continue
                if not appended and sign in "\r\n":
                    continue
                skip_white = appended = False
            if not found and sign in "#!":
                while self.at < len(self.text) and self.text[self.at] not in "\r\n":
                    self.at += 1
                self.at += 1
                skip_white = True
                continue
            if sign not in "\r\n":
                found.append(sign)
                backslash = sign == "\\" and not backslash
                continue
            if not found:
                skip_white = True
                continue
            if self.at >= len(self.text):
                return "".join(found[:-1] if backslash else found)
            if not backslash:
                return "".join(found)
            found.pop()
            skip_white, appended, backslash = True, True, False
            if sign == "\r" and self.text[self.at] == "\n":
                self.at += 1


def slow(text: str) -> dict[str, str]:
    """`Properties.load0`; raises ValueError where Java raises IllegalArgumentException."""
    reader, found = Reader(text), {}
    while (line := reader.line()) is not None:
        end, start, separated, backslash = 0, len(line), False, False
        while end < len(line):
            sign = line[end]
            if sign in "=:" and not backslash:
                start, separated = end + 1, True
                break
            if sign in " \t\f" and not backslash:
                start = end + 1
                break
            backslash = sign == "\\" and not backslash
            end += 1
        while start < len(line):
            if line[start] not in " \t\f":
                if separated or line[start] not in "=:":
                    break
                separated = True
            start += 1
        found[converted(line[:end])] = converted(line[start:])
    return found


def converted(text: str) -> str:
    made, at = [], 0
    while at < len(text):
        sign = text[at]
        at += 1
        if sign != "\\":
            made.append(sign)
            continue
        sign = text[at]
        at += 1
        if sign == "u":
            digits = text[at : at + 4]
            if len(digits) < 4 or digits.strip("0123456789abcdefABCDEF"):
                raise ValueError
            made.append(chr(int(digits, 16)))
            at += 4
        else:
            made.append({"t": "\t", "r": "\r", "n": "\n", "f": "\f"}.get(sign, sign))
    return "".join(made)


def read(text: str) -> dict[str, str]:
    return {each.key: each.value for each in parse_properties(text.encode("latin-1"), "c.properties")}


@settings(max_examples=400)
@example("\\")
@example("\\\n")
@example("\\\r\n")
@example("a\\\n\\\n")
@example("\\\n#a")
@example("a\\\n\n#b\nc")
@given(TEXTS)
def test_any_text_is_read_as_java_reads_it(text: str) -> None:
    try:
        expected = slow(text)
    except ValueError:
        with pytest.raises(ConfigError, match=r"c\.properties, line \d+: \\u is not followed by four"):
            read(text)
        return
    assert read(text) == expected


JAVA = {
    "a=1\n": {"a": "1"},
    "a : 1\nb 2\nc": {"a": "1", "b": "2", "c": ""},
    "  # no\n! no\n\n\t a\t=\t1 \n": {"a": "1 "},
    "a=1,\\\n   2,\\\r\n\t3\n": {"a": "1,2,3"},
    "a=1\\\n\nb=2": {"a": "1", "b": "2"},
    "a=1\\\n# 2": {"a": "1# 2"},
    "a=\\\\\nb=\\": {"a": "\\", "b": ""},
    "a\\=b=c\\:d\\ e": {"a=b": "c:d e"},
    "a\\ b c": {"a b": "c"},
    "a==b": {"a": "=b"},
    "a= =b": {"a": "=b"},
    "a =b=c": {"a": "b=c"},
    "k=\\u00e9\\ud83d\\ude00\\t.": {"k": "é😀\t."},
    "k=caf\u00e9": {"k": "café"},
    "a=1\na=2": {"a": "2"},
    'models={\\\n  "m": {\\\n    "1.0": {\\\n      "minWorkers": 1}}}\n': {
        "models": '{"m": {"1.0": {"minWorkers": 1}}}'
    },
    "\\": {"": ""},
    "\\\n": {"": ""},
    "\\\r\n": {},
    "a\\\n\\\n": {"a": ""},
    "a\n\\\n\\\n": {"a": "", "": ""},
    "\\\n#a\nb": {"b": ""},
    "=a": {"": "a"},
    "inference_address=http\\://0.0.0.0\\:8080": {"inference_address": "http://0.0.0.0:8080"},
}
"""What OpenJDK 17 reads."""


@pytest.mark.parametrize("text", JAVA)
def test_what_java_reads_is_read(text: str) -> None:
    assert read(text) == JAVA[text]


def test_a_property_knows_its_line() -> None:
    data = b"# one\na=1,\\\n  2\n\r\nb=3\rc=4"
    assert [(each.key, each.line) for each in parse_properties(data, "c")] == [("a", 2), ("b", 5), ("c", 6)]


def test_a_malformed_character_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"^c, line 2: \\u is not followed by four hexadecimal digits; a back"):
        parse_properties(b"a=1\npath=C:\\users", "c")
