"""Attention with fewer heads: whole heads of `nn.MultiheadAttention` removed.

PyTorch's class ties the width of its heads to that of the model, so the smaller layer is one of its own.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def prunable_attention(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The attention layers whose heads can be removed, by name."""
    from torch import nn

    return {
        name: layer
        for name, layer in module.named_modules()
        if (type(layer) is nn.MultiheadAttention and _plain(layer)) or isinstance(layer, _slim_attention())
    }


def _plain(layer: torch.nn.MultiheadAttention) -> bool:
    # `_qkv_same_embed_dim`: query, key and value have one width, in one matrix
    same = bool(layer._qkv_same_embed_dim)
    return same and layer.bias_k is None and not layer.add_zero_attn


def without_heads(layer: Any, keep: int) -> torch.nn.Module:
    """The layer with its `keep` heads of the largest weights."""
    import torch

    heads = torch.sort(torch.topk(head_sizes(layer), keep).indices).values
    make: Any = _slim_attention()
    slim: torch.nn.Module = make(layer, heads)
    return slim.train(layer.training)


def head_sizes(layer: Any) -> torch.Tensor:
    """The L2 norm of each head's weights, in and out."""
    heads, width = layer.num_heads, layer.head_dim
    into = layer.in_proj_weight.detach().reshape(3, heads, -1).square().sum(dim=(0, 2))
    out = layer.out_proj.weight.detach().reshape(-1, heads, width).square().sum(dim=(0, 2))
    size: torch.Tensor = (into + out).sqrt()
    return size


@cache
def _slim_attention() -> type[torch.nn.Module]:
    from torch import Tensor, nn
    from torch.nn import functional

    class SlimAttention(nn.Module):
        """`nn.MultiheadAttention` whose heads together may be narrower than the model."""

        # encoder layers look at these to choose their fused kernel, which needs heads as wide as the model
        _qkv_same_embed_dim = False
        bias_k = bias_v = None

        def __init__(self, layer: Any, heads: Tensor) -> None:
            super().__init__()
            self.num_heads, self.head_dim = len(heads), layer.head_dim
            self.embed_dim, self.dropout, self.batch_first = layer.embed_dim, layer.dropout, layer.batch_first
            before = getattr(layer, "kept", list(range(layer.num_heads)))
            self.kept = [before[head] for head in heads.tolist()]
            _take_weights(self, layer, heads)

        def forward(
            self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
            need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
            is_causal: bool = False,  # noqa: ARG002 (the mask says it)
        ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
            single = query.ndim == 2
            parts = [one.unsqueeze(0) if single else one for one in (query, key, value)]
            if not self.batch_first and not single:
                parts = [one.transpose(0, 1) for one in parts]
            query, key, value = _projected(self, parts)
            mask = _one_mask(query, key_padding_mask, attn_mask, self.kept)
            dropout = self.dropout if self.training else 0.0
            if need_weights:
                out, seen = _attend(query, key, value, mask, dropout)
            else:
                out, seen = functional.scaled_dot_product_attention(query, key, value, mask, dropout), None
            project: nn.Linear = self.get_submodule("out_proj")  # type: ignore[assignment]
            out = project(out.transpose(1, 2).flatten(2))
            if not self.batch_first and not single:
                out = out.transpose(0, 1)
            if seen is not None and average_attn_weights:
                seen = seen.mean(dim=1)
            if single:
                return out.squeeze(0), None if seen is None else seen.squeeze(0)
            return out, seen

    return SlimAttention


def _take_weights(slim: Any, layer: Any, heads: torch.Tensor) -> None:
    """Copy the weights of the heads that stay."""
    import torch
    from torch import nn

    def chosen(tensor: torch.Tensor, rows: torch.Tensor, axis: int = 0) -> nn.Parameter:
        return nn.Parameter(tensor.detach().index_select(axis, rows).clone(), tensor.requires_grad)

    columns = (heads[:, None] * layer.head_dim + torch.arange(layer.head_dim)).reshape(-1)
    rows = torch.cat([columns + part * layer.num_heads * layer.head_dim for part in range(3)])
    slim.in_proj_weight = chosen(layer.in_proj_weight, rows)
    slim.in_proj_bias = None if layer.in_proj_bias is None else chosen(layer.in_proj_bias, rows)
    slim.out_proj = nn.Linear(len(columns), layer.embed_dim, bias=layer.out_proj.bias is not None)
    slim.out_proj.weight = chosen(layer.out_proj.weight, columns, axis=1)
    if layer.out_proj.bias is not None:
        slim.out_proj.bias = chosen(layer.out_proj.bias, torch.arange(layer.embed_dim))


def _projected(slim: Any, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Query, key and value as [rows, heads, length, width of a head]."""
    from torch.nn import functional

    weights = slim.in_proj_weight.chunk(3)
    biases = (None, None, None) if slim.in_proj_bias is None else slim.in_proj_bias.chunk(3)
    return [
        functional.linear(one, weight, bias).reshape(*one.shape[:2], slim.num_heads, slim.head_dim).transpose(1, 2)
        for one, weight, bias in zip(parts, weights, biases, strict=True)
    ]


def _one_mask(
    query: torch.Tensor, padding: torch.Tensor | None, mask: torch.Tensor | None, kept: list[int]
) -> torch.Tensor | None:
    """Both masks as one to add to the scores, [rows, heads or 1, length, length]; `kept` of the heads there were."""
    total = None if mask is None else _additive(mask, query.dtype)
    if total is not None and total.ndim == 3:
        total = total.reshape(query.shape[0], -1, *total.shape[1:])[:, kept]
    if padding is None:
        return total
    padded = _additive(padding, query.dtype).reshape(-1, 1, 1, padding.shape[-1])
    return padded if total is None else total + padded


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    import torch

    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, dropout: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs and the weights of each head."""
    import torch

    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    seen = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    seen = torch.dropout(seen, dropout, train=dropout > 0)
    return seen @ value, seen
