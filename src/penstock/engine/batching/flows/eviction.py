"""What gives way to a request in a full queue: lower priorities, and flows that take more of the queue than its own."""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from penstock.engine.batching.flows.flow import Flow, weight_of
from penstock.engine.batching.flows.item import Item, Payload
from penstock.engine.batching.flows.line import Line


def candidates(
    priorities: Iterable[int],
    backlog: Mapping[Flow | None, int],
    line_of: Callable[[int, Flow | None], Line[Payload] | None],
    request: tuple[int, int, Flow | None],
) -> Iterator[Item[Payload]]:
    """The items that may be evicted for a request of (rows, priority, flow), in the order in which they go.

    The lowest priority goes first, of one priority the flow with the most rows per weight, of a flow the last in rank.
    Of the request's own priority only flows have to give way that have more than its flow would have. `priorities` are
    those of the items, and `line_of` holds those of a priority and a flow, perhaps with others of the flow.
    """
    rows, priority, flow = request
    left = dict(backlog)
    for level in sorted(priorities):
        if level < priority:
            yield from _greediest_first(level, left, functools.partial(line_of, level), -math.inf)
        elif level == priority and has_more(left, rows, flow):
            share = (left.get(flow, 0) + rows) / weight_of(flow)
            yield from _greediest_first(level, left, functools.partial(line_of, level), share)


def _greediest_first(
    priority: int,
    left: dict[Flow | None, int],
    line_of: Callable[[Flow | None], Line[Payload] | None],
    share: float,
) -> Iterator[Item[Payload]]:
    """Items of one priority, each of the flow with the most rows `left` per weight, while that is above the share."""
    last: dict[Flow | None, Iterator[Item[Payload]]] = {}
    order = [(-count / weight_of(flow), number, flow) for number, (flow, count) in enumerate(left.items())]
    heapq.heapify(order)
    while order and -order[0][0] > share:
        _, number, flow = order[0]
        if flow not in last:
            line = line_of(flow)
            last[flow] = iter(()) if line is None else (one for one in line.from_last() if one.priority == priority)
        found = next(last[flow], None)
        if found is None:
            heapq.heappop(order)
            continue
        left[flow] -= found.rows
        heapq.heapreplace(order, (-left[flow] / weight_of(flow), number, flow))
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
