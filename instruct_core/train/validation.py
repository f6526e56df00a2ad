"""
Validation loss and sample answers, the same at every evaluation of a run.

    loss = validation_loss(model, reader, device, micro_batch_size=8, stop=stop)

The whole validation split is read, each row once over all ranks, and the loss is weighted by
tokens; so it does not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress

import numpy as np
import torch

from instruct_core import ranks
from instruct_core.answers.generation import Generated, generate
from instruct_core.data.batches import MicroBatch, SampleReader, without_loss
from instruct_core.data.shards import ShardSet
from instruct_core.data.templates import end_ids
from instruct_core.errors import NonFiniteError
from instruct_core.shape import usable_positions
from instruct_core.train.compiler import eagerly
from instruct_core.train.loss import WithLoss, on_device
from instruct_core.train.progress import SampleAnswer
from instruct_core.train.sharding import let_go

NUM_SAMPLES = 3
SAMPLE_TOKENS = 48
REFERENCE_TOKENS = 256  # of a reference that are shown
NOTHING = Generated([], "stopped")
FIRST = np.zeros(1, np.uint64)  # sequences


@torch.no_grad()
def validation_loss(
    model: WithLoss,
    reader: SampleReader,
    device: torch.device,
    micro_batch_size: int,
    autocast: AbstractContextManager[None],
    stop: Callable[[], bool],
    in_parts: bool = False,
) -> float | None:
    """Return the mean loss per token, or None where a rank asked to stop meanwhile."""
    model.eval()
    # In float64 the sum of the micro-batches stays exact; a GPU adds them up without being waited for.
    total, num_tokens = torch.zeros((), dtype=torch.float64, device=device), 0
    try:
        for batch in _share(reader, micro_batch_size, in_parts):
            if ranks.any_rank(stop()):
                return None
            if batch is not None:
                with autocast:
                    total += model(*on_device(batch, device))
                num_tokens += batch.num_loss_tokens
    finally:
        model.train()
        if in_parts:
            let_go(model)
    loss_sum, tokens_of_all = ranks.sum_over_ranks([total.item(), num_tokens])
    return loss_sum / max(1.0, tokens_of_all)


def _share(
    reader: SampleReader, micro_batch_size: int, in_parts: bool
) -> Iterator[MicroBatch | None]:
    """Yield this rank's micro-batches; where only others still have one, None, or one without loss."""
    stride = ranks.world_size() * micro_batch_size
    for start in range(0, len(reader), stride):
        first = start + ranks.rank() * micro_batch_size
        sequences = np.arange(first, min(first + micro_batch_size, len(reader)), dtype=np.uint64)
        if len(sequences):
            yield reader.micro_batch(sequences)
        else:
            yield without_loss(reader.micro_batch(FIRST)) if in_parts else None


def sample_answers(model: WithLoss, rows: ShardSet, stop: Callable[[], bool]) -> list[SampleAnswer]:
    """Return the model's answers to a few prompts of the validation split."""
    tokenizer = rows.tokenizer
    model.eval()
    samples = []
    for row in rows.drawn(NUM_SAMPLES):
        positions = usable_positions(model.model.config)
        room = positions - min(SAMPLE_TOKENS, positions // 2)
        start, end = (int(place) for place in rows.spans(row)[0])
        prompt: Sequence[int] = rows.tokens(row, 0, min(start, room)).tolist()
        # The last token of an answer is end-of-text.
        length = min(end - start - 1, REFERENCE_TOKENS)
        reference = tokenizer.decode(rows.tokens(row, start, length).tolist())
        answer = NOTHING
        # A model of no numbers has no answer; that the run ends is the business of its losses.
        with eagerly(), suppress(NonFiniteError):  # compiled, every length would be another graph
            [answer] = generate(
                model.model,
                [prompt],
                max_new_tokens=SAMPLE_TOKENS,
                on_token=lambda text, token: not stop(),
                end_ids=end_ids(rows.template, tokenizer),
            )
        words = (tokenizer.decode(prompt), reference, tokenizer.decode(answer.tokens))
        samples.append(SampleAnswer(*(text.strip() for text in words)))
    model.train()
    return samples
