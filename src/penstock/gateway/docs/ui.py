"""The documentation in a browser. Every asset comes from this server: a server room has no internet."""

from __future__ import annotations

import asyncio
import contextlib
from importlib.util import find_spec
from pathlib import Path

import orjson

from penstock.errors import PenstockError
from penstock.gateway.docs.examples import example_of
from penstock.gateway.http import JSON, Call, Reply
from penstock.gateway.problems import Refusal

_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "redoc.standalone.js": "text/javascript; charset=utf-8",
    "favicon.png": "image/png",
}
"""Files of the package fastapi-offline."""

_POLICY = (
    "content-security-policy",
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self'",
)
"""Nothing from another host, even where a bundle asks for it."""

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


async def docs(call: Call) -> Reply:  # noqa: ARG001
    """`GET /docs`: Swagger UI."""
    return _page(_SWAGGER)


async def redoc(call: Call) -> Reply:  # noqa: ARG001
    """`GET /redoc`."""
    return _page(_REDOC)


async def asset(call: Call) -> Reply:
    """`GET /docs/assets/{file}`."""
    name = call.params["file"]
    folder = _static_folder()
    if name not in _ASSETS or folder is None:
        raise Refusal(404, f"there is no asset {name[:100]}")
    body = await asyncio.to_thread((folder / name).read_bytes)
    return Reply(200, [("content-type", _ASSETS[name]), ("cache-control", "public, max-age=86400")], body)


async def openapi(call: Call) -> Reply:
    """`GET /openapi.json`."""
    service, example = call.service, None
    with contextlib.suppress(PenstockError):  # without a model, the examples of the table are shown
        example = await asyncio.to_thread(example_of, await service.engine.model(), service.engine.loaded())
    document = await asyncio.to_thread(service.write_openapi, example)
    return Reply(200, [("content-type", JSON)], orjson.dumps(document))


def _page(html: bytes) -> Reply:
    return Reply(200, [("content-type", "text/html; charset=utf-8"), _POLICY], html)


def _static_folder() -> Path | None:
    """Where fastapi-offline keeps its files; the package itself is not imported, as it would import FastAPI."""
    spec = find_spec("fastapi_offline")
    return Path(spec.origin).parent / "static" if spec is not None and spec.origin else None
