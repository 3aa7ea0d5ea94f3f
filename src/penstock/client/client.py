"""Python client of a Penstock server: the HTTP API as methods, its errors as the exceptions of `penstock.errors`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from penstock import errors
from penstock.client.retries import Retries
from penstock.errors import (
    DeadlineExceeded,
    FieldError,
    InferenceError,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    PenstockError,
)

Json = dict[str, Any]

_BY_STATUS: dict[int, type[PenstockError]] = {
    HTTPStatus.NOT_FOUND: ModelNotFound,
    HTTPStatus.TOO_MANY_REQUESTS: Overloaded,
    HTTPStatus.SERVICE_UNAVAILABLE: ModelNotReady,
    HTTPStatus.GATEWAY_TIMEOUT: DeadlineExceeded,
}
"""For a problem without a known type; any other 4xx is InvalidInput, any other 5xx InferenceError."""


def _slug(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


_BY_SLUG: dict[str, type[PenstockError]] = {
    _slug(name): value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, PenstockError)
}
"""`model-not-found` → ModelNotFound, …: the last part of a problem's `type`."""


class Client:
    """A connection to one server, kept open between calls; close it, or use it in a `with` block. Thread-safe.

    `timeout_s` limits each call and is sent as its deadline; requests of a higher `priority` are run first, up to the
    highest that the server allows. Every method raises the exception of `penstock.errors` that the server reports:
    InvalidInput with the faulty fields, ModelNotFound, Overloaded and ModelNotReady with `retry_after_s`,
    DeadlineExceeded, InferenceError; ModelNotReady also when no server answers.

    Predictions and questions that are refused with 429 or 503, or whose connection ends, are sent again up to `retries`
    times within `timeout_s`: not before the server's `Retry-After`, and after a random pause. `retry_budget` is the
    share of requests that may be sent again; without any left, the error is raised at once. Commands are sent once.

    Commands to the server (`load`, `unload`, `set_alias`, …) carry `admin_key`. Without one, for a server on this
    machine, it is the key of the settings, or the one that the server keeps beside the registry of the settings.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8002",
        api_key: str | None = None,
        timeout_s: float = 30.0,
        priority: int = 0,
        admin_key: str | None = None,
        retries: int = 2,
        retry_budget: float = 0.1,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._priority = priority
        self._admin_key = admin_key
        self._retries = Retries(retries, retry_budget)
        self._http = httpx.Client(base_url=self.base_url, headers=headers, timeout=timeout_s)

    def predict(self, model: str | None = None, request: Mapping[str, Any] | None = None, **fields: Any) -> Json:
        """One prediction; the request's fields as a mapping, as keywords, or both. Values may be numpy arrays.

        `model` is name[:version|@alias]; None means the server's default model.
        """
        return self._post(_path(model), content=_encode({**(request or {}), **fields}), content_type="application/json")

    def predict_image(self, model: str | None, image: str | Path | bytes) -> Json:
        """One prediction of an image model, from a file or its bytes (PNG, JPEG, …)."""
        name, data = ("image", image) if isinstance(image, bytes) else _read(Path(image))
        return self._post(_path(model), files={"file": (name, data)})

    def predict_batch(
        self, requests: Iterable[Mapping[str, Any]], model: str | None = None, *, task: str | None = None
    ) -> list[Json]:
        """One answer per request, in order; for a refused request it is `{"error": …}`, not an exception.

        `task` is a task of the model; None means its first one.
        """
        named = {name: value for name, value in (("model", model), ("task", task)) if value is not None}
        body = {"requests": list(requests), **named}
        answer = self._post("/predict/batch", content=_encode(body), content_type="application/json")
        return list(answer["predictions"])

    def models(self) -> Json:
        """The models of the server's registry."""
        return self._get("/models")

    def health(self) -> Json:
        """The server's state; `status` is also set for an unhealthy server, without an exception."""
        return self._json(self._send("GET", "/health"))

    def stats(self) -> Json:
        """Counters and times since the server started, per model."""
        return self._get("/stats")

    def drift(self, model: str) -> Json:
        """How far the traffic of a model is from its reference, by window."""
        return self._get(f"/models/{quote(model, safe='@:')}/drift")

    def load(self, model: str) -> Json:
        """Have the server serve a model; returns when it is loaded and verified."""
        return self._command("POST", "/admin/load", {"model": model})

    def unload(self, model: str) -> Json:
        """Have the server stop serving a model, until it is loaded again."""
        return self._command("POST", "/admin/unload", {"model": model})

    def set_alias(self, name: str, alias: str, version: str | None = None) -> Json:
        """Point an alias at a version; at the highest release without one."""
        return self._command("PUT", _alias_path(name, alias), {"version": version})

    def remove_alias(self, name: str, alias: str) -> Json:
        """Remove an alias."""
        return self._command("DELETE", _alias_path(name, alias))

    def drain(self, wait_s: float = 0.0) -> Json:
        """Have the server refuse predictions, and wait up to `wait_s` for those in flight; `resume` ends it."""
        return self._command("POST", "/admin/drain", {"wait_s": wait_s})

    def resume(self) -> Json:
        """Have the server accept predictions again after a drain."""
        return self._command("DELETE", "/admin/drain")

    def server_state(self) -> Json:
        """What the server serves: wanted, loaded and unloaded models, and problems."""
        return self._command("GET", "/admin")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(self, path: str, *, content_type: str | None = None, **body: Any) -> Json:
        headers = {"X-Penstock-Priority": str(self._priority)} if self._priority else {}
        if content_type:
            headers["Content-Type"] = content_type
        return self._repeated("POST", path, headers, **body)

    def _repeated(self, method: str, path: str, headers: Mapping[str, str], **body: Any) -> Json:
        """The answer to a request that changes nothing, however often it is sent."""
        until = time.monotonic() + self._timeout_s
        self._retries.budget.earn()
        attempt = 0
        while True:
            left_s = max(0.001, until - time.monotonic())
            limits = {"X-Request-Timeout-Ms": f"{max(1.0, left_s * 1000):.0f}"} if method == "POST" else {}
            try:
                return self._checked(self._send(method, path, timeout=left_s, headers={**headers, **limits}, **body))
            except (Overloaded, ModelNotReady) as error:
                pause_s = self._retries.pause_s(attempt, error.retry_after_s, until - time.monotonic())
                if pause_s is None:
                    raise
            time.sleep(pause_s)
            attempt += 1

    def _command(self, method: str, path: str, body: Json | None = None) -> Json:
        key = self._admin_key
        if (
            key is None and self._http.base_url.host in _THIS_MACHINE
        ):  # no other machine gets a key that it was not given
            key = _kept_key()
        headers = {} if key is None else {"X-Penstock-Admin-Key": key}
        more = {} if body is None else {"json": body}
        return self._checked(self._send(method, path, headers=headers, **more))

    def _get(self, path: str) -> Json:
        return self._repeated("GET", path, {})

    def _send(self, method: str, path: str, **body: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **body)
        except httpx.TimeoutException:
            raise DeadlineExceeded(f"{self.base_url} did not answer within {self._timeout_s:g} s") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ModelNotReady(f"no server answers at {self.base_url}: {error}", retry_after_s=0.0) from None

    def _checked(self, response: httpx.Response) -> Json:
        if response.is_success:
            return self._json(response)
        raise _error(response)

    def _json(self, response: httpx.Response) -> Json:
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise PenstockError(f"{response.url} answered {response.status_code} without a JSON object")
        return body


_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def _kept_key() -> str | None:
    """The admin key of the settings, or of the file beside their registry; None where neither can be read."""
    from penstock.registry.admin_key import AdminKey
    from penstock.settings import load_settings

    return AdminKey.of(load_settings().settings).current()


def _alias_path(name: str, alias: str) -> str:
    return f"/admin/models/{quote(name, safe='')}/aliases/{quote(alias, safe='')}"


def _path(model: str | None) -> str:
    if model is None:
        return "/predict"
    name, colon, version = model.partition(":")
    middle = f"/versions/{quote(version, safe='')}" if colon else ""
    return f"/models/{quote(name, safe='@')}{middle}/predict"


def _encode(request: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(request, default=_plain, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the request cannot be written as JSON: {error}") from None


def _plain(value: Any) -> Any:
    """Arrays, tensors and numpy scalars as lists and numbers."""
    tolist: Callable[[], Any] | None = getattr(value, "tolist", None)
    if tolist is None:
        raise TypeError(f"a {type(value).__name__} is not JSON")
    return tolist()


def _read(path: Path) -> tuple[str, bytes]:
    try:
        return path.name, path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None


def _error(response: httpx.Response) -> PenstockError:
    """The exception for an RFC 9457 problem."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    problem = problem if isinstance(problem, dict) else {}
    slug = re.split(r"[/:#]", str(problem.get("type", "")))[-1]
    kind = _BY_SLUG.get(slug) or _by_status(response.status_code)
    message = str(problem.get("detail") or problem.get("title") or f"the server answered {response.status_code}")
    if issubclass(kind, InvalidInput):
        return kind(message, errors=_field_errors(problem))
    if issubclass(kind, Overloaded | ModelNotReady):
        return kind(message, retry_after_s=_retry_after(response))
    return kind(message)


def _by_status(status: int) -> type[PenstockError]:
    return _BY_STATUS.get(status) or (InvalidInput if status < HTTPStatus.INTERNAL_SERVER_ERROR else InferenceError)


def _field_errors(problem: Mapping[str, Any]) -> tuple[FieldError, ...]:
    items = problem.get("errors") or ()
    return tuple(
        FieldError(str(item.get("field", "")), str(item.get("message", ""))) for item in items if isinstance(item, dict)
    )


def _retry_after(response: httpx.Response) -> float:
    """The seconds of the header, which may be a number or, from proxies, a date; 1 where there is none."""
    given = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return 1.0
