"""What a caller may do: judged once for each head of a request, and counted for each request."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import ClassVar

from penstock.errors import ModelNotReady
from penstock.gateway.auth import check_origin
from penstock.gateway.callers.caller import ANYONE, OPERATOR, Admitted, Caller, Needs, WrongCredentials
from penstock.gateway.callers.callers import ADMIN_KEY_HEADER, API_KEY_HEADER, Callers
from penstock.gateway.callers.key_table import FOREVER_S
from penstock.gateway.http import Call, Endpoint, Routing, Step
from penstock.gateway.limits.quotas import KeyQuota
from penstock.gateway.limits.slots import Limit
from penstock.gateway.problems import Refusal, retry_after

_CHALLENGE = 'Bearer realm="penstock"'
_NO_ADMIN_KEY = (
    f"send the admin key as `Authorization: Bearer …`, `{API_KEY_HEADER}` or `{ADMIN_KEY_HEADER}`; it is the setting "
    "admin_key (PENSTOCK_ADMIN_KEY), or is in the file admin.key that the start of the server names; an API key with "
    "the scope admin does as well"
)
_NO_KEY = (
    f"send an API key as `Authorization: Bearer …` or `{API_KEY_HEADER}`; an administrator makes one with "
    "`penstock keys create`"
)
_WRONG_KEY = "the key or token is not valid: it is unknown, revoked or expired; ask an administrator for another"
_ASKED_FOR = {
    "infer": "predictions and feedback",
    "read": "models and figures",
    "admin": "admin routes",
}

_ANYONE = Admitted(ANYONE, FOREVER_S)
_OPERATOR = Admitted(OPERATOR, FOREVER_S)


class Access(Step):
    """Admits a request to the row that answers it: by its key, its scope and its rate."""

    by_head: ClassVar[bool] = True

    def __init__(self, callers: Callers, listener: str | None) -> None:
        """`listener` is what this process listens on: an IP address, or the path of a Unix socket."""
        self._callers = callers
        self._open = listener is not None and listener.startswith("/")

    def admit(self, call: Call, row: Endpoint) -> None:
        """Set the caller. Raises Refusal: 401 without a valid key, 403 outside of its scope, 429 beyond its rate."""
        needs: Needs = row.needs or "admin"
        callers = self._callers
        if needs == "nothing":
            return
        if not callers.known:
            raise ModelNotReady("the server is starting, and does not know its keys yet; try again in a moment")
        if not callers.active and needs != "admin":
            return
        try:
            admitted = self._admitted(call, needs)
        except WrongCredentials:
            self._count(call, ANYONE)
            raise _unauthorized(_NO_ADMIN_KEY if needs == "admin" else _WRONG_KEY, wrong=True) from None
        caller = admitted.caller
        if caller is ANYONE and (needs == "admin" or callers.required):
            self._count(call, caller)
            raise _unauthorized(_NO_ADMIN_KEY if needs == "admin" else _NO_KEY)
        if not caller.may(needs):
            raise _forbidden(caller, needs)
        self._count(call, caller)
        call.caller, call.caller_until = caller, call.entered + admitted.valid_s

    def _admitted(self, call: Call, needs: Needs) -> Admitted:
        """Raises WrongCredentials."""
        operates = (self._open or call.operator) and not self._callers.proxied_socket
        if operates and needs == "admin":
            return _OPERATOR
        otherwise = _OPERATOR if operates else _ANYONE
        if needs != "admin" and not self._callers.configured and not self._callers.required:
            return otherwise  # addresses are counted; a key means nothing here
        return self._callers.identify(call.header_values) or otherwise

    def _count(self, call: Call, caller: Caller) -> None:
        """Raises Refusal (429)."""
        quota = caller.quota
        if quota is not None:
            _check_quota(caller, quota)
        limit = self._limit_of(call, caller)
        wait_s = 0.0 if limit is None else limit.take(call.entered)
        if wait_s:
            whose = "this address sends" if limit is not caller.limit else f"{caller.shown} sends"
            raise Refusal(
                429,
                f"{whose} more requests than its rate allows; try again in {wait_s:.3f} s",
                headers=[retry_after(wait_s)],
            )
        if quota is not None:
            quota.left -= 1

    def _limit_of(self, call: Call, caller: Caller) -> Limit | None:
        """That of the key, else of the address, if there is one."""
        if caller.limit is None and caller.by_address and self._callers.addresses is not None:
            return self._callers.addresses.of(call.client, call.header_values)
        return caller.limit

    def recall(self, call: Call, routing: Routing) -> bool:
        """As `admit`, for a head that was admitted before."""
        caller = routing.caller
        if caller is None:
            return True
        now = call.entered
        if routing.until <= now:
            return False
        quota = caller.quota
        if quota is not None and quota.left <= 0:
            return False
        limit = self._limit_of(call, caller)
        if limit is not None and limit.take(now):
            return False
        if quota is not None:
            quota.left -= 1
        call.caller = caller
        return True

    def guard(self, call: Call) -> None:
        """Raises Refusal (403) for a page of another origin."""
        check_origin(call, guarded=True)


def _check_quota(caller: Caller, quota: KeyQuota) -> None:
    """Raises Refusal (429) if nothing of it is left."""
    wait_s = quota.wait(time.time())
    if wait_s:
        begins = datetime.fromtimestamp(quota.period.ends_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        raise Refusal(
            429,
            f"{caller.shown} has sent the {quota.requests} requests of its quota for {quota.period.name}; it may send "
            f"more from {begins} on, or an administrator can make another key",
            headers=[retry_after(wait_s)],
        )


def _unauthorized(detail: str, *, wrong: bool = False) -> Refusal:
    challenge = f'{_CHALLENGE}, error="invalid_token"' if wrong else _CHALLENGE
    return Refusal(401, detail, headers=[("www-authenticate", challenge)])


def _forbidden(caller: Caller, needs: Needs) -> Refusal:
    has = ", ".join(sorted(caller.scopes)) or "none"
    return Refusal(
        403,
        f"{caller.shown} has the scopes {has}, and {_ASKED_FOR[needs]} need the scope {needs}; an administrator can "
        "make a key that has it",
        headers=[("www-authenticate", f'{_CHALLENGE}, error="insufficient_scope", scope="{needs}"')],
    )
