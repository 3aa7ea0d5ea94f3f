"""Windows as tensors: model inputs, labels and weights, and their augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from penstock_hydraulics.learning.data.recordings import RIG, ROWS, Integers, Recordings
from penstock_hydraulics.machine.states import ANOMALIES, HEADS, SUPERVISED, equipment_health
from penstock_hydraulics.machine.topology import KINDS, Topology
from penstock_hydraulics.signals.features import INPUTS, Float, Layout, Row, Scale, Scales, encode_all

UNKNOWN: Final = -1
"""An unlabelled level; unlabelled real numbers are NaN."""

_QUANTITY: Final = torch.tensor([0, 1, 2, 3, 4, 1, 1])  # quantity of each of CHANNELS
_PUMP: Final = KINDS.index("pump") + 1
_FEW: Final = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])  # pressure, temperature and vibration of the pump
_SOME: Final = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0])  # plus flow and power


@dataclass(frozen=True)
class Windows:
    """n windows of one topology with P nodes: inputs of `features.encode`, then labels.

    `adjacency` [1, P, P] and `kinds` [1, P] are shared. Labels: `levels` [n, P] is the ordinal level (0 best) of the
    state of the node's kind, `health` [n, P], `degradation` [n], `anomalies` [n, ANOMALIES]. `weights` [n] are the
    sample weights.
    """

    signals: Tensor
    statistics: Tensor
    present: Tensor
    adjacency: Tensor
    kinds: Tensor
    levels: Tensor
    health: Tensor
    degradation: Tensor
    anomalies: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.signals)

    def take(self, rows: Tensor) -> Windows:
        """The windows at `rows`."""
        shared = {"adjacency": self.adjacency, "kinds": self.kinds}
        own = {name: value[rows] for name, value in vars(self).items() if name not in shared}
        return Windows(**own, **shared)

    def inputs(self) -> tuple[Tensor, ...]:
        """The five arguments of a network, in order."""
        spread = replace(
            self,
            adjacency=self.adjacency.expand(len(self), -1, -1),
            kinds=self.kinds.expand(len(self), -1),
        )
        return tuple(getattr(spread, name) for name in INPUTS)

    def without(self, kept: Tensor) -> Windows:
        """Keep only the channels where `kept` [n, P, C] is 1."""
        present = self.present * kept
        mask = present[..., None]
        return replace(self, signals=self.signals * mask, statistics=self.statistics * mask, present=present)


@dataclass(frozen=True, slots=True)
class Variation:
    """Augmentation of training windows: share of windows with sensor dropout, and noise in standard deviations."""

    sensor_dropout: float = 0.3
    noise: float = 0.02

    def of(self, windows: Windows, generator: torch.Generator) -> Windows:
        """One augmented version of every window."""
        signals, statistics = windows.signals, windows.statistics
        if self.noise:
            signals = signals + self.noise * torch.randn(signals.shape, generator=generator)
            statistics = statistics + self.noise * torch.randn(statistics.shape, generator=generator)
        noisy = replace(windows, signals=signals, statistics=statistics)
        return noisy.without(self._kept(windows, generator))

    def _kept(self, windows: Windows, generator: torch.Generator) -> Tensor:
        """[n, P, C] 1 for kept channels: most windows whole, some with gaps, some with the pump's sensors only."""
        count, nodes = windows.present.shape[:2]
        quantities = int(_QUANTITY.max()) + 1
        draw = torch.rand(count, generator=generator)
        gaps = 0.6 * torch.rand(count, 1, 1, generator=generator)
        kept = (torch.rand(count, nodes, quantities, generator=generator) >= gaps).float()
        pump = (windows.kinds == _PUMP).float()[..., None]
        share = self.sensor_dropout
        kept = torch.where((draw < share)[:, None, None], kept, 1.0)
        kept = torch.where((draw < 0.5 * share)[:, None, None], pump * _FEW, kept)
        kept = torch.where((draw < 0.25 * share)[:, None, None], pump * _SOME, kept)
        channels = kept[..., _QUANTITY]
        slow = (torch.rand(count, generator=generator) < share / 2)[:, None]  # flows at 1 Hz have no extremes
        channels[..., 5:] = torch.where(slow[..., None], 0.0, channels[..., 5:])
        return channels


@dataclass(frozen=True)
class Machine:
    """Unscaled windows of one machine: `readings` [n, rows, STEPS] and labels as in `Windows`, without padding.

    `tabled` machines get a scale for every step of their work cycle.
    """

    topology: Topology
    rows: tuple[Row, ...]
    readings: Float
    levels: Integers
    health: Float
    degradation: Float
    anomalies: Float
    weights: Float
    tabled: bool = True

    def windows(self, scales: Scales) -> Windows:
        """Encoded and padded."""
        layout = Layout.make(self.topology, self.rows, scales)
        inputs = {name: torch.from_numpy(np.array(value)) for name, value in encode_all(self.readings, layout).items()}
        inputs["present"] = inputs["present"].expand(len(self.readings), -1, -1)
        blank = ((0, 0), (0, layout.size - len(self.topology.components)))
        return Windows(
            **inputs,
            levels=torch.from_numpy(np.pad(self.levels, blank, constant_values=UNKNOWN)),
            health=torch.from_numpy(np.pad(self.health, blank, constant_values=np.nan)),
            degradation=torch.from_numpy(self.degradation),
            anomalies=torch.from_numpy(self.anomalies),
            weights=torch.from_numpy(self.weights),
        )


def scales_of(machines: Sequence[Machine]) -> Scales:
    """Scales by component and step for tabled machines, and constant scales by kind over all machines."""
    tables: dict[str, dict[str, Scale]] = {}
    pooled: dict[str, list[Float]] = {}
    for machine in machines:
        for place, (node, channel) in enumerate(machine.rows):
            component, values = machine.topology.components[node], machine.readings[:, place]
            pooled.setdefault(f"{component.kind}.{channel}", []).append(values)
            if machine.tabled:
                tables.setdefault(machine.topology.name, {})[f"{component.id}.{channel}"] = Scale.of(values)
    return Scales(tables, {key: Scale.flat(np.concatenate(values)) for key, values in sorted(pooled.items())})


def recorded_machine(recordings: Recordings, unsettled: float = 1.0) -> Machine:
    """The rig. Components without a labelled state had no faults and count as healthy.

    `unsettled` is the weight of cycles in which its temperatures were still changing.
    """
    count, nodes = len(recordings), len(RIG.components)
    levels = np.full((count, nodes), UNKNOWN, np.int64)
    health = np.ones((count, nodes), np.float32)
    for place, head in enumerate(HEADS):
        node = next(node for node, component in enumerate(RIG.components) if component.kind == head.kind)
        levels[:, node] = recordings.labels[:, place]
        health[:, node] = 1.0 - head.severities[recordings.labels[:, place]]
    health_with_state = health[:, (levels >= 0).all(axis=0)]
    return Machine(
        topology=RIG,
        rows=ROWS,
        readings=recordings.readings,
        levels=levels,
        health=health,
        degradation=np.array([1.0 - equipment_health(row) for row in health_with_state], np.float32),
        anomalies=_labelled_anomalies(recordings),
        weights=np.where(recordings.settled, 1.0, unsettled).astype(np.float32),
    )


def _labelled_anomalies(recordings: Recordings) -> Float:
    anomalies = np.full((len(recordings), len(ANOMALIES)), np.nan, np.float32)
    for found in SUPERVISED:
        level = recordings.labels[:, HEADS.index(found.head)]
        anomalies[:, ANOMALIES.index(found.anomaly)] = level >= found.first
    return anomalies
