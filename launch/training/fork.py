"""
A new run that begins with a step of another one: --init run:NAME[@STEP|@best].

    step = forked_step("run:first@best", run)
    step.place, step.words          # ".../first/step-00000300", "step 300 of run first"
"""

from __future__ import annotations

from typing import NamedTuple

from instruct_core.checkpoints.steps import read_manifest
from instruct_core.config import TrainConfig
from instruct_core.errors import ConfigError, CorruptFileError
from launch.console.lines import note
from launch.flags.finetune import FORK
from launch.flags.parse import is_name
from launch.flags.values import step_word
from launch.runs.run import Run


class ForkedStep(NamedTuple):
    """The step that a run begins with."""

    source: Run
    step: int

    @property
    def place(self) -> str:
        """Its folder."""
        return self.source.step_place(self.step)

    @property
    def words(self) -> str:
        """How it is told."""
        return f"step {self.step} of run {self.source.name}"


def forked_step(typed: str, run: Run) -> ForkedStep:
    """
    Return the step that is meant, of which every byte is right.

    Args:
        typed: As --init was typed.
        run: That is to begin.

    Raises:
        ConfigError: No step can be meant, or it is one of the run itself.
        MissingError: There is no such run or step; names those that are there.
        CorruptFileError: The step is damaged.
    """
    name, at, word = typed.removeprefix(FORK).partition("@")
    try:
        wanted = step_word(word if at else "newest")
    except ValueError:
        raise ConfigError(
            f"--init {typed} must end in @newest, @best or @ and the number of a step, got @{word}"
            f"{'' if word else ': a variable in it may be empty'}."
        ) from None
    if not is_name(name):
        raise ConfigError(
            f"--init {typed} must name a run of {run.checkpoints}: run:NAME, run:NAME@STEP or "
            "run:NAME@best."
        )
    if name == run.name:
        raise ConfigError(
            f"--init {typed} is a step of the run itself, which goes on from its newest one by the same "
            "command without --init. Begin another --run, or name another run."
        )
    source = Run.find(name, run.checkpoints)
    return ForkedStep(source, source.good_step(wanted, note, typed=f"--init {FORK}{name}@"))


def other_batches(config: TrainConfig) -> str:
    """Return a note about kept moments that are of steps of another size; "" where there is none."""
    source = Run.of_step(config.init) if config.keep_optimizer else None
    if source is None or config.init_step is None:
        return ""
    try:
        identity = read_manifest(source.store, config.init_step).identity or {}
    except (CorruptFileError, FileNotFoundError):  # removed since it was looked at
        return ""
    tokens = identity.get("tokens_per_step", config.tokens_per_step)
    if tokens == config.tokens_per_step:
        return ""
    return (
        f"--tokens-per-step is {config.tokens_per_step:,}, and the moments of run {source.name} are of "
        f"steps of {tokens:,}"
    )
