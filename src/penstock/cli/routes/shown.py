"""Routes and their history, printed for people and for programs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from penstock.cli.output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.registry.audit import Entry
    from penstock.registry.routes import Route, StoredRoute


def document_shown(stored: StoredRoute) -> dict[str, Any]:
    """A route as `--json` prints it."""
    route = stored.route
    return {
        "name": route.name,
        **route.to_document(),
        "canary": route.to_record()["canary"],
        "revision": stored.revision,
        "updated_at": moment(stored.updated_at),
        "updated_by": stored.updated_by,
    }


def print_route(stored: StoredRoute, as_json: bool) -> None:
    """One route."""
    if as_json:
        print_json(document_shown(stored))
        return
    route = stored.route
    print_table(("version", "share", "part"), _parts(route), title=f"route {route.name}, revision {stored.revision}")
    named = f":{route.sticky.name}" if route.sticky.name else ""
    typer.echo(f"sticky by {route.sticky.by}{named}, else by request id")
    typer.echo(f"set {moment(stored.updated_at)} by {stored.updated_by}" + (f": {route.why}" if route.why else ""))


def print_routes(routes: Iterable[StoredRoute], broken: Iterable[str], as_json: bool) -> None:
    """All routes."""
    known = list(routes)
    if as_json:
        print_json({"routes": [document_shown(stored) for stored in known], "broken": list(broken)})
        return
    rows = [(each.route.name, summary(each.route), moment(each.updated_at), each.updated_by) for each in known]
    if rows:
        print_table(("name", "arms", "changed", "by"), rows)
    else:
        typer.echo("There are no routes: every name means its alias champion, or its highest release.")


def print_entries(entries: Iterable[Entry], as_json: bool) -> None:
    """Entries of the audit log, the newest first."""
    known = list(entries)
    if as_json:
        print_json({"audit": [entry._asdict() | {"at": moment(entry.at)} for entry in known]})
        return
    rows = [(moment(e.at), e.who, e.what, e.why, _change(e.before), _change(e.after)) for e in known]
    print_table(("at", "who", "what", "why", "before", "after"), rows)


def summary(route: Route) -> str:
    """The shares of the arms in one line."""
    return ", ".join(f"{arm.version} {_percent(arm.weight / route.total)}" for arm in route.arms)


def moment(milliseconds: int) -> str:
    """A time of the store in ISO 8601, in seconds."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _parts(route: Route) -> list[tuple[str, str, str]]:
    """What each version of a route does, in the order in which they are asked."""
    rows = [(rule.version, "", f"where {rule.header} is {rule.equals}") for rule in route.rules]
    if route.canary is not None:
        rows.append((route.canary.version, _percent(route.canary.share), "canary"))
    rows += [(arm.version, _percent(arm.weight / route.total), "arm" if arm.weight else "dark") for arm in route.arms]
    rows += [
        (each.version, _percent(each.sample), "shadow: copies, whose answers no client gets") for each in route.shadow
    ]
    return rows + ([(route.fallback, "", "fallback for a version that keeps failing")] if route.fallback else [])


def _percent(share: float) -> str:
    return f"{share * 100:.4g} %"


def _change(value: Any) -> str:
    """A state in the audit log: of a route its arms, of other things the value."""
    if isinstance(value, dict) and isinstance(value.get("arms"), list):
        return ", ".join(f"{arm['version']}={arm['weight']}" for arm in value["arms"])
    return "" if value is None else str(value)
