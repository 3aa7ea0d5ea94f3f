"""The documentation in a browser. Every asset comes from this server: it may have no access to the internet."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import threading
from pathlib import Path
from urllib.parse import quote

import orjson

from penstock.engine.loading.loaded_model import LoadedModel
from penstock.errors import PenstockError, quoted
from penstock.gateway.bodies.compression import accepts
from penstock.gateway.docs.examples import example_of
from penstock.gateway.http import JSON, PAGE, Call, Reply
from penstock.gateway.problems import Refusal

_FOLDER = Path(__file__).parent / "assets"

_CONTENT_TYPES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "redoc.standalone.js": "text/javascript; charset=utf-8",
    "favicon.png": "image/png",
}
"""Files of swagger-ui-dist 5.35.0 (Apache-2.0) and redoc 2.5.4 (MIT), stored with gzip, with their licences."""

_UNCOMPRESSED = ("favicon.png",)

_POLICY = (
    "content-security-policy",
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self'",
)
"""Blocks requests to other hosts, also those of the bundles."""

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Penstock API</title>
<link rel="icon" href="docs/assets/favicon.png">
"""

_SWAGGER = f"""{_HEAD}<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({{url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  tryItOutEnabled: true, displayRequestDuration: true, defaultModelsExpandDepth: 0}})
</script>
</body>
</html>
""".encode()

_REDOC = f"""{_HEAD}<style>body{{margin:0}}</style>
</head>
<body>
<redoc spec-url="openapi.json" hide-download-button="false"></redoc>
<script src="docs/assets/redoc.standalone.js"></script>
</body>
</html>
""".encode()


async def home(call: Call) -> Reply:
    """`GET /`: leads to the documentation."""
    location = f"{quote(call.root)}/docs" if call.root else "docs"  # the root may have been requested without a slash
    return Reply(307, [("location", location), ("cache-control", "no-store")], b"")


async def docs(call: Call) -> Reply:  # noqa: ARG001
    """`GET /docs`: Swagger UI."""
    return _page(_SWAGGER)


async def redoc(call: Call) -> Reply:  # noqa: ARG001
    """`GET /redoc`."""
    return _page(_REDOC)


async def asset(call: Call) -> Reply:
    """`GET /docs/assets/{file}`: compressed, as it is stored, for a client that accepts gzip."""
    name = call.params["file"]
    if name not in _CONTENT_TYPES:
        raise Refusal(404, f"there is no asset {quoted(name)}")
    headers = [("content-type", _CONTENT_TYPES[name]), ("cache-control", "public, max-age=86400"), *PAGE]
    if name in _UNCOMPRESSED:
        return Reply(200, headers, await asyncio.to_thread((_FOLDER / name).read_bytes))
    headers.append(("vary", "Accept-Encoding"))
    compressed = await asyncio.to_thread((_FOLDER / f"{name}.gz").read_bytes)
    if not accepts(", ".join(call.header_values("accept-encoding")), "gzip"):
        return Reply(200, headers, await asyncio.to_thread(_unpacked, name))
    return Reply(200, [*headers, ("content-encoding", "gzip")], compressed)


@functools.lru_cache(maxsize=len(_CONTENT_TYPES))
def _unpacked(name: str) -> bytes:
    return gzip.decompress((_FOLDER / f"{name}.gz").read_bytes())


async def openapi(call: Call) -> Reply:
    """`GET /openapi.json`."""
    service, model = call.service, None
    page = service.openapi_pages.get(call.root)
    if page is not None:
        return Reply(200, [("content-type", JSON)], page)
    with contextlib.suppress(PenstockError):  # without a model, the examples of the table are shown
        model = await service.engine.model()
    return Reply(200, [("content-type", JSON)], await asyncio.to_thread(_openapi_page, call, model))


def _openapi_page(call: Call, model: LoadedModel | None) -> bytes:
    """The document as JSON. Writing it takes many milliseconds: of requests that come together, one does."""
    service = call.service
    with _writing:
        page = service.openapi_pages.get(call.root)
        if page is None:
            example = None
            if model is not None:
                with contextlib.suppress(PenstockError):
                    example = example_of(model, service.engine.loaded())
            document = service.write_openapi(example)
            if call.root:
                document = {**document, "servers": [{"url": call.root}]}
            page = service.openapi_pages[call.root] = orjson.dumps(document)
    return page


_writing = threading.Lock()


def _page(html: bytes) -> Reply:
    return Reply(200, [("content-type", "text/html; charset=utf-8"), _POLICY, *PAGE], html)
