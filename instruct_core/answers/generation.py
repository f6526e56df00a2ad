"""
Text from a model, token by token, with the keys and values of earlier tokens kept.

    [answer] = generate(model, [tokenizer.encode("What is AI?")], max_new_tokens=64)
    answer.tokens, answer.finish_reason        # [1212, 318, ...], "end"

Prompts of a batch may differ in length: they end together, and what stands before the shorter ones
is masked. Each text draws its random numbers from its own stream, so a sampled answer does not
depend on its neighbours, and sampling while training leaves the run's random numbers alone.

B: texts that still grow, T: tokens of the longest prompt, V: vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from instruct_core.answers.sampling import Sampling
from instruct_core.model.family import Cache, Model
from instruct_core.shape import usable_positions

NUCLEUS_TOKENS = 1024  # looked at first for top-p: sorting the whole vocabulary takes far longer
UNIFORM_STEPS = 1 << 24  # so coarse that a draw times the total never rounds up to the total

FinishReason = Literal["end", "stopped", "length"]


class Generated(NamedTuple):
    """What followed a prompt, and why no more: the model ended it, the caller, or the room."""

    tokens: list[int]
    finish_reason: FinishReason


@torch.inference_mode()
def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    end_ids: Collection[int] = (),
    streams: Sequence[int] | None = None,
    on_token: Callable[[int, int], bool] = lambda text, token: True,
) -> list[Generated]:
    """
    Return what follows each prompt; a token that ends a text is not among its tokens.

    Args:
        model: In eval mode; its device is used.
        prompts: Token ids, at least one each, and fewer than the model has positions to use.
        max_new_tokens: Of each text at most; fewer where those positions end.
        sampling: How tokens are chosen; None takes the likeliest.
        end_ids: Tokens that end a text, beside the model's own.
        streams: Which random numbers of the seed each text draws; None numbers them from 0.
        on_token: Called with the text's index and its new token; False ends the text with it.

    Raises:
        ValueError: A prompt is empty, or leaves no room for a token.
    """
    ends = {*model.config.end_ids, *end_ids}
    room = _room(prompts, usable_positions(model.config), max_new_tokens)
    sampling, streams = sampling or Sampling(), streams or range(len(prompts))
    batch = _Batch(model, prompts, max(room), sampling, streams)
    answers: list[list[int]] = [[] for _ in prompts]
    reasons: list[FinishReason] = ["length" for _ in prompts]
    growing = [text for text in range(len(prompts)) if room[text] > 0]
    batch.keep(growing)
    while growing:
        still = []
        # The next token depends on these: the wait for the GPU is real.
        for place, token in enumerate(batch.next_tokens().tolist()):
            text = growing[place]
            if token in ends:
                reasons[text] = "end"
                continue
            answers[text].append(token)
            if not on_token(text, token):
                reasons[text] = "stopped"
            elif len(answers[text]) < room[text]:
                still.append(place)
        growing = [growing[place] for place in still]
        batch.keep(still)
    return [Generated(*pair) for pair in zip(answers, reasons, strict=True)]


def _room(prompts: Sequence[Sequence[int]], positions: int, max_new_tokens: int) -> list[int]:
    """Return how many tokens may follow each prompt."""
    for prompt in prompts:
        if not 0 < len(prompt) < positions:
            raise ValueError(f"a prompt must have 1 to {positions - 1} tokens, got {len(prompt)}")
    return [min(max_new_tokens, positions - len(prompt)) for prompt in prompts]


class _Batch:
    """Texts that grow together, one token a step."""

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        most_new_tokens: int,
        sampling: Sampling,
        streams: Sequence[int],
    ) -> None:
        self._model, self._sampling = model, sampling
        self._device = model.head_weight.device
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        longest = int(lengths.max())
        tokens = torch.zeros((len(prompts), longest), dtype=torch.int64)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[longest - len(prompt) :] = torch.tensor(prompt)
        self._tokens = tokens.to(self._device)  # (B, T) first, then (B, 1): not in the cache yet
        self._padding = (longest - lengths).to(self._device)  # (B,)
        self._is_ragged = bool((lengths < longest).any())
        self._cache = Cache(model, len(prompts), longest + most_new_tokens)
        self._said = self._seen(prompts) if sampling.repetition_penalty != 1 else None
        self._draws = _uniform(sampling, streams, most_new_tokens).to(self._device)
        self._step = 0

    def _seen(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return which tokens each prompt has; what pads it was never said. (B, V)"""
        said = torch.zeros((len(prompts), self._model.config.vocab_size), dtype=torch.bool)
        for row, prompt in zip(said, prompts, strict=True):
            row[torch.tensor(prompt)] = True
        return said.to(self._device)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the texts only."""
        if len(places) == len(self._tokens) or not places:
            return
        chosen = torch.tensor(places, device=self._device)
        self._tokens, self._padding = self._tokens[chosen], self._padding[chosen]
        self._draws = self._draws[chosen]
        if self._said is not None:
            self._said = self._said[chosen]
        self._cache.keep(chosen)

    def next_tokens(self) -> Tensor:
        """Take a step; return every text's new token. (B,)"""
        start, end = self._cache.length, self._cache.length + self._tokens.shape[1]
        places = torch.arange(start, end, device=self._device)
        positions = (places - self._padding[:, None]).clamp_(min=0)  # (B, T)
        mask = self._mask(places, end) if self._is_ragged else None
        hidden = self._model(self._tokens, positions, mask, self._cache)
        logits = self._model.last_logits(hidden).float()  # (B, V)
        if self._said is not None:
            logits = torch.where(self._said, _lowered(logits, self._sampling), logits)
        chosen = choose(logits, self._sampling, self._draws[:, self._step])
        if self._said is not None:
            self._said.scatter_(1, chosen[:, None], True)
        self._tokens, self._step = chosen[:, None], self._step + 1
        return chosen

    def _mask(self, places: Tensor, end: int) -> Tensor:
        """Return where each new token may look. (B, 1, T, P + T)"""
        before = torch.arange(end, device=self._device)
        is_text = before >= self._padding[:, None, None]  # (B, 1, P + T)
        # Padding looks at itself: looking nowhere would make it, and then everything, NaN.
        own = before == places[:, None]
        return ((before <= places[:, None]) & is_text | own)[:, None]


def _lowered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return the scores of tokens that were said before, finite for every penalty. (B, V)"""
    exact, penalty = logits.double(), sampling.repetition_penalty
    lowered = torch.where(exact < 0, exact * penalty, exact / penalty)
    finite = torch.finfo(logits.dtype)
    return lowered.clamp(finite.min, finite.max).to(logits.dtype)


def choose(logits: Tensor, sampling: Sampling, draws: Tensor) -> Tensor:
    """
    Return one token for each row of scores. (B,)

    Args:
        logits: Scores. (B, V)
        sampling: How to choose; the repetition penalty is in the scores already.
        draws: A number from [0, 1) for each row, float64. (B,)
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    # Below the highest score, so that no temperature makes a number that is too large.
    below = (logits - logits.amax(dim=-1, keepdim=True)).double()
    weights = torch.softmax(below / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        weights = weights.masked_fill(weights < _least_of_nucleus(weights, sampling.top_p), 0.0)
    # In the order of the vocabulary: by likelihood, the last bits of a score, which a neighbour may
    # change, would change places and so the token that is drawn.
    sums = weights.cumsum(dim=-1)
    # The first place whose sum exceeds the draw: a token without probability is never taken.
    return torch.searchsorted(sums, draws[:, None] * sums[:, -1:], right=True)[:, 0]


def _least_of_nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Return the least of the likeliest weights that make up top_p. (B, 1)"""
    size, few = weights.shape[-1], min(NUCLEUS_TOKENS, weights.shape[-1])
    likeliest = weights.topk(few).values
    if few < size and bool((likeliest.sum(dim=-1) < top_p).any()):
        likeliest = weights.sort(dim=-1, descending=True).values
    before = likeliest.cumsum(dim=-1) - likeliest
    count = (before < top_p).sum(dim=-1, keepdim=True)
    return likeliest.gather(-1, count - 1)


def _uniform(sampling: Sampling, streams: Sequence[int], num_steps: int) -> Tensor:
    """Return the random numbers of every text and step, from [0, 1). (B, steps)"""
    if sampling.temperature == 0:
        return torch.zeros((len(streams), num_steps), dtype=torch.float64)
    rows = [
        np.random.Generator(np.random.Philox(key=[sampling.seed, stream])).integers(
            UNIFORM_STEPS, size=num_steps
        )
        for stream in streams
    ]
    return torch.from_numpy(np.stack(rows) / UNIFORM_STEPS)
