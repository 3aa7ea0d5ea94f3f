"""Python client of a Penstock server."""

from penstock.client.client import Client

__all__ = ["Client"]
