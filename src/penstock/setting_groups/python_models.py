"""Settings of models that are Python classes, which run in worker processes of their own."""

from __future__ import annotations

from penstock.option_types import FileList, Float, OptionalSize, Whole, parse_size
from penstock.options import EngineOptions, option


class PythonModelSettings(EngineOptions):
    """How the workers of a Python class are run. They are settings of the server."""

    python_path: FileList = option(
        (), "Directories that Python classes are imported from (comma list), before the current one."
    )
    python_workers: Whole = option(
        1,
        "Worker processes of each Python class, each with its own instance; each answers one batch at a time.",
        ge=1,
        le=256,
    )
    python_load_timeout_s: Float = option(300.0, "Maximum time in which a worker imports its class and loads it.", gt=0)
    python_grace_s: Float = option(
        5.0,
        "Time for which a worker may still run after the deadline of its requests; then it is ended and replaced. It "
        "should be below `hang_timeout_s`.",
        ge=0,
    )
    python_max_rows: Whole = option(0, "Rows after which a worker is replaced by a fresh one; 0 for never.", ge=0)
    python_max_memory: OptionalSize = option(
        None, "Resident memory beyond which a worker is replaced by a fresh one; the default is no limit."
    )

    @property
    def python_memory_bytes(self) -> int | None:
        """`python_max_memory` as a number."""
        return None if self.python_max_memory is None else parse_size(self.python_max_memory)
