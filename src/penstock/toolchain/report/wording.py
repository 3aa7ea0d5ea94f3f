"""Numbers and names as they are shown. Names come from users: here they become printable; where written, escaped."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Any, TypeGuard

NOTHING = "–"
_LARGEST, _SMALLEST = 1e300, 1e-300
_BYTES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def finite(value: object) -> TypeGuard[float]:
    """True for a number that a plot can hold: neither None nor NaN, infinity, a truth value or beyond 1e300."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def tamed(value: float) -> float:
    """`value` as a float, those nearest to zero as zero: no logarithm of a span leaves the range of a float then."""
    return 0.0 if abs(value) < _SMALLEST else float(value)


def number(value: Any) -> str:
    """`value` with three significant digits; a dash for what is no number, whole numbers in full."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**15 else _rounded(float(min(max(value, -_LARGEST), _LARGEST)))
    return _rounded(value)


def _rounded(value: float) -> str:
    if not math.isfinite(value):
        return NOTHING if math.isnan(value) else "∞" if value > 0 else "−∞"
    size = abs(value)
    if size == 0 or 1e-3 <= size < 1e3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 1e3 <= size < 1e9 else _scientific(value)


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def byte_unit(values: Iterable[Any]) -> tuple[float, str]:
    """The unit in which the largest of these sizes is read best: how many bytes it has, and its name."""
    largest = max((abs(value) for value in values if finite(value)), default=0)
    return next(((float(count), name) for name, count in _BYTES if largest >= count), (1.0, "bytes"))


def size(value: Any) -> str:
    """`1.4 MiB` for 1468006; a dash for what is no number."""
    if not finite(value):
        return NOTHING
    count, name = byte_unit([value])
    return f"{number(value if name == 'bytes' else value / count)} {name}"


def share(value: Any, digits: int = 2) -> str:
    """`97.25 %` for 0.9725; a dash for what is no number."""
    return f"{100 * value:.{digits}f} %" if finite(value) else NOTHING


def printable(value: Any) -> str:
    """The text of `value` on one line; control and formatting characters as escapes, since they could hide others."""
    text = " ".join(str(value).split())
    return "".join(char if char == " " or char.isprintable() else ascii(char)[1:-1] for char in text)


def shortened(text: str, longest: int) -> str:
    """`text` with its middle left out when it is longer: the end of a name often tells it from others."""
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 1]}…{text[-tail:]}"


def text_width(text: str, font_px: float) -> float:
    """About how many pixels a line of text takes in a sans-serif font."""
    return font_px * sum(1.0 if unicodedata.east_asian_width(char) in "WF" else 0.57 for char in text)
