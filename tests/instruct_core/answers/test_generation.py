"""Generation: the text of transformers, the same alone and in company, drawn as it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from instruct_core.answers.generation import Generated, choose, generate
from instruct_core.answers.sampling import Sampling
from instruct_core.config import ModelConfig
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT_ID, VOCAB_SIZE
from instruct_core.errors import ConfigError
from instruct_core.model.family import Cache
from instruct_core.model.gpt2 import GPT2
from tests.instruct_core.conftest import SHAPE


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(VOCAB_SIZE, size=draw.integers(1, 50)).tolist() for _ in range(count)]


def alone(model: GPT2, prompt: list[int], **settings: object) -> Generated:
    return generate(model, [prompt], **settings)[0]  # type: ignore[arg-type]


@torch.no_grad()
def test_logits_are_the_same_with_and_without_the_cache(model: GPT2) -> None:
    tokens = torch.tensor([prompts(1)[0] + list(range(40))])
    positions = torch.arange(tokens.shape[1])[None]
    whole = model.logits(model(tokens, positions, None))
    cache = Cache(model, 1, room=tokens.shape[1])

    pieces = [
        model.logits(model(tokens[:, a:b], positions[:, a:b], None, cache))
        for a, b in [(0, 7), *((n, n + 1) for n in range(7, tokens.shape[1]))]
    ]

    assert len(pieces[0][0]) == 1, "of a prompt the last token's alone"
    assert (torch.cat(pieces, dim=1) - whole[:, 6:]).abs().max() < 1e-4


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_text_is_that_of_transformers(
    model: GPT2, reference: GPT2LMHeadModel, penalty: float
) -> None:
    for prompt in prompts(5):
        ours = alone(
            model, prompt, max_new_tokens=200, sampling=Sampling(repetition_penalty=penalty)
        )

        theirs = reference.generate(
            torch.tensor([prompt]), attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            max_new_tokens=200, do_sample=False, repetition_penalty=penalty,
            pad_token_id=END_OF_TEXT_ID,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert ours.tokens == [token for token in theirs if token != END_OF_TEXT_ID]
        assert len(ours.tokens) == 200 or ours.finish_reason == "end"


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


@BY_EVERY_SETTING
def test_text_that_ends_does_so_alone_and_in_a_batch(sampling: Sampling) -> None:
    ending = GPT2(ModelConfig(num_layers=2, num_heads=2, width=32, max_seq_len=128))
    ending.initialize(3)
    likes_to_end = ending.head_weight.detach()[END_OF_TEXT_ID] * 1000
    with torch.no_grad():
        ending.transformer.ln_f.bias.copy_(likes_to_end * max(1, sampling.temperature))
    batch = [*prompts(5, seed=2), [9, END_OF_TEXT_ID, 8]]  # one says the token itself

    together = generate(ending.eval(), batch, max_new_tokens=20, sampling=sampling)

    for stream, prompt in enumerate(batch):
        one = alone(ending, prompt, max_new_tokens=20, sampling=sampling, streams=[stream])
        assert one == together[stream]
    assert {"end"} <= {text.finish_reason for text in together}


def test_drawn_token_does_not_depend_on_how_flat_a_neighbour_is() -> None:
    """A neighbour that needs more of the vocabulary changes no order among equal scores."""
    peaked = torch.zeros(VOCAB_SIZE)
    peaked[1000:1600] = 12.0
    batch = torch.stack([peaked, torch.zeros(VOCAB_SIZE)])
    sampling, draws = Sampling(temperature=1.0, top_p=0.9), torch.linspace(0, 0.99, 40).double()

    for draw in draws:
        alone_token = choose(batch[:1], sampling, draw[None])
        assert choose(batch, sampling, draw.expand(2))[0] == alone_token[0]


@pytest.mark.parametrize("temperature", [1e-30, 1e-38, 1e-46, 5e-324])
@pytest.mark.parametrize("top_k", [0, 7])
def test_temperature_next_to_zero_takes_the_likeliest(temperature: float, top_k: int) -> None:
    logits = torch.from_numpy(np.random.default_rng(1).normal(-60, 20, (3, VOCAB_SIZE))).float()
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=0.9)

    tokens = choose(logits, sampling, torch.tensor([0.0, 0.5, 1 - 2.0**-24]).double())

    assert tokens.tolist() == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("penalty", [5e-324, 1e-40, 1e40, 1e300])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e-40])
def test_penalty_without_measure_draws_tokens_of_the_vocabulary(
    model: GPT2, penalty: float, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, repetition_penalty=penalty)

    answers = generate(model, prompts(3), max_new_tokens=5, sampling=sampling)

    assert all(0 <= token < END_OF_TEXT_ID for answer in answers for token in answer.tokens)


@pytest.mark.parametrize("of_template", [(), (1,)])
def test_text_ends_where_the_model_ends_it(model: GPT2, of_template: tuple[int, ...]) -> None:
    ending = GPT2(SHAPE)
    ending.load_state_dict(model.state_dict())
    free = alone(ending, [7, 8, 9], max_new_tokens=9).tokens
    with torch.no_grad():  # what the model likes fifth is now the end
        wte = ending.transformer.wte.weight
        wte[[free[4], END_OF_TEXT_ID]] = wte[[END_OF_TEXT_ID, free[4]]]

    both = [[7, 8, 9], [7, 8, 10]]
    short, long = generate(ending.eval(), both, max_new_tokens=9, end_ids=of_template)

    assert 1 not in free
    assert short == Generated(free[: free.index(free[4])], "end")
    assert END_OF_TEXT_ID not in long.tokens


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


def test_text_fills_the_positions_and_no_more(model: GPT2) -> None:
    full, brief = generate(model, [[5] * 250, [5, 6]], max_new_tokens=20)

    assert (len(full.tokens), full.finish_reason) == (6, "length")
    assert len(brief.tokens) == 20
    for bad in ([], [5] * 256):
        with pytest.raises(ValueError, match="1 to 255 tokens"):
            generate(model, [[1], bad])


def test_no_tokens_wanted_no_tokens_made(model: GPT2) -> None:
    assert generate(model, [[1]], max_new_tokens=0) == [Generated([], "length")]


def test_drawing_leaves_the_runs_random_numbers_alone(model: GPT2) -> None:
    before = torch.get_rng_state()

    generate(model, [[1, 2, 3]], max_new_tokens=5, sampling=Sampling(temperature=1.0, seed=4))

    assert torch.equal(torch.get_rng_state(), before)


def test_seed_and_stream_decide_what_is_drawn(model: GPT2) -> None:
    def drawn(seed: int, stream: int) -> list[int]:
        sampling = Sampling(temperature=1.0, seed=seed)
        return alone(model, [3], max_new_tokens=12, sampling=sampling, streams=[stream]).tokens

    assert drawn(1, 0) == drawn(1, 0)
    assert len({tuple(drawn(seed, stream)) for seed in (1, 2) for stream in (0, 1)}) == 4


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.1, 3.0),
    top_k=st.integers(0, 30),
    top_p=st.floats(0.05, 1.0),
    size=st.sampled_from([20, 3000]),
)
def test_tokens_are_drawn_with_their_probabilities(
    seed: int, temperature: float, top_k: int, top_p: float, size: int
) -> None:
    """Every place of the unit interval is drawn from; each token's share of it is compared."""
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, size)).float()
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    num_draws = 800
    draws = (torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws

    tokens = choose(logits.expand(num_draws, size), sampling, draws)

    expected = expected_probabilities(logits.double().numpy(), temperature, top_k, top_p)
    shares = np.bincount(tokens.numpy(), minlength=size) / num_draws
    assert np.abs(shares - expected).max() < 2 / num_draws
    assert not shares[expected == 0].any()


def expected_probabilities(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float
) -> np.ndarray:
    """Say in the plainest way what the three settings mean."""
    weights = np.exp(logits / temperature - (logits / temperature).max())
    order = np.argsort(-weights)
    if top_k:
        weights[order[top_k:]] = 0
    weights /= weights.sum()
    before = np.cumsum(weights[order]) - weights[order]
    weights[order[before >= top_p]] = 0
    return weights / weights.sum()


@pytest.mark.parametrize("draw", [0.0, 1 - 2.0**-24])
def test_token_without_probability_is_never_drawn(draw: float) -> None:
    logits = torch.full((1, 5000), -torch.inf)
    logits[0, 2000:2100] = 0.0

    token = choose(logits, Sampling(temperature=1.0), torch.tensor([draw], dtype=torch.float64))

    assert 2000 <= int(token) < 2100


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("top_k", -1), ("top_p", 0.0),
     ("top_p", 1.1), ("repetition_penalty", 0.0), ("seed", -1)],
)  # fmt: skip
def test_setting_without_sense_is_named_as_its_flag(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')} must be .*, got {value}"):
        Sampling(**{field: value}).check()  # type: ignore[arg-type]
