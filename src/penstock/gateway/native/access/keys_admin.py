"""Admin routes of API keys: list, create, rotate, revoke."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from pydantic import ConfigDict, Field

from penstock.gateway.http import Call, Reply, json_reply
from penstock.gateway.native.admin import command_of, guarded, note
from penstock.gateway.problems import Refusal, WireModel
from penstock.registry.access.book import KeyBook, NewKey
from penstock.registry.access.key import NoSuchKey
from penstock.registry.audit import acting

T = TypeVar("T")


class KeyCommand(WireModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Whose key it is, for people.", examples=["billing"])
    scopes: list[str] = Field(default_factory=lambda: ["infer"], description="Of infer, read and admin.")
    models: list[str] = Field(
        default_factory=list, description="Patterns of names or of name:version; without any, every model."
    )
    expires: str | None = Field(default=None, description="Time for which it is valid.", examples=["30d"])
    rate: str | None = Field(default=None, description="Most requests in a time.", examples=["600/m"])
    burst: int | None = Field(default=None, description="How many of them may come at once; by default as many.")
    quota: str | None = Field(
        default=None, description="Most requests in a day or a month, in UTC.", examples=["5000/day", "100000/month"]
    )
    weight: float = Field(default=1.0, description="Its share where requests wait for a model.")
    why: str = Field(default="", description="The reason, for the audit log.")


class RotateCommand(WireModel):
    """Another secret for a key."""

    model_config = ConfigDict(extra="forbid")

    grace: str = Field(default="0s", description="Time for which the old secret is valid as well.", examples=["1h"])
    expires: str | None = Field(default=None, description="A new time for which the key is valid.")
    why: str = ""


class KeyShown(WireModel):
    """A key without its secret."""

    id: str = Field(examples=["k3v5m2xq"])
    name: str
    scopes: list[str]
    models: list[str]
    rate: str | None
    burst: int | None
    quota: str | None
    weight: float
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None
    state: str = Field(description="active, expired or revoked.")


class KeyMade(KeyShown):
    """A key with its secret, which is shown this once."""

    key: str


class KeyListed(KeyShown):
    """A key in the list of all."""

    used: int | None = Field(description="Requests that count towards its quota, in this day or month.")


class KeyList(WireModel):
    """All keys."""

    keys: list[KeyListed]


@guarded
async def list_keys(call: Call) -> Reply:
    """`GET /admin/keys`."""
    book = _book(call)
    found = await asyncio.to_thread(book.list)
    used = await asyncio.to_thread(book.used, found)
    return json_reply(KeyList(keys=[KeyListed(**key.to_document(), used=used.get(key.id)) for key in found]))


@guarded
async def create(call: Call) -> Reply:
    """`POST /admin/keys`: the key is in this reply and nowhere else."""
    command = await command_of(call, KeyCommand)
    given = command.model_dump(exclude={"why", "name", "scopes"})
    made = await _changed(call, command.why, lambda book: book.create(command.name, command.scopes, **given))
    note(call, "created the key", made.id)
    return _made(made)


@guarded
async def rotate(call: Call) -> Reply:
    """`POST /admin/keys/{id}/rotate`."""
    command, key = await command_of(call, RotateCommand), call.params["id"]
    made = await _changed(
        call, command.why, lambda book: book.rotate(key, grace=command.grace, expires=command.expires)
    )
    note(call, "rotated the key", key)
    return _made(made)


@guarded
async def revoke(call: Call) -> Reply:
    """`DELETE /admin/keys/{id}`."""
    key = call.params["id"]
    revoked = await _changed(call, "", lambda book: book.revoke(key))
    note(call, "revoked the key", key)
    return json_reply(KeyShown(**revoked.to_document()))


def _book(call: Call) -> KeyBook:
    settings = call.service.settings
    return call.service.engine.registry.keys.with_pepper(settings.key_pepper, settings.previous_key_pepper)


async def _changed(call: Call, why: str, change: Callable[[KeyBook], T]) -> T:
    """Do a change, and follow it in this process before the reply. Raises Refusal (404) for a key that is not there."""
    try:
        with acting(why=why):
            done = await asyncio.to_thread(change, _book(call))
    except NoSuchKey as error:
        raise Refusal(404, str(error), title="No such key") from None
    await call.service.callers.follow()
    return done


def _made(made: NewKey) -> Reply:
    return json_reply(KeyMade(key=made.key, **made.stored.to_document()))
