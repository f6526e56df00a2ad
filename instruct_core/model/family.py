"""
What the rest of the project knows of a model, whichever family it is of, and what families share.

    hidden = model(tokens, positions, row_mask(row_ids))        # (B, T, C)
    loss = summed_loss(hidden, model.head_weight, targets)
    cache = Cache(model, batch_size=1, room=512)
    hidden = model(tokens, positions, None, cache)

A family is a file of its own beside this one (gpt2.py, llama.py): its module, under the names of
Hugging Face's checkpoints. families.py finds it by `model_type`.

B: batch size, T: tokens, P: tokens before these in the cache, C: width, H: heads, G: heads with keys
and values, D: numbers of a head, V: vocabulary
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from instruct_core.model.attention import RowStarts, attend, attend_from_one
from instruct_core.shape import Shape

INIT_STD = 0.02


class Cache:
    """
    Keys and values of the tokens so far, in room that is made once, and attention over them.

    A model's first call with it takes the prompts, each later one a token. Of the last layer only the
    last token is computed: nothing else is asked of it.

    Args:
        model: Whose layers they belong to.
        batch_size: Texts side by side.
        room: Most tokens of a text.
    """

    def __init__(self, model: Model, batch_size: int, room: int) -> None:
        config, self._weight = model.config, model.head_weight
        self._sizes = (config.num_kv_heads, room, config.head_dim)
        self._layers = [self._empty(batch_size) for _ in model.blocks]
        self.length = 0  # tokens that all layers have, P

    def _empty(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return room for keys and values, each (B, G, room, D)."""
        heads, room, size = self._sizes
        # Memory that no token has reached is never touched, so it costs nothing on a CPU.
        keys, values = (self._weight.new_empty((batch_size, heads, room, size)) for _ in range(2))
        if keys.device.type == "cpu":  # which is quicker where each number's keys lie side by side
            keys = keys.view(batch_size, heads, size, room).mT
        return keys, values

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | RowStarts | None
    ) -> Tensor:
        """
        Take T new tokens of a layer; return what they see, of the last layer the last token alone.

        Args:
            layer: Its number.
            q: Queries. (B, H, T, D)
            k: Keys. (B, G, T, D)
            v: Values. (B, G, T, D)
            mask: Where they may look, or None for causal order. (B, 1, T, P + T)

        Returns:
            (B, T, H, D); of the last layer (B, 1, H, D).
        """
        assert not isinstance(mask, RowStarts), "rows that are packed have no cache"
        end = self.length + k.shape[2]
        keys, values = self._layers[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        if layer == len(self._layers) - 1:
            q, mask = q[:, :, -1:], None if mask is None else mask[:, :, -1:]
        if q.shape[2] > 1:
            assert not self.length, "several tokens at once are prompts, with nothing before them"
            return attend(q, k, v, mask)
        one = attend_from_one if q.device.type == "cpu" else attend
        return one(q, keys[:, :, :end], values[:, :, :end], mask)

    def keep(self, texts: Tensor) -> None:
        """Forget all texts but these. (B,)"""
        for layer, olds in enumerate(self._layers):
            self._layers[layer] = news = self._empty(len(texts))
            for new, old in zip(news, olds, strict=True):
                new[:, :, : self.length] = old[texts, :, : self.length]


class Blocks(nn.ModuleList):
    """
    The layers of a model, first to last.

    With activation checkpointing (Chen et al. 2016, arXiv 1604.06174) each keeps what enters it, and no
    more: its backward computes it again, with the draws of the first time, so every bit is the same.
    """

    are_recomputed = False

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        """
        Return what leaves the last of them. (B, T, C)

        Args:
            x: What enters the first. (B, T, C)
            others: What all of them take beside it; last each takes its number.
        """
        again = self.are_recomputed and torch.is_grad_enabled()
        for layer, block in enumerate(self):
            if again:
                x = checkpoint(
                    block, x, *others, layer, use_reentrant=False, preserve_rng_state=True
                )
            else:
                x = block(x, *others, layer)
        return x


class Model(nn.Module, ABC):
    """
    A model without a loss. Its weights are not set: load them, or call `initialize`.

    Args:
        config: Its shape.
        dropout: Probability on embeddings, attention and residual branches while training.
    """

    norms: ClassVar[str]  # what names of the weights of norms have in them
    adds_to_stream: ClassVar[tuple[str, ...]]  # how those of residual branches end

    def __init__(self, config: Shape, dropout: float) -> None:
        super().__init__()
        self.config, self.dropout = config, dropout
        self.answering_head: nn.Module | None = None  # a packed one, see packed.py

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
                no dropout, no cache and, on a GPU, half precision; or None for plain causal order.
            cache: Keys and values of earlier tokens; this call's are appended to it, and of what would
                be returned only the last token's is, (B, 1, C).
        """
        hidden: Tensor = self.trunk(tokens, positions, mask, cache)
        return hidden

    @property
    @abstractmethod
    def trunk(self) -> nn.Module:
        """All but the head; takes what `forward` takes."""

    @property
    @abstractmethod
    def blocks(self) -> Blocks:
        """The layers, first to last."""

    @property
    @abstractmethod
    def head_weight(self) -> Tensor:
        """The weight of the output head. (V, C)"""

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw fresh weights; the same seed gives the same ones on every machine."""
        generator = torch.Generator().manual_seed(seed)
        residual_std = INIT_STD / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif self.norms in name:
                parameter.fill_(1.0)
            else:
                std = residual_std if name.endswith(self.adds_to_stream) else INIT_STD
                parameter.normal_(0.0, std, generator=generator)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of every next token. (..., V)"""
        return F.linear(hidden, self.head_weight)

    def last_logits(self, hidden: Tensor) -> Tensor:
        """
        Return `logits` of each text's last token. (B, V)

        Args:
            hidden: What `forward` returns. (B, T, C)
        """
        last = hidden[:, -1]
        if self.answering_head is None:
            return self.logits(last)
        scores: Tensor = self.answering_head(last)
        return scores


def empty_embedding(rows: int, width: int) -> nn.Embedding:
    """Return an embedding that is not drawn yet: weights are loaded, or drawn by `initialize`."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


def misfit(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """Return in words the first name whose shapes differ, as weights have them; "" where all fit."""
    if expected == found:
        return ""
    name = sorted({name for name, _ in expected.items() ^ found.items()})[0]
    return f"{name} has shape {found.get(name, 'none')}, expected {expected.get(name, 'none')}"
