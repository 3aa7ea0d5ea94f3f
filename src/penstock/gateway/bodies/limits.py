"""How much memory the bodies of requests may take."""

from __future__ import annotations

from typing import Protocol

from penstock.errors import Overloaded
from penstock.gateway.problems import body_too_large

LARGE_BODY = 64 * 1024
"""Bodies of at least this many bytes count against the memory that all bodies share."""


class Holder(Protocol):
    """A request, as far as the limits are concerned."""

    held_bytes: int
    """What its body takes of the memory for all large ones."""


class BodyLimits:
    """How much memory request bodies may take: one alone, and all large ones together."""

    def __init__(self, max_body_bytes: int, max_total_bytes: int, timeout_s: float) -> None:
        """`timeout_s` is how long a body may take to arrive."""
        self.max_body_bytes = max_body_bytes
        self.max_total_bytes = max_total_bytes
        self.timeout_s = timeout_s
        self.held_bytes = 0

    def check(self, holder: Holder, size: int) -> None:
        """Reserve `size` bytes for a body. Raises Refusal (413) for one beyond the limit, Overloaded without room."""
        if size > self.max_body_bytes:
            raise body_too_large(self.max_body_bytes)
        if size >= LARGE_BODY:
            self.reserve(holder, size)

    def reserve(self, holder: Holder, size: int) -> None:
        """Reserve `size` bytes for a body, in place of what it has. Raises Overloaded without room."""
        if size < LARGE_BODY and not holder.held_bytes:
            return
        more = size - holder.held_bytes
        if self.held_bytes + more > self.max_total_bytes:
            raise Overloaded(f"bodies of other requests take {self.held_bytes} bytes already; try again later")
        self.held_bytes += more
        holder.held_bytes = size

    def release(self, holder: Holder) -> None:
        """Give back what a body reserved."""
        self.held_bytes -= holder.held_bytes
        holder.held_bytes = 0
