"""Which caller a request comes from, as far as a contended model is shared between callers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self, TypeVar

from penstock.engine.batching.flows.flow import Flow
from penstock.gateway.limits.addresses import UNIX, Proxies, network_of

MOST_FLOWS = 10_000
"""Callers that are remembered. Beyond it all are forgotten: a caller that waits then counts as two for a while."""


class Sender(Protocol):
    """What is known of a request."""

    header: Callable[[str], str | None]
    header_values: Callable[[str], Sequence[str]]
    caller: Any
    """Who sends it, with `id` and `weight`; None where nobody has to say who they are."""

    @property
    def client(self) -> str | None:
        """The address at the other end of its connection; None over a Unix socket."""


Request = TypeVar("Request", bound=Sender)


class Flows:
    """One flow for each caller. The only place where a request becomes one of a flow.

    A caller is the API key of a request (its `caller` has `id` and `weight`), the address of a client or the value of a
    header. Requests without one are a flow together.
    """

    def __init__(self, by: str, proxies: Proxies | None = None) -> None:
        """`by` is `key`, `address` or `header:NAME`; `proxies` may tell the address of a client."""
        kind, _, self._name = by.partition(":")
        self.of: Callable[[Any], Flow | None] = {
            "key": self._of_key,
            "address": self._of_address,
            "header": self._of_header,
        }[kind]
        """The flow of a request."""
        self.by_caller = kind == "key"
        """True if only requests with a `caller` have a flow."""
        self._known: dict[str, Flow] = {}
        self._proxies = proxies or Proxies(())

    @classmethod
    def by(cls, by: str, trusted_proxies: Sequence[str] = ()) -> Self | None:
        """The flows of a setting; None if all requests are one flow."""
        return None if by == "none" else cls(by, Proxies(trusted_proxies))

    def _of_key(self, call: Any) -> Flow | None:
        caller = call.caller
        return self._flow(caller.id, caller.weight) if caller is not None and caller.id else None

    def _of_address(self, call: Sender) -> Flow | None:
        address = call.client
        if self._proxies.any:
            address = self._proxies.client(address or UNIX, call.header_values("x-forwarded-for"))
        if address is None or address == UNIX:
            return None
        return self._known.get(address) or self._flow(network_of(address), alias=address)

    def _of_header(self, call: Sender) -> Flow | None:
        value = call.header(self._name)
        return None if value is None else self._flow(value)

    def _flow(self, name: str, weight: float = 1.0, alias: str | None = None) -> Flow:
        known = self._known
        flow = known.get(name)
        if flow is None:
            if len(known) >= MOST_FLOWS:
                known.clear()
            flow = known[name] = Flow(name, weight)
        flow.weight = weight  # which an operator may change
        if alias is not None:
            known[alias] = flow
        return flow

    def parted(self, calls: Sequence[Request]) -> Iterable[tuple[Flow | None, Sequence[Request]]]:
        """Requests by their flow, in order."""
        if self.by_caller and all(call.caller is None for call in calls):
            return [(None, calls)]
        found: dict[Flow | None, list[Request]] = {}
        of = self.of
        for call in calls:
            found.setdefault(of(call), []).append(call)
        return found.items()
