"""On a CPU attention goes row by row, which comes to what a mask does and never computes the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from instruct_core.config import PRESETS
from instruct_core.data.batches import IGNORED, MicroBatch
from instruct_core.model.attention import RowStarts
from instruct_core.model.families import build
from instruct_core.model.family import Model
from instruct_core.train.loss import Inputs, WithLoss, on_device, where_to_look

CPU = torch.device("cpu")
SEQ_LEN = 48
PACKED = ((20, 1, 17, 10), (48,), (30, 18))
WHOLE = ((48,), (48,))


def model_of(name: str, dropout: float = 0.0) -> Model:
    model = build(PRESETS[name], dropout)
    model.initialize(1)
    return model


def micro_batch(lengths: Sequence[Sequence[int]], seed: int = 1) -> MicroBatch:
    """Return sequences of rows of these lengths; the last of a sequence is padding."""
    tokens = np.random.default_rng(seed).integers(0, 50257, (len(lengths), SEQ_LEN + 1))
    positions = [np.concatenate([np.arange(length) for length in rows]) for rows in lengths]
    row_ids = [np.repeat(np.arange(len(rows)), rows) for rows in lengths]
    targets = tokens[:, 1:].copy()
    targets[np.array(positions) == 0] = IGNORED
    ids = np.array(row_ids, dtype=np.int32)
    return MicroBatch(tokens[:, :-1], targets, np.array(positions), ids)


def loss_and_gradient(model: Model, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    loss = WithLoss(model)(*inputs)
    loss.backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss.detach(), torch.cat(grads)


@pytest.mark.parametrize("lengths", [PACKED, WHOLE])
@pytest.mark.parametrize("name", ["tiny", "tiny-llama"])
def test_rows_have_the_loss_and_gradients_that_a_mask_gives(
    name: str, lengths: Sequence[Sequence[int]]
) -> None:
    model, inputs = model_of(name), on_device(micro_batch(lengths), CPU)
    assert isinstance(where_to_look(model, inputs.row_ids, inputs.row_starts), RowStarts)

    loss, gradient = loss_and_gradient(model, inputs)

    by_mask, masked_gradient = loss_and_gradient(model, inputs._replace(row_starts=None))
    assert torch.allclose(loss, by_mask, rtol=1e-6)
    assert (gradient - masked_gradient).norm() < 1e-5 * masked_gradient.norm()


@torch.no_grad()
def test_row_does_not_see_what_stands_beside_it() -> None:
    model, batch = model_of("tiny-llama"), micro_batch(PACKED)
    inputs, there = on_device(batch, CPU), batch.row_ids == 2
    other = torch.where(torch.from_numpy(there), inputs.tokens, inputs.tokens.flip(1))

    states = [
        model(tokens, inputs.positions, where_to_look(model, inputs.row_ids, inputs.row_starts))
        for tokens in (inputs.tokens, other)
    ]

    assert torch.equal(states[0][there], states[1][there])
    assert not torch.equal(states[0][~there], states[1][~there])


def test_what_is_compiled_and_what_drops_weights_of_attention_has_a_mask() -> None:
    inputs = on_device(micro_batch(PACKED), CPU)
    where = inputs.row_ids, inputs.row_starts

    assert isinstance(where_to_look(model_of("tiny"), *where, compiled=True), torch.Tensor)
    dropping = model_of("tiny", dropout=0.1)
    assert isinstance(where_to_look(dropping.train(), *where), torch.Tensor)
    assert isinstance(where_to_look(dropping.eval(), *where), RowStarts)
