"""
A step of a generation, which a GPU records once and then repeats by itself.

    logits = scores(model, prompts, cache.begin([5, 7]), cache)     # (B, V)
    step = Step(model, cache)
    logits = step(tokens)                                           # (B, V), of one more token of each

A step is some hundred kernels, and most of them take less time than the processor takes to launch the
next one: whoever answers few texts with a GPU waits for the processor. A recording (a CUDA graph) is
launched as one. It repeats the same kernels over the same memory, so nothing in it may depend on a number
that the host knows: all rows of the cache take part, also those without a text, and are looked at for as
long as there is room, behind a mask. It is worth what it takes only if there are many steps, and there is
another as soon as rows or room change.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs

B: texts, T: tokens of each in a call, R: rows of the cache, V: vocabulary
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from instruct_core.model.cache import Cache
from instruct_core.model.family import Model, Recorder, Recording
from instruct_core.shape import usable_positions

FIRST_STEPS = 8  # launched one by one: a recording takes as long as some of them
TRIED_TOKENS = 8  # of texts that a recording is tried on, before one is relied on
FAR_OFF = 0.1  # of the spread of scores: rounding is less, and another token or place is more

logger = logging.getLogger(__name__)


def record_on_gpu(step: Callable[[], Tensor]) -> Recording:
    """Return what repeats a step, and where its result is then; it is made once and recorded once."""
    graph, stream, here = torch.cuda.CUDAGraph(), _stream(), torch.cuda.current_stream()
    stream.wait_stream(here)
    # A recording that fails leaves its stream current: this does not.
    with torch.cuda.stream(stream):
        try:
            step()  # so that kernels and memory for products are there: neither may be asked for below
        finally:
            here.wait_stream(stream)
        try:
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = step()
        except BaseException:
            _stream.cache_clear()  # it may be recording still
            raise
    return Recording(graph.replay, result)


@functools.cache
def _stream() -> torch.cuda.Stream:
    """One for all recordings: each stream that products run on keeps memory for them."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch does not type it


class Step:
    """
    One more token of each text.

    Args:
        model: Whose recorder is used, if it has one.
        cache: Of the texts.
        first_steps: Made before one is recorded.
    """

    def __init__(self, model: Model, cache: Cache, first_steps: int = FIRST_STEPS) -> None:
        self._model, self._cache, self._first_steps = model, cache, first_steps
        self._form, self._steps = (0, 0), 0  # of the cache, and the steps since it has that
        self._recording: Recording | None = None
        self._has_room = True  # for a recording
        # Of each row what a recording reads: a token that is not in the cache yet, and its place. (R,)
        self._tokens = self._places = torch.empty(0)

    def __call__(self, tokens: Tensor) -> Tensor:
        """
        Return the scores of every text's next token; the next call may write over them. (B, V)

        Args:
            tokens: Not in the cache yet. (B,)
        """
        places = self._cache.lengthen()
        if self._cache.form != self._form:
            self._form, self._steps, self._recording = self._cache.form, 0, None
        self._steps += 1
        recorder = self._model.recorder if self._has_room else None
        if recorder is None or self._steps <= self._first_steps:
            return scores(self._model, tokens[:, None], self._cache.grow(places), self._cache)
        if self._recording is None:
            self._tokens, self._places = tokens.new_zeros(2, self._cache.form[0])
        self._tokens[: len(tokens)] = tokens
        self._places[: len(tokens)] = torch.tensor(places)
        if self._recording is None:
            self._recording = self._recorded(recorder)
        if self._recording is None:
            return self._of_all_rows()[: len(tokens)]
        self._recording.repeat()
        return self._recording.result[: len(tokens)]

    def _recorded(self, recorder: Recorder) -> Recording | None:
        """Record the step; return None where that fails, and launch kernels one by one from now on."""
        try:
            return recorder(self._of_all_rows)
        except torch.OutOfMemoryError:  # these texts go without; others may be fewer
            self._has_room = False
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # which ended the recording
                raise error.__context__ from None
            self._model.recorder = None
            _warn(str(error).split("\n", 1)[0])
        return None

    def _of_all_rows(self) -> Tensor:
        positions = self._cache.grow_all(self._places)
        return scores(self._model, self._tokens[:, None], positions, self._cache)


def _warn(reason: str) -> None:
    logger.warning("this GPU cannot repeat steps, so answers take longer: %s", reason)


@torch.inference_mode()
def try_recorder(model: Model, recorder: Recorder) -> None:
    """
    Have a model's steps recorded, if one that is recorded comes out right with other tokens elsewhere.

    It is tried on two short texts, before there are any to spoil.
    """
    model.recorder = None
    if usable_positions(model.config) < TRIED_TOKENS:
        return
    expected = _tried(model)
    model.recorder = recorder
    found = _tried(model)
    off = (found - expected).square().mean(-1).sqrt()  # (T, 2)
    is_right = bool((off <= FAR_OFF * expected.std(-1)).all())  # the one time that it is waited for
    if model.recorder is not None and not is_right:
        model.recorder = None
        if expected.isfinite().all():
            _warn("a repeated one had other results")


def _tried(model: Model) -> Tensor:
    """Return the scores of some steps of two texts. (T, 2, V)"""
    words = torch.arange(2 * TRIED_TOKENS, device=model.head_weight.device)
    words = (words % model.config.vocab_size).view(2, -1)
    cache = Cache(model.config, model.head_weight)
    model(words[:, :3], cache.begin([3, 2]), None, cache)
    step = Step(model, cache, first_steps=1)
    return torch.stack([step(each).clone() for each in words[:, 3:].unbind(1)])


def scores(model: Model, tokens: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """
    Return the scores of what follows each text, in float32. (B, V)

    Args:
        model: In eval mode.
        tokens: Of each text what is not in the cache yet. (B, T)
        positions: Theirs, as the cache gave them. (B, T)
        cache: Of the texts.
    """
    return model.last_logits(model(tokens, positions, None, cache)).float()
