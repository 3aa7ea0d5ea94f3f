from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from penstock.toolchain.recipes.training.pruning.heads import prunable_attention, without_heads


@pytest.fixture(params=[True, False], ids=["batch_first", "length_first"])
def attention(request: pytest.FixtureRequest) -> nn.MultiheadAttention:
    """Four heads, of which the first and the third do nothing."""
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(16, 4, batch_first=request.param).eval()
    with torch.no_grad():
        for head in (0, 2):
            layer.out_proj.weight[:, head * 4 : head * 4 + 4] = 0
            for part in range(3):
                layer.in_proj_weight[part * 16 + head * 4 : part * 16 + head * 4 + 4] *= 0.01
    return layer


CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padding": {"key_padding_mask": torch.tensor([[False] * 3, [False, False, True], [False] * 3])},
    "causal": {"attn_mask": torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)},
    "a mask for each head": {"attn_mask": torch.linspace(-1, 1, 108).reshape(12, 3, 3)},
    "every head": {"average_attn_weights": False},
    "no weights": {"need_weights": False},
}


@pytest.mark.parametrize("call", CALLS)
def test_without_heads_that_do_nothing_the_answers_are_the_same(attention: nn.MultiheadAttention, call: str) -> None:
    slim = without_heads(attention, 2)
    query, key = torch.randn(3, 3, 16), torch.randn(3, 3, 16)
    expected, seen = attention(query, key, key, **CALLS[call])
    got, found = slim(query, key, key, **CALLS[call])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    if call in ("plain", "padding"):
        assert found.shape == seen.shape
    if call == "every head":
        torch.testing.assert_close(found, seen[:, [1, 3]], atol=1e-5, rtol=1e-5)


def test_one_text_without_a_batch_is_answered(attention: nn.MultiheadAttention) -> None:
    query = torch.randn(3, 16)
    got, expected = without_heads(attention, 2)(query, query, query)[0], attention(query, query, query)[0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_heads_can_be_removed_twice_and_parameters_become_fewer(attention: nn.MultiheadAttention) -> None:
    twice = without_heads(without_heads(attention, 3), 2)
    query = torch.randn(3, 3, 16)
    torch.testing.assert_close(twice(query, query, query)[0], attention(query, query, query)[0], atol=1e-5, rtol=1e-5)
    assert sum(one.numel() for one in twice.parameters()) == 3 * 8 * 16 + 3 * 8 + 8 * 16 + 16


def test_attention_of_other_widths_is_not_pruned() -> None:
    kinds = [
        nn.MultiheadAttention(8, 2),
        nn.MultiheadAttention(8, 2, kdim=4),
        nn.MultiheadAttention(8, 2, add_bias_kv=True),
    ]
    assert [*prunable_attention(nn.ModuleList(kinds))] == ["0"]
