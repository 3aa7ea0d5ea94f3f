"""Makes candidates in a process of their own; what crashes or hangs there is a candidate less, and nothing more."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from penstock.artifacts.artifact import Artifact
from penstock.errors import PenstockError
from penstock.formats import FORMATS
from penstock.toolchain.bench.sandbox import Limits, Sandbox, SandboxFailed
from penstock.toolchain.search.candidate import Form, Planned
from penstock.toolchain.search.data import Data
from penstock.toolchain.search.trying import making

_OPEN_S = 120.0


class Maker:
    """A process with the model opened for recipes. A new one is started after one that was ended."""

    def __init__(self, artifact: Artifact, trust: str, memory_bytes: int | None) -> None:
        """Begins to open the model at once, in the background: it takes seconds."""
        self._artifact = artifact
        self._trust = trust
        self._limits = Limits(seconds=_OPEN_S, memory_bytes=memory_bytes)
        self._sandbox: Sandbox | None = None
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="penstock-open-model")
        self._opening: Future[dict[str, Any]] | None = self._threads.submit(self._open)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def facts(self) -> dict[str, Any]:
        """What the rules of a plan ask of the model. Raises InvalidInput for one that no technique can change."""
        self._opening = self._opening or self._threads.submit(self._open)
        return self._opening.result()

    def make(self, planned: Planned, data: Data, scratch: Path, seconds: float) -> tuple[str, Form]:
        """The form that a recipe makes, and the name that it has by itself.

        Raises SandboxFailed when the process ended, and what the recipe raises.
        """
        self.facts()
        assert self._sandbox is not None
        carry_out, steps = f"{making.HOME}:{making.carry_out.__name__}", planned.recipe.to_json()
        rows, labels = data.calibration, data.calibration_labels
        try:
            made = self._sandbox.call(carry_out, steps, scratch, rows, labels, seconds=seconds)
        except SandboxFailed:
            self._drop()
            raise
        return made["name"], _form(planned.name, made)

    def worst_operators(self, planned: Planned, data: Data, scratch: Path, seconds: float) -> list[str]:
        """The operators that lose most in the static quantization of a recipe; none where that cannot be measured."""
        self.facts()
        assert self._sandbox is not None
        find, steps = f"{making.HOME}:{making.worst_operators.__name__}", planned.recipe.to_json()
        try:
            found: list[str] = self._sandbox.call(find, steps, scratch, data.calibration, seconds / 2, seconds=seconds)
        except SandboxFailed:
            self._drop()
            return []
        except PenstockError:
            return []
        return found

    def close(self) -> None:
        """End the process."""
        self._drop()
        self._threads.shutdown(wait=True)

    def _open(self) -> dict[str, Any]:
        self._sandbox = Sandbox(self._artifact.ref, self._limits)
        opened = f"{making.HOME}:{making.open_subject.__name__}"
        found: dict[str, Any] = self._sandbox.call(opened, self._artifact.path, self._trust)
        return found

    def _drop(self) -> None:
        if self._sandbox is not None:
            self._sandbox.close()
        if self._opening is not None:
            with suppress(PenstockError):
                self._opening.result()
        if self._sandbox is not None:  # it may have been opened meanwhile
            self._sandbox.close()
        self._sandbox = self._opening = None


class Pace:
    """How long making takes here, against the estimates of the plan."""

    def __init__(self) -> None:
        self._shares: list[float] = []

    def add(self, planned: Planned, seconds: float) -> None:
        """One candidate took so long."""
        self._shares.append(seconds / planned.cost_s)

    def estimate(self, seconds: float) -> float:
        """What is planned to take so many seconds, by the slower half of what was made so far; never less than half."""
        shares = sorted(self._shares)
        return seconds * max(0.5, shares[len(shares) // 2] if shares else 1.0)


def _form(name: str, made: dict[str, Any]) -> Form:
    return Form(
        name,
        made["format"],
        made["precision"],
        Path(made["path"]),
        {name: Path(path) for name, path in made["companions"].items()},
        exporter=made["exporter"],
        requires=tuple(made["requires"]),
        notes=tuple(made["notes"]),
        num_parameters=made["num_parameters"],
        trust=FORMATS[made["format"]].trust,
    )
