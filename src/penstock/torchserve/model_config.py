"""`model-config.yaml` of a model: what the server reads, checked, and the whole for its handler.

A value of the wrong type or out of range is left out with a warning, and the default counts. Keys that are not known
pass through. Tags, which build objects, are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from penstock.documents import MAX_BYTES, parse_yaml
from penstock.errors import IntegrityError, quoted
from penstock.torchserve.archives.archive import ModelArchive
from penstock.torchserve.archives.manifest import Manifest

PARALLEL_TYPES: Final = ("pp", "tp", "pptp", "custom")


class _Rule(NamedTuple):
    """Which values a key may have."""

    holds: Callable[[Any], bool]
    expected: str


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(least: int) -> _Rule:
    return _Rule(lambda value: _is_whole(value) and least <= value < 2**31, f"a whole number of at least {least}")


def _one_of(*texts: str) -> _Rule:
    return _Rule(lambda value: value in texts and isinstance(value, str), f"one of {', '.join(texts)}")


_FLAG: Final = _Rule(lambda value: isinstance(value, bool), "true or false")
_MAPPING: Final = _Rule(lambda value: isinstance(value, dict), "a mapping")
_DEVICES: Final = _Rule(
    lambda value: isinstance(value, list) and all(_is_whole(each) and each >= 0 for each in value),
    "a list of numbers of devices",
)

RULES: Final[Mapping[str, _Rule]] = {
    "minWorkers": _whole(0),
    "maxWorkers": _whole(0),
    "batchSize": _whole(1),
    "maxBatchDelay": _whole(0),
    "responseTimeout": _whole(1),
    "startupTimeout": _whole(1),
    "deviceType": _one_of("cpu", "gpu"),
    "deviceIds": _DEVICES,
    "parallelType": _one_of(*PARALLEL_TYPES),
    "parallelLevel": _whole(1),
    "torchrun": _MAPPING,
    "maxRetryTimeoutInSec": _whole(0),
    "clientTimeoutInMills": _whole(0),
    "jobQueueSize": _whole(1),
    "useJobTicket": _FLAG,
    "useVenv": _FLAG,
    "continuousBatching": _FLAG,
    "sequenceBatching": _FLAG,
    "asyncCommunication": _FLAG,
    "sequenceMaxIdleMSec": _whole(0),
    "sequenceTimeoutMSec": _whole(0),
    "maxSequenceJobQueueSize": _whole(1),
    "maxNumSequence": _whole(1),
}
"""What the server reads. Everything else is the handler's: `pt2`, `handler`, `micro_batching` and its own keys."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A `model-config.yaml`."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """What the server reads, by key: only what is given and valid, so that nothing given elsewhere is overridden."""
    warnings: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)
    """The whole file, for the handler."""

    def whole(self, key: str) -> int | None:
        """A number, None if it is not given."""
        value = self.values.get(key)
        return value if _is_whole(value) else None


def parse_model_config(text: str, name: str) -> ModelConfig:
    """`name` is the file in errors and warnings. Raises UnsupportedFormat for what is no plain YAML mapping."""
    document = parse_yaml(text, name) if text.strip() else {}
    values: dict[str, Any] = {}
    warnings = []
    for key, rule in RULES.items():
        if key not in document:
            continue
        if rule.holds(document[key]):
            values[key] = document[key]
        else:
            warnings.append(f"{key} in {name} is {quoted(document[key])}, not {rule.expected}; the default is used")
    if values.get("maxWorkers", 1) < values.get("minWorkers", 0) and "maxWorkers" in values:
        warnings.append(f"maxWorkers in {name} is less than minWorkers, which is used for both")
        values["maxWorkers"] = values["minWorkers"]
    return ModelConfig(values, tuple(warnings), document)


def model_config_of(archive: ModelArchive) -> ModelConfig:
    """The configuration that the manifest names; empty if it names none, or none that is there.

    Raises UnsupportedFormat or IntegrityError naming the file.
    """
    manifest = archive.manifest
    name = manifest.config_file if isinstance(manifest, Manifest) else None
    if name is None or name not in archive.members:
        return ModelConfig()
    try:
        text = archive.read(name, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise IntegrityError(f"{archive.path}: {quoted(name)} is not UTF-8 text; save it as UTF-8") from None
    return parse_model_config(text, f"{archive.path}: {name}")
