from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from penstock.documents import MAX_BYTES, read_json, read_yaml
from penstock.errors import UnsupportedFormat


@pytest.mark.parametrize("content", ["a: [", "- 1", "", "!!python/object/apply:os.system ['true']", "a: !!set 1"])
def test_a_file_that_holds_no_plain_mapping_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "MLmodel"
    path.write_text(content)
    with pytest.raises(UnsupportedFormat, match="MLmodel"):
        read_yaml(path)


def test_a_file_that_is_too_large_or_missing_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UnsupportedFormat, match="at most"):
        read_yaml(tmp_path / "big")
    with pytest.raises(UnsupportedFormat, match="there is no such file"):
        read_json(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [{'*a, ' * 9}]\nc{i}: [{f'*b{i}, ' * 99}]\n" for i in range(20)),
            "20000",
        ),
        ("a: &a [*a]", "a value holds itself"),
        ("a: &a {x: y}\nb: {<<: *a}", "it merges mappings"),
        ("a: " + "1" + ":1" * 200, "a number has more than 100 characters"),
        ("a: " + "[" * 65 + "]" * 65, "more than 64 levels"),
        ("[" * 100_000, "more than 64 levels"),
        ("a: [" + "1," * 20_000 + "]", "more than 20000 values"),
    ],
)
def test_yaml_that_grows_when_it_is_read_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(UnsupportedFormat, match=says):
        read_yaml(tmp_path / "MLmodel")


def test_yaml_with_a_few_aliases_is_read(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("a: &a [1, 2.5]\nb: *a\nc: 2026-01-31\n")
    assert read_yaml(tmp_path / "MLmodel") == {"a": [1, 2.5], "b": [1, 2.5], "c": date(2026, 1, 31)}
