"""What to ask a running server: its models and a request that it answers, from the server itself or the registry."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx

from penstock.artifacts.refs import parse_ref
from penstock.backends.probing.values import STYLES, make_inputs
from penstock.datatypes import to_json_values
from penstock.errors import InvalidInput, ModelNotFound, ModelNotReady, PenstockError, first_line, quoted, shortened
from penstock.registry.registry import Registry
from penstock.tensors import Arrays, Signature
from penstock.toolchain.bench.connection import Target, make_target, read_url

_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}
_JSON = "application/json"
_OTHER_BODY = (400, 405, 413, 415, 422)
"""Statuses that another request may not have."""
_Body = tuple[tuple[bytes, ...], str, str]
"""Bodies, their content type, and where they come from, in words."""


def find_target(
    url: str,
    *,
    model: str | None = None,
    payload: Path | None = None,
    api_key: str | None = None,
    registry: Registry | None = None,
    timeout_s: float = 10.0,
) -> Target:
    """A request that the server at `url` answers.

    Of a Penstock server only the address is needed: `model` is name[:version|@alias], by default its default model, and
    the request is the server's own example, else one of the golden samples in `registry`, else made up. A `payload` is
    sent instead; of a `.jsonl` file each line is one request. A URL with a path is asked as it is, by POST with a
    payload and by GET without one, also at other servers. One request is sent to see that it is answered. Raises
    ModelNotReady if no server answers, InvalidInput naming what is missing, ModelNotFound for an unknown model.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    _, _, _, path = read_url(url)
    with _Server(url, headers, timeout_s) as server:
        if path == "/":
            target = _penstock_target(server, model, payload, registry)
        elif model is not None:
            raise InvalidInput("model: the URL has a path already, so a model cannot be chosen", field="model")
        else:
            target = _plain_target(url, headers, payload)
        server.try_out(target)
    return target


class _Server:
    """A server, to ask before the load begins."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self.headers = dict(headers)
        self._http = httpx.Client(headers=self.headers, timeout=timeout_s)

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """The JSON of a route, None for any other answer. Raises ModelNotReady when no server answers."""
        response = self._send("GET", self.url + path)
        try:
            return response.json() if response.status_code in (200, 503) else None
        except ValueError:
            return None

    def try_out(self, target: Target) -> None:
        """Send the first request. Raises InvalidInput with what the server says against it; 429 and 503 pass."""
        head, _, body = target.requests[0].partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = dict(line.split(": ", 1) for line in lines)
        response = self._send(method, target.address + path, content=body, headers=headers)
        if response.is_success or response.status_code in (429, 503):
            return
        says = _problem(response)
        raise InvalidInput(
            f"{self.url}: the server answers {response.status_code} to {method} {path}{says}"
            + ("; give a request that it takes with payload=…" if response.status_code in _OTHER_BODY else ""),
            field="payload",
        )

    def _send(self, method: str, url: str, **more: Any) -> httpx.Response:
        try:
            return self._http.request(method, url, **more)
        except (httpx.TransportError, OSError) as error:
            why = re.sub(r"^\[Errno -?\d+\] ", "", first_line(error))
            raise ModelNotReady(f"{self.url}: no server answers there ({why})") from None
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidInput(f"url: {quoted(url)} is no URL ({first_line(error)})", field="url") from None


def _problem(response: httpx.Response) -> str:
    try:
        document = response.json()
        detail = document.get("detail") or document.get("title")
    except (ValueError, AttributeError):
        return ""
    return f" ({shortened(str(detail), 160)})" if detail else ""


def _plain_target(url: str, headers: Mapping[str, str], payload: Path | None) -> Target:
    if payload is None:
        return make_target(url, headers=headers, method="GET", name=url, payload="none: GET")
    bodies, kind, source = _read(payload)
    return make_target(url, bodies, headers={**headers, "Content-Type": kind}, name=url, payload=source)


def _penstock_target(server: _Server, model: str | None, payload: Path | None, registry: Registry | None) -> Target:
    health = server.get("/health")
    if not isinstance(health, dict) or "model_loaded" not in health:
        raise InvalidInput(
            f"{server.url}: the server there is not Penstock; name a path of it, and a payload for a POST", field="url"
        )
    path, name, details = _chosen(server, model)
    bodies, kind, source = _read(payload) if payload is not None else _found(server, name, details, registry)
    headers = {**server.headers, "Content-Type": kind}
    return make_target(server.url + path, bodies, headers=headers, name=model or name, payload=source)


def _chosen(server: _Server, model: str | None) -> tuple[str, str, dict[str, Any]]:
    """The path of a model's predictions, its name, and what the server says of it."""
    if model is None:
        info = server.get("/model/info")
        if not isinstance(info, dict) or "name" not in info:
            raise ModelNotReady(f"{server.url}: the server has no default model now; choose one by its name")
        name, path = str(info["name"]), f"/models/{quote(info['name'])}/predict"
    else:
        ref = parse_ref(model)
        alias = f"@{quote(ref.alias)}" if ref.alias else ""
        version = f"/versions/{quote(ref.version)}" if ref.version else ""
        name, path = ref.name, f"/models/{quote(ref.name)}{alias}{version}/predict"
    details = server.get(f"/models/{quote(name)}")
    if not isinstance(details, dict) or not details.get("loaded"):
        listed = (server.get("/models") or {}).get("models", [])
        loaded = ", ".join(str(one.get("name")) for one in listed if one.get("loaded"))
        raise ModelNotFound(f"{server.url}: the server does not serve {name!r}; it serves {loaded or 'no model'}")
    return path, name, details


def _found(server: _Server, name: str, details: Mapping[str, Any], registry: Registry | None) -> _Body:
    example = _documented(server, name)
    if example is not None:
        return (json.dumps(example, separators=(",", ":")).encode(),), _JSON, "the server's own example"
    tasks = [str(task.get("kind")) for task in details.get("tasks", [])]
    if tasks and "image" in tasks[0]:
        return (made_up_image(),), "image/png", "a made-up image of 28 x 28 pixels"
    golden = _golden_row(registry, name)
    try:
        signature = Signature.from_json(details["signature"])
        row = golden or make_inputs(signature, 1, {}, STYLES[0])
        inputs = {spec.name: to_json_values(spec.name, row[spec.name], spec.dtype) for spec in signature.inputs}
    except (KeyError, TypeError, PenstockError) as error:
        raise InvalidInput(
            f"payload: the server shows no example of a request to {name} ({first_line(error)}); give one",
            field="payload",
        ) from None
    task = {"task": "tensor"} if "tensor" in tasks[1:] else {}
    source = "a golden sample of the registry" if golden else "made-up numbers"
    return (json.dumps({**task, "inputs": inputs}, separators=(",", ":")).encode(),), _JSON, source


def _documented(server: _Server, name: str) -> Any:
    """The example request of a model in the server's OpenAPI document; None without one."""
    document = server.get("/openapi.json")
    try:
        body = document["paths"]["/models/{name}/predict"]["post"]["requestBody"]["content"][_JSON]
        if "examples" in body:
            return body["examples"][name]["value"]
        shown = (server.get("/model/info") or {}).get("name")
        return body["example"] if unquote(str(shown)) == name else None
    except (KeyError, TypeError):
        return None


def _golden_row(registry: Registry | None, name: str) -> Arrays | None:
    try:
        golden = None if registry is None else registry.get(name).golden()
    except PenstockError:
        return None
    if golden is None or golden.whole:
        return None if golden is None else golden.inputs
    return {key: array[:1] for key, array in golden.inputs.items()} if not golden.axes else None


def _read(path: Path) -> _Body:
    """The requests in a file. Raises InvalidInput for one that cannot be read or is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"payload: {path} cannot be read: {error.strerror}", field="payload") from None
    suffix = path.suffix.lower()
    bodies = tuple(line for line in data.splitlines() if line.strip()) if suffix == ".jsonl" else (data,)
    if not data.strip():
        raise InvalidInput(f"payload: {path} is empty", field="payload")
    for number, body in enumerate(bodies, 1) if suffix in (".json", ".jsonl") else ():
        try:
            json.loads(body)
        except (ValueError, RecursionError) as error:
            where = f"line {number} of {path}" if suffix == ".jsonl" else str(path)
            raise InvalidInput(f"payload: {where} is no JSON ({first_line(error)})", field="payload") from None
    many = f" ({len(bodies)} requests in turn)" if len(bodies) > 1 else ""
    return bodies, _TYPES.get(suffix, "application/octet-stream"), f"{path.name}{many}"


def made_up_image(side: int = 28) -> bytes:
    """A PNG file of grey levels."""
    rows = b"".join(b"\0" + bytes((x * y * 255) // (side * side) for x in range(side)) for y in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
