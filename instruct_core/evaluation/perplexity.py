"""
How likely a model finds the rows of a split: mean loss per token, over all and over responses.

    losses = split_losses(model, rows, packing)
    losses.response.mean, losses.response.perplexity          # 2.31, 10.07

Both numbers come from one pass. Rows are packed as they are for training and do not see each
other, so the result is that of every row on its own; one that is longer than a sequence is read in
pieces, as in training. The end-of-text token counts as the last token of a response.
Perplexity is exp(mean loss): it compares models of one tokenizer only.

B: sequences of a forward, T: seq_len, C: width, V: vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from instruct_core.data.batches import IGNORED, SampleReader
from instruct_core.data.packing import Packing
from instruct_core.data.shards import ShardSet
from instruct_core.errors import NonFiniteError
from instruct_core.model.family import Model
from instruct_core.train.loss import on_device, summed_loss, where_to_look

BATCH_TOKENS = 4096  # of one forward: few enough that a progress bar moves on a CPU
MAX_MEAN_LOSS = 700.0  # exp of more overflows; chance is 10.8


class MeanLoss(NamedTuple):
    """A loss in nats per token, and over how many tokens it was taken."""

    mean: float
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """Between how many tokens the model is as good as undecided."""
        return math.exp(self.mean)


class SplitLosses(NamedTuple):
    """Losses over every token that follows another in its row, and over responses alone."""

    all: MeanLoss
    response: MeanLoss


@torch.no_grad()
def split_losses(
    model: Model,
    rows: ShardSet,
    packing: Packing,
    on_sequences: Callable[[int], None] = lambda count: None,
) -> SplitLosses:
    """
    Return a model's losses over all rows of a split.

    Args:
        model: In eval mode; its device is used.
        rows: The split.
        packing: Of all its rows, into sequences that the model has positions for.
        on_sequences: Told how many sequences were done, after each forward.

    Raises:
        NonFiniteError: The model's loss is no number that a perplexity could be made of.
    """
    everything = SampleReader(rows, packing, "all")
    responses = SampleReader(rows, packing, "response")
    batch_size = max(1, BATCH_TOKENS // packing.seq_len)
    sums, counts = [0.0, 0.0], [0, 0]  # of prompts, of responses
    for start in range(0, len(everything), batch_size):
        sequences = np.arange(start, min(start + batch_size, len(everything)), dtype=np.uint64)
        batch = everything.micro_batch(sequences)
        is_response = responses.micro_batch(sequences).targets != IGNORED
        is_prompt = (batch.targets != IGNORED) & ~is_response
        inputs = on_device(batch, model.head_weight.device)
        where = where_to_look(model, inputs.row_ids, inputs.row_starts)
        hidden = model(inputs.tokens, inputs.positions, where)
        # Apart, and padding left out: every target meets the head once, the largest matrix.
        for kind, chosen in enumerate((is_prompt, is_response)):
            sums[kind] += _loss_at(
                hidden, model.head_weight, inputs.targets, torch.from_numpy(chosen)
            )
            counts[kind] += int(chosen.sum())
        on_sequences(len(sequences))
    return SplitLosses(_mean(sum(sums), sum(counts)), _mean(sums[1], counts[1]))


def _loss_at(hidden: Tensor, head: Tensor, targets: Tensor, chosen: Tensor) -> float:
    """Return the summed loss of the chosen targets, if any. (B, T, C), (V, C), (B, T), (B, T)"""
    if not chosen.any():  # as of prompts in the middle of a long answer
        return 0.0
    chosen = chosen.to(hidden.device)
    return summed_loss(hidden[chosen][None], head, targets[chosen][None]).item()


def _mean(total: float, num_tokens: int) -> MeanLoss:
    mean = total / max(1, num_tokens)
    if not mean < MAX_MEAN_LOSS:
        raise NonFiniteError(
            f"The model's loss per token must be a number below {MAX_MEAN_LOSS:.0f}, got {mean}: its "
            "weights are broken. Evaluate another checkpoint."
        )
    return MeanLoss(mean, num_tokens)
