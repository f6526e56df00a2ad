"""
A model that answers, loaded from a run or from any place.

    speaker = load_speaker(ModelFlags(run="my-run"))
    answer = speaker.answer([], Exchange("What is AI?", "", ""), Sampling(), 128, on_text=print)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from instruct_core.answers.prompt import Prompt, fit_prompt
from instruct_core.answers.sampling import Sampling
from instruct_core.answers.text import AnswerText
from instruct_core.data.encoding import prompt_tokens
from instruct_core.data.model_template import template_of_model
from instruct_core.data.template import Template
from instruct_core.data.templates import end_ids
from instruct_core.data.tokenizer import Tokenizer, tokenizer_of_model
from instruct_core.data.turns import Exchange, Turn
from instruct_core.errors import ConfigError, CorruptFileError, MissingError
from instruct_core.recipe import Kept
from instruct_core.shape import trained_said, usable_positions
from jobs.environment import loading
from launch.cluster.machine import set_up_torch
from launch.console.lines import counted, note
from launch.flags.run import ModelFlags
from launch.runs.hub import model_place
from launch.runs.run import Run

if TYPE_CHECKING:
    from instruct_core.model.family import Model

LOADS = 3  # a run that trains may remove a step while it is being read


class ChatTooLongError(ConfigError):
    """A chat that leaves the model no room for an answer."""


class Answer(NamedTuple):
    """What was answered, and what it took."""

    text: str
    finish_reason: str  # end, stopped (a next instruction), length, or interrupted
    num_prompt_tokens: int
    num_new_tokens: int
    num_dropped: int  # earlier exchanges that had no room
    seconds: float
    first_token_seconds: float
    trained: str = ""  # in words, how far the model's positions are trained, where not all are


class Speaker:
    """
    A model that answers.

    Args:
        place: Where it came from.
        model: In eval mode.
        tokenizer: Its own.
        template: That it was trained with.
        run: That it is a step of, if it was found through one.
        step: Which one was asked for: "newest", "best" or a number.
        kept: In which numbers its weights are kept.
    """

    def __init__(
        self,
        place: str,
        model: Model,
        tokenizer: Tokenizer,
        template: Template,
        run: Run | None = None,
        step: str | int = "newest",
        kept: Kept = "fp32",
    ) -> None:
        self.place, self.run, self.step, self.kept, self._model = place, run, step, kept, model
        self._tokenizer, self._template = tokenizer, template
        self._end_ids = end_ids(template, tokenizer)

    def answer(
        self,
        turns: Sequence[Exchange],
        question: Exchange,
        sampling: Sampling,
        max_new_tokens: int,
        on_text: Callable[[str], None],
    ) -> Answer:
        """
        Return the answer to a question; Ctrl-C ends it early.

        Args:
            turns: The conversation so far.
            question: Its output is not used.
            sampling: How words are chosen.
            max_new_tokens: Longest answer.
            on_text: Given each part of the text as soon as it is certain.

        Raises:
            ConfigError: The question alone is too long for the model.
        """
        tokens, num_dropped = self._prompt(turns, question, max_new_tokens)
        answer = self.reply(tokens, sampling, max_new_tokens, on_text)
        return answer._replace(num_dropped=num_dropped)

    def reply(
        self,
        tokens: list[int],
        sampling: Sampling,
        max_new_tokens: int,
        on_text: Callable[[str], None],
        ends: Sequence[str] = (),
        goes_on: Callable[[], bool] = lambda: True,
    ) -> Answer:
        """
        Return what follows a prompt; Ctrl-C ends it early.

        Args:
            tokens: The prompt, as `prompt` gives it.
            sampling, max_new_tokens, on_text: See `answer`.
            ends: Texts that end the answer, beside the template's own.
            goes_on: Asked after each token; False ends the answer.
        """
        from instruct_core.answers.generation import generate
        from jobs.gpu_memory import advice_of_a_command, gpu_holds

        started_at, times = time.perf_counter(), list[float]()
        text = AnswerText(self._tokenizer, [self._template.heading, *ends])

        def take(_: int, token: int) -> bool:
            times.append(time.perf_counter() - started_at)
            on_text(text.take(token))
            return not text.is_over and goes_on()

        try:
            with gpu_holds("the answer", advice_of_a_command(self.kept)):
                [generated] = generate(
                    self._model,
                    [tokens],
                    max_new_tokens=max_new_tokens,
                    sampling=sampling,
                    on_token=take,
                    end_ids=self._end_ids,
                )
            reason: str = generated.finish_reason
        except KeyboardInterrupt:
            reason = "interrupted"
        on_text(text.rest())
        return Answer(
            text.shown, reason, len(tokens), len(times), 0,
            round(time.perf_counter() - started_at, 4), round(times[0], 4) if times else 0.0,
            trained_said(self._model.config),
        )  # fmt: skip

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """
        Return the tokens of a whole chat, up to where its next answer begins.

        Raises:
            ChatTooLongError: It leaves no room for an answer.
            ConfigError: The template has no words for it.
        """
        try:
            segments = self._template.segments(turns, asks=True)
        except ValueError as error:
            raise ConfigError(
                f"Template {self._template.name} cannot write this: {error}."
            ) from None
        tokens, shape = prompt_tokens(segments, self._tokenizer), self._model.config
        if len(tokens) >= (positions := usable_positions(shape)):
            trained = trained_said(shape)
            why = f" (it was {trained})" if trained else ""
            raise ChatTooLongError(
                f"The chat has {counted(len(tokens), 'token')} with its headings, and the model takes at "
                f"most {positions - 1:,} to leave room for an answer{why}. Leave its oldest turns out."
            )
        return tokens

    def _prompt(self, turns: Sequence[Exchange], question: Exchange, max_new_tokens: int) -> Prompt:
        said = [Turn("system", question.system)] if question.system.strip() else []
        said += [turn for exchange in turns for turn in exchange.turns]
        said += question._replace(output="").turns
        shape = self._model.config
        return fit_prompt(
            self._tokenizer, self._template, said, usable_positions(shape), max_new_tokens,
            trained_said(shape),
        )  # fmt: skip


def load_speaker(flags: ModelFlags) -> Speaker:
    """Return the model that was named; raises MissingError where there is none."""
    set_up_torch()
    if flags.checkpoint is not None:
        return _speaker(model_place("--checkpoint", flags.checkpoint), kept=flags.weights)
    run = Run.find(flags.run, flags.checkpoints, flags.runs)
    return load_step(run, flags.step, flags.weights)


def _speaker(
    place: str, run: Run | None = None, step: str | int = "newest", kept: Kept = "fp32"
) -> Speaker:
    with loading():
        from instruct_core.model.weights import load_model
        from jobs.gpu_memory import advice_of_a_command, gpu_holds

    tokenizer = tokenizer_of_model(place)
    template = template_of_model(place, tokenizer)
    with gpu_holds("the model", advice_of_a_command(kept)):
        model = load_model(place, kept=kept)
    return Speaker(place, model, tokenizer, template, run, step, kept)


def load_step(run: Run, step: str | int, kept: Kept) -> Speaker:
    """Return a step of a run that verifies; see Run.good_step."""
    for attempt in range(LOADS):
        place = run.step_place(run.good_step(step, note))
        try:
            return _speaker(place, run, step, kept)
        except (CorruptFileError, MissingError, FileNotFoundError):
            if attempt == LOADS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def load_base(place: str, base: str | None, kept: Kept) -> Speaker:
    """
    Return the model that another one was trained from.

    Args:
        place: Of the trained one.
        base: What was named by hand, if anything.
        kept: In which numbers its weights are kept.

    Raises:
        ConfigError: Nothing was named, and the place is no step of a run that would tell.
    """
    from instruct_core.model.weights import first_model, ready
    from jobs.gpu_memory import advice_of_a_command, gpu_holds

    if base:
        return _speaker(model_place("--base", base), kept=kept)
    run = Run.of_step(place)
    if run is None:
        raise ConfigError(
            f"Model {place} is no step of a run, so its base is not known. Give --base."
        )
    config = run.config
    tokenizer = tokenizer_of_model(place)
    vocab_size = tokenizer.vocab_size
    model = first_model(config.init, config.model, config.seed, vocab_size=vocab_size)
    what = f"random weights of {config.model}" if config.init == "random" else config.init
    # Both are asked in the same words.
    template = template_of_model(place, tokenizer)
    with gpu_holds("the base beside the model", advice_of_a_command(kept)):
        answering = ready(model, kept=kept)
    return Speaker(what, answering, tokenizer, template, kept=kept)
