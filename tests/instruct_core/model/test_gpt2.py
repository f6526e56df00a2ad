"""The model is Hugging Face's GPT-2, and packed rows do not see each other."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen
from transformers import GPT2LMHeadModel

from instruct_core.config import PRESETS
from instruct_core.data.batches import SampleReader, row_starts
from instruct_core.data.packing import pack
from instruct_core.data.shards import ShardSet
from instruct_core.model import attention
from instruct_core.model.attention import RowStarts, row_mask
from instruct_core.model.gpt2 import GPT2
from instruct_core.storage.store import Store
from tests.instruct_core.conftest import SHAPE


@torch.no_grad()
def test_logits_equal_transformers(model: GPT2, reference: GPT2LMHeadModel) -> None:
    tokens = torch.randint(0, 50257, (2, 100), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(100).expand(2, 100)

    ours = model.logits(model(tokens, positions, None))

    assert (ours - reference(tokens).logits).abs().max() < 1e-5 * ours.abs().max()


@torch.no_grad()
def test_packed_row_has_the_logits_it_has_alone(model: GPT2, shard_set: Path) -> None:
    rows = ShardSet(Store(shard_set), "train")
    packing = pack(rows.lengths(), 256, seed=1)
    batch = SampleReader(rows, packing, "all").micro_batch(np.array([0], np.uint64))
    tokens, _, positions, row_ids = (torch.from_numpy(array) for array in batch)

    packed = model(tokens, positions, row_mask(row_ids))[0]

    assert len(set(row_ids[0].tolist())) > 3
    for row in set(row_ids[0].tolist()) - {-1}:
        there = row_ids[0] == row
        alone = model(tokens[:, there], positions[:, there], None)[0]
        assert torch.allclose(packed[there], alone, atol=1e-4)


@torch.no_grad()
def test_rows_by_their_starts_are_the_rows_of_a_mask(
    model: GPT2, shard_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_by_one(
        q: Tensor, k: Tensor, v: Tensor, starts: Tensor, *rest: object, **more: object
    ) -> Tensor:
        """What the GPU's kernel computes."""
        assert more == {"window_size": (-1, 0)}, "it is not causal"
        parts = [
            F.scaled_dot_product_attention(
                *(x[start:end].transpose(0, 1) for x in (q, k, v)), is_causal=True
            ).transpose(0, 1)
            for start, end in itertools.pairwise(starts.tolist())
        ]
        return torch.cat(parts)

    monkeypatch.setattr(varlen, "varlen_attn", one_by_one)
    monkeypatch.setattr(attention, "_attend_row_by_row", attention._attend_in_rows)
    rows = ShardSet(Store(shard_set), "train")
    packing = pack(rows.lengths(), 64, seed=1)
    batch = SampleReader(rows, packing, "all").micro_batch(np.arange(3, dtype=np.uint64))
    tokens, _, positions, row_ids = (torch.from_numpy(array) for array in batch)
    starts = RowStarts(torch.from_numpy(row_starts(batch.row_ids)), 64)

    by_starts = model(tokens, positions, starts)

    assert torch.allclose(by_starts, model(tokens, positions, row_mask(row_ids)), atol=1e-5)


def test_heads_that_the_kernels_cannot_take_are_known() -> None:
    sizes = {
        width: RowStarts.suit(replace(SHAPE, width=width, num_heads=2)) for width in (8, 16, 514)
    }

    assert sizes == {8: False, 16: True, 514: False}


def test_same_seed_gives_the_same_weights() -> None:
    first, again, other = GPT2(SHAPE), GPT2(SHAPE), GPT2(SHAPE)
    first.initialize(1)
    again.initialize(1)
    other.initialize(2)

    assert torch.equal(first.head_weight, again.head_weight)
    assert not torch.equal(first.head_weight, other.head_weight)


@pytest.mark.parametrize(
    ("preset", "millions"), [("gpt2", 124.4), ("gpt2-medium", 354.8), ("gpt2-xl", 1557.6)]
)
def test_presets_have_the_published_sizes(preset: str, millions: float) -> None:
    with torch.device("meta"):
        counted = sum(p.numel() for p in GPT2(PRESETS[preset]).parameters())

    assert counted == PRESETS[preset].num_parameters
    assert abs(counted / 1e6 - millions) < 0.1
