"""What can be typed after launch/chat.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from instruct_core.answers.sampling import Sampling
from launch.flags.run import ModelFlags
from launch.flags.values import PATH, TEXT


@dataclass(frozen=True)
class Chat:
    """
    Talk to a checkpoint of a run, or to any other model that can be trained here.

    Questions are one conversation: what was said before is part of the prompt. Type /help for the
    commands; Ctrl-C stops an answer, Ctrl-D ends.
    """

    model: Annotated[ModelFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelFlags)
    """Who answers: a checkpoint of a run, or a model that lies anywhere."""
    base: Annotated[str | None, PATH] = None
    """What /compare asks too (default: what the run started from): a model as --checkpoint takes it."""
    prompt: Annotated[tuple[str, ...], TEXT, tyro.conf.UseAppendAction] = ()
    """Ask this and stop, instead of reading questions; given several times, each stands alone."""
    input: Annotated[str, TEXT] = ""
    """Text for the template's Input block, given with every question."""
    system: Annotated[str, TEXT] = ""
    """What stands before the first question, for models that learnt to follow a system prompt."""
    max_new_tokens: int = 128
    """Longest answer, in tokens."""
    sampling: Annotated[Sampling, tyro.conf.OmitArgPrefixes] = field(default_factory=Sampling)
    """How words are chosen."""
    json: bool = False
    """Print one JSON object a line for every answer, for programs."""
