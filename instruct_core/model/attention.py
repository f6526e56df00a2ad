"""
Causal attention through torch's kernels, with rows that are packed into a sequence kept apart.

    mask = row_mask(row_ids)                 # or RowStarts, which no work is lost with
    y = attend(q, k, v, mask)                # (B, T, H, D)

B: batch size, T: tokens, P: tokens that are looked at, H: heads, G: heads with keys and values,
D: numbers of a head
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from instruct_core.shape import Shape


class RowStarts(NamedTuple):
    """Which rows attention stays in, by where they start: nothing is computed outside of them."""

    starts: Tensor  # of each row in the B x T tokens, and the end; int32. (rows + 1,)
    longest: int  # no row is longer

    @staticmethod
    def suit(config: Shape) -> bool:
        """Return True for heads that a GPU's kernels can take."""
        return config.head_dim % 8 == 0 and config.head_dim <= 256


def row_mask(row_ids: Tensor) -> Tensor:
    """Return (B, 1, T, T), True where a token may look: at itself and before, inside its row."""
    same_row = row_ids[:, None, :, None] == row_ids[:, None, None, :]
    return same_row.tril()


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | RowStarts | None,
    dropout: float = 0.0,
) -> Tensor:
    """
    Return causal attention through torch's kernels. (B, T, H, D)

    Args:
        q: Queries. (B, H, T, D)
        k: Keys. (B, G, P, D)
        v: Values. (B, G, P, D)
        mask: See Model.
        dropout: Probability on the weights of attention.
    """
    if isinstance(mask, RowStarts):
        assert not dropout, "dropout takes a mask"
        return (_attend_in_rows if q.is_cuda else _attend_row_by_row)(q, k, v, mask)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None and q.shape[2] > 1,
        enable_gqa=q.shape[1] != k.shape[1],
    ).transpose(1, 2)


def attend_from_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return `attend` of one token, for each head one product with all keys and one with all values."""
    (b, h, _, d), g = q.shape, k.shape[1]
    scores = q.view(b, g, h // g, d) @ k.mT  # (B, G, H / G, P)
    scores *= 1 / math.sqrt(d)
    if mask is not None:
        scores.masked_fill_(~mask, -math.inf)
    return (scores.softmax(-1) @ v).view(b, 1, h, d)


def _attend_row_by_row(q: Tensor, k: Tensor, v: Tensor, rows: RowStarts) -> Tensor:
    lengths = np.diff(rows.starts.numpy()).tolist()
    if len(lengths) == len(q):
        return attend(q, k, v, None)  # every sequence is one row
    in_rows = (torch.split(_in_turn(x)[None], lengths, dim=1) for x in (q, k, v))
    y = []
    for row in zip(*in_rows, strict=True):
        queries, keys, values = (x.transpose(1, 2) for x in row)
        y.append(attend(queries, keys, values, None))
    return torch.cat(y, dim=1).view(*q.transpose(1, 2).shape)


def _in_turn(x: Tensor) -> Tensor:
    """Return all tokens of a micro-batch one after the other. (B, H, T, D) -> (B x T, H, D)"""
    return x.transpose(1, 2).flatten(0, 1)


def _attend_in_rows(q: Tensor, k: Tensor, v: Tensor, rows: RowStarts) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # takes a second, and is for GPUs

    starts, longest = rows
    grouped: Any = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
    shape, causal = q.transpose(1, 2).shape, (-1, 0)
    q, k, v = _in_turn(q), _in_turn(k), _in_turn(v)
    y = varlen_attn(q, k, v, starts, starts, longest, longest, window_size=causal, **grouped)
    assert isinstance(y, Tensor)
    return y.view(*shape)
