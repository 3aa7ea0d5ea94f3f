"""The models that the caller of a request reaches; a lease on any other is refused.

Only the model that is leased counts: the one that an alias, a route or a field of the body has led to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from fnmatch import translate

from penstock.artifacts.refs import listed
from penstock.errors import Forbidden, quoted

MOST_KNOWN = 1024


class AllowedModels:
    """Patterns of names, or of `name:version`, where `*` and `?` stand for anything and `[…]` for one of several."""

    def __init__(self, caller: str, patterns: Sequence[str]) -> None:
        """`caller` is who is limited to them, as a part of a sentence."""
        self.label = ",".join(patterns)
        """The same for two callers that reach the same models."""
        self._caller = caller
        self._patterns = tuple(patterns)
        self._names = _matching(pattern.partition(":")[0] for pattern in patterns)
        self._versions = _matching(p if ":" in p else f"{p}:*" for p in patterns)
        self._known: dict[tuple[str, str], bool] = {}

    def allows(self, name: str, version: str) -> bool:
        """True for a version that one of the patterns matches."""
        known = self._known.get((name, version))
        if known is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            known = self._known[name, version] = self._versions.fullmatch(f"{name}:{version}") is not None
        return known

    def allows_name(self, name: str) -> bool:
        """True if some version of the model may be reached."""
        return self._names.fullmatch(name) is not None

    def check(self, name: str, version: str) -> None:
        """Raises Forbidden naming the model."""
        if not self.allows(name, version):
            raise self._refusal(f"{name}:{version}")

    def check_name(self, name: str) -> None:
        """Raises Forbidden naming the model if no version of it may be reached, so that it is not even loaded."""
        if not self.allows_name(name):
            raise self._refusal(quoted(name))

    def _refusal(self, model: str) -> Forbidden:
        return Forbidden(
            f"{self._caller} does not reach the model {model}, only {listed(self._patterns)}; an administrator can "
            "make a key that does"
        )


allowed_models: ContextVar[AllowedModels | None] = ContextVar("penstock-allowed-models", default=None)
"""Set where a request is answered; None for a caller that reaches every model."""


def _matching(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(translate(pattern) for pattern in patterns))
