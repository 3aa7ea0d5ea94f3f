"""Messages over HTTP: in order, again after a failure, each receiver for itself, and no secret in a log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update
from waiting import wait_until
from webhooks import Webhook

from penstock.monitor.alerts import delivery
from penstock.monitor.alerts.delivery import Deliveries, Receiver, judged, pause_after
from penstock.monitor.alerts.messages import Event, payload
from penstock.monitor.alerts.states import News, fingerprint
from penstock.option_types import masked_address
from penstock.registry.alert_book import AlertBook, Decided, NewMessage
from penstock.registry.database.tables import OUTBOX

SERVER = "host:1"


@pytest.fixture
def book(tmp_path: Path) -> Iterator[AlertBook]:
    opened = AlertBook(f"sqlite:///{tmp_path}/registry.db")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(delivery, "LAST_S", 0.2)


def put(book: AlertBook, receivers: list[Receiver], *events: Event) -> None:
    """Have messages wait, as an evaluation does."""
    news = [NewMessage(fingerprint(event.labels), event.key, payload(event, "http://h")) for event in events]
    lease = book.lease(SERVER, "a", 60.0)
    assert lease is not None
    assert book.decide(SERVER, lease, lambda *_: Decided([], news), [one.name for one in receivers], 1e9)


def event(name: str, news: News = "firing") -> Event:
    return Event(news, {"alertname": name}, {}, 0.0, None if news == "firing" else 1.0)


class Sending:
    """Deliveries that run."""

    def __init__(self, book: AlertBook, receivers: list[Receiver]) -> None:
        self.deliveries = Deliveries(book, SERVER, receivers)

    def __enter__(self) -> Deliveries:
        self.deliveries.start()
        return self.deliveries

    def __exit__(self, *_: object) -> None:
        self.deliveries.stop()


def test_messages_come_in_order_and_once_with_a_key(book: AlertBook) -> None:
    with Webhook() as hook:
        receivers = [Receiver.of(hook.url)]
        put(book, receivers, event("A"), event("A", "resolved"), event("B"))
        with Sending(book, receivers) as deliveries:
            wait_until(lambda: len(hook.taken) == 3)
            put(book, receivers, event("C"))
            deliveries.wake()
            wait_until(lambda: book.waiting() == 0 and len(hook.taken) == 4)
    assert hook.told() == [("A", "firing"), ("A", "resolved"), ("B", "firing"), ("C", "firing")]
    assert [head["idempotency-key"] for head in hook.heads[:2]] == [event("A").key, event("A", "resolved").key]
    assert {head["content-type"] for head in hook.heads} == {"application/json"}


def test_after_five_failures_it_is_taken_once_and_what_follows_after_it(book: AlertBook) -> None:
    with Webhook(lambda number: 500 if number < 5 else 200) as hook:
        receivers = [Receiver.of(hook.url)]
        put(book, receivers, event("A"), event("A", "resolved"))
        with Sending(book, receivers):
            wait_until(lambda: book.waiting() == 0)
    assert (hook.told(), hook.asked) == ([("A", "firing"), ("A", "resolved")], 7)


def test_a_message_that_fails_does_not_keep_those_of_other_alerts(book: AlertBook) -> None:
    with Webhook() as hook:
        hook.answer = lambda number: 429 if number == 0 else 200
        receivers = [Receiver.of(hook.url)]
        put(book, receivers, event("A"), event("A", "resolved"), event("B"))
        with Sending(book, receivers):
            wait_until(lambda: book.waiting() == 0)
    assert hook.told() == [("B", "firing"), ("A", "firing"), ("A", "resolved")]


def test_a_webhook_that_hangs_holds_no_other_back(book: AlertBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "SEND_S", 0.3)
    with Webhook(lambda _: 0) as hangs, Webhook() as hook:
        receivers = [Receiver.of(hangs.url), Receiver.of(hook.url)]
        put(book, receivers, event("A"), event("B"))
        with Sending(book, receivers):
            wait_until(lambda: len(hook.taken) == 2)
            wait_until(lambda: book.waiting() == 2)
            wait_until(lambda: hangs.asked >= 3)
            wait_until(lambda: book.messages(SERVER, receivers[0].name)[0].attempts >= 2)
    assert [message.key for message in book.messages(SERVER, receivers[0].name)] == [event("A").key, event("B").key]


def test_a_server_that_stops_does_not_wait_for_a_webhook_that_hangs_and_loses_nothing(book: AlertBook) -> None:
    with Webhook(lambda _: 0) as hangs:
        receivers = [Receiver.of(hangs.url)]
        put(book, receivers, event("A"))
        with Sending(book, receivers):
            wait_until(lambda: hangs.asked == 1)
    assert book.waiting() == 1


@pytest.mark.parametrize("status", [307, 404])
def test_what_is_refused_for_good_is_dropped_with_one_line_and_no_redirect_is_followed(
    status: int, book: AlertBook, caplog: pytest.LogCaptureFixture
) -> None:
    with Webhook(lambda _: status) as hook, caplog.at_level(logging.INFO):
        receivers = [Receiver.of(hook.url)]
        put(book, receivers, event("A"))
        with Sending(book, receivers):
            wait_until(lambda: book.waiting() == 0)
    assert hook.paths == ["/hook"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"a message about an alert is dropped, {masked_address(hook.url)}: status {status} ")


def test_a_message_is_given_up_after_a_day(book: AlertBook, caplog: pytest.LogCaptureFixture) -> None:
    with Webhook(lambda _: 503) as hook, caplog.at_level(logging.ERROR):
        receivers = [Receiver.of(hook.url)]
        put(book, receivers, event("A"))
        old = update(OUTBOX).values(created_at=OUTBOX.c.created_at - 86401)
        book._store.write(lambda connection: connection.execute(old))
        with Sending(book, receivers):
            wait_until(lambda: book.waiting() == 0)
    assert "is given up after a day" in caplog.text


SECRETS = ("user", "word", "T0KEN", "S3CRET")


@pytest.mark.parametrize("answer", [200, 500, None])
def test_no_secret_of_an_address_is_in_a_log(
    answer: int | None, book: AlertBook, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with Webhook(lambda _: answer or 200) as hook, caplog.at_level(logging.DEBUG):
        url = hook.url.replace("127", "user:word@127").replace("/hook", "/S3CRET?token=T0KEN")
        if answer is None:
            url = "http://user:word@127.0.0.1:9/S3CRET?token=T0KEN"
        receivers = [Receiver.of(url)]
        put(book, receivers, event("A"))
        with Sending(book, receivers):
            if answer == 200:
                wait_until(lambda: book.waiting() == 0)
            else:
                wait_until(lambda: book.messages(SERVER, receivers[0].name)[0].attempts >= 1)
    logged = " ".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert not [secret for secret in SECRETS if secret in logged]
    assert b"T0KEN" not in (tmp_path / "registry.db").read_bytes()
    if answer == 200:
        assert (hook.paths, hook.heads[0]["authorization"][:6]) == (["/S3CRET?token=T0KEN"], "Basic ")


@pytest.mark.parametrize(
    ("status", "failure", "again"),
    [
        (200, "", False),
        (204, "", False),
        (301, "status 301 Moved Permanently", False),
        (404, "status 404 Not Found", False),
        (429, "status 429 Too Many Requests", True),
        (500, "status 500 Internal Server Error", True),
        (599, "status 599", True),
    ],
)
def test_a_status_says_whether_to_try_again(status: int, failure: str, again: bool) -> None:
    assert judged(status)[:2] == (failure, again)


def test_the_pauses_double_up_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 1.0)
    assert [pause_after(n) for n in (*range(8), 2000)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@hooks.example.org:8443/T/B?x=y", "https://hooks.example.org:8443/***"),
        ("http://a@b@host/x", "http://host/***"),
        ("http://[::1]:80", "http://[::1]:80/***"),
        ("not an address", "***"),
    ],
)
def test_of_an_address_only_the_host_is_shown(url: str, shown: str) -> None:
    assert masked_address(url) == shown
