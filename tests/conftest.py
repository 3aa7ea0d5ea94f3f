"""Fixtures for every test."""

import signal

import hypothesis_profile
from databases import database, postgres

__all__ = ["database", "postgres"]

hypothesis_profile.load()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under nohup: processes that tests start would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)
