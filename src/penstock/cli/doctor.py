"""`penstock doctor`: what this machine offers, and what is wrong with the installation."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

import penstock
from penstock.cli.options import ConfigOption, DeviceOption, JsonOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, print_table, size
from penstock.errors import ConfigError, ModelNotFound, PenstockError
from penstock.formats import runtime_packages

if TYPE_CHECKING:
    from penstock.registry.registry import Registry
    from penstock.settings import Settings

PACKAGES = ("numpy", *runtime_packages(), "granian", "fastapi", "pydantic", "sqlalchemy", "pillow", "pysimdjson")
COMPILERS = ("g++", "clang++", "c++")


class Finding(NamedTuple):
    """One checked item. `wrong` says what to fix; None when it is fine."""

    what: str
    value: str
    wrong: str | None = None


def doctor(
    config: ConfigOption = None,
    registry: RegistryOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report what this machine offers and what is wrong with the installation; exit code 1 when something is."""
    findings = list(examine({"registry": registry, "device": device}, config))
    wrong = [finding for finding in findings if finding.wrong]
    if as_json:
        print_json({"ok": not wrong, "findings": [finding._asdict() for finding in findings]})
    else:
        print_table(("", "what", "found"), (("!!" if f.wrong else "ok", f.what, f.value) for f in findings))
        for finding in wrong:
            typer.echo(f"{finding.what}: {finding.wrong}")
        typer.echo(f"{len(wrong)} of {len(findings)} need attention" if wrong else "nothing is wrong")
    raise typer.Exit(1 if wrong else 0)


def examine(overrides: dict[str, object], config: Path | None = None) -> Iterator[Finding]:
    """All findings: the machine first, then those that depend on the settings, if they can be read."""
    yield from _machine()
    try:
        settings = read_settings(config, **overrides)
    except ConfigError as error:
        yield Finding("settings", "refused", str(error))
        return
    yield Finding("settings", "valid")
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _device,
        _registry,
        _database,
        _admin_key,
        _models,
        _model_path,
        _port,
    )
    for check in checks:
        yield check(settings)


def _machine() -> Iterator[Finding]:
    from penstock.backends import devices

    yield Finding("penstock", penstock.__version__)
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        yield Finding(package, _version(package))
    yield Finding("usable cores", str(devices.usable_cores()))
    yield _memory()
    yield Finding("onnx providers", ", ".join(devices.onnx_providers()))
    yield Finding("torch devices", ", ".join(devices.torch_devices()) or "torch is not installed; ONNX works without")
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    yield Finding("compiler", compiler or "none; only needed to compile models")


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return Finding("memory", "unknown")
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total, free = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    wrong = "less than 256 MiB are free; a server needs about 150 MiB and its models" if free < 256 * 2**20 else None
    return Finding("memory", f"{size(free)} free of {size(total)}", wrong)


def _device(settings: Settings) -> Finding:
    """Whether the configured device is present."""
    from penstock.backends import devices

    kind = settings.device.partition(":")[0]
    here = {"auto", "cpu", *(name.partition(":")[0] for name in devices.torch_devices())}
    if "CUDAExecutionProvider" in devices.onnx_providers():
        here.add("cuda")
    missing = f"this machine has no {kind}; no model would be loaded; set auto or cpu"
    return Finding("device", settings.device, None if kind in here else missing)


def _registry(settings: Settings) -> Finding:
    path = settings.registry.absolute()
    shown = str(path) if path.exists() else f"{path} (does not exist yet)"
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    return Finding("registry", shown, _unwritable(there, "nothing can be published"))


def _unwritable(directory: Path, consequence: str) -> str | None:
    if not directory.is_dir():
        return f"{directory} is not a directory; {consequence}"
    return None if os.access(directory, os.W_OK | os.X_OK) else f"{directory} cannot be written; {consequence}"


def _database(settings: Settings) -> Finding:
    """Whether the database answers. A file is opened only when it exists, so its directory is checked first."""
    from penstock.settings import display

    url = settings.database_url
    shown = str(display("database_url", url) or "sqlite, in the registry")
    if url is not None and url.startswith("sqlite:///"):
        wrong = _unwritable(Path(url.removeprefix("sqlite:///")).absolute().parent, "nothing can be published")
        if wrong:
            return Finding("database", shown, wrong)
    broken: list[str] = []
    try:
        with open_registry(settings) as registry:
            registry.revision()
            count = sum(1 for _ in registry.artifacts(on_error=lambda error: broken.append(str(error))))
    except PenstockError as error:
        return Finding("database", shown, str(error))
    return Finding("database", f"{shown}: {count} published versions", "; ".join(broken) or None)


def _models(settings: Settings) -> Finding:
    """Whether the versions that names and aliases mean load as by a server."""
    from penstock.engine.loading.manager import ModelManager

    broken: list[str] = []
    try:
        with open_registry(settings) as registry:
            manager, refs = ModelManager(registry, settings), _chosen(registry)
            for ref in refs:
                try:
                    manager.check(ref)
                except PenstockError as error:
                    broken.append(str(error))
    except PenstockError as error:
        return Finding("models", "unknown", str(error))
    return Finding(
        "models", f"{len(refs) - len(broken)} of {len(refs)} chosen versions load", "; ".join(broken) or None
    )


def _chosen(registry: Registry) -> list[str]:
    """The versions that a bare name or an alias means."""
    chosen: dict[str, None] = {}
    for name in registry.list():
        versions = [*registry.aliases(name).values()]
        with suppress(ModelNotFound):  # its champion is gone, which the aliases show
            versions.insert(0, registry.resolve(name)[1])
        chosen |= dict.fromkeys(f"{name}:{version}" for version in versions)
    return list(chosen)


def _admin_key(settings: Settings) -> Finding:
    """Where the key of the admin routes is; never the key."""
    from penstock.registry.admin_key import AdminKey, read_key

    file = AdminKey.of(settings).file
    if settings.admin_key is not None:
        return Finding("admin key", "the setting admin_key")
    if not os.path.lexists(file):
        return Finding("admin key", f"{file} (the first server that starts writes it)")
    try:
        read_key(file)
    except ConfigError as error:
        return Finding("admin key", str(file), str(error))
    return Finding("admin key", str(file))


def _model_path(settings: Settings) -> Finding:
    path = settings.model_path
    if path is None:
        return Finding("model path", "not set")
    return Finding("model path", str(path), None if path.is_file() else f"{path}: there is no such file")


def _port(settings: Settings) -> Finding:
    """Whether the server could listen; a running Penstock on the port is fine."""
    from penstock.gateway.process.sockets import free_address

    address = f"{settings.host}:{settings.port}"
    try:
        free_address(settings.host, settings.port)
    except ConfigError as error:
        if _is_penstock(settings):
            return Finding("port", f"{address}, in use by a running Penstock")
        return Finding("port", address, str(error))
    return Finding("port", f"{address}, free")


def _is_penstock(settings: Settings) -> bool:
    from penstock.client import Client

    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104  compared only
    try:
        with Client(f"http://{host}:{settings.port}", timeout_s=1.0) as client:
            return "model_loaded" in client.health()
    except PenstockError:
        return False
