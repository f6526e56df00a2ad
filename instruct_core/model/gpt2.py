"""
GPT-2 with Hugging Face's parameter names and orientation, so a state dict needs no translation.

    model = GPT2(PRESETS["gpt2"], dropout=0.0)
    hidden = model(tokens, positions, row_mask(row_ids))     # (B, T, C)
    logits = model.logits(hidden)                            # (B, T, V)

Packed rows do not see each other: the mask keeps attention inside a row and positions begin anew.

Sources: Radford et al. 2019 (the model); transformers' modeling_gpt2.py (names; parity is tested).

B: micro-batch size, T: tokens, P: tokens before these in the cache, C: width, H: heads, V: vocabulary
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct_core.config import ModelConfig

INIT_STD = 0.02
LAYER_NORM_EPSILON = 1e-5

Cache = list[tuple[Tensor, Tensor]]  # per layer: keys and values, each (B, H, P, C/H)


def row_mask(row_ids: Tensor) -> Tensor:
    """Return (B, 1, T, T), True where a token may look: at itself and before, inside its row."""
    same_row = row_ids[:, None, :, None] == row_ids[:, None, None, :]
    return same_row.tril()


class GPT2(nn.Module):
    """
    The model without a loss. Its weights are not set: load them, or call `initialize`.

    Args:
        config: Its shape.
        dropout: Probability on embeddings, attention and residual branches while training.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config, dropout)

    def forward(
        self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        """
        Return the last hidden state of every token.

        Args:
            tokens: Ids. (B, T)
            positions: Place of each token in its row. (B, T)
            mask: Where attention may look, or None for plain causal order. (B, 1, T, P + T)
            cache: Keys and values of earlier tokens; this call's are appended to it.
        """
        hidden: Tensor = self.transformer(tokens, positions, mask, cache)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of every next token; the head is the token embedding. (..., V)"""
        return F.linear(hidden, self.head_weight)

    @property
    def head_weight(self) -> Tensor:
        """The output head, which is the token embedding. (V, C)"""
        return self.transformer.wte.weight

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw fresh weights; the same seed gives the same ones on every machine."""
        generator = torch.Generator().manual_seed(seed)
        residual_std = INIT_STD / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif ".ln_" in name:
                parameter.fill_(1.0)
            else:
                std = residual_std if name.endswith("c_proj.weight") else INIT_STD
                parameter.normal_(0.0, std, generator=generator)


class Transformer(nn.Module):
    """Embeddings, blocks and the last norm, under the names of the checkpoint."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.wte = _embedding(config.vocab_size, config.width)
        self.wpe = _embedding(config.max_seq_len, config.width)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(config, dropout) for _ in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)

    def forward(
        self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        x = self.drop(self.wte(tokens) + self.wpe(positions))
        for layer, block in enumerate(self.h):
            x = block(x, mask, cache, layer)
        normed: Tensor = self.ln_f(x)
        return normed


def _embedding(rows: int, width: int) -> nn.Embedding:
    """Return an embedding that is not drawn yet: weights are loaded, or drawn by `initialize`."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)
        self.attn = Attention(config, dropout)
        self.ln_2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)
        self.mlp = MLP(config, dropout)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        x = x + self.attn(self.ln_1(x), mask, cache, layer)
        after_mlp: Tensor = x + self.mlp(self.ln_2(x))
        return after_mlp


class Attention(nn.Module):
    """Multi-head attention through torch's scaled_dot_product_attention."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.c_attn = Projection(config.width, 3 * config.width)
        self.c_proj = Projection(config.width, config.width)
        self.dropout = dropout
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        b, t, c = x.shape
        heads = self.c_attn(x).view(b, t, 3, self.num_heads, c // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, C/H)
        if cache is not None:
            if layer < len(cache):
                k, v = (torch.cat(pair, dim=2) for pair in zip(cache[layer], (k, v), strict=True))
                cache[layer] = (k, v)
            else:
                cache.append((k, v))
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None and t > 1,
        )
        projected: Tensor = self.drop(self.c_proj(y.transpose(1, 2).reshape(b, t, c)))
        return projected


class MLP(nn.Module):
    """Four times wider, with the tanh form of GELU."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.c_fc = Projection(config.width, 4 * config.width)
        self.c_proj = Projection(4 * config.width, config.width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        mlp: Tensor = self.drop(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))
        return mlp


class Projection(nn.Module):
    """A linear layer whose weight lies as GPT-2's checkpoints have it: (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.t(), self.bias)
