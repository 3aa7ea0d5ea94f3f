"""Redacts what must not be logged: e-mail addresses, phone, card, account and insurance numbers, tokens, passwords.

Payloads are never logged on purpose, but a path, a file name or an error message may quote user data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from penstock.patterns import LONGEST_TEXT

LONGEST = 20_000
"""Maximum characters of one text; the middle of a longer one is left out."""
DEEPEST = 6
"""Maximum levels of lists and mappings in one field."""

HIDDEN = "[secret]"

_NAMES_OF_SECRETS = (
    r"(?:api|access|admin|account|private|secret|auth|encryption|signing|master)[_-]?keys?|"
    r"pass(?:word|wd|phrase)s?|pwd|secrets?|tokens?|credentials?|authorization|cookies?|peppers?"
)
_SECRET_FIELD = re.compile(rf"(?:^|[_\W]|(?<=[a-z])(?=[A-Z]))(?:{_NAMES_OF_SECRETS})(?:$|[_\W])", re.IGNORECASE)

_JOINT = re.compile(r"[=:\s]")
_WORDS = re.compile(r"key|pass|pwd|secret|token|credential|auth|cookie|bearer|basic|pepper")
_LONG = re.compile(r"[\w.-]{14}")
_DIGITS = re.compile(r"\d[\d %./()-]{5,}\d")
"""Cheap checks: only text that matches one of these (or has an `@`) is searched with the patterns below."""

_EMAIL = re.compile(
    r"(?:(?<![\w.+%-])[\w.+%-]{1,64}|\"[^\"\n]{1,64}\")@"
    r"(?:[\w-]{1,63}\.){1,8}(?:xn--[A-Za-z0-9-]{1,59}|[^\W\d_]{2,24})(?![\w-])"
)
_URL_PASSWORD = re.compile(r"(?<=://)[^\s/@:\"'<>]{0,256}:[^\s\"'<>]{1,256}@")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}KEY-----|\Z)", re.DOTALL
)
_BEARER = re.compile(r"\b(bearer|basic)[ \t]+(?=\S{20}|[^\s\d]{0,40}\d)[\w.~+/-]{6,}={0,2}", re.IGNORECASE)
_NAMED = re.compile(
    rf"(?<![A-Za-z])((?:[A-Za-z0-9]{{1,40}}[_-]){{0,6}}(?:{_NAMES_OF_SECRETS})[\"']?\s{{0,4}}(?:=|:(?!//))\s{{0,4}})"
    r"(?:\[secret\]|\"[^\"\n]*\"|'[^'\n]*'|(?:(?:bearer|basic|digest|token)\s+)?[^\s\"',;&)}\]]+)",
    re.IGNORECASE,
)
_ISSUED = re.compile(
    r"\b(?:(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA|ANVA)[A-Z0-9]{16}\b|AIza[\w-]{35}|gh[pousr]_[A-Za-z0-9]{20,}|"
    r"github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{16,}|"
    r"(?:sk|rk|pk)[_-][\w-]{16,}|xox[abeoprs]-[\w-]{10,}|dop_v1_[a-f0-9]{32,}|SG\.[\w-]{16,}\.[\w-]{16,}|"
    r"whsec_\w{16,}|ya29\.[\w-]{16,}|eyJ[\w-]{8,}(?:\.[\w-]*){0,4})"
)
"""Keys and tokens by the prefixes of well-known issuers, and JSON Web Tokens."""
_CARD = re.compile(r"(?<![\w.-])(?:\d[ -]?){12,18}\d(?![\w-]|\.\d)")
_SPACE = r"(?:[ -]|%20)"
_IBAN = re.compile(rf"(?<![A-Za-z0-9])(?!%)[A-Za-z]{{2}}\d{{2}}(?:{_SPACE}?[A-Za-z0-9]){{11,30}}(?![A-Za-z0-9])")
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        "15": "NO", "16": "BE", "18": "DK FI FO GL NL SD", "19": "MK SI", "20": "AT BA EE KZ LT LU XK",
        "21": "CH HR LI LV", "22": "BG BH CR DE GB GE IE ME RS VA", "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG",
        "25": "LY PT ST", "26": "IS TR", "27": "BI DJ FR GR IT MC MR SM", "28": "AL AZ BY CY DO GT HU LB NI PL SV",
        "29": "BR EG PS QA UA", "30": "JO KW MU", "31": "MT SC", "32": "LC", "33": "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""Characters of an IBAN by country."""
_AHV = re.compile(r"(?<![\w.])756([. -]|%20|)\d{4}\1\d{4}\1\d{2}(?![\w-]|\.\d)")
_SSN = re.compile(
    r"(?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-]|\.\d)"
    r"|(?i:(?<![a-z])(ssn|social security)([\w ]{0,10}[\"']?[ ]?[:=#]?[ ]?[\"']?))\d{3}[ -]?\d{2}[ -]?\d{4}(?![\w-])"
)
_PATH_PHONE = re.compile(
    r"(?<=/)(?:"
    r"(?:\+|%2[Bb]|00)[1-9](?:[\d .()-]|%20|%28|%29){5,20}\d"  # /+41791234567
    rf"|(?:1{_SPACE})?\(?\d{{3}}\)?(?:[ .-]|%20)\d{{3}}(?:[ .-]|%20)\d{{4}}"  # /415-555-2671
    rf"|0\d{{2,4}}{_SPACE}\d{{3,4}}(?:{_SPACE}?\d{{2,4}}){{0,2}}"  # /030-1234567
    r"|0[1-9]\d{7,9}"  # /0791234567
    r"|[2-9]\d{2}[2-9]\d{6}"  # /4155552671
    r")(?=[/?#&\s\"',;)\]]|$)"
)
"""A whole segment of a path. A number without separators counts here, unlike in a sentence, if it is one that can be
dialled."""
_PHONE = re.compile(
    r"(?<![\w.:/+-])(?:"
    r"(?:\+|00)[1-9][\d ./()-]{5,20}\d"  # +49 (0)30 1234-567
    r"|(?:1[ .-])?\(\d{3}\)[ .-]?\d{3}[ .-]?\d{4}"  # (415) 555-2671
    r"|(?:1[ .-])?\d{3}([ .-])\d{3}\1\d{4}"  # 415-555-2671
    r"|0\d{2,4}[ /-]\d{3,4}(?:[ -]?\d{2,4}){0,2}"  # 030 1234567
    r"|(?i:phone|mobile|cell|tel|fax)[\w ]{0,10}[\"']?[ ]?[:=][ ]?[\"']?(?:\+|%2[Bb])?\d{7,15}"  # phone=4155552671
    r")(?![\w-]|[.:]\d)"
)


def scrub(text: str) -> str:
    """The text with personal data and credentials replaced by marks such as `[email]`."""
    if len(text) > LONGEST:
        text = _shortened(text)
    if _JOINT.search(text) is not None and _WORDS.search(text.lower()) is not None:
        text = _PRIVATE_KEY.sub("[key]", text)
        text = _NAMED.sub(rf"\1{HIDDEN}", text)
        text = _BEARER.sub(r"\1 [token]", text)
    if _LONG.search(text) is not None:
        text = _ISSUED.sub("[token]", text)
    if "@" in text:
        text = _URL_PASSWORD.sub(f"{HIDDEN}@", text)
        text = _EMAIL.sub("[email]", text)
    if _DIGITS.search(text) is not None:
        text = _AHV.sub(_ahv, _IBAN.sub(_iban, text))
        text = _SSN.sub(_ssn, _CARD.sub(_card, text))
        text = _PHONE.sub(_phone, _PATH_PHONE.sub("[phone]", text))
    return _without_own(text) if _own else text


_own: list[re.Pattern[str]] = []
"""The expressions of the settings."""
_PIECE = re.compile(rf"(?s).{{1,{LONGEST_TEXT - 1}}}(?:\s|\Z)|.{{1,{LONGEST_TEXT}}}")


def redact_also(patterns: Iterable[str]) -> None:
    """Redact what these expressions match, in place of those given before; they were checked with the settings."""
    _own[:] = [re.compile(pattern) for pattern in patterns]


def _without_own(text: str) -> str:
    """Search pieces of limited length, cut at whitespace where there is some: an expression may take quadratic time."""
    pieces = [text] if len(text) <= LONGEST_TEXT else _PIECE.findall(text)
    for pattern in _own:
        pieces = [pattern.sub("[redacted]", piece) for piece in pieces]
    return "".join(pieces)


def scrub_field(name: str, value: Any, depth: int = 0) -> Any:
    """The redacted value of a field: hidden if the name is that of a secret, otherwise with all text redacted."""
    if isinstance(value, bool | int | float) or value is None:
        return value
    if _SECRET_FIELD.search(name) is not None:
        return HIDDEN
    if isinstance(value, str):
        return scrub(value)
    if depth >= DEEPEST:
        return "[…]"
    if isinstance(value, Mapping):
        return {scrub(str(key)): scrub_field(str(key), inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub_field("", inner, depth + 1) for inner in value]
    return scrub(_as_text(value))


def _as_text(value: Any) -> str:
    """The value as text; for arrays and bytes only type, shape and size, since their content is user data."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{type(value).__name__} of {dtype} {list(shape)}"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    return str(value)


def _shortened(text: str) -> str:
    """Cut at whitespace, so that no part of a secret remains."""
    head, tail = text[: LONGEST // 2], text[-LONGEST // 2 :]
    head = head[: max(head.rfind(" "), head.rfind("\n"), 0)]
    blanks = [place for place in (tail.find(" "), tail.find("\n")) if place >= 0]
    tail = tail[min(blanks) :] if blanks else ""
    return f"{head} [{len(text) - len(head) - len(tail)} characters left out] {tail}"


def _card(match: re.Match[str]) -> str:
    """Redact numbers with a valid check digit (Luhn), as card numbers have; keep others of the same length."""
    digits = [int(character) for character in match[0] if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    valid = (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1
    return "[card]" if valid else match[0]


def _iban(match: re.Match[str]) -> str:
    """Redact account numbers with a valid length and check digits; more words may follow in the match."""
    text, taken, place = match[0], "", 0
    length = _IBAN_LENGTHS.get(text[:2].upper(), 99)
    while place < len(text) and len(taken) < length:
        place += 3 if text.startswith("%20", place) else 0
        taken += text[place] if text[place].isalnum() else ""
        place += 1
    ended = place == len(text) or not text[place].isalnum()
    number = "".join(str(int(character, 36)) for character in taken[4:] + taken[:4])
    return f"[iban]{text[place:]}" if len(taken) == length and ended and int(number) % 97 == 1 else text


def _ahv(match: re.Match[str]) -> str:
    """Redact Swiss insurance numbers; without separators only those with a valid check digit (EAN-13)."""
    digits = [int(character) for character in match[0].replace("%20", "") if character.isdigit()]
    valid = (sum(digits[0::2]) + 3 * sum(digits[1::2])) % 10 == 0
    return "[ahv]" if match[1] or valid else match[0]


def _ssn(match: re.Match[str]) -> str:
    return f"{match[1] or ''}{match[2] or ''}[ssn]"


def _phone(match: re.Match[str]) -> str:
    digits = sum(character.isdigit() for character in match[0])
    return "[phone]" if 7 <= digits <= 15 else match[0]
