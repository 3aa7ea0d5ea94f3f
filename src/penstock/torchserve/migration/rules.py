"""What becomes of each setting of TorchServe: settings with the same meaning, and why others need attention."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from penstock.errors import ConfigError, PenstockError, quoted
from penstock.settings import Settings
from penstock.torchserve.migration.installation import Installation, Setting
from penstock.torchserve.migration.keys import ATTENTION, KEYS, NOT_NEEDED

State = Literal["moves", "not needed", "attention"]

_ADDRESS = re.compile(r"(https?)://(\[[0-9a-fA-F:.]+\]|[^/:\s]+)(?::(\d{1,5}))?/?")
_INFERENCE: Final = "http://127.0.0.1:8080"
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a setting: the settings to write, and why."""

    state: State
    why: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def outcome_of(setting: Setting, installation: Installation) -> Outcome:
    """What becomes of a setting that is in force. Its own settings are valid ones."""
    if setting.problem is not None:
        return Outcome("attention", setting.problem)
    key, value = setting.key, setting.value.strip()
    if key in _RULES:
        return _checked(_RULES[key](value, installation))
    if key in NOT_NEEDED:
        return Outcome("not needed", NOT_NEEDED[key])
    if key in ATTENTION:
        return Outcome("attention", ATTENTION[key])
    similar = difflib.get_close_matches(key, KEYS, n=1)
    return Outcome("not needed", f"TorchServe does not read it{f'; it reads {similar[0]}' if similar else ''}")


def implied(installation: Installation) -> list[tuple[Setting, Outcome]]:
    """What TorchServe does when its configuration does not say: clients and scripts rely on it."""
    found = []
    if installation.get("inference_address") is None:
        setting = Setting("inference_address", _INFERENCE, "TorchServe's default")
        found.append((setting, _checked(_inference(_INFERENCE, installation))))
    if installation.get("disable_token_authorization") is None:
        setting = Setting("disable_token_authorization", "false", "TorchServe's default")
        found.append((setting, _tokens("false", installation)))
    return found


def _checked(outcome: Outcome) -> Outcome:
    """With settings that Penstock takes; one that it refuses needs attention."""
    try:
        Settings(**outcome.settings)
    except PenstockError as error:
        return Outcome("attention", str(error))
    return outcome


def whole(value: str, least: int = 1) -> int:
    """Raises ConfigError for what is no whole number of at least `least`."""
    if not re.fullmatch(r"\d{1,12}", value) or int(value) < least:
        raise ConfigError(f"{quoted(value)} should be a whole number of at least {least}")
    return int(value)


def _number(name: str, factor: int, why: str) -> Callable[[str, Installation], Outcome]:
    def rule(value: str, _: Installation) -> Outcome:
        try:
            return Outcome("moves", why, {name: whole(value) * factor})
        except ConfigError as error:
            return Outcome("attention", str(error))

    return rule


def _text(name: str, why: str) -> Callable[[str, Installation], Outcome]:
    return lambda value, _: Outcome("moves", why, {name: value}) if value else Outcome("not needed", "it is empty")


def _inference(value: str, installation: Installation) -> Outcome:
    if value.startswith("unix:"):
        return Outcome("moves", "the Unix socket; its user administers without a key", {"uds": value[5:]})
    match = _ADDRESS.fullmatch(value)
    if match is None:
        return Outcome("attention", "it is no address such as http://127.0.0.1:8080; set host and port")
    scheme, host, port = match.groups()
    settings = {"host": host.strip("[]"), "port": int(port or _PORTS[scheme])}
    if scheme == "https" and installation.get("certificate_file") is None:
        why = "HTTPS needs a certificate: set tls_cert and tls_key; TorchServe made one that nobody had signed"
        return Outcome("attention", why, settings)
    return Outcome("moves", "the address of the server", settings)


def _other_address(what: str) -> Callable[[str, Installation], Outcome]:
    def rule(value: str, installation: Installation) -> Outcome:
        if value == (installation.get("inference_address") or _INFERENCE):
            return Outcome("not needed", f"{what} on the same address")
        return Outcome("attention", f"there is one address for everything: {what} on that of predictions")

    return rule


def _gpus(value: str, _: Installation) -> Outcome:
    if value == "0":
        return Outcome("moves", "models run on the CPU", {"device": "cpu"})
    if value == "1":
        return Outcome("not needed", "a GPU is used where there is one (device=auto)")
    return Outcome("attention", "a server uses one GPU: start one for each, with the device cuda:0, cuda:1, …")


def _tokens(value: str, _: Installation) -> Outcome:
    if value.lower() == "true":
        return Outcome("moves", "no keys are asked for", {"require_auth": False})
    return Outcome(
        "attention",
        "tokens of key_file.json are not taken over: make a key (`penstock keys create NAME`); servers ask for keys as "
        "soon as there is one (Authorization: Bearer KEY)",
    )


def _workers(value: str, _: Installation) -> Outcome:
    if value in ("", "0"):
        return Outcome("not needed", "0 is the default")
    return Outcome(
        "attention",
        "workers here are whole servers with all models, and one process answers many requests at once: begin without, "
        "then `penstock tune` finds how many are worth it",
    )


def _models(value: str, _: Installation) -> Outcome:
    return Outcome("moves" if value else "not needed", "see the models below" if value else "it is empty")


_RULES: Final[Mapping[str, Callable[[str, Installation], Outcome]]] = {
    "inference_address": _inference,
    "management_address": _other_address("the routes below /admin are"),
    "metrics_address": _other_address("GET /metrics is"),
    "private_key_file": _text("tls_key", "the private key, a PEM file"),
    "certificate_file": _text("tls_cert", "the certificate, a PEM file"),
    "job_queue_size": _number("max_queue_size", 1, "rows that wait for a model, where TorchServe counts requests"),
    "default_response_timeout": _number(
        "request_timeout_ms", 1000, "a request that takes longer gets 504; nothing is killed and loaded again"
    ),
    "max_request_size": _number("max_body_bytes", 1, "a larger body gets 413"),
    "number_of_gpu": _gpus,
    "cors_allowed_origin": _text("cors_origins", "pages of these origins may call the server"),
    "disable_token_authorization": _tokens,
    "default_workers_per_model": _workers,
    "load_models": _models,
    "models": _models,
    "model_snapshot": _models,
    "model_store": _models,
}
