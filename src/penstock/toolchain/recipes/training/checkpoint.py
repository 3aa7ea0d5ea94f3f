"""States of a training on disk: written aside and renamed, as safetensors, so that reading one runs no code."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

_SCHEMA = 1


@dataclass
class Progress:
    """How far a training is; all of it JSON. `batches` are those done in the current epoch."""

    epoch: int = 0
    batches: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_epoch: int = 0
    total: float = 0.0
    rows: int = 0
    data_sha256: str = ""
    finished: bool = False

    @property
    def waited(self) -> int:
        """Epochs since the best one."""
        return self.epoch - self.best_epoch


@dataclass
class Checkpoint:
    """One training's file in a directory, for one `key`."""

    directory: Path
    key: str

    @property
    def path(self) -> Path:
        """Where the state is."""
        return self.directory / f"training-{self.key[:32]}.safetensors"

    def save(self, progress: Progress, groups: Mapping[str, Mapping[str, torch.Tensor]], settings: Any) -> None:
        """Replace the state. A process that is killed meanwhile leaves the former one."""
        from safetensors.torch import save_file

        tensors = {
            f"{group}.{name}": tensor.detach().contiguous().clone()
            for group, named in groups.items()
            for name, tensor in named.items()
        }
        about = {"schema": _SCHEMA, "key": self.key, "progress": vars(progress), "settings": settings}
        self.directory.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            save_file(tensors, part, {"penstock": json.dumps(about)})
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)

    def read(self) -> tuple[Progress, dict[str, dict[str, torch.Tensor]], Any] | None:
        """The state, or None where there is none or it is damaged or of another training."""
        from safetensors import SafetensorError, safe_open

        self._remove_parts()
        try:
            with safe_open(self.path, framework="pt") as file:
                about = json.loads(file.metadata()["penstock"])
                if about["schema"] != _SCHEMA or about["key"] != self.key:
                    return None
                groups: dict[str, dict[str, torch.Tensor]] = {}
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    group, _, rest = name.partition(".")
                    groups.setdefault(group, {})[rest] = file.get_tensor(name)
            return Progress(**about["progress"]), groups, about["settings"]
        except (OSError, SafetensorError, ValueError, TypeError, KeyError):
            return None

    def _remove_parts(self) -> None:
        """Remove what killed processes left of this training."""
        for part in self.directory.glob(f"{self.path.stem}.*.part"):
            if not _runs(part.name.split(".")[-2]):
                part.unlink(missing_ok=True)


def _runs(process: str) -> bool:
    with suppress(ProcessLookupError, ValueError):
        try:
            os.kill(int(process), 0)
        except PermissionError:
            return True
        return True
    return False


def weights_digest(named: Iterable[tuple[str, torch.Tensor]]) -> str:
    """The sha256 of tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named, key=lambda one: one[0]):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The values of a tensor in memory order."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def flattened(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], Any]:
    """An optimizer's state as tensors by `number.name`, and the rest as JSON."""
    import torch

    tensors, rest = {}, {}
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.{name}"] = value
            else:
                rest[f"{number}.{name}"] = value
    return tensors, {"groups": state["param_groups"], "rest": rest}


def unflattened(tensors: Mapping[str, torch.Tensor], settings: Any) -> dict[str, Any]:
    """The inverse of `flattened`."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in (*tensors.items(), *settings["rest"].items()):
        number, _, rest = name.partition(".")
        state.setdefault(int(number), {})[rest] = value
    return {"state": state, "param_groups": settings["groups"]}


def random_state() -> dict[str, torch.Tensor]:
    """The states of the random numbers of PyTorch, numpy and Python."""
    import torch

    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 (users' code has this one)
    version, words, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys, np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if next_gauss is None else [next_gauss], dtype=torch.float64),
    }


def set_random_state(state: Mapping[str, torch.Tensor]) -> None:
    """The inverse of `random_state`."""
    import torch

    torch.set_rng_state(state["torch"])
    position, has_gauss, gauss = state["numpy_rest"].tolist()
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))  # noqa: NPY002
    version, *words = state["python"].tolist()
    gauss_left = state["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss_left[0] if gauss_left else None))


def seed_all(seed: int, *more: int) -> None:
    """Set the random numbers of PyTorch, numpy and Python from a seed and numbers such as the epoch."""
    import torch

    derived = int.from_bytes(hashlib.sha256(json.dumps([seed, *more]).encode()).digest()[:4], "big")
    torch.manual_seed(derived)
    np.random.seed(derived)  # noqa: NPY002 (users' code has this one)
    random.seed(derived)
