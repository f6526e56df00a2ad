"""
GPT-2 with Hugging Face's parameter names and orientation, so a state dict needs no translation.

    model = GPT2(PRESETS["gpt2"], dropout=0.0)
    hidden = model(tokens, positions, row_mask(row_ids))     # (B, T, C)
    logits = model.logits(hidden)                            # (B, T, V)

Packed rows do not see each other: a mask, or on a GPU the rows' starts, keep attention inside a row,
and positions begin anew.

Sources: Radford et al. 2019 (the model); transformers' modeling_gpt2.py (names; parity is tested).

B: batch size, T: tokens, P: tokens before these in the cache, C: width, H: heads, V: vocabulary
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct_core.config import LAYER_NORM_EPSILON, ModelConfig

INIT_STD = 0.02
FEW_TOKENS = 32  # below, a product from the weight's side is quicker on a CPU


class Cache:
    """
    Keys and values of the tokens so far, in room that is made once.

    Args:
        model: Whose layers they belong to.
        batch_size: Texts side by side.
        room: Most tokens of a text.
    """

    def __init__(self, model: GPT2, batch_size: int, room: int) -> None:
        config, weight = model.config, model.head_weight
        shape = (batch_size, config.num_heads, room, config.width // config.num_heads)
        # Memory that no token has reached is never touched, so it costs nothing on a CPU.
        self._layers = [(weight.new_empty(shape), weight.new_empty(shape)) for _ in model.blocks]
        self.length = 0  # tokens that all layers have, P

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take T new tokens (B, H, T, C/H) of a layer; return all it has, (B, H, P + T, C/H)."""
        end = self.length + keys.shape[2]
        all_keys, all_values = self._layers[layer]
        all_keys[:, :, self.length : end] = keys
        all_values[:, :, self.length : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def keep(self, texts: Tensor) -> None:
        """Forget all texts but these. (B,)"""
        for layer, pair in enumerate(self._layers):
            keys, values = (self._selected(tensor, texts) for tensor in pair)
            self._layers[layer] = (keys, values)

    def _selected(self, old: Tensor, texts: Tensor) -> Tensor:
        new = old.new_empty((len(texts), *old.shape[1:]))
        new[:, :, : self.length] = old[texts, :, : self.length]
        return new


class RowStarts(NamedTuple):
    """Which rows attention stays in, for a GPU's kernels that take lengths: they skip the rest."""

    starts: Tensor  # of each row in the B x T tokens, and the end; int32. (rows + 1,)
    longest: int  # no row is longer

    @staticmethod
    def suit(config: ModelConfig) -> bool:
        """Return True for heads that the kernels can take."""
        size = config.width // config.num_heads
        return size % 8 == 0 and size <= 256


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
        self.config, self.dropout = config, dropout
        self.transformer = Transformer(config, dropout)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | RowStarts | None,
        cache: Cache | None = None,
    ) -> Tensor:
        """
        Return the last hidden state of every token.

        Args:
            tokens: Ids. (B, T)
            positions: Place of each token in its row. (B, T)
            mask: Where attention may look, (B, 1, T, P + T), or the rows it stays in, which takes
                half precision, no dropout and no cache; or None for plain causal order.
            cache: Keys and values of earlier tokens; this call's are appended to it.
        """
        hidden: Tensor = self.transformer(tokens, positions, mask, cache)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of every next token; the head is the token embedding. (..., V)"""
        return F.linear(hidden, self.head_weight)

    def last_logits(self, hidden: Tensor) -> Tensor:
        """
        Return `logits` of each text's last token. (B, V)

        Args:
            hidden: What `forward` returns. (B, T, C)
        """
        last = hidden[:, -1]
        return _from_weight(last, self.head_weight) if _is_few(last) else self.logits(last)

    def lay_out(self, for_batches: bool) -> None:
        """
        Turn the matrices in memory to the side from which a CPU reads them fastest.

        Steps of one text want them as they are saved, steps of several the other way round. The
        weights stay the same; on a GPU nothing is done.
        """
        for module in self.modules():
            if isinstance(module, Projection) and module.weight.device.type == "cpu":
                module.lay_out(for_batches)

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, first to last."""
        return self.transformer.h

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
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | RowStarts | None,
        cache: Cache | None,
    ) -> Tensor:
        x = self.drop(self.wte(tokens) + self.wpe(positions))
        for layer, block in enumerate(self.h):
            x = block(x, mask, cache, layer)
        if cache is not None:
            cache.length += tokens.shape[1]
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

    def forward(
        self, x: Tensor, mask: Tensor | RowStarts | None, cache: Cache | None, layer: int
    ) -> Tensor:
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

    def forward(
        self, x: Tensor, mask: Tensor | RowStarts | None, cache: Cache | None, layer: int
    ) -> Tensor:
        b, t, c = x.shape
        heads = self.c_attn(x).view(b, t, 3, self.num_heads, c // self.num_heads)
        if isinstance(mask, RowStarts):
            assert cache is None, "a cache takes a mask"
            assert not (self.training and self.dropout), "dropout takes a mask"
            y = _attend_in_rows(heads.flatten(0, 1), mask)  # (B x T, H, C/H)
        else:
            q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, C/H)
            if cache is not None:
                k, v = cache.append(layer, k, v)
            y = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=self.dropout if self.training else 0.0,
                is_causal=mask is None and t > 1,
            ).transpose(1, 2)
        projected: Tensor = self.drop(self.c_proj(y.reshape(b, t, c)))
        return projected


def _attend_in_rows(heads: Tensor, rows: RowStarts) -> Tensor:
    """Return causal attention inside each row. (B x T, 3, H, C/H) -> (B x T, H, C/H)"""
    from torch.nn.attention.varlen import varlen_attn  # takes a second, and is for GPUs

    q, k, v = heads.unbind(1)
    starts, longest = rows
    causal = (-1, 0)
    y = varlen_attn(q, k, v, starts, starts, longest, longest, window_size=causal)
    assert isinstance(y, Tensor)
    return y


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
        if not torch.is_grad_enabled() and self.weight.t().is_contiguous() and _is_few(x):
            return _from_weight(x, self.weight.t()) + self.bias
        return F.linear(x, self.weight.t(), self.bias)

    def lay_out(self, for_batches: bool) -> None:
        """See GPT2.lay_out."""
        weight = self.weight.data
        if for_batches and weight.is_contiguous():
            self.weight.data = weight.t().contiguous().t()
        elif not for_batches:
            self.weight.data = weight.contiguous()


def _is_few(x: Tensor) -> bool:
    """Return True for the step of a small batch on a CPU."""
    return x.device.type == "cpu" and 1 < x[..., 0].numel() <= FEW_TOKENS


def _from_weight(x: Tensor, weight: Tensor) -> Tensor:
    """
    Return F.linear(x, weight) for few rows on a CPU, where this takes about half the time.

    A BLAS goes through a large matrix in strides when few rows meet it from the left; turned round,
    it reads the matrix once and in order. For one row it does so by itself.
    """
    return (weight @ x.flatten(0, -2).t()).t().reshape(*x.shape[:-1], len(weight))
