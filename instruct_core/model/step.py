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

FIRST_STEPS = 8  # launched one by one: a recording takes as long as some of them
CLOSE = 1e-2  # what scores may differ by where other kernels make them

logger = logging.getLogger(__name__)


def record_on_gpu(step: Callable[[], Tensor]) -> Recording:
    """Return what repeats a step, and where its result is then; it is made once and recorded once."""
    graph, stream = torch.cuda.CUDAGraph(), _stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()  # so that kernels and memory for products are there: neither may be asked for below
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = step()
    torch.cuda.current_stream().wait_stream(stream)
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
    """

    def __init__(self, model: Model, cache: Cache) -> None:
        self._model, self._cache = model, cache
        self._form, self._steps = (0, 0), 0  # of the cache, and the steps since it has that
        self._recording: Recording | None = None
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
        if self._model.recorder is None or self._steps <= FIRST_STEPS:
            return scores(self._model, tokens[:, None], self._cache.grow(places), self._cache)
        if self._recording is None:
            self._tokens, self._places = tokens.new_zeros(2, self._cache.form[0])
        self._tokens[: len(tokens)] = tokens
        self._places[: len(tokens)] = torch.tensor(places)
        if self._recording is None:
            return self._record(self._model.recorder)[: len(tokens)]
        self._recording.repeat()
        return self._recording.result[: len(tokens)]

    def _record(self, recorder: Recorder) -> Tensor:
        """Record the step, and make it; where that fails, steps are launched one by one again. (R, V)"""
        expected = self._of_all_rows()
        try:
            self._recording = recorder(self._of_all_rows)
            self._recording.repeat()
        except RuntimeError as error:  # torch's, also where memory is short
            reason = str(error).split("\n", 1)[0]
        else:
            found = self._recording.result
            # The one time that a recording is waited for.
            if torch.allclose(found, expected, rtol=CLOSE, atol=CLOSE, equal_nan=True):
                return found
            reason = "a repeated one has other results"
        logger.warning("this GPU cannot repeat steps, so answers take longer: %s", reason)
        self._model.recorder = self._recording = None
        return expected

    def _of_all_rows(self) -> Tensor:
        positions = self._cache.grow_all(self._places)
        return scores(self._model, self._tokens[:, None], positions, self._cache)


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
