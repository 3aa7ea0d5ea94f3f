"""What the connections of one listener share: the gateway, the clock of their time-outs, the limits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from email.utils import formatdate

from penstock.gateway.gateway import Gateway
from penstock.gateway.process.h1.known_heads import KnownHeads
from penstock.settings import Settings

TICK_S = 1.0
LONGEST_STEP_S = 1.5
"""How far a tick moves the clock at most: while the event loop stands still, no client is late."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long a client may take, in seconds."""

    header_s: float
    """For the head of a request, and for the first byte of a new connection."""
    body_s: float
    """Without enough progress of a body, in either direction."""
    keep_alive_s: float
    """Between two requests."""


class Front:
    """One listener's gateway, clock and limits."""

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        self.gateway = gateway
        self.service = gateway.service
        self.limits = gateway.limits
        self.loop = asyncio.get_running_loop()
        self.times = Times(settings.header_timeout_s, settings.body_timeout_s, settings.keep_alive_s)
        self.heads = KnownHeads()
        self.now = 0.0
        """Seconds that the event loop has run; moves once a second."""
        self.closing = False
        """True when no further request is taken."""
        self._before = self.loop.time()
        self.set_date()

    def set_date(self) -> None:
        """The header `Date`, as text and as bytes, of this moment."""
        self.date = f"date: {formatdate(usegmt=True)}\r\n"
        self.date_bytes = self.date.encode("ascii")

    def step(self) -> None:
        """Move the clock."""
        now = self.loop.time()
        self.now += min(now - self._before, LONGEST_STEP_S)
        self._before = now
        self.set_date()
