"""Losses of a split are those of its rows one by one, whatever they are packed with."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from instruct_core.config import PRESETS
from instruct_core.data.packing import pack
from instruct_core.data.shards import ShardSet
from instruct_core.errors import NonFiniteError
from instruct_core.evaluation import perplexity as module
from instruct_core.evaluation.perplexity import MeanLoss, split_losses
from instruct_core.model.gpt2 import GPT2
from instruct_core.storage.store import Store


@pytest.fixture
def rows(shard_set: Path) -> ShardSet:
    return ShardSet(Store(shard_set), "val")


@pytest.fixture
def model() -> GPT2:
    model = GPT2(PRESETS["tiny"])
    model.initialize(seed=5)
    with torch.no_grad():  # so that it matters what a token can see
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model.eval()


@torch.no_grad()
def plain_losses(model: GPT2, rows: ShardSet) -> tuple[float, float]:
    """Return the mean losses of all tokens and of responses, from all logits of one row a time."""
    losses, of_responses = [], []
    for row, length in enumerate(rows.lengths().tolist()):
        tokens = torch.tensor(rows.tokens(row, 0, length).tolist())
        hidden = model(tokens[None], torch.arange(length)[None], None)
        loss = F.cross_entropy(model.logits(hidden)[0, :-1], tokens[1:], reduction="none")
        losses += loss.tolist()
        of_responses += loss[rows.spans(row)[0, 0] - 1 :].tolist()
    return math.fsum(losses) / len(losses), math.fsum(of_responses) / len(of_responses)


def test_sequence_of_an_answer_alone_or_of_a_prompt_alone_is_measured(
    rows: ShardSet, model: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing = pack(rows.lengths(), 8, seed=1)
    together = split_losses(model, rows, packing)
    monkeypatch.setattr(module, "BATCH_TOKENS", 1)

    one_by_one = split_losses(model, rows, packing)

    for one, other in zip(one_by_one, together, strict=True):
        assert one.num_tokens == other.num_tokens > 0
        assert one.mean == pytest.approx(other.mean, abs=1e-5)


@pytest.mark.parametrize(("seq_len", "batch_tokens"), [(64, 1), (128, 400), (512, 4096)])
def test_losses_equal_those_of_rows_one_by_one(
    rows: ShardSet,
    model: GPT2,
    seq_len: int,
    batch_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BATCH_TOKENS", batch_tokens)
    lengths = rows.lengths()
    assert lengths.max() <= seq_len, "a row that is cut does not see all of itself"

    losses = split_losses(model, rows, pack(lengths, seq_len, seed=3))

    everything, response = plain_losses(model, rows)
    assert losses.all.mean == pytest.approx(everything, rel=1e-4)
    assert losses.response.mean == pytest.approx(response, rel=1e-4)
    assert abs(everything - response) > 1e-2, "the two kinds must differ to be told apart"
    assert losses.response.perplexity == pytest.approx(math.exp(response), rel=1e-3)


def test_every_token_after_the_first_of_its_row_counts_once(rows: ShardSet, model: GPT2) -> None:
    losses = split_losses(model, rows, pack(rows.lengths(), 128, seed=3))

    lengths = rows.lengths()
    responses = [lengths[row] - rows.spans(row)[0, 0] for row in range(len(rows))]
    assert losses.all.num_tokens == lengths.sum() - len(rows)
    assert losses.response.num_tokens == sum(responses)


def test_progress_is_told_in_sequences(rows: ShardSet, model: GPT2) -> None:
    packing, told = pack(rows.lengths(), 64, seed=3), list[int]()

    split_losses(model, rows, packing, told.append)

    assert sum(told) == packing.num_sequences


@pytest.mark.parametrize("weight", [math.nan, 1e6])
def test_broken_weights_have_no_perplexity(rows: ShardSet, model: GPT2, weight: float) -> None:
    with torch.no_grad():
        model.head_weight.mul_(weight)

    with pytest.raises(NonFiniteError, match="its weights are broken"):
        split_losses(model, rows, pack(rows.lengths(), 64, seed=3))


def test_perplexity_of_an_even_guess_is_the_number_of_choices() -> None:
    assert MeanLoss(math.log(50257), 1).perplexity == pytest.approx(50257)
