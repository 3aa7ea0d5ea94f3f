from __future__ import annotations

import logging
import warnings

import pytest

from penstock.backends.torch.quiet import quietly


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
