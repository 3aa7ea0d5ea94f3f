from __future__ import annotations

import os.path
from collections import OrderedDict

import pytest

from penstock.imports import import_attribute


def test_the_attribute_of_a_module_is_imported() -> None:
    assert import_attribute("collections:OrderedDict") is OrderedDict
    assert import_attribute("os:path.join") is os.path.join


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("collections:Nothing", AttributeError),
        ("no_such_module:f", ModuleNotFoundError),
        ("collections", AttributeError),
    ],
)
def test_a_target_that_does_not_exist_is_an_error(target: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        import_attribute(target)
