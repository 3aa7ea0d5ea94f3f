from __future__ import annotations

import logging
import os.path
import threading
import warnings
from collections import OrderedDict

import pytest

from penstock.libraries import import_attribute, quietly, recorded_warnings


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


def test_only_the_named_warnings_are_suppressed() -> None:
    with quietly("the old way", r"axis \w+"):
        warnings.warn("the old way is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("axis batch is shared", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="something else"):  # warnings are errors in these tests
            warnings.warn("something else", UserWarning, stacklevel=1)


def test_without_names_every_warning_is_suppressed_and_the_filters_are_restored() -> None:
    before = list(warnings.filters)
    with quietly():
        warnings.warn("anything", DeprecationWarning, stacklevel=1)
    assert warnings.filters == before


def test_a_logger_is_raised_to_a_level_and_restored(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("penstock.test.noisy")
    logger.setLevel(logging.INFO)
    with quietly(logger=logger.name, level=logging.ERROR):
        logger.warning("suppressed")
        logger.error("kept")
    assert logger.level == logging.INFO
    assert caplog.messages == ["kept"]


def test_threads_may_suppress_warnings_at_the_same_time() -> None:
    before = list(warnings.filters)
    first_left, second_entered = threading.Event(), threading.Event()
    problems: list[BaseException] = []

    def second() -> None:
        try:
            with quietly("the old way"):
                second_entered.set()
                first_left.wait()
                warnings.warn("the old way is deprecated", FutureWarning, stacklevel=1)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=second)
    with quietly("the old way"):
        thread.start()
        second_entered.wait()
    first_left.set()
    thread.join()
    assert problems == []
    assert warnings.filters == before


def test_a_rule_of_the_user_outlives_the_same_rule_here() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the old way")
        warnings.simplefilter("ignore")
        before = list(warnings.filters)
        with quietly("the old way"), quietly():
            pass
        assert warnings.filters == before


def test_threads_may_raise_a_logger_at_the_same_time() -> None:
    logger = logging.getLogger("penstock.test.shared")
    logger.setLevel(logging.INFO)
    first, second = quietly(logger=logger.name), quietly(logger=logger.name, level=logging.ERROR)
    first.__enter__()
    second.__enter__()
    assert logger.level == logging.CRITICAL
    first.__exit__(None, None, None)
    assert logger.level == logging.ERROR
    second.__exit__(None, None, None)
    assert logger.level == logging.INFO


def test_who_records_warnings_is_not_disturbed_by_who_suppresses_them() -> None:
    before = list(warnings.filters)
    order: list[str] = []

    def other() -> None:
        with quietly():
            order.append("suppressed")

    thread = threading.Thread(target=other)
    with recorded_warnings() as recorded:
        thread.start()
        thread.join(0.1)  # it waits
        warnings.warn("anything", DeprecationWarning, stacklevel=1)
        order.append("recorded")
    thread.join()
    assert [str(one.message) for one in recorded] == ["anything"]
    assert order == ["recorded", "suppressed"]
    assert warnings.filters == before
