"""What gives way to a request in a full queue: lower priorities, and flows that take more of the queue than its own."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping

from penstock.engine.batching.flows.flow import Flow, weight_of
from penstock.engine.batching.flows.item import Item, Payload, rank_of
from penstock.engine.batching.flows.line import Line


def candidates(
    items: Iterable[Item[Payload]],
    backlog: Mapping[Flow | None, int],
    line_of: Callable[[Flow | None], Line[Payload] | None],
    request: tuple[int, int, Flow | None],
) -> Iterator[Item[Payload]]:
    """The items that may be evicted for a request of (rows, priority, flow), in the order in which they go.

    First those of lower priority, the last in rank first. Then those of its priority, from the flow with the most rows
    per weight, as long as these are more than the flow of the request would have. `line_of` holds those of a flow.
    """
    rows, priority, flow = request
    left = dict(backlog)
    for item in sorted([item for item in items if item.priority < priority], key=rank_of, reverse=True):
        left[item.flow] = left.get(item.flow, 0) - item.rows
        yield item
    if not has_more(left, rows, flow):
        return
    share = (left.get(flow, 0) + rows) / weight_of(flow)
    last: dict[Flow | None, Iterator[Item[Payload]]] = {}
    order = [(-count / weight_of(other), number, other) for number, (other, count) in enumerate(left.items())]
    heapq.heapify(order)
    while order and -order[0][0] > share:
        _, number, other = order[0]
        if other not in last:
            line = line_of(other)
            waiting = () if line is None or other is flow else line.from_last()
            last[other] = (item for item in waiting if item.priority == priority)
        found = next(last[other], None)
        if found is None:
            heapq.heappop(order)
            continue
        left[other] -= found.rows
        heapq.heapreplace(order, (-left[other] / weight_of(other), number, other))
        yield found


def has_more(backlog: Mapping[Flow | None, int], rows: int, flow: Flow | None) -> bool:
    """True if another flow has more rows per weight than this one would have with so many more."""
    share = (backlog.get(flow, 0) + rows) / weight_of(flow)
    return any(count / weight_of(other) > share for other, count in backlog.items() if other is not flow)


def most_rows(backlog: Mapping[Flow | None, int], free: int, wanted: int, flow: Flow | None) -> int:
    """How many of the wanted rows a flow may add to a queue with so much room, those that others give up included."""
    own, weight = backlog.get(flow, 0), weight_of(flow)
    others = [(count, weight_of(other)) for other, count in backlog.items() if other is not flow]

    def fits(rows: int) -> bool:
        share = (own + rows) / weight
        return sum([max(0.0, count - share * other) for count, other in others]) >= rows - free

    low, high = min(free, wanted), wanted
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
