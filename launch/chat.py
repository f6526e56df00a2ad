"""
    python launch/chat.py --run my-run
    python launch/chat.py --run my-run --prompt "What is AI?" --temperature 0.7

Talks to a checkpoint of a run, also while it trains, or to any folder that --init takes. Without
--prompt it reads questions from the terminal, or from a pipe, one a line; /help lists what else
can be typed. The work is in dialogue.py; this file is the flags.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from instruct_core.errors import ConfigError
from instruct_core.model.sampling import Sampling
from launch.console import check_counts, guarded, parse_flags


@dataclass(frozen=True)
class Chat:
    """
    Talk to a run's newest checkpoint, or to any GPT-2.

    Questions are one conversation: what was said before is part of the prompt. Type /help for the
    commands; Ctrl-C stops an answer, Ctrl-D ends.
    """

    run: str | None = None
    """Name of the run (default: the one that saved last)."""
    checkpoints: str = "checkpoints_instruct"
    """Path or URL where runs keep their checkpoints."""
    checkpoint: str | None = None
    """Path or URL of a step folder, a Hugging Face folder or a .pt file, instead of a run."""
    base: str | None = None
    """What /compare asks too (default: what the run started from): a model as --checkpoint takes it."""
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Ask this and stop, instead of reading questions; given several times, each stands alone."""
    input: str = ""
    """Text for the template's Input block, given with every question."""
    max_new_tokens: int = 128
    """Longest answer, in tokens."""
    sampling: Annotated[Sampling, tyro.conf.OmitArgPrefixes] = field(default_factory=Sampling)
    """How words are chosen."""
    json: bool = False
    """Print one JSON object a line for every answer, for programs."""


def main() -> int:
    flags = parse_flags(Chat, sys.argv[1:])
    flags.sampling.check()
    check_counts(flags, "max_new_tokens")
    if not all(prompt.strip() for prompt in flags.prompt):
        raise ConfigError(
            "--prompt must have some text, got none. Leave it away to type questions."
        )
    from launch.dialogue import Dialogue, talk
    from launch.talking import load_speaker

    dialogue = Dialogue(flags, load_speaker(flags.run, flags.checkpoint, flags.checkpoints))
    if not flags.prompt:
        return talk(dialogue)
    for question in flags.prompt:
        dialogue.turns.clear()
        dialogue.ask(question)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
