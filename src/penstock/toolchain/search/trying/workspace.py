"""Where a search keeps what it made, so that one that was interrupted goes on instead of starting over."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from penstock.artifacts import files
from penstock.errors import ConfigError, not_written
from penstock.registry.locking import is_locked, locked
from penstock.toolchain.search.candidate import Candidate, Form, Judgement, Planned, Speed

_SCHEMA = 1
_STATE = "state.json"


def key_of(facts: Mapping[str, Any]) -> str:
    """The name of a search: a digest of the model, the data and the options that decide what is tried."""
    return hashlib.sha256(json.dumps([_SCHEMA, facts], sort_keys=True).encode()).hexdigest()[:32]


class Workspace:
    """A directory with the files of one search and the candidates that are done."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.resumed = 0
        """How many candidates an earlier, interrupted search had finished."""
        self._done: dict[str, dict[str, Any]] = {}

    @classmethod
    @contextmanager
    def of(cls, root: Path, key: str) -> Iterator[Workspace]:
        """The workspace of a search, held until the block ends; it stays on disk when the block is interrupted.

        Raises ConfigError when another process runs the same search, or the directory cannot be written.
        """
        directory = root / key
        lock = root / f"{key}.lock"
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(not_written(error, directory)) from None
        if is_locked(lock):
            raise ConfigError("another process is optimizing this model with the same data and options; wait for it")
        with locked(lock):
            workspace = cls(directory)
            workspace._read()
            done = False
            try:
                yield workspace
                done = True
            finally:
                if done or not workspace._done:
                    workspace.remove()
                    lock.unlink(missing_ok=True)

    def scratch(self, name: str) -> Path:
        """A new, empty directory for the files of one candidate."""
        path = self.directory / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def known(self, planned: Planned) -> Candidate | None:
        """The candidate as an earlier search left it; None if it is not done, or its files are not as they were."""
        document = self._done.get(planned.name)
        try:
            if document is None or document["recipe"] != planned.recipe.digest:
                return None
            return self._restored(planned, document)
        except (KeyError, TypeError, ValueError, OSError):
            return None

    def keep(self, candidate: Candidate) -> None:
        """Remember that a candidate is done, for a later search."""
        self._done[candidate.planned.name] = _document(candidate, self.directory)
        text = json.dumps({"schema": _SCHEMA, "candidates": self._done}, indent=1)
        temporary = self.directory / f"{_STATE}.new"
        with suppress(OSError):  # the search goes on; only a later one would repeat the candidate
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.directory / _STATE)

    def remove(self) -> None:
        """Remove the directory: the search came to an end."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _read(self) -> None:
        with suppress(OSError, ValueError, TypeError, KeyError):
            document = json.loads((self.directory / _STATE).read_text(encoding="utf-8"))
            if document["schema"] == _SCHEMA:
                self._done = dict(document["candidates"])

    def _restored(self, planned: Planned, document: Mapping[str, Any]) -> Candidate:
        form = None if document["form"] is None else self._form(document["form"])
        self.resumed += 1
        return Candidate(
            planned,
            document["status"],
            document["why"],
            form,
            _value(Judgement, document["judgement"]),
            _speed(document["speed"]),
            document["build_s"],
        )

    def _form(self, document: Mapping[str, Any]) -> Form:
        values = dict(document)
        for path, digest in values.pop("digests").items():
            if files.sha256_of((self.directory / path).read_bytes()) != digest:
                raise ValueError(f"{path} is not as it was")
        values["path"] = self.directory / values["path"]
        values["companions"] = {name: self.directory / path for name, path in values["companions"].items()}
        values["requires"], values["notes"] = tuple(values["requires"]), tuple(values["notes"])
        return Form(**values)


def _document(candidate: Candidate, root: Path) -> dict[str, Any]:
    return {
        "recipe": candidate.planned.recipe.digest,
        "status": candidate.status,
        "why": candidate.why,
        "form": None if candidate.form is None else _form_document(candidate.form, root),
        "judgement": None if candidate.judgement is None else asdict(candidate.judgement),
        "speed": None if candidate.speed is None else asdict(candidate.speed),
        "build_s": candidate.build_s,
    }


def _form_document(form: Form, root: Path) -> dict[str, Any]:
    paths = {path.relative_to(root).as_posix(): path for path in (form.path, *form.companions.values())}
    values = {field.name: getattr(form, field.name) for field in fields(Form)}
    return values | {
        "path": form.path.relative_to(root).as_posix(),
        "companions": {name: path.relative_to(root).as_posix() for name, path in form.companions.items()},
        "digests": {name: files.sha256_of(path.read_bytes()) for name, path in paths.items()},
    }


def _value(kind: type[Judgement], document: Mapping[str, Any] | None) -> Judgement | None:
    return None if document is None else kind(**{**document, "errors": tuple(document["errors"])})


def _speed(document: Mapping[str, Any] | None) -> Speed | None:
    if document is None:
        return None
    curves = {name: {int(rows): ms for rows, ms in document[name].items()} for name in ("p50_ms", "p99_ms")}
    ratio = document["ratio"] and tuple(document["ratio"])
    return Speed(**{**document, **curves, "ratio": ratio})
