from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch

from penstock_hydraulics.learning.models.export import example_inputs
from penstock_hydraulics.learning.models.gnn import FAR, OUTPUTS, Architecture, Diagnosis, GATv2, UniversalTemporalGNN
from penstock_hydraulics.machine.states import ANOMALIES, HEADS
from penstock_hydraulics.machine.topology import KINDS

SMALL = Architecture(width=16, attention_heads=2)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def diagnosis() -> Diagnosis:
    return Diagnosis([UniversalTemporalGNN(SMALL), UniversalTemporalGNN(SMALL)], (0.5, 1.0, 1.5, 2.0)).eval()


def _padded(inputs: tuple[torch.Tensor, ...], nodes: int) -> tuple[torch.Tensor, ...]:
    """The same machines in a larger tensor."""
    *features, adjacency, kinds = inputs
    more = nodes - kinds.shape[1]
    wider = [torch.cat([value, torch.zeros(len(value), more, *value.shape[2:])], dim=1) for value in features]
    square = torch.nn.functional.pad(adjacency, (0, more, 0, more))
    return (*wider, square, torch.nn.functional.pad(kinds, (0, more)))


def _answers(diagnosis: Diagnosis, inputs: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {name: value.numpy() for name, value in zip(OUTPUTS, diagnosis(*inputs), strict=True)}


def test_the_attention_equals_torch_geometric():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch_geometric compiles with torch.jit.script
        nn = pytest.importorskip("torch_geometric.nn", reason="torch-geometric is not installed")
    ours, nodes = GATv2(16, 4), torch.randn(2, 9, 16)
    theirs = nn.GATv2Conv(16, 4, heads=4)
    torch.nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    edges = [*pairwise(range(9)), (0, 8), (2, 6)]
    adjacency = torch.eye(9)
    for first, second in edges:
        adjacency[first, second] = adjacency[second, first] = 1.0
    both_ways = torch.tensor(edges + [(second, first) for first, second in edges]).T
    mixed = ours(nodes, (adjacency[None].expand(2, -1, -1) - 1.0) * FAR)
    for machine in range(2):
        torch.testing.assert_close(mixed[machine], theirs(nodes[machine], both_ways), atol=1e-6, rtol=1e-5)


def test_padding_changes_no_answer(diagnosis):
    inputs = example_inputs(3, 8)
    alone, wide = _answers(diagnosis, inputs), _answers(diagnosis, _padded(inputs, 32))
    real = inputs[-1].numpy() > 0
    for name in ("health", "degradation", "anomalies"):
        assert wide[name] == pytest.approx(alone[name], abs=1e-5)
    for name in ("levels", "component_health"):
        assert wide[name][:, :8][real] == pytest.approx(alone[name][real], abs=1e-5)


def test_batched_answers_equal_single_answers(diagnosis):
    inputs = example_inputs(5, 16)
    together = _answers(diagnosis, inputs)
    for place in range(5):
        alone = _answers(diagnosis, tuple(value[place : place + 1] for value in inputs))
        for name in OUTPUTS:
            assert alone[name][0] == pytest.approx(together[name][place], abs=1e-5)


def test_the_order_of_the_components_does_not_matter(diagnosis):
    signals, statistics, present, adjacency, kinds = example_inputs(1, 8)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    turned = (
        signals[:, order],
        statistics[:, order],
        present[:, order],
        adjacency[:, order][:, :, order],
        kinds[:, order],
    )
    before = _answers(diagnosis, (signals, statistics, present, adjacency, kinds))
    after = _answers(diagnosis, turned)
    assert after["levels"] == pytest.approx(before["levels"][:, order.numpy()], abs=1e-5)
    assert after["health"] == pytest.approx(before["health"], abs=1e-5)


def test_the_answers_are_probabilities_and_health_lies_between_0_and_1(diagnosis):
    answers = _answers(diagnosis, example_inputs(4, 16))
    for head in HEADS:
        assert answers["levels"][..., head.columns].sum(axis=-1) == pytest.approx(np.ones((4, 16)), abs=1e-5)
    for name in OUTPUTS:
        assert np.isfinite(answers[name]).all()
        assert answers[name].min() >= 0
        assert answers[name].max() <= 1


def test_health_follows_from_the_levels_of_the_components_that_have_a_state(diagnosis):
    inputs = example_inputs(1, 12)
    answers = _answers(diagnosis, inputs)
    stated = []
    for head in HEADS:
        node = inputs[-1][0].tolist().index(KINDS.index(head.kind) + 1)
        stated.append(1 - float(answers["levels"][0, node, head.columns] @ head.severities))
        assert answers["component_health"][0, node] == pytest.approx(stated[-1], abs=1e-5)
    assert answers["health"][0] == pytest.approx(0.5 * min(stated) + 0.5 * np.mean(stated), abs=1e-5)


def test_the_worst_pump_carries_the_probability_of_leakage(diagnosis):
    inputs = list(example_inputs(1, 8))
    inputs[-1] = torch.tensor([[1, 3, 1, 6, 7, 2, 8, 0]])  # two pumps, and no cooler
    levels, *_, anomalies = _answers(diagnosis, tuple(inputs)).values()
    leaking = levels[0, [0, 2], 8:10].sum(axis=-1).max()
    assert anomalies[0, ANOMALIES.index("leakage")] == pytest.approx(leaking, abs=1e-6)


def test_temperature_softens_or_sharpens_but_keeps_the_best_level():
    network = UniversalTemporalGNN(SMALL).eval()
    inputs = example_inputs(2, 8)
    plain, soft = (_answers(Diagnosis([network], (t,) * 4).eval(), inputs)["levels"] for t in (1.0, 3.0))
    for head in HEADS:
        assert (plain[..., head.columns].argmax(-1) == soft[..., head.columns].argmax(-1)).all()
        assert (plain[..., head.columns].max(-1) >= soft[..., head.columns].max(-1)).all()


def test_without_edges_the_adjacency_has_no_effect():
    network = UniversalTemporalGNN(Architecture(width=16, attention_heads=2, edges=False)).eval()
    *inputs, adjacency, kinds = example_inputs(1, 8)
    unreachable = torch.eye(8)[None]
    with torch.inference_mode():
        torch.testing.assert_close(
            network(*inputs, adjacency, kinds).levels, network(*inputs, unreachable, kinds).levels
        )


def test_information_of_a_neighbour_reaches_a_component_without_sensors():
    network = UniversalTemporalGNN(SMALL).eval()
    *inputs, adjacency, kinds = example_inputs(1, 8)
    inputs[2][0, 1] = inputs[0][0, 1] = inputs[1][0, 1] = 0.0
    with torch.inference_mode():
        with_edges = network(*inputs, adjacency, kinds).levels[0, 1]
        inputs[0][0, 0] += 1.0
        inputs[2][0, 0] = 1.0
        assert (network(*inputs, adjacency, kinds).levels[0, 1] - with_edges).abs().max() > 1e-4
