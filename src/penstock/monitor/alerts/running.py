"""Evaluates the alerts of a server and has them sent; nothing is imported, and nothing runs, without a webhook.

Of the processes of a server, the one with the lease looks at the page of `/metrics` from time to time. Without the
database nothing is evaluated and nothing is sent: alerts stay as they are, and messages wait.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from penstock.errors import ConfigError
from penstock.settings import Settings

if TYPE_CHECKING:
    from penstock.monitor.alerts.delivery import Deliveries
    from penstock.monitor.alerts.history import History
    from penstock.registry.alert_book import AlertBook, Decided, StoredAlert
    from penstock.registry.database.leases import Lease

log = logging.getLogger(__name__)

EVERY_S = 15.0
"""How often the rules are evaluated, and the lease is renewed."""
LEASE_ROUNDS = 3
"""A process that has missed so many rounds has ended, or hangs: another one takes over."""
MOST_NAME = 190
"""Characters of the name of a server, as the database keeps them."""


class Alerting:
    """The alerts of one server, in one of its processes. `run` follows them until it is cancelled."""

    def __init__(self, settings: Settings, database_url: str, page: Callable[[], Awaitable[Iterable[Any]]]) -> None:
        """`page` gives the samples of `/metrics`, over all processes of the server."""
        self.server = name_of(settings)
        self._settings = settings
        self._database_url = database_url
        self._page = page
        self._holder = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._error = ""
        self._book: AlertBook | None = None
        self._history: History | None = None
        self._deliveries: Deliveries | None = None
        self._lease: Lease | None = None
        self._shown: Counter[tuple[str, str]] = Counter()
        self._waiting = 0

    @classmethod
    def of(cls, settings: Settings, database_url: str, page: Callable[[], Awaitable[Iterable[Any]]]) -> Self | None:
        """The alerts that the settings ask for; None without a webhook."""
        return cls(settings, database_url, page) if settings.alert_webhooks else None

    async def run(self) -> None:
        """Evaluate and send; at the end another process may go on at once."""
        try:
            while True:
                began = time.monotonic()
                await self._round()
                await asyncio.sleep(max(0.0, began + EVERY_S - time.monotonic()))
        finally:
            await asyncio.to_thread(self._leave)

    async def _round(self) -> None:
        try:
            if await asyncio.to_thread(self._leads):
                samples = await self._page()
                await asyncio.to_thread(self._evaluate, samples)
        except ConfigError as error:
            self._note(str(error))
        except Exception:
            log.exception("the alerts cannot be evaluated")
        else:
            self._note("")

    def _note(self, error: str) -> None:
        """Log state changes only."""
        if error and not self._error:
            log.warning("alerts are not evaluated, and not sent, until the database can be used: %s", error)
        elif self._error and not error:
            log.info("alerts are evaluated again")
        self._error = error

    # In a thread

    def _leads(self) -> bool:
        """Take or renew the lease; True if this process has it."""
        with self._lock:
            book = self._opened()
            self._lease = book.lease(self.server, self._holder, EVERY_S * LEASE_ROUNDS)
            if self._lease is None:
                self._follow()
                return False
            self._lead(book)
            return True

    def _opened(self) -> AlertBook:
        if self._book is None:
            from penstock.registry.alert_book import AlertBook

            self._book = AlertBook(self._database_url)
        return self._book

    def _lead(self, book: AlertBook) -> None:
        if self._history is None or self._deliveries is None:
            from penstock.monitor.alerts import rules
            from penstock.monitor.alerts.delivery import Deliveries, Receiver
            from penstock.monitor.alerts.evaluation import needs_of
            from penstock.monitor.alerts.history import History

            self._history = History(needs_of(rules.RULES))
            self._deliveries = Deliveries(book, self.server, list(map(Receiver.of, self._settings.alert_webhooks)))
        self._deliveries.start()

    def _follow(self) -> None:
        """Leave it to another process."""
        self._history = None
        if self._deliveries is not None:
            self._deliveries.stop()
        if self._book is not None:
            self._look(self._book)

    def _evaluate(self, samples: Iterable[Any]) -> None:
        from penstock.monitor.alerts.delivery import Receiver
        from penstock.monitor.alerts.history import Sample
        from penstock.monitor.alerts.states import GONE_S

        with self._lock:
            book, history, lease, deliveries = self._book, self._history, self._lease, self._deliveries
            if book is None or history is None or lease is None or deliveries is None:
                return
            history.add(time.monotonic(), (Sample(each.name, each.labels, each.value) for each in samples))
            receivers = [Receiver.of(url).name for url in self._settings.alert_webhooks]
            if book.decide(self.server, lease, self._decided, receivers, GONE_S):
                deliveries.wake()
            self._look(book)

    def _decided(self, now: float, stored: Sequence[StoredAlert]) -> Decided:
        """What follows from the newest page."""
        from penstock.monitor.alerts import rules
        from penstock.monitor.alerts.evaluation import evaluate
        from penstock.monitor.alerts.messages import payload
        from penstock.monitor.alerts.states import AlertState, fingerprint
        from penstock.registry.alert_book import Decided, NewMessage, StoredAlert

        assert self._history is not None
        before = {alert.fingerprint: AlertState.of(alert.state) for alert in stored}
        after, events = evaluate(rules.RULES, self._history, before, self.server, now)
        for event in events:
            log.log(
                logging.WARNING if event.news == "firing" else logging.INFO,
                "alert %s is %s: %s", event.labels["alertname"], event.news, event.annotations["summary"],
            )  # fmt: skip
        url = url_of(self._settings)
        return Decided(
            [
                StoredAlert(name, self.server, state.labels["alertname"], vars(state), state.looked_at)
                for name, state in after.items()
            ],
            [NewMessage(fingerprint(event.labels), event.key, payload(event, url)) for event in events],
        )

    def _look(self, book: AlertBook) -> None:
        """Remember what `/metrics` shows."""
        own = [alert for alert in book.alerts() if alert.server == self.server]
        self._shown = Counter((alert.name, alert.state["phase"]) for alert in own)
        self._waiting = book.waiting(self.server)

    def _leave(self) -> None:
        with self._lock:
            if self._deliveries is not None:
                self._deliveries.stop()
            try:
                if self._book is not None and self._lease is not None:
                    self._book.release(self.server, self._lease)
            except ConfigError as error:
                log.debug("the lease ends by itself: %s", error)
            if self._book is not None:
                self._book.close()
            self._lease = self._history = self._book = self._deliveries = None

    # For `/metrics`

    def collect(self) -> Iterator[Any]:
        """The metric families, as of the last round: this is a collector of prometheus_client."""
        from prometheus_client.core import GaugeMetricFamily

        text = "Alerts of this server that are pending or firing."
        alerts = GaugeMetricFamily("penstock_alerts", text, labels=("alertname", "state"))
        for (name, phase), count in sorted(self._shown.items()):
            alerts.add_metric((name, phase), count)
        yield alerts
        waiting = "Messages about alerts that a webhook has not taken yet."
        yield GaugeMetricFamily("penstock_alert_messages_waiting", waiting, value=self._waiting)


def name_of(settings: Settings) -> str:
    """The label `instance` of a server: its host and port, or the path of its socket."""
    return f"{socket.gethostname()}:{settings.port if settings.uds is None else settings.uds}"[:MOST_NAME]


def url_of(settings: Settings) -> str:
    """The address of a server in messages."""
    port = "" if settings.uds is not None else f":{settings.port}"
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{socket.gethostname()}{port}{settings.root_path}"
