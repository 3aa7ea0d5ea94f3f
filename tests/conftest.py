"""Fixtures for every test."""

import hypothesis_profile
from databases import database, postgres

__all__ = ["database", "postgres"]

hypothesis_profile.load()
