"""Orders to a running server: load, unload, alias, drain."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from functools import wraps
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from penstock.artifacts.refs import parse_ref
from penstock.errors import ConfigError, InvalidInput, ModelLoadError
from penstock.formats import is_model_file
from penstock.gateway.http import JSON, Call, Handler, Reply, json_reply
from penstock.gateway.native.decoding import parse
from penstock.gateway.native.predict import is_json
from penstock.gateway.problems import Refusal
from penstock.tasks.validation_errors import refusal

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 3600.0
POLL_S = 0.05
_UTMOST_BODY = 64 * 1024

Body = TypeVar("Body", bound=BaseModel)


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ModelOrder(_Order):
    """Which model."""

    model: str = Field(min_length=1, max_length=300, description="name[:version|@alias]", examples=["digits@champion"])


class AliasOrder(_Order):
    """What an alias shall mean."""

    version: str | None = Field(default=None, description="Without it, the highest release.", examples=["v1.0"])


class DrainOrder(_Order):
    """How long to wait for requests in flight."""

    wait_s: float = Field(default=0.0, ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False)


class _Told(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    behind: int = Field(description="Processes of this server that have not followed yet; they will.", examples=[0])


class Loaded(_Told):
    """A model that answers from now on."""

    model: str = Field(description="name:version", examples=["digits:v1.0"])
    variant: str = Field(examples=["onnx-fp32"])
    warnings: list[str] = Field(description="What did not go as asked when it was loaded.")


class Unloaded(_Told):
    """A model that answers no more."""

    model: str = Field(description="As asked.", examples=["digits"])
    unloaded: list[str] = Field(description="The versions that were loaded.", examples=[["digits:v1.0"]])


class Aliased(BaseModel):
    """What an alias means now; every server of this registry follows within a second."""

    name: str
    alias: str
    version: str | None = Field(description="null when the alias was removed.", examples=["v1.0"])
    problem: str | None = Field(description="Why this server stays at the version before.")


class Drained(_Told):
    """Whether predictions are taken."""

    draining: bool
    inflight: int = Field(description="Requests inside, over all processes.")


class ServerState(Drained):
    """What this server serves."""

    default: str | None = Field(description="What answers where a caller names no model.")
    wanted: list[str] = Field(description="What should be loaded.")
    loaded: list[str] = Field(description="What is.")
    unloaded: list[str] = Field(description="What an operator took out of service.")
    problems: dict[str, str] = Field(description="Why one of them is not served, or stays at an older version.")


def _guarded(handler: Handler) -> Handler:
    """Answer an operator with the reason of a failure, which a client would only find in the log."""

    @wraps(handler)
    async def answer(call: Call) -> Reply:
        call.service.check_started()
        try:
            reply = await handler(call)
        except (ModelLoadError, ConfigError) as error:
            raise Refusal(409, str(error)) from error
        reply.headers.append(("cache-control", "no-store"))
        return reply

    return answer


@_guarded
async def state(call: Call) -> Reply:
    """`GET /admin`."""
    service, served = call.service, call.service.engine.served
    late = await service.orders.obeyed_by_all(0)
    return json_reply(
        ServerState(
            draining=service.draining,
            inflight=await _inflight(call),
            behind=late,
            default=served.default_ref,
            wanted=served.wanted,
            loaded=[model.key for model in service.engine.loaded()],
            unloaded=served.unloaded,
            problems={**served.stuck, **served.problems},
        )
    )


@_guarded
async def load(call: Call) -> Reply:
    """`POST /admin/load`: a model answers from now on; it is there when the reply is."""
    ref = await _model(call)
    model = await call.service.orders.load(ref)
    _audit(call, "loaded", model.key)
    late = await _everyone(call)
    return json_reply(Loaded(model=model.key, variant=model.variant, warnings=list(model.info.warnings), behind=late))


@_guarded
async def unload(call: Call) -> Reply:
    """`POST /admin/unload`: a model answers no more, until it is loaded again; requests inside are answered."""
    ref = await _model(call)
    left = await call.service.orders.unload(ref)
    _audit(call, "unloaded", ref)
    return json_reply(Unloaded(model=ref, unloaded=left, behind=await _everyone(call)))


@_guarded
async def set_alias(call: Call) -> Reply:
    """`PUT /admin/models/{name}/aliases/{alias}`: a write into the registry, which every server follows."""
    version = (await _body(call, AliasOrder)).version
    name, alias = call.params["name"], call.params["alias"]
    version = await asyncio.to_thread(_set_alias, call, name, alias, version)
    _audit(call, "aliased", f"{name}@{alias}={version}")
    return await _aliased(call, version)


@_guarded
async def remove_alias(call: Call) -> Reply:
    """`DELETE /admin/models/{name}/aliases/{alias}`."""
    name, alias = call.params["name"], call.params["alias"]
    await asyncio.to_thread(call.service.engine.registry.remove_alias, name, alias)
    _audit(call, "removed the alias", f"{name}@{alias}")
    return await _aliased(call, None)


@_guarded
async def drain(call: Call) -> Reply:
    """`POST /admin/drain`: refuse predictions, and wait for those inside; the process goes on."""
    wait_s = (await _body(call, DrainOrder)).wait_s
    await call.service.orders.drain(True)
    _audit(call, "draining", "")
    late = await _everyone(call)
    inside = await _emptied(call, wait_s)
    return json_reply(Drained(draining=True, inflight=inside, behind=late))


@_guarded
async def resume(call: Call) -> Reply:
    """`DELETE /admin/drain`: take predictions again."""
    await call.service.orders.drain(False)
    _audit(call, "resumed", "")
    late = await _everyone(call)
    return json_reply(Drained(draining=call.service.draining, inflight=await _inflight(call), behind=late))


# Reading an order, and what it led to


async def _body(call: Call, kind: type[Body]) -> Body:
    """The order in a body, which may be empty where every field has a default. Raises InvalidInput or Refusal."""
    body = await call.body()
    content_type = call.header("content-type") or ""
    if body and not is_json(content_type):  # what a page could send without asking first is no order
        raise Refusal(415, f"an order is {JSON}, not {content_type[:100] or 'of no type'}")
    if len(body) > _UTMOST_BODY:
        raise Refusal(413, f"an order may be {_UTMOST_BODY} bytes at most")
    try:
        return kind.model_validate(parse(body) if body else {})
    except ValidationError as error:
        raise refusal(error) from None


async def _model(call: Call) -> str:
    """The reference in an order; raises InvalidInput, and never lets a file of the machine be named."""
    ref = (await _body(call, ModelOrder)).model
    if is_model_file(ref):
        raise InvalidInput("model: name a model of the registry; a file is served from the command line", field="model")
    try:
        parse_ref(ref)
    except InvalidInput as error:
        raise InvalidInput(f"model: {str(error).removeprefix('ref: ')}", field="model") from None
    return ref


def _set_alias(call: Call, name: str, alias: str, version: str | None) -> str:
    registry = call.service.engine.registry
    _, found = registry.resolve(f"{name}:{version}" if version else name)
    registry.set_alias(name, alias, found)
    return found


async def _aliased(call: Call, version: str | None) -> Reply:
    name, alias = call.params["name"], call.params["alias"]
    await call.service.reconcile()
    problem = call.service.engine.served.stuck.get(f"{name}@{alias}")
    return json_reply(Aliased(name=name, alias=alias, version=version, problem=problem))


def _everyone(call: Call) -> Awaitable[int]:
    return call.service.orders.obeyed_by_all(call.service.settings.request_timeout_ms / 1000)


async def _emptied(call: Call, wait_s: float) -> int:
    """Wait until no request is inside; how many are after the time."""
    until = time.monotonic() + wait_s
    while True:
        inside = await _inflight(call)
        if not inside or time.monotonic() >= until:
            return inside
        await asyncio.sleep(POLL_S)


async def _inflight(call: Call) -> int:
    return int((await call.service.stats())["processing"])


def _audit(call: Call, deed: str, what: str) -> None:
    log.info("admin: %s", f"{deed} {what}".strip(), extra={"request_id": call.request_id})
