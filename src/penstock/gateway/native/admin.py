"""Admin routes of a running server: load, unload, alias, drain."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from functools import wraps
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from penstock.artifacts.refs import parse_ref
from penstock.errors import ConfigError, InvalidInput, ModelLoadError
from penstock.formats import is_model_file
from penstock.gateway.callers.caller import ADMINISTRATOR
from penstock.gateway.http import Call, Handler, Reply, json_reply
from penstock.gateway.native.decoding import parse
from penstock.gateway.problems import Refusal, WireModel
from penstock.registry.audit import acting
from penstock.registry.registry import CHAMPION
from penstock.tasks.validation_errors import refusal

log = logging.getLogger(__name__)

MAX_WAIT_S = 3600.0
POLL_S = 0.05
MAX_BODY_BYTES = 64 * 1024

Body = TypeVar("Body", bound=BaseModel)


class _Command(WireModel):
    model_config = ConfigDict(extra="forbid")


class ModelCommand(_Command):
    """A model to load or unload."""

    model: str = Field(min_length=1, max_length=300, description="name[:version|@alias]", examples=["digits@champion"])


class AliasCommand(_Command):
    """The version an alias points at."""

    version: str | None = Field(default=None, description="Without it, the highest release.", examples=["v1.0"])
    force: bool = Field(default=False, description="Move it also to a version that this server cannot load.")


class DrainCommand(_Command):
    """The maximum time to wait for requests in flight."""

    wait_s: float = Field(default=0.0, ge=0, le=MAX_WAIT_S, allow_inf_nan=False)


class _Followed(WireModel):
    behind: int = Field(description="Processes of this server that have yet to follow.", examples=[0])


class _Persisted(_Followed):
    persisted: bool = Field(
        description="True: stored in the registry's database; it holds for every server of the registry, also after a "
        "restart. False: it holds for this server only, until it stops."
    )
    note: str = Field(description="Where and how long the change holds, and why it is not stored.")


class Loaded(_Persisted):
    """A loaded model."""

    model: str = Field(description="name:version", examples=["digits:v1.0"])
    variant: str = Field(examples=["onnx-fp32"])
    warnings: list[str] = Field(description="Settings that could not be applied at load.")


class Unloaded(_Persisted):
    """A model that is no longer served."""

    model: str = Field(description="The reference in the request.", examples=["digits"])
    unloaded: list[str] = Field(description="The versions that were loaded.", examples=[["digits:v1.0"]])


class Aliased(WireModel):
    """The version an alias points at; every server of the registry follows within a second."""

    name: str
    alias: str
    version: str | None = Field(description="null if the alias was removed.", examples=["v1.0"])
    problem: str | None = Field(description="Why this server still serves the previous version.")


class Drained(_Followed):
    """Whether predictions are accepted."""

    draining: bool
    inflight: int = Field(description="Requests in flight, over all processes.")


class ServerState(Drained):
    """What this server serves."""

    default: str | None = Field(description="The model for requests that name none.")
    wanted: list[str] = Field(description="References that should be loaded.")
    loaded: list[str] = Field(description="Versions that are loaded.")
    unloaded: list[str] = Field(description="Names and versions that an operator unloaded.")
    problems: dict[str, str] = Field(description="Why a reference is not served, or is served in an older version.")


def guarded(handler: Handler) -> Handler:
    """Tell the operator the reason of a failure, which other clients do not get."""

    @wraps(handler)
    async def answer(call: Call) -> Reply:
        call.service.check_started()
        try:
            with acting(who(call)):
                reply = await handler(call)
        except (ModelLoadError, ConfigError) as error:
            raise Refusal(409, str(error)) from error
        reply.headers.append(("cache-control", "no-store"))
        return reply

    return answer


def who(call: Call) -> str:
    """Who makes the changes of a request, for the audit log."""
    if call.operator:
        return "the user of the server, over its Unix socket"
    by_key = call.caller is None or call.caller is ADMINISTRATOR
    return "an administrator, by key" if by_key or call.caller is None else call.caller.shown


@guarded
async def state(call: Call) -> Reply:
    """`GET /admin`."""
    service, status = call.service, call.service.engine.deployment.status()
    return json_reply(
        ServerState(
            draining=service.draining,
            inflight=await _inflight(call),
            behind=await service.commands.processes_behind(0),
            default=status.default,
            wanted=list(status.wanted),
            loaded=[model.key for model in service.engine.loaded()],
            unloaded=list(status.unloaded),
            problems=status.problems,
        )
    )


@guarded
async def load(call: Call) -> Reply:
    """`POST /admin/load`: serve a model; the reply comes after it is loaded."""
    ref = await _model(call)
    done = await call.service.commands.load(ref)
    note(call, "loaded", f"{done.model.key}; {done.note}")
    return json_reply(
        Loaded(
            model=done.model.key,
            variant=done.model.variant,
            warnings=list(done.model.info.warnings),
            behind=await behind_of(call),
            persisted=done.persisted,
            note=done.note,
        )
    )


@guarded
async def unload(call: Call) -> Reply:
    """`POST /admin/unload`: stop serving a model until it is loaded again; requests in flight are answered."""
    ref = await _model(call)
    done = await call.service.commands.unload(ref)
    note(call, "unloaded", f"{ref}; {done.note}")
    behind = await behind_of(call)
    return json_reply(Unloaded(model=ref, unloaded=done.keys, behind=behind, persisted=done.persisted, note=done.note))


@guarded
async def set_alias(call: Call) -> Reply:
    """`PUT /admin/models/{name}/aliases/{alias}`: write the alias to the registry; every server follows.

    409 if the version cannot be loaded here: the alias stays.
    """
    command = await command_of(call, AliasCommand)
    name, alias = call.params["name"], call.params["alias"]
    version = await asyncio.to_thread(_set_alias, call, name, alias, command)
    note(call, "aliased", f"{name}@{alias}={version}")
    return await _aliased(call, version)


@guarded
async def remove_alias(call: Call) -> Reply:
    """`DELETE /admin/models/{name}/aliases/{alias}`."""
    name, alias = call.params["name"], call.params["alias"]
    await asyncio.to_thread(call.service.engine.registry.remove_alias, name, alias)
    note(call, "removed the alias", f"{name}@{alias}")
    return await _aliased(call, None)


@guarded
async def drain(call: Call) -> Reply:
    """`POST /admin/drain`: refuse predictions and wait for those in flight; the process keeps running."""
    wait_s = (await command_of(call, DrainCommand)).wait_s
    await call.service.commands.drain(True)
    note(call, "draining", "")
    behind = await behind_of(call)
    inflight = await _drained(call, wait_s)
    return json_reply(Drained(draining=True, inflight=inflight, behind=behind))


@guarded
async def resume(call: Call) -> Reply:
    """`DELETE /admin/drain`: accept predictions again."""
    await call.service.commands.drain(False)
    note(call, "resumed", "")
    behind = await behind_of(call)
    return json_reply(Drained(draining=call.service.draining, inflight=await _inflight(call), behind=behind))


# Commands and their results


async def document_of(call: Call) -> Any:
    """The JSON of a body; an empty object without one. Raises InvalidInput or Refusal (413)."""
    body = await call.body()
    if len(body) > MAX_BODY_BYTES:
        raise Refusal(413, f"the body may be {MAX_BODY_BYTES} bytes at most")
    return parse(body) if body else {}


async def command_of(call: Call, kind: type[Body]) -> Body:
    """The command in a body, which may be empty if every field has a default. Raises InvalidInput or Refusal."""
    document = await document_of(call)
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise refusal(error) from None


async def _model(call: Call) -> str:
    """The reference in a command. Raises InvalidInput, also if it names a file."""
    ref = (await command_of(call, ModelCommand)).model
    if is_model_file(ref):
        raise InvalidInput("model: name a model of the registry; a file is served from the command line", field="model")
    try:
        if call.service.engine.deployment.file_of(ref) is None:
            parse_ref(ref)
    except InvalidInput as error:
        raise InvalidInput(f"model: {str(error).removeprefix('ref: ')}", field="model") from None
    return ref


def _set_alias(call: Call, name: str, alias: str, command: AliasCommand) -> str:
    engine, version = call.service.engine, command.version
    _, found = engine.registry.resolve(f"{name}:{version}" if version else f"{name}:{engine.registry.highest(name)}")
    force = command.force or engine.manager.has_current(f"{name}:{found}")
    engine.registry.set_alias(name, alias, found, force=force, trust=engine.config.trust)
    return found


async def _aliased(call: Call, version: str | None) -> Reply:
    name, alias = call.params["name"], call.params["alias"]
    await call.service.reconcile()
    outdated = call.service.engine.deployment.outdated
    problem = outdated.get(f"{name}@{alias}") or (outdated.get(name) if alias == CHAMPION else None)
    return json_reply(Aliased(name=name, alias=alias, version=version, problem=problem))


def behind_of(call: Call) -> Awaitable[int]:
    """The processes of this server that have not followed a change within the time of a request."""
    return call.service.commands.processes_behind(call.service.settings.request_timeout_ms / 1000)


async def _drained(call: Call, wait_s: float) -> int:
    """Wait up to `wait_s` until no request is in flight; return how many are."""
    until = time.monotonic() + wait_s
    while True:
        inflight = await _inflight(call)
        if not inflight or time.monotonic() >= until:
            return inflight
        await asyncio.sleep(POLL_S)


async def _inflight(call: Call) -> int:
    return int((await call.service.stats())["processing"])


def note(call: Call, action: str, what: str) -> None:
    """Write to the log what an operator has done."""
    log.info("admin: %s", f"{action} {what}".strip(), extra={"request_id": call.request_id})
