"""`GET /models/{name}/drift`: how far the traffic of a model is from its reference."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Literal, TypeAlias

from pydantic import ConfigDict, Field

from penstock.artifacts.refs import Ref, parse_ref
from penstock.errors import InvalidInput, ModelNotFound, quoted
from penstock.gateway.access.models import check_model
from penstock.gateway.http import Call, Reply, json_reply
from penstock.gateway.problems import WireModel
from penstock.gateway.service import Service

Verdict: TypeAlias = Literal["ok", "warn", "alarm", "no_verdict"]

_NONE = "it has no reference; publish a version with `penstock models publish … --reference FILE.npz`"
_OFF = "drift is not measured: the setting drift_window_s is 0"


class DriftWindow(WireModel):
    """One window of traffic, compared with the reference."""

    model_config = ConfigDict(extra="allow")

    version: str
    verdict: Verdict = Field(
        description="alarm: far from the reference, beyond chance; warn: beyond chance; no_verdict: too few rows."
    )
    begin: str = Field(description="UTC.", examples=["2026-01-31T12:00:00Z"])
    end: str
    closed: bool = Field(description="False for the last window, which is still open.")
    rows: int = Field(description="Sampled rows, of all processes of this server.")
    data_quality: list[dict[str, Any]] = Field(description="Inputs with too many missing, unseen or outlying values.")
    moved: list[dict[str, Any]] = Field(default_factory=list, description="The features that moved most, with figures.")


class Drift(WireModel):
    """The drift of a model since its server started."""

    name: str
    verdict: Verdict = Field(
        description="On the last closed window of the version that is meant; alarm also for bad values in the open one."
    )
    reason: str | None = Field(description="Why there is no verdict; null if there is one.")
    window_s: float
    min_rows: int
    reference_rows: int | None = Field(description="Rows that the reference of that version was made from.")
    windows: list[DriftWindow] = Field(description="Of all versions, in order of time; the last ones are open.")


async def drift(call: Call) -> Reply:
    """`GET /models/{name}/drift`. `name` may carry a version or an alias, for that version only."""
    service, name = call.service, call.params["name"]
    try:
        ref = parse_ref(name)
    except InvalidInput as error:
        raise ModelNotFound(str(error).removeprefix("ref: ")) from None
    check_model(call, ref.name)
    versions = await asyncio.to_thread(_versions, service, ref)
    report = [one for one in await service.drift() if one["model"] == ref.name]
    if ref.version is not None or ref.alias is not None:
        report = [one for one in report if one["version"] == versions[0]]
    return json_reply(_body(service, ref.name, versions, report))


def _versions(service: Service, ref: Ref) -> list[str]:
    """The version that a reference means, then the loaded ones. Raises ModelNotFound."""
    loaded = [model.version for model in service.engine.loaded() if model.name == ref.name]
    with suppress(ModelNotFound):
        return [service.engine.registry.resolve(ref)[1], *loaded]
    if not loaded or (ref.version or ref.alias):
        raise ModelNotFound(f"there is no model {quoted(str(ref))} here")
    return loaded


def _body(service: Service, name: str, versions: list[str], report: list[dict[str, Any]]) -> Drift:
    meant = next((one for one in reversed(report) if one["version"] == versions[0] and one["loaded"]), None)
    current = meant or next((one for one in reversed(report) if one["loaded"]), None)
    windows = [{**window, "version": one["version"]} for one in report for window in one["windows"]]
    return Drift(
        name=name,
        verdict="no_verdict" if current is None else current["verdict"],
        reason=_reason(service, name, versions[0], current),
        window_s=service.settings.drift_window_s,
        min_rows=service.settings.drift_min_rows,
        reference_rows=None if current is None else current["reference_rows"],
        windows=[DriftWindow.model_validate(window) for window in sorted(windows, key=lambda one: one["end"])],
    )


def _reason(service: Service, name: str, version: str, current: dict[str, Any] | None) -> str | None:
    if not service.settings.drift_window_s:
        return _OFF
    if current is None and not service.engine.manager.cache.find(f"{name}:{version}"):
        return f"{name}:{version} is not served here, so its drift is not measured"
    if current is None:
        return f"{name}:{version}: {_NONE}"
    if current["problem"]:
        return f"rows of {name}:{current['version']} are not as in its reference: {current['problem']}"
    if current["verdict"] != "no_verdict":
        return None
    rows = current["windows"][-1]["rows"]
    return f"the window has {rows} sampled rows of {service.settings.drift_min_rows}; it goes on until it has enough"
