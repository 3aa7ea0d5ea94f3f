"""Which of an artifact's variants this machine runs: the fastest that passes its golden samples, and why.

One runnable variant is taken as it is. Of several, each is brought up (and so proved) and raced against the best so
far; what came out is remembered for this machine, and from then on only the winner is opened.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from penstock.artifacts.artifact import Artifact, Variant
from penstock.artifacts.golden import Golden
from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.catalog import at_hand, runnable
from penstock.backends.devices import lacking
from penstock.backends.verification import Examples, timed
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.loading.bring_up import Ready, bring_up
from penstock.engine.loading.selection_cache import Effort, Verdict, forget, place_of, remember, remembered
from penstock.errors import IntegrityError, ModelLoadError, UnsupportedFormat, Untrusted
from penstock.tensors import Arrays

log = logging.getLogger(__name__)

CHOICE_BUDGET_S = 2.0
RACE_S = 0.15
"""A race of two variants takes about this long, once for one row and once for a full batch."""
CLEAR = 2.0
"""Times of the warm-up that differ by more than this, for one row and for a full batch, need no race."""
NOISE = 1.1
"""A variant must be this many times as fast as a simpler one, and in three of four runs, to take its place."""

ORDER = ("onnx", "openvino", "torchscript", "pt2", "aoti", "pytorch")
"""From simple to complex: which is tried first, and kept inside the noise."""


@dataclass(frozen=True, slots=True)
class Choosing:
    """How to choose: `variant` by name and no other, else with some `effort`; `directory` is where choices are kept."""

    variant: str | None = None
    effort: Effort = "light"
    directory: Path | None = None


class Chosen(NamedTuple):
    """The variant that is taken, brought up; the verdict on each variant, and what went wrong with better ones.

    `measured` is how many of them were brought up.
    """

    variant: Variant
    ready: Ready
    verdicts: tuple[Verdict, ...]
    failures: tuple[str, ...]
    measured: int = 1


def choose(artifact: Artifact, options: BackendOptions, limits: BatchLimits, how: Choosing) -> Chosen:
    """Bring up the best variant.

    Raises IntegrityError at once for an altered file, else the ModelLoadError of the first variant that failed, or
    UnsupportedFormat when none can be tried here. InvalidInput for a `how.variant` there is not.
    """
    asked, sieved = _sieve(artifact, options, how)
    if how.directory is None or len(asked) < 2 or how.effort == "first":
        return _contest(artifact, options, limits, how, asked, sieved)
    place = place_of(how.directory, artifact, options, limits.batch_rows, asked)
    known = remembered(place, artifact.digest, thorough=how.effort == "all")
    if known is not None:
        chosen = _as_before(artifact, options, limits, asked, known)
        if chosen is not None:
            return chosen
        forget(place)
    chosen = _contest(artifact, options, limits, how, asked, sieved)
    if chosen.measured > 1:
        remember(place, artifact.digest, chosen.verdicts, thorough=how.effort == "all")
    return chosen


def known_verdicts(
    artifact: Artifact, options: BackendOptions, limits: BatchLimits, how: Choosing
) -> tuple[Verdict, ...]:
    """What an earlier choice found, or where there was none what can be said without opening anything."""
    usable, verdicts = _sieve(artifact, options, how)
    if len(usable) > 1 and how.directory is not None:
        known = remembered(place_of(how.directory, artifact, options, limits.batch_rows, usable), artifact.digest)
        if known is not None:
            return known
    first = "the only one that can be tried" if len(usable) == 1 else "tried first; nothing was measured here yet"
    verdicts += [Verdict(variant.name, True, first) for variant in usable[:1]]
    verdicts += [Verdict(variant.name, False, "not measured here yet") for variant in usable[1:]]
    return _in_order(artifact, verdicts)


def _in_order(artifact: Artifact, verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    order = [variant.name for variant in artifact.variants]
    return tuple(sorted(verdicts, key=lambda verdict: order.index(verdict.variant)))


def _sieve(artifact: Artifact, options: BackendOptions, how: Choosing) -> tuple[list[Variant], list[Verdict]]:
    """The variants worth trying, best first, and why the others are not; opens nothing.

    What a caller asked for by name is tried whatever its precision.
    """
    if how.variant is not None:
        wanted = artifact.manifest.variant(how.variant)
        others = [Verdict(v.name, False, f"{wanted.name} was asked for") for v in artifact.variants if v != wanted]
        why = next(_objections(wanted, options, _CHECKS[1:]), None)
        if why is not None:
            raise UnsupportedFormat(f"{artifact.ref}/{wanted.name}: {why}")
        return [wanted], others
    usable: list[Variant] = []
    verdicts: list[Verdict] = []
    for variant in artifact.variants:
        why = next(_objections(variant, options, _CHECKS), None)
        if why is None:
            usable.append(variant)
        else:
            verdicts.append(Verdict(variant.name, False, why))
    return sorted(usable, key=lambda v: (v.precision != options.precision, _place(v.format))), verdicts


def _place(format: str) -> int:
    return ORDER.index(format) if format in ORDER else len(ORDER)


def _other_precision(variant: Variant, options: BackendOptions) -> str | None:
    if variant.precision in (options.precision, "fp32"):
        return None
    return f"its precision is {variant.precision}; {options.precision} was asked for"


def _no_runtime(variant: Variant, _options: BackendOptions) -> str | None:
    return None if runnable(variant.format) else f"nothing here runs {variant.format}; see penstock doctor"


def _other_machine(variant: Variant, _options: BackendOptions) -> str | None:
    missing = lacking(variant.requires)
    return f"it needs {', '.join(missing)}, which this machine does not have" if missing else None


Check = Callable[[Variant, BackendOptions], str | None]
_CHECKS: tuple[Check, ...] = (_other_precision, _no_runtime, _other_machine)


def _objections(variant: Variant, options: BackendOptions, checks: Iterable[Check]) -> Iterator[str]:
    return (why for check in checks if (why := check(variant, options)) is not None)


def _as_before(
    artifact: Artifact, options: BackendOptions, limits: BatchLimits, usable: list[Variant], known: tuple[Verdict, ...]
) -> Chosen | None:
    """What was chosen on an earlier load; None when it is there no longer or fails by now."""
    taken = next((verdict.variant for verdict in known if verdict.taken), None)
    variant = next((variant for variant in usable if variant.name == taken), None)
    if variant is None:
        return None
    try:
        return Chosen(variant, _bring_up(artifact, variant, options, limits), known, ())
    except IntegrityError:
        raise
    except ModelLoadError as error:
        log.warning("%s, which was the fastest before, is not taken now: %s", variant.name, error)
        return None


@dataclass(slots=True)
class _Standing:
    """A contest as it goes: who leads, and what is to be said of the others."""

    leader: Variant | None = None
    ready: Ready | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    failures: list[ModelLoadError] = field(default_factory=list)
    measured: int = 0

    def lose(self, variant: Variant, reason: str) -> None:
        """Note why a variant is not taken."""
        self.verdicts.append(Verdict(variant.name, False, reason))


def _contest(
    artifact: Artifact,
    options: BackendOptions,
    limits: BatchLimits,
    how: Choosing,
    usable: list[Variant],
    sieved: list[Verdict],
) -> Chosen:
    standing = _Standing(verdicts=list(sieved))
    started = time.monotonic()
    for variant in usable:
        why = _not_now(variant, standing, how, time.monotonic() - started)
        if why is not None:
            standing.lose(variant, why)
            continue
        try:
            ready = _bring_up(artifact, variant, options, limits)
        except IntegrityError:
            _close(standing.ready)
            raise
        except ModelLoadError as error:
            _note_failure(standing, variant, error)
            continue
        _enter(standing, variant, ready, artifact.golden)
    return _decided(artifact, standing, len(usable))


def _not_now(variant: Variant, standing: _Standing, how: Choosing, spent_s: float) -> str | None:
    """Why a variant is not even opened, once another one works."""
    if standing.leader is None:
        return None
    if standing.leader.precision != variant.precision:
        return f"{standing.leader.name} is of the precision that was asked for"
    if how.effort == "all":
        return None
    if how.effort == "first":
        return f"{standing.leader.name} is simpler, and nothing was to be measured"
    if not at_hand(variant.format):
        return f"not measured: {variant.format} would bring PyTorch into this process; `models show --try` measures it"
    if spent_s > CHOICE_BUDGET_S:
        return f"not measured: the {CHOICE_BUDGET_S:g} s for choosing were spent; `models show --try` measures it"
    return None


def _note_failure(standing: _Standing, variant: Variant, error: ModelLoadError) -> None:
    standing.lose(variant, str(error))
    standing.failures.append(error)
    if not isinstance(error, Untrusted):  # trust is somebody's decision and no fault to be mended
        log.warning("%s", error)


def _enter(standing: _Standing, variant: Variant, ready: Ready, golden: Callable[[], Golden | None]) -> None:
    """Let a variant that works race the leader; the slower one is closed."""
    leader, best = standing.leader, standing.ready
    standing.measured += 1
    if leader is None or best is None:
        standing.leader, standing.ready = variant, ready
        return
    gain, sure = _gain(best, ready, golden())
    if gain > NOISE and sure:
        best.backend.close()
        standing.lose(leader, f"{gain:.1f} times as slow as {variant.name} ({_times(best)})")
        standing.leader, standing.ready = variant, ready
        return
    ready.backend.close()
    slower = f"{1 / gain:.1f} times as slow as {leader.name}" if gain < 1 / NOISE else f"no faster than {leader.name}"
    standing.lose(variant, f"{slower} ({_times(ready)})")


def _decided(artifact: Artifact, standing: _Standing, tried: int) -> Chosen:
    if standing.leader is None or standing.ready is None:
        if standing.failures:
            raise standing.failures[0]
        reasons = "; ".join(f"{verdict.variant}: {verdict.reason}" for verdict in standing.verdicts)
        raise UnsupportedFormat(f"{artifact.ref}: this machine runs none of its variants ({reasons})")
    several = f"the fastest of {standing.measured}" if standing.measured > 1 else "the first that works"
    how = "the only one that can be tried" if tried == 1 else several
    taken = Verdict(standing.leader.name, True, f"{how} ({_times(standing.ready)})")
    loud = tuple(str(failure) for failure in standing.failures if not isinstance(failure, Untrusted))
    return Chosen(
        standing.leader, standing.ready, _in_order(artifact, [taken, *standing.verdicts]), loud, standing.measured
    )


def _times(ready: Ready) -> str:
    full = max(ready.timings)
    return f"{ready.one_row_s * 1e3:.3g} ms for {min(ready.timings)}, {ready.full_s * 1e3:.3g} ms for {full} rows"


def _close(ready: Ready | None) -> None:
    if ready is not None:
        ready.backend.close()


def _bring_up(artifact: Artifact, variant: Variant, options: BackendOptions, limits: BatchLimits) -> Ready:
    artifact.verify(variant)
    file = ModelFile(
        artifact.variant_path(variant), artifact.signature, variant.architecture, variant.architecture_args
    )
    if options.precision == "int8":  # a variant holds it or does not: no runtime makes it at load
        options = replace(options, precision="fp32")
    return bring_up(variant.format, file, options, limits, artifact.golden(), f"{artifact.ref}/{variant.name}")


# Racing


def _gain(holder: Ready, challenger: Ready, golden: Golden | None) -> tuple[float, bool]:
    """How many times as fast `challenger` is, over one row and a full batch alike; and whether it mostly was."""
    shares = challenger.runners / holder.runners
    one_row, full = holder.one_row_s / challenger.one_row_s, holder.full_s / challenger.full_s * shares
    if min(one_row, full) > CLEAR or max(one_row, full) < 1 / CLEAR:
        return math.sqrt(one_row * full), True
    examples = Examples(holder.backend, holder.backend.signature, golden)
    one = _race(holder, challenger, examples.of(min(holder.timings)))
    many = _race(holder, challenger, examples.of(max(holder.timings)))
    return math.sqrt(one.gain * many.gain * shares), (one.won + many.won) / 2 >= 0.75


class _Race(NamedTuple):
    gain: float
    won: float
    """The part of the runs that the challenger won."""


def _race(holder: Ready, challenger: Ready, inputs: Arrays) -> _Race:
    """Run the two in turn, so that what else the machine does meets both."""
    pairs: list[tuple[float, float]] = []
    until = time.monotonic() + RACE_S
    while not pairs or (time.monotonic() < until and len(pairs) < 1000):
        pairs.append((timed(holder.backend, inputs), timed(challenger.backend, inputs)))
    held, challenged = (statistics.median(times) for times in zip(*pairs, strict=True))
    return _Race(held / challenged, sum(b < a for a, b in pairs) / len(pairs))
