"""Every kind of Llama has transformers' scores and texts, and packed rows do not see each other."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen
from transformers import AutoModelForCausalLM, PreTrainedModel

from instruct_core.answers.generation import generate
from instruct_core.llama_config import LlamaConfig
from instruct_core.model import attention
from instruct_core.model.attention import RowStarts, row_mask
from instruct_core.model.cache import Cache
from instruct_core.model.families import build
from instruct_core.model.family import Model
from instruct_core.model.llama import Llama
from instruct_core.model.weights import load_model, load_pretrained
from tests.instruct_core.model.their_llama import KINDS, SIZES, reference, save_folder

TOKENS = torch.randint(0, 256, (2, 90), generator=torch.Generator().manual_seed(1))
POSITIONS = torch.arange(90).expand(2, 90)


@pytest.fixture(scope="module", params=sorted(KINDS))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, PreTrainedModel]:
    """A model of ours, loaded from the folder of transformers' one."""
    theirs = reference(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    save_folder(folder, theirs)
    return load_model(str(folder)), theirs


@torch.no_grad()
def test_logits_equal_transformers(pair: tuple[Model, PreTrainedModel]) -> None:
    ours, theirs = pair

    logits = ours.logits(ours(TOKENS, POSITIONS, None))

    expected = theirs(TOKENS).logits
    assert expected.std() > 0.1, "too small to compare"
    assert (logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_gradients_equal_transformers(kind: str, tmp_path: Path) -> None:
    theirs = reference(kind)
    save_folder(tmp_path, theirs)
    shape, weights = load_pretrained(str(tmp_path))
    ours = build(shape).train()
    ours.load_state_dict(weights)
    towards = torch.randn(2, 90, 260, generator=torch.Generator().manual_seed(2))

    (ours.logits(ours(TOKENS, POSITIONS, None)) * towards).sum().backward()
    (theirs.train()(TOKENS).logits * towards).sum().backward()

    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    found = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        assert grad is not None
        error = (grad - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, f"{name}: {error}"


def test_greedy_text_equals_transformers(pair: tuple[Model, PreTrainedModel]) -> None:
    ours, theirs = pair
    prompt = TOKENS[0, :7].tolist()

    [answer] = generate(ours, [prompt], max_new_tokens=50)

    with torch.no_grad():
        expected = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=50, do_sample=False, pad_token_id=0
        )[0, len(prompt) :].tolist()
    ended = answer.finish_reason == "end"
    assert answer.tokens == expected[: len(expected) - ended]
    assert len(answer.tokens) == 50 or ended


@torch.no_grad()
def test_packed_row_has_the_hidden_states_it_has_alone(
    pair: tuple[Model, PreTrainedModel],
) -> None:
    ours, _ = pair
    lengths = (20, 33, 37)
    row_ids = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    tokens = TOKENS[:1]

    packed = ours(tokens, positions, row_mask(row_ids))

    for row in range(3):
        there = row_ids[0] == row
        alone = ours(tokens[:, there], positions[:, there], None)
        assert torch.allclose(packed[:, there], alone, atol=1e-5)


def test_texts_of_a_batch_are_the_texts_alone(pair: tuple[Model, PreTrainedModel]) -> None:
    ours, _ = pair
    prompts = [TOKENS[0, :3].tolist(), TOKENS[1, :31].tolist(), TOKENS[0, 40:52].tolist()]

    together = generate(ours, prompts, max_new_tokens=12)
    in_turn = generate(ours, prompts, side_by_side=2, max_new_tokens=12)

    assert together == [generate(ours, [prompt], max_new_tokens=12)[0] for prompt in prompts]
    assert in_turn == together


def test_cache_has_room_for_the_heads_with_keys_alone(pair: tuple[Model, PreTrainedModel]) -> None:
    ours, theirs = pair

    cache = Cache(ours.config, ours.head_weight)

    ours(TOKENS[:1, :5], cache.begin([5]), None, cache)
    for room in cache._layers[0]:
        size = theirs.config.num_key_value_heads, 80, ours.config.head_dim
        assert room.shape == (1, *size)


@torch.no_grad()
def test_rows_by_their_starts_are_the_rows_of_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(
        q: Tensor, k: Tensor, v: Tensor, starts: Tensor, *rest: object, **more: object
    ) -> Tensor:
        """What the GPU's kernel computes."""
        assert more == {"window_size": (-1, 0), "enable_gqa": True}
        assert {q.dtype, k.dtype, v.dtype} == {torch.bfloat16}, "it takes half precision alone"
        parts = [
            F.scaled_dot_product_attention(
                *(x[start:end].transpose(0, 1)[None] for x in (q, k, v)),
                is_causal=True,
                enable_gqa=True,
            )[0].transpose(0, 1)
            for start, end in itertools.pairwise(starts.tolist())
        ]
        return torch.cat(parts)

    monkeypatch.setattr(varlen, "varlen_attn", one_by_one)
    monkeypatch.setattr(attention, "_attend_row_by_row", attention._attend_in_rows)
    model = Llama(
        LlamaConfig(
            model_type="qwen3", num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, width=32,
            mlp_width=48, max_seq_len=64, vocab_size=256,
        )
    )  # fmt: skip
    model.initialize(3)
    row_ids = torch.tensor([[0] * 10 + [1] * 20 + [2] * 15, [0] * 45])
    positions = torch.tensor([[*range(10), *range(20), *range(15)], [*range(45)]])
    starts = RowStarts(torch.tensor([0, 10, 30, 45, 90], dtype=torch.int32), 45)

    with torch.autocast("cpu", torch.bfloat16):
        by_starts = model(TOKENS[:, :45], positions, starts)
        by_mask = model(TOKENS[:, :45], positions, row_mask(row_ids))

    assert torch.allclose(by_starts, by_mask, atol=0.05)
    assert not torch.allclose(by_starts, model(TOKENS[:, :45], positions, None), atol=0.5)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_config_that_we_write_is_the_same_model_to_transformers(kind: str, tmp_path: Path) -> None:
    theirs = reference(kind)
    save_folder(tmp_path / "theirs", theirs)
    shape, _ = load_pretrained(str(tmp_path / "theirs"))
    theirs.save_pretrained(tmp_path / "ours")
    (tmp_path / "ours" / "config.json").write_text(json.dumps(shape.hugging_face))

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()

    with torch.no_grad():
        assert torch.equal(again(TOKENS).logits, theirs(TOKENS).logits)
    assert load_pretrained(str(tmp_path / "ours"))[0] == shape


def test_parameters_are_counted(pair: tuple[Model, PreTrainedModel]) -> None:
    ours, theirs = pair

    plain = Llama(ours.config)  # one that answers has packed some of them
    assert ours.config.num_parameters == sum(p.numel() for p in plain.parameters())
    assert ours.config.num_parameters == theirs.num_parameters()
    looked_up = (
        0 if theirs.config.tie_word_embeddings else SIZES["vocab_size"] * SIZES["hidden_size"]
    )
    assert ours.config.product_weights == ours.config.num_parameters - looked_up


def test_same_seed_draws_the_same_weights_and_another_one_others() -> None:
    shape = LlamaConfig(
        num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, width=16, mlp_width=24,
        max_seq_len=64, vocab_size=50, attention_bias=True,
    )  # fmt: skip
    drawn = []
    for seed in (1, 1, 2):
        model = Llama(shape)
        model.initialize(seed)
        drawn.append(torch.cat([p.detach().flatten() for p in model.parameters()]))

    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].isfinite().all()
