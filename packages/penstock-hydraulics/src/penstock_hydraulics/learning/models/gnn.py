"""`UniversalTemporalGNN`: one network for any topology of up to 64 components and any subset of their sensors.

Plain PyTorch on dense tensors: with at most 64 nodes, masked N×N attention is cheaper than sparse attention and exports
to ONNX with dynamic B and N. B is the batch size, N the number of nodes including padding, C the channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock_hydraulics.machine.states import ANOMALIES, HEADS, LEVELS, SUPERVISED
from penstock_hydraulics.machine.topology import KINDS
from penstock_hydraulics.signals.features import CHANNELS, STATISTICS, STEPS

FAR: Final = 1e4  # subtracted from masked scores: e^-10000 is 0 in every precision
OUTPUTS: Final = ("levels", "component_health", "health", "degradation", "anomalies")
_PATCH: Final = 5  # seconds per step of the temporal encoder, a divisor of STEPS


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a network. Without `edges` a component attends only to itself and the pooled machine."""

    width: int = 48
    attention_heads: int = 4
    layers: int = 2
    dropout: float = 0.1
    edges: bool = True


class Logits(NamedTuple):
    """Outputs of the network before calibration."""

    levels: Tensor  # [B, N, LEVELS] all states at every node; only the state of the node's kind is trained
    health: Tensor  # [B, N] health of components
    degradation: Tensor  # [B]
    anomalies: Tensor  # [B, ANOMALIES]


class GATv2(nn.Module):
    """Graph attention with dynamic scores (Brody, Alon and Yahav, ICLR 2022, eq. 7), dense and masked.

    Parameters have the names and shapes of torch-geometric's `GATv2Conv`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.lin_l = nn.Linear(width, width)
        self.lin_r = nn.Linear(width, width)
        self.att = nn.Parameter(torch.empty(1, heads, width // heads))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.xavier_uniform_(self.att)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """[B, N, width] from nodes [B, N, width] and mask [B, N, N], 0 where i attends to j and -FAR elsewhere."""
        shape = (*nodes.shape[:2], self.heads, -1)
        sources = self.lin_l(nodes).view(shape)
        targets = self.lin_r(nodes).view(shape)
        pairs = functional.leaky_relu(targets[:, :, None] + sources[:, None], 0.2)
        scores = (pairs * self.att).sum(dim=-1) + mask[..., None]
        weights = scores.softmax(dim=2)
        mixed = (weights.permute(0, 3, 1, 2) @ sources.permute(0, 2, 1, 3)).permute(0, 2, 1, 3)
        answer: Tensor = mixed.reshape(nodes.shape) + self.bias
        return answer


class TemporalEncoder(nn.Module):
    """Encodes one component's window: convolutions over the signals, and an MLP over the statistics.

    Both get the component's kind and the mask of its channels, since all components share the weights.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels, patches = len(CHANNELS), STEPS // _PATCH
        self.kind = nn.Embedding(len(KINDS) + 1, 16)
        self.patches = nn.Conv1d(channels, width, _PATCH, stride=_PATCH, bias=False)
        self.context = nn.Linear(16 + channels, width)
        self.mixing = nn.Conv1d(width, width, 3, padding=1)
        self.signals = nn.Linear(width * patches, width)
        self.statistics = nn.Sequential(
            nn.Linear(channels * STATISTICS + channels + 16, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.together = nn.Linear(2 * width + 16, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, signals: Tensor, statistics: Tensor, present: Tensor, kinds: Tensor) -> Tensor:
        """[M, width] of M components: signals [M, C, STEPS], statistics [M, C, STATISTICS], present [M, C]."""
        kind = self.kind(kinds)
        context = torch.cat([kind, present], dim=-1)
        moves = functional.gelu(self.patches(signals) + self.context(context)[..., None])
        moves = functional.gelu(self.mixing(moves) + moves)
        found = self.statistics(torch.cat([statistics.flatten(1), context], dim=-1))
        together = torch.cat([self.signals(moves.flatten(1)), found, kind], dim=-1)
        normal: Tensor = self.norm(self.together(functional.gelu(together)))
        return normal


class UniversalTemporalGNN(nn.Module):
    """Temporal encoder, graph attention, and heads for components and machine."""

    def __init__(self, architecture: Architecture | None = None) -> None:
        super().__init__()
        self.architecture = architecture = architecture or Architecture()
        width = architecture.width
        self.encoder = TemporalEncoder(width)
        self.attention = nn.ModuleList(GATv2(width, architecture.attention_heads) for _ in range(architecture.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(architecture.layers))
        self.dropout = nn.Dropout(architecture.dropout)
        self.component = nn.Sequential(
            nn.Linear(4 * width, 2 * width),
            nn.GELU(),
            nn.Dropout(architecture.dropout),
            nn.Linear(2 * width, LEVELS + 1),
        )
        self.machine = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1 + len(ANOMALIES)))

    def forward(self, signals: Tensor, statistics: Tensor, present: Tensor, adjacency: Tensor, kinds: Tensor) -> Logits:
        """Takes the inputs of `features.encode`; nodes of kind 0 are padding and have no effect."""
        batch, count = signals.shape[0], signals.shape[1]
        own = self.encoder(signals.flatten(0, 1), statistics.flatten(0, 1), present.flatten(0, 1), kinds.flatten())
        own = own.view(batch, count, self.architecture.width)
        nodes = self._message_passing(own, adjacency)
        real = (kinds > 0).to(nodes.dtype)[..., None]
        mean = (nodes * real).sum(dim=1) / real.sum(dim=1).clamp(min=1.0)
        highest = (nodes - FAR * (1.0 - real)).amax(dim=1)
        pooled = torch.cat([mean, highest], dim=-1)
        everywhere = pooled[:, None].expand(-1, count, -1)
        component = self.component(torch.cat([own, nodes, everywhere], dim=-1))
        machine = self.machine(pooled)
        return Logits(component[..., :LEVELS], component[..., LEVELS], machine[:, 0], machine[:, 1:])

    def _message_passing(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """The nodes after all attention layers."""
        if not self.architecture.edges:
            adjacency = adjacency * torch.eye(adjacency.shape[-1], device=adjacency.device)
        mask = (adjacency - 1.0) * FAR
        for attention, norm in zip(self.attention, self.norms, strict=True):
            nodes = norm(nodes + self.dropout(functional.gelu(attention(nodes, mask))))
        return nodes


class Diagnosis(nn.Module):
    """The served graph: mean probabilities of the networks, calibrated.

    `temperatures` divide the logits of the states, one for each of `HEADS`.
    """

    sharpness: Tensor
    level_of_head: Tensor
    severities: Tensor
    faulty: Tensor
    anomaly_of_head: Tensor
    head_of_kind: Tensor

    def __init__(self, networks: list[UniversalTemporalGNN], temperatures: tuple[float, ...] | None = None) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        divisors = torch.tensor(temperatures or (1.0,) * len(HEADS))
        self.register_buffer("sharpness", 1.0 / (_level_of_head() @ divisors))  # [LEVELS]
        self.register_buffer("level_of_head", _level_of_head())
        self.register_buffer("severities", _severities())
        self.register_buffer("faulty", _faulty())
        self.register_buffer("anomaly_of_head", _anomaly_of_head())
        self.register_buffer("head_of_kind", _head_of_kind())

    def forward(
        self, signals: Tensor, statistics: Tensor, present: Tensor, adjacency: Tensor, kinds: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The five `OUTPUTS`: probabilities by level and component, and the values derived from them."""
        answers = [network(signals, statistics, present, adjacency, kinds) for network in self.networks]
        levels = self._levels(torch.stack([answer.levels for answer in answers]))
        own = torch.stack([answer.health.sigmoid() for answer in answers]).mean(dim=0)
        stated = self.head_of_kind[kinds]
        has_state = stated.sum(dim=-1)
        severity = ((levels @ self.severities) * stated).sum(dim=-1)
        component = torch.where(has_state > 0, 1.0 - severity, own) * (kinds > 0)
        degradation = torch.stack([answer.degradation.sigmoid() for answer in answers]).mean(dim=0)
        machine = torch.stack([answer.anomalies.sigmoid() for answer in answers]).mean(dim=0)
        health = _machine_health(component, has_state, (kinds > 0).to(levels.dtype))
        return levels, component, health, degradation, self._anomalies(levels, stated, machine)

    def _levels(self, logits: Tensor) -> Tensor:
        """[B, N, LEVELS] from logits [networks, B, N, LEVELS]: softmax of each state, averaged, then scaled."""
        blocks = [logits[..., head.columns].softmax(dim=-1) for head in HEADS]
        mean = torch.cat(blocks, dim=-1).mean(dim=0)
        tempered = (mean.clamp(min=1e-9).log() * self.sharpness).exp()
        return tempered / (tempered @ self.level_of_head @ self.level_of_head.T)

    def _anomalies(self, levels: Tensor, stated: Tensor, machine: Tensor) -> Tensor:
        """[B, ANOMALIES] The highest component's probability if a state defines the anomaly, else the machine's head.

        `levels` [B, N, LEVELS], `stated` [B, N, HEADS], `machine` [B, ANOMALIES].
        """
        worst = ((levels @ self.faulty) * stated).amax(dim=1)
        carried = stated.amax(dim=1) @ self.anomaly_of_head
        return torch.where(carried > 0, worst @ self.anomaly_of_head, machine)


def _machine_health(component: Tensor, has_state: Tensor, real: Tensor) -> Tensor:
    """[B] Half the worst, half the mean of the components with a state; of all components if none has one."""
    any_state = has_state.sum(dim=1, keepdim=True) > 0
    counted = torch.where(any_state, has_state, real)
    mean = (component * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1.0)
    return 0.5 * (component + FAR * (1.0 - counted)).amin(dim=1) + 0.5 * mean


def _level_of_head() -> Tensor:
    """[LEVELS, HEADS] 1 where a level belongs to the state."""
    table = torch.zeros(LEVELS, len(HEADS))
    for place, head in enumerate(HEADS):
        table[head.columns, place] = 1.0
    return table


def _faulty() -> Tensor:
    """[LEVELS, HEADS] 1 for the levels that count as an anomaly."""
    table = torch.zeros(LEVELS, len(HEADS))
    for found in SUPERVISED:
        table[found.columns, HEADS.index(found.head)] = 1.0
    return table


def _anomaly_of_head() -> Tensor:
    """[HEADS, ANOMALIES] 1 where a state defines the anomaly."""
    table = torch.zeros(len(HEADS), len(ANOMALIES))
    for found in SUPERVISED:
        table[HEADS.index(found.head), ANOMALIES.index(found.anomaly)] = 1.0
    return table


def _severities() -> Tensor:
    """[LEVELS, HEADS] Severity of each level in the column of its state."""
    table = torch.zeros(LEVELS, len(HEADS))
    for place, head in enumerate(HEADS):
        table[head.columns, place] = torch.from_numpy(head.severities)
    return table


def _head_of_kind() -> Tensor:
    """[kinds + 1, HEADS] 1 where a kind of component has the state."""
    table = torch.zeros(len(KINDS) + 1, len(HEADS))
    for place, head in enumerate(HEADS):
        table[KINDS.index(head.kind) + 1, place] = 1.0
    return table
