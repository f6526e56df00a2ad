"""
Text from a model, token by token, with the keys and values of earlier tokens kept.

    [answer] = generate(model, [tokenizer.encode("What is AI?")], max_new_tokens=64)
    answer.tokens, answer.finish_reason        # [1212, 318, ...], "end"

Prompts and answers may differ in length. Where more texts are asked for than grow side by side, others
come in as soon as some of those have ended: a step costs nearly the same for few texts as for many, so
none should go by half empty. Each text draws its random numbers from its own stream, so a sampled answer
does not depend on its neighbours, and sampling while training leaves the run's random numbers alone.

B: texts that grow, T: tokens of the longest prompt among those that come in, V: vocabulary
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from instruct_core.answers.sampling import Sampling
from instruct_core.errors import NonFiniteError
from instruct_core.model.cache import Cache
from instruct_core.model.family import Model
from instruct_core.model.step import Step, scores
from instruct_core.shape import usable_positions

NUCLEUS_TOKENS = 1024  # looked at first for top-p: sorting the whole vocabulary takes far longer
UNIFORM_STEPS = 1 << 24  # so coarse that a draw times the total never rounds up to the total
NO_TOKEN = -1
PART_THAT_ENDS = 4  # one place in so many is free before texts come in, several at once

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
    side_by_side: int | None = None,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    end_ids: Collection[int] = (),
    streams: Sequence[int] | None = None,
    on_token: Callable[[int, int], bool] = lambda text, token: True,
    on_end: Callable[[int], None] = lambda text: None,
) -> list[Generated]:
    """
    Return what follows each prompt; a token that ends a text is not among its tokens.

    Args:
        model: In eval mode; its device is used.
        prompts: Token ids, at least one each, fewer than there are positions. They begin in this order.
        side_by_side: How many grow at a time; None has all do so.
        max_new_tokens: Of each text at most; fewer where those positions end.
        sampling: How tokens are chosen; None takes the likeliest.
        end_ids: Tokens that end a text, beside the model's own.
        streams: Which random numbers of the seed each text draws; None: from 0 on.
        on_token: Called with the text's index and its new token; False ends the text with it.
        on_end: Called with the index of each text that is whole.

    Raises:
        ValueError: A prompt is empty, or leaves no room for a token.
        NonFiniteError: Scores are no numbers.
    """
    if not prompts:
        return []
    room = _room(prompts, usable_positions(model.config), max_new_tokens)
    most, sampling = min(side_by_side or len(prompts), len(prompts)), sampling or Sampling()
    draws = _uniform(sampling, streams or range(len(prompts)), max(room))
    batch = _Batch(model, prompts, draws, sampling)
    said = _Said(room, {*model.config.end_ids, *end_ids}, on_token)
    waiting = deque(text for text, size in enumerate(room) if size > 0)
    while waiting or batch.texts:
        first, free = len(batch.texts), most - len(batch.texts)
        if waiting and free >= min(max(1, most // PART_THAT_ENDS), len(waiting)):
            tokens = batch.begin([waiting.popleft() for _ in range(min(free, len(waiting)))])
        else:
            first, tokens = 0, batch.grow()
        # The next token depends on these: the wait for the GPU is real.
        ended = said.ended(batch.texts[first:], tokens.tolist())
        for text in sorted(ended):
            on_end(text)
        batch.end(ended)
    return [Generated(*pair) for pair in zip(said.tokens, said.reasons, strict=True)]


class _Said:
    """What each text has become, and whether it is whole."""

    def __init__(
        self, room: Sequence[int], ends: Collection[int], on_token: Callable[[int, int], bool]
    ) -> None:
        self._room, self._ends, self._on_token = room, ends, on_token
        self.tokens: list[list[int]] = [[] for _ in room]
        self.reasons: list[FinishReason] = ["length" for _ in room]

    def ended(self, texts: Sequence[int], tokens: Sequence[int]) -> set[int]:
        """Take the next token of each of some texts; return those that are whole."""
        now = zip(texts, tokens, strict=True)
        return {text for text, token in now if self._ends_with(text, token)}

    def _ends_with(self, text: int, token: int) -> bool:
        """Take a text's next token; return True where it is the last one, or says that there is none."""
        if token == NO_TOKEN:
            raise NonFiniteError(
                "The model's scores are no numbers: what it computes is too large for float16, where "
                "--weights fp16 was given, or its weights are broken. Leave it out, or take another step."
            )
        if token in self._ends:
            self.reasons[text] = "end"
            return True
        self.tokens[text].append(token)
        if not self._on_token(text, token):
            self.reasons[text] = "stopped"
            return True
        return len(self.tokens[text]) == self._room[text]


def _room(prompts: Sequence[Sequence[int]], positions: int, max_new_tokens: int) -> list[int]:
    """Return how many tokens may follow each prompt."""
    for prompt in prompts:
        if not 0 < len(prompt) < positions:
            raise ValueError(f"a prompt must have 1 to {positions - 1} tokens, got {len(prompt)}")
    return [min(max_new_tokens, positions - len(prompt)) for prompt in prompts]


class _Batch:
    """Texts that grow together, one token a step, in places of which the first ones are taken."""

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        draws: Tensor,
        sampling: Sampling,
    ) -> None:
        self._model, self._prompts, self._sampling = model, prompts, sampling
        self._device = model.head_weight.device
        self._cache = Cache(model.config, model.head_weight)
        self._step = Step(model, self._cache)
        self._draws = draws.to(self._device)  # of every prompt and step
        self.texts: list[int] = []  # of each place that is taken
        self._tokens = self._places([])  # not in the cache yet. (B,)
        self._said = self._seen([])  # (B, V)

    def begin(self, texts: Sequence[int]) -> Tensor:
        """Take texts in behind the others; return their first tokens. (new B,)"""
        prompts = [self._prompts[text] for text in texts]
        lengths = [len(prompt) for prompt in prompts]
        tokens = torch.zeros((len(texts), max(lengths)), dtype=torch.int64)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        # Before the model: a GPU that computes is not waited for.
        draws, said = self._drawn(texts, lengths), self._seen(prompts)
        positions = self._cache.begin(lengths)
        logits = scores(self._model, tokens.to(self._device), positions, self._cache)
        chosen = self._next(logits, draws, said)
        self.texts += texts
        self._tokens = torch.cat((self._tokens, chosen))
        self._said = torch.cat((self._said, said))
        return chosen

    def grow(self) -> Tensor:
        """Return every text's next token. (B,)"""
        draws = self._drawn(self.texts, [length + 1 for length in self._cache.lengths])
        self._tokens = self._next(self._step(self._tokens), draws, self._said)
        return self._tokens

    def end(self, texts: Collection[int]) -> None:
        """Let some texts go; the last ones take their places."""
        if not texts:
            return
        count, stays = len(self.texts) - len(texts), [text not in texts for text in self.texts]
        behind = (place for place in range(count, len(stays)) if stays[place])
        kept = [place if stays[place] else next(behind) for place in range(count)]
        self.texts = [self.texts[place] for place in kept]
        chosen = self._places(kept)
        self._tokens, self._said = self._tokens[chosen], self._said[chosen]
        self._cache.keep(kept)

    def _next(self, logits: Tensor, draws: Tensor, said: Tensor) -> Tensor:
        """
        Return the next token of each text. (B,)

        Args:
            logits: Its scores. (B, V)
            draws: A random number for each. (B,)
            said: What each has said, see `_seen`; the next token is added. (B, V)
        """
        is_penalized = self._sampling.repetition_penalty != 1
        if is_penalized:
            logits = torch.where(said, _lowered(logits, self._sampling), logits)
        chosen = choose(logits, self._sampling, draws)
        if is_penalized:
            said.scatter_(1, chosen[:, None].clamp(min=0), True)
        return chosen

    def _drawn(self, texts: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Return the random number of each text's next token, which comes behind so many. (B,)"""
        steps = [n - len(self._prompts[text]) for n, text in zip(lengths, texts, strict=True)]
        return self._draws[texts, steps]

    def _seen(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return which tokens each prompt has, where it matters. (B, V), or (B, 0)"""
        is_asked = self._sampling.repetition_penalty != 1
        words = self._model.config.vocab_size if is_asked else 0
        said = torch.zeros((len(prompts), words), dtype=torch.bool)
        for row, prompt in zip(said, prompts, strict=True):
            if is_asked:
                row[torch.tensor(prompt)] = True
        return said.to(self._device)

    def _places(self, places: Sequence[int]) -> Tensor:
        return torch.tensor(places, dtype=torch.int64, device=self._device)


def _lowered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return the scores of tokens that were said before, finite for every penalty. (B, V)"""
    exact, penalty = logits.double(), sampling.repetition_penalty
    lowered = torch.where(exact < 0, exact * penalty, exact / penalty)
    finite = torch.finfo(logits.dtype)
    return lowered.clamp(finite.min, finite.max).to(logits.dtype)


def choose(logits: Tensor, sampling: Sampling, draws: Tensor) -> Tensor:
    """
    Return one token for each row of scores, NO_TOKEN where they are no numbers. (B,)

    Args:
        logits: Scores. (B, V)
        sampling: How to choose; the repetition penalty is in the scores already.
        draws: A number from [0, 1) for each row, float64. (B,)
    """
    if sampling.temperature == 0:
        chosen = logits.argmax(dim=-1)  # of a NaN, where there is one
        return _if_number(chosen, logits.gather(-1, chosen[:, None])[:, 0])
    highest = logits.amax(dim=-1)
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    # Below the highest score, so that no temperature makes a number that is too large.
    below = (logits - highest[:, None]).double()
    weights = torch.softmax(below / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        weights = weights.masked_fill(weights < _least_of_nucleus(weights, sampling.top_p), 0.0)
    # In the order of the vocabulary: by likelihood, the last bits of a score, which a neighbour may
    # change, would change places and so the token that is drawn.
    sums = weights.cumsum(dim=-1)
    # The first place whose sum exceeds the draw: a token without probability is never taken.
    places = torch.searchsorted(sums, draws[:, None] * sums[:, -1:], right=True)[:, 0]
    return _if_number(places, highest)


def _if_number(tokens: Tensor, best: Tensor) -> Tensor:
    """Return tokens, and NO_TOKEN for those whose score is no number. (B,)"""
    return torch.where(best.isfinite(), tokens, NO_TOKEN)


def _least_of_nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Return the least of the likeliest weights that make up top_p. (B, 1)"""
    size, few = weights.shape[-1], min(NUCLEUS_TOKENS, weights.shape[-1])
    likeliest = weights.topk(few).values
    if few < size and bool((likeliest.sum(dim=-1) < top_p).any()):
        likeliest = weights.sort(dim=-1, descending=True).values
    before = likeliest.cumsum(dim=-1) - likeliest
    count = (before < top_p).sum(dim=-1, keepdim=True)
    return likeliest.gather(-1, (count - 1).clamp(min=0))  # no weights are NaN: then it is none


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
