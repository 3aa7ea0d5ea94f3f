"""Numbers and names as people read them."""

from __future__ import annotations

import math

import pytest

from penstock.toolchain.report.wording import number, printable, share, shortened, size


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.0, "0"),
        (12345, "12,345"),
        (0.123456, "0.123"),
        (1234.5, "1,234"),
        (1.5e-5, "1.5e-5"),
        (2.0e12, "2e12"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (None, "–"),
        (True, "–"),
        ("text", "–"),
        (10**400, "1e300"),
    ],
)
def test_numbers_have_three_digits(value: object, shown: str) -> None:
    assert number(value) == shown


def test_sizes_and_shares_have_units() -> None:
    assert [size(value) for value in (900, 2048, 1468006, 3 * 2**30)] == ["900 bytes", "2 KiB", "1.4 MiB", "3 GiB"]
    assert (share(0.9725), share(None), size(math.nan)) == ("97.25 %", "–", "–")


def test_names_are_one_printable_line() -> None:
    assert printable("a\nb\tc") == "a b c"
    assert printable("a\x00\u202eb\ud800") == "a\\x00\\u202eb\\ud800"
    assert printable("größe 数字") == "größe 数字"


def test_a_long_name_loses_its_middle() -> None:
    assert shortened("torchscript-int8-static-percentile", 20) == "torchscript-i…entile"
    assert shortened("short", 20) == "short"
