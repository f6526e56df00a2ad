"""
What the rest of the project knows of a model, whichever family it is of, and what families share.

    hidden = model(tokens, positions, row_mask(row_ids))        # (B, T, C)
    loss = summed_loss(hidden, model.head_weight, targets)
    hidden = model(tokens, cache.begin([tokens.shape[1]]), None, cache)     # see cache.py

A family is a file of its own beside this one (gpt2.py, llama.py): its module, under the names of
Hugging Face's checkpoints. families.py finds it by `model_type`.

B: batch size, T: tokens, C: width, V: vocabulary
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from instruct_core.model.attention import RowStarts
from instruct_core.model.cache import Cache
from instruct_core.shape import Shape

INIT_STD = 0.02


class Recording(NamedTuple):
    """A step of generation that can be made again, with what is in its inputs by then."""

    repeat: Callable[[], None]
    result: Tensor  # is written by each repetition


Recorder = Callable[[Callable[[], Tensor]], Recording]


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
        self.recorder: Recorder | None = None  # of steps of generation, see step.py

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
            mask: Where attention may look, (B, 1, T, T), or the rows it stays in, which takes no dropout
                and, on a GPU, half precision; or None for plain causal order, or for what a cache knows.
            cache: Keys and values of earlier tokens, which was told of this call; its own are appended to
                it, and of what would be returned only each text's last token is, (B, 1, C).
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
