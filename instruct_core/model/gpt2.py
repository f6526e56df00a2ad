"""
GPT-2 with Hugging Face's parameter names and orientation, so a state dict needs no translation.

    model = GPT2(PRESETS["gpt2"], dropout=0.0)
    hidden = model(tokens, positions, row_mask(row_ids))     # (B, T, C)
    logits = model.logits(hidden)                            # (B, T, V)

Packed rows do not see each other: a mask, or on a GPU the rows' starts, keep attention inside a row,
and positions begin anew.

Sources: Radford et al. 2019 (the model); transformers' modeling_gpt2.py (names; parity is tested).

B: batch size, T: tokens, C: width, H: heads, V: vocabulary
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct_core.config import LAYER_NORM_EPSILON, ModelConfig
from instruct_core.model.attention import RowStarts, attend
from instruct_core.model.cache import Cache
from instruct_core.model.family import Blocks, Model, empty_embedding


class GPT2(Model):
    """The model; see Model for what it takes and returns. Its head is the token embedding."""

    norms = ".ln_"
    adds_to_stream = ("c_proj.weight",)

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__(config, dropout)
        self.transformer = Transformer(config, dropout)

    @property
    def trunk(self) -> nn.Module:
        """See Model."""
        return self.transformer

    @property
    def blocks(self) -> Blocks:
        """The layers, first to last."""
        return self.transformer.h

    @property
    def head_weight(self) -> Tensor:
        """The output head, which is the token embedding. (V, C)"""
        return self.transformer.wte.weight


class Transformer(nn.Module):
    """Embeddings, blocks and the last norm, under the names of the checkpoint."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.wte = empty_embedding(config.vocab_size, config.width)
        self.wpe = empty_embedding(config.max_seq_len, config.width)
        self.drop = nn.Dropout(dropout)
        self.h = Blocks(Block(config, dropout) for _ in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | RowStarts | None,
        cache: Cache | None,
    ) -> Tensor:
        x = self.h(self.drop(self.wte(tokens) + self.wpe(positions)), mask, cache)
        normed: Tensor = self.ln_f(x)
        return normed


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)
        self.attn = Attention(config, dropout)
        self.ln_2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)
        self.mlp = MLP(config, dropout)

    def forward(
        self, x: Tensor, mask: Tensor | RowStarts | None, cache: Cache | None, layer: int
    ) -> Tensor:
        seen = self.attn(self.ln_1(x), mask, cache, layer)
        x = (x if cache is None else cache.asked(layer, x)) + seen
        after_mlp: Tensor = x + self.mlp(self.ln_2(x))
        return after_mlp


class Attention(nn.Module):
    """Multi-head attention: every head has keys and values of its own."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.c_attn = Projection(config.width, 3 * config.width)
        self.c_proj = Projection(config.width, config.width)
        self.dropout = dropout
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | RowStarts | None, cache: Cache | None, layer: int
    ) -> Tensor:
        b, t, c = x.shape
        heads = self.c_attn(x).view(b, t, 3, self.num_heads, c // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, C/H)
        if cache is not None:
            assert mask is None, "a cache knows where its texts may look"
            y = cache.attend(layer, q, k, v)
        else:
            y = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        projected: Tensor = self.drop(self.c_proj(y.flatten(2)))
        return projected


class MLP(nn.Module):
    """Four times wider, with the tanh form of GELU."""

    activated = "c_fc"

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.c_fc = Projection(config.width, 4 * config.width)
        self.act = nn.GELU(approximate="tanh")
        self.c_proj = Projection(4 * config.width, config.width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        mlp: Tensor = self.drop(self.c_proj(self.act(self.c_fc(x))))
        return mlp


class Projection(nn.Module):
    """A linear layer whose weight lies as GPT-2's checkpoints have it: (inputs, outputs)."""

    fan_in_fan_out = True  # PEFT's word for it

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.t(), self.bias)
