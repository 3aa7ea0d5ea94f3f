from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import InvalidInput
from penstock.toolchain.recipes.training import user_functions


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_function_of_the_working_directory_is_found(here: Path) -> None:
    (here / "own_data_one.py").write_text("def batches():\n    return 7\n")
    function = user_functions.find("own_data_one:batches", "data")
    assert user_functions.call(function, "own_data_one:batches", "data") == 7


def test_a_module_of_another_working_directory_is_not_taken_for_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "own_data_two.py").write_text(f"def batches():\n    return {number}\n")
        monkeypatch.chdir(folder)
        assert user_functions.find("own_data_two:batches", "data")() == number


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("own_bad", "", "data: 'own_bad' is not of the form module:function"),
        ("os:system", "", "data: os:system is of Python's standard library, not your code"),
        ("own_absent:f", "", "data: there is no module own_absent, neither installed nor in the working directory"),
        ("own_a:f", "g = 1", "data: the module own_a has no function f"),
        ("own_b:f", "f = 1", "data: own_b:f is of the type int, not a function"),
        ("own_c:f", "import own_missing", "data: the module own_c needs own_missing, which is not installed"),
        ("own_d:f", "x = 1 / 0", "data: own_d raised ZeroDivisionError: division by zero (own_d.py, line 1)"),
        ("own_e:f", "import sys\nsys.nothing", "data: own_e raised AttributeError: module 'sys' has no attribute"),
        ("own_f:f", "raise SystemExit(3)", "data: own_f raised SystemExit: 3 (own_f.py, line 1)"),
    ],
)
def test_what_is_no_function_is_said_in_one_sentence(here: Path, target: str, code: str, message: str) -> None:
    (here / f"{target.partition(':')[0]}.py").write_text(code) if code else None
    with pytest.raises(InvalidInput) as raised:
        user_functions.find(target, "data")
    assert str(raised.value).startswith(message)


def test_an_error_of_a_users_function_names_the_function_and_the_line(here: Path) -> None:
    (here / "own_g.py").write_text("def f():\n\n    return {}['key']\n")
    with pytest.raises(InvalidInput, match=r"loss: own_g:f raised KeyError: 'key' \(own_g.py, line 3\)"):
        user_functions.call(user_functions.find("own_g:f", "loss"), "own_g:f", "loss")
