"""Fixtures for every test."""

import signal

import hypothesis_profile
import pytest
import quick_files
from databases import database, on_one_database, postgres

__all__ = ["database", "postgres"]

hypothesis_profile.load()
quick_files.load()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under nohup: processes that tests start would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make test ARGS=--all`"""
    parser.addoption("--all", action="store_true", help="run long tests too, and all tests on both databases")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out long tests, and choose the database of each test that does not need both.

    Both processes of `make test` have to find the same names.
    """
    if changing := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"{changing[0]}: its name differs in each process; give its cases ids")
    if not config.getoption("--all"):
        left_out = on_one_database(items) | {item.nodeid for item in items if item.get_closest_marker("long")}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]
