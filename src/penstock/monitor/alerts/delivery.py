"""Sends the messages of one server to its receivers, from a thread with an event loop of its own.

Every receiver has a queue and a task: one that hangs holds no other back. Messages about the same alert are sent in
order; of others that fail only the time of the next attempt is put off.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import threading
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from penstock.errors import ConfigError
from penstock.option_types import masked_address
from penstock.registry.alert_book import AlertBook, Message

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

SEND_S = 5.0
"""How long a receiver may take for a message, from the first byte to the status."""
FIRST_PAUSE_S = 1.0
"""After a failure; then twice as long each time, up to the longest."""
LONGEST_PAUSE_S = 60.0
PATIENCE_S = 24 * 3600.0
"""How long a message is sent again and again."""
LOOK_EVERY_S = 15.0
"""How often the queue is read where nothing says that there is something in it."""
LAST_S = 2.0
"""How long a server that stops waits for a receiver that is answering."""
_THREAD = "penstock-webhooks"


class Receiver(NamedTuple):
    """One webhook. `name` stands for its URL where that must not be seen, `shown` for people."""

    url: str
    name: str
    shown: str

    @classmethod
    def of(cls, url: str) -> Receiver:
        """The receiver at an address."""
        return cls(url, hashlib.blake2b(url.encode(), digest_size=16).hexdigest(), masked_address(url))


class Answer(NamedTuple):
    """What came of sending a message: empty `failure` for success; whether it should be sent again."""

    failure: str = ""
    again: bool = False
    reached: bool = True


class Deliveries:
    """The queues of one server. `start` and `stop` belong to its leader; `wake` says that there is something new."""

    def __init__(self, book: AlertBook, server: str, receivers: Sequence[Receiver]) -> None:
        self._book = book
        self._server = server
        self._receivers = receivers
        self._failing: dict[str, str] = {}
        self._finished: set[int] = set()
        """Messages that are to be forgotten, while the database could not do it."""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began = threading.Event()
        self._wakes: list[asyncio.Event] = []
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Begin to send, if not yet."""
        if self._thread is None:
            self._began.clear()
            self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)
            self._thread.start()
            self._began.wait()

    def stop(self) -> None:
        """Send nothing more: what is not taken stays in the database. A message on its way has `LAST_S`."""
        if self._thread is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._end)
            self._thread.join(LAST_S + 1.0)  # a name that is being looked up cannot be cancelled
            self._thread = None

    def wake(self) -> None:
        """Look into the queues now."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._notify)

    # In the thread

    def _notify(self) -> None:
        for wake in self._wakes:
            wake.set()

    def _end(self) -> None:
        self._stopping.set()
        self._notify()

    def _run(self) -> None:
        asyncio.run(self._send_all())

    async def _send_all(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._wakes = [asyncio.Event() for _ in self._receivers]
        self._began.set()
        both = zip(self._receivers, self._wakes, strict=True)
        tasks = [asyncio.create_task(self._serve(receiver, wake)) for receiver, wake in both]
        await self._stopping.wait()
        _, late = await asyncio.wait(tasks, timeout=LAST_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _serve(self, receiver: Receiver, wake: asyncio.Event) -> None:
        """Send what waits for one receiver until the end."""
        import httpx

        silence(_THREAD)
        async with httpx.AsyncClient(timeout=SEND_S, follow_redirects=False) as client:
            while not self._stopping.is_set():
                wake.clear()
                pause_s = LOOK_EVERY_S
                try:
                    pause_s = await self._round(client, receiver)
                except ConfigError as error:
                    log.debug("messages for %s cannot be read: %s", receiver.shown, error)  # the evaluation says so
                except Exception:  # a bug; without the task, nothing would be sent any more
                    log.exception("messages for %s could not be sent", receiver.shown)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await wake.wait()

    async def _round(self, client: httpx.AsyncClient, receiver: Receiver) -> float:
        """Send what is due; the seconds until something else is."""
        waiting = await asyncio.to_thread(self._book.messages, self._server, receiver.name)
        held: set[str] = set()
        next_s = LOOK_EVERY_S
        for message in waiting:
            if self._stopping.is_set():
                break
            if message.id in self._finished:
                await self._forget(message)
            elif message.fingerprint in held:
                continue
            elif message.due_s <= 0:
                answer = await self._send(client, receiver, message)
                if not await self._settled(receiver, message, answer):
                    held.add(message.fingerprint)
                    next_s = min(next_s, pause_after(message.attempts))
                if not answer.reached:
                    return next_s  # the others would wait as long for nothing
            else:
                held.add(message.fingerprint)
                next_s = min(next_s, message.due_s)
        return next_s

    async def _send(self, client: httpx.AsyncClient, receiver: Receiver, message: Message) -> Answer:
        import httpx

        headers = {"content-type": "application/json", "idempotency-key": message.key, "user-agent": "penstock"}
        try:
            async with asyncio.timeout(SEND_S):  # httpx limits each step, and there may be many
                body = message.payload.encode()
                async with client.stream("POST", receiver.url, content=body, headers=headers) as reply:
                    return judged(reply.status_code)
        except (TimeoutError, httpx.TimeoutException):
            return Answer(f"it did not answer within {SEND_S:.0f} s", True, False)
        except httpx.ConnectError as error:
            return Answer(f"it cannot be reached ({error})", True, False)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, OSError) as error:
            return Answer(f"the connection failed ({type(error).__name__})", True, False)  # texts may hold the URL

    async def _settled(self, receiver: Receiver, message: Message, answer: Answer) -> bool:
        """Record what came of a message; False if it is sent again."""
        self._report(receiver, answer)
        again = bool(answer.failure) and answer.again and message.age_s < PATIENCE_S
        if again:
            await asyncio.to_thread(self._book.again, message.id, pause_after(message.attempts))
            return False
        if answer.failure:
            why = "is dropped" if not answer.again else "is given up after a day"
            log.error("a message about an alert %s, %s: %s", why, receiver.shown, answer.failure)
        self._finished.add(message.id)
        await self._forget(message)
        return True

    async def _forget(self, message: Message) -> None:
        await asyncio.to_thread(self._book.taken, message.id)
        self._finished.discard(message.id)

    def _report(self, receiver: Receiver, answer: Answer) -> None:
        """Log the beginning and the end of a failure."""
        failure = answer.failure if answer.again else ""
        before = self._failing.get(receiver.name, "")
        if failure and not before:
            log.warning("%s does not take messages about alerts: %s; they wait", receiver.shown, failure)
        elif before and not failure:
            log.info("%s takes messages about alerts again", receiver.shown)
        self._failing[receiver.name] = failure


def judged(status: int) -> Answer:
    """What the status of a receiver means."""
    if 200 <= status < 300:
        return Answer()
    phrase = next((f" {each.phrase}" for each in HTTPStatus if each == status), "")
    return Answer(f"status {status}{phrase}", status == 429 or status >= 500)


def pause_after(attempts: int) -> float:
    """Seconds until a message is sent again that has failed so often before: 1, 2, 4 … 60."""
    return float(min(FIRST_PAUSE_S * 2.0 ** min(attempts, 30), LONGEST_PAUSE_S))


def silence(thread: str) -> None:
    """Keep what httpx logs in a thread out of the log: it names whole URLs, also where the server is of others."""
    logger = logging.getLogger("httpx")
    if not any(getattr(each, "penstock", False) for each in logger.filters):

        def keep(record: logging.LogRecord) -> bool:
            return record.threadName != thread

        keep.penstock = True  # type: ignore[attr-defined]
        logger.addFilter(keep)
