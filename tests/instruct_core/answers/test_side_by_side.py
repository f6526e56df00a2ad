"""Texts that grow side by side: each is the text alone, whoever its neighbours are and when they come."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from instruct_core.answers.generation import Generated, generate
from instruct_core.answers.sampling import Sampling
from instruct_core.config import ModelConfig
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT_ID
from instruct_core.model.cache import Cache
from instruct_core.model.gpt2 import GPT2
from tests.instruct_core.answers.asking import alone, prompts, until
from tests.instruct_core.conftest import SHAPE

BY_EVERY_SETTING = pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(repetition_penalty=1.5),
        Sampling(repetition_penalty=0.7),
        Sampling(temperature=0.8, seed=2),
        Sampling(temperature=1.0, top_k=40, top_p=0.9, repetition_penalty=1.1, seed=5),
        Sampling(temperature=2.0, top_p=0.99, repetition_penalty=1.3, seed=6),
    ],
    ids=["greedy", "penalty", "reward", "sampled", "nucleus", "hot"],
)


@BY_EVERY_SETTING
def test_text_in_a_batch_is_the_text_alone(model: GPT2, sampling: Sampling) -> None:
    batch = prompts(7, seed=1)

    together = generate(model, batch, max_new_tokens=24, sampling=sampling)

    for stream, prompt in enumerate(batch):
        one = alone(model, prompt, max_new_tokens=24, sampling=sampling, streams=[stream])
        assert one == together[stream]


def fond_of_ending(sampling: Sampling) -> GPT2:
    ending = GPT2(ModelConfig(num_layers=2, num_heads=2, width=32, max_seq_len=128))
    ending.initialize(3)
    likes_to_end = ending.head_weight.detach()[END_OF_TEXT_ID] * 1000
    with torch.no_grad():
        ending.transformer.ln_f.bias.copy_(likes_to_end * max(1, sampling.temperature))
    return ending.eval()


@BY_EVERY_SETTING
def test_text_that_ends_does_so_alone_and_in_a_batch(sampling: Sampling) -> None:
    ending = fond_of_ending(sampling)
    batch = [*prompts(5, seed=2), [9, END_OF_TEXT_ID, 8]]  # one says the token itself

    together = generate(ending, batch, max_new_tokens=20, sampling=sampling)

    for stream, prompt in enumerate(batch):
        one = alone(ending, prompt, max_new_tokens=20, sampling=sampling, streams=[stream])
        assert one == together[stream]
    assert {"end"} <= {text.finish_reason for text in together}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What each call of the model took: prompts or one token each, and of how many texts."""
    made = list[tuple[str, int]]()
    real = GPT2.forward

    def counted(self: GPT2, tokens: Tensor, *rest: Any) -> Tensor:
        made.append(("begin" if tokens.shape[1] > 1 else "grow", len(tokens)))
        return real(self, tokens, *rest)

    monkeypatch.setattr(GPT2, "forward", counted)
    return made


@BY_EVERY_SETTING
@pytest.mark.parametrize("side_by_side", [2, 9])
def test_text_that_comes_in_for_another_is_the_text_alone(
    model: GPT2, sampling: Sampling, side_by_side: int
) -> None:
    batch = prompts(23, seed=4)
    longest = [
        99 if stream % 5 == 0 else len(prompt) % 7 + 1 for stream, prompt in enumerate(batch)
    ]
    whole = list[int]()

    found = generate(
        model, batch, side_by_side=side_by_side, max_new_tokens=20, sampling=sampling,
        on_token=until(longest), on_end=whole.append,
    )  # fmt: skip

    for stream, (prompt, most) in enumerate(zip(batch, longest, strict=True)):
        one = alone(model, prompt, max_new_tokens=20, sampling=sampling, streams=[stream])
        assert found[stream].tokens == one.tokens[:most]
    assert {text.finish_reason for text in found} >= {"length", "stopped"}
    assert sorted(whole) == list(range(23))


def test_no_place_is_empty_while_texts_wait(model: GPT2, calls: list[tuple[str, int]]) -> None:
    """Beside one long text the others' places go to those that wait."""
    lengths = [60] + [6] * 40

    generate(model, [[1, 2, 3]] * 41, side_by_side=5, max_new_tokens=100, on_token=until(lengths))

    # 40 texts of 6 tokens, of which a prompt gives the first, take 50 steps in four places.
    sizes = [size for what, size in calls if what == "grow"]
    assert len(sizes) == 59
    assert sizes[:50] == [5] * 50


def test_texts_that_wait_come_in_several_at_a_time(
    model: GPT2, calls: list[tuple[str, int]]
) -> None:
    lengths = [3 + text for text in range(27)]  # no two of those side by side end together

    generate(model, [[1, 2, 3]] * 27, side_by_side=12, max_new_tokens=100, on_token=until(lengths))

    assert [size for what, size in calls if what == "begin"] == [12, 3, 3, 3, 3, 3]


def test_long_texts_beside_short_ones_are_the_texts_alone(model: GPT2) -> None:
    """Rows get longer, more than once, while some are longer than others."""
    batch = [prompt[: 3 + n] for n, prompt in enumerate(prompts(7, seed=9))]
    sampling = Sampling(temperature=1.0, seed=3)

    together = generate(model, batch, side_by_side=5, max_new_tokens=180, sampling=sampling)

    for stream, prompt in enumerate(batch):
        one = alone(model, prompt, max_new_tokens=180, sampling=sampling, streams=[stream])
        assert one == together[stream]


def test_text_that_went_wrong_leaves_nothing_to_the_next_one_in_its_place() -> None:
    cache = Cache(SHAPE, torch.zeros(1))

    def attend(fill: list[float], tokens: int) -> Tensor:
        x = torch.tensor(fill)[:, None, None, None]
        x = x.expand(-1, SHAPE.num_heads, tokens, SHAPE.head_dim)
        return [cache.attend(layer, x, x, x) for layer in range(SHAPE.num_layers)][-1]

    cache.begin([9, 9])
    attend([1.0, math.nan], 9)
    cache.keep([0])
    cache.begin([2])
    attend([1.0], 2)
    cache.grow(cache.lengthen())

    assert torch.isfinite(attend([1.0, 1.0], 1)).all()


@torch.no_grad()
def test_what_was_in_memory_before_has_no_part_in_a_text(model: GPT2) -> None:
    batch = [[5] * 3, list(range(100)), [6] * 20]
    expected = generate(model, batch, max_new_tokens=100)

    torch.use_deterministic_algorithms(True)  # and what is not set is NaN
    try:
        found = generate(model, batch, side_by_side=2, max_new_tokens=100)
    finally:
        torch.use_deterministic_algorithms(False)

    assert found == expected


def test_caller_ends_one_text_and_the_others_go_on(model: GPT2) -> None:
    batch = prompts(4, seed=2)
    free = generate(model, batch, max_new_tokens=20)
    heard: list[tuple[int, int]] = []

    def until_third(text: int, token: int) -> bool:
        heard.append((text, token))
        return text != 1 or sum(t == 1 for t, _ in heard) < 3

    answers = generate(model, batch, max_new_tokens=20, on_token=until_third)

    assert answers[1] == Generated(free[1].tokens[:3], "stopped")
    assert [answers[n] for n in (0, 2, 3)] == [free[n] for n in (0, 2, 3)]
    for text, answer in enumerate(answers):
        assert [token for t, token in heard if t == text] == answer.tokens
