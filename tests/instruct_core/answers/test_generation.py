"""Generation: the text of transformers, drawn as it should be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from instruct_core.answers.generation import NO_TOKEN, Generated, choose, generate
from instruct_core.answers.sampling import Sampling
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT_ID, VOCAB_SIZE
from instruct_core.errors import ConfigError, NonFiniteError
from instruct_core.model.cache import Cache
from instruct_core.model.gpt2 import GPT2
from tests.instruct_core.answers.asking import alone, prompts
from tests.instruct_core.conftest import SHAPE


@torch.no_grad()
def test_logits_are_the_same_with_and_without_the_cache(model: GPT2) -> None:
    tokens = torch.tensor([prompts(1)[0] + list(range(40))])
    positions = torch.arange(tokens.shape[1])[None]
    whole = model.logits(model(tokens, positions, None))
    cache = Cache(SHAPE, model.head_weight)

    pieces = [model.logits(model(tokens[:, :7], cache.begin([7]), None, cache))]
    for n in range(7, tokens.shape[1]):
        pieces.append(
            model.logits(model(tokens[:, n : n + 1], cache.grow(cache.lengthen()), None, cache))
        )

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


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(repetition_penalty=1.5),
        Sampling(temperature=0.8),
        Sampling(temperature=0.8, top_k=40),
        Sampling(temperature=0.8, top_p=0.9),
    ],
    ids=["greedy", "penalty", "sampled", "top-k", "nucleus"],
)
@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_an_error(sampling: Sampling, score: float) -> None:
    """On a GPU the token that they gave ended all that is computed there."""
    broken = GPT2(SHAPE)
    broken.initialize(1)
    broken.logits = lambda hidden: torch.full((len(hidden), VOCAB_SIZE), score)  # type: ignore[method-assign]

    with pytest.raises(
        NonFiniteError, match=r"scores are no numbers: .* Leave it out, or take another"
    ):
        generate(broken.eval(), [[1, 2]], sampling=sampling)


@pytest.mark.parametrize("score", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_row_without_numbers_has_no_token_and_its_neighbours_have(score: float, place: int) -> None:
    logits = torch.zeros(3, 8)
    logits[1, place] = score
    draws = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)

    for sampling in (Sampling(), Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.5)):
        first, broken, last = choose(logits, sampling, draws).tolist()
        assert broken == NO_TOKEN
        assert 0 <= first < 8
        assert 0 <= last < 8
