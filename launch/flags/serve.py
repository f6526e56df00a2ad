"""What can be typed after launch/serve.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from instruct_core.answers.sampling import Sampling
from launch.flags.run import ModelFlags

KEY = "INSTRUCT_API_KEY"  # a variable and no flag: whoever lists processes sees flags


@dataclass(frozen=True)
class Serve:
    """
    Let programs that speak OpenAI's API, and a page in a browser, talk to a checkpoint.

    Set INSTRUCT_API_KEY to a secret, and only those who send it are answered. Ctrl-C ends.
    """

    model: Annotated[ModelFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelFlags)
    """Who answers: a checkpoint of a run, or a model that lies anywhere."""
    port: int = 8000
    """Port to listen at; 0 takes any that is free."""
    host: str = "127.0.0.1"
    """Address to listen at: this machine alone, unless another is given together with a key."""
    max_new_tokens: int = 512
    """Longest answer, in tokens, where a request does not say."""
    sampling: Annotated[Sampling, tyro.conf.OmitArgPrefixes] = field(default_factory=Sampling)
    """How words are chosen where a request does not say."""
