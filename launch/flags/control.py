"""What can be typed after launch/control.py: a run, a verb, and what the verb takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from instruct_core.errors import ConfigError
from launch.flags.parse import check_name
from launch.flags.run import Checkpoints, RunName
from launch.flags.values import PATH

Verb = Literal["save", "stop", "pause", "resume", "extend", "rename", "remove"]
TAKES = {"extend": "the step at which the run is to end", "rename": "another name"}


@dataclass(frozen=True)
class Control:
    """
    Ask something of a run, its job or its files.

    save: a checkpoint now. stop: save, and end for good. pause: save, and give the nodes back until
    resume. extend STEPS: end at that step, later. rename NAME. remove: all that the run has left.
    """

    run: RunName
    verb: Annotated[Verb, tyro.conf.Positional, tyro.conf.arg(metavar="VERB", help="What to do.")]
    value: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[VALUE]")] = None
    """Of extend, the step at which the run is to end; of rename, the new name."""
    dry_run: bool = False
    """Of remove: only say what would go, and how much that frees."""
    checkpoints: Checkpoints = "checkpoints_instruct"
    runs: Annotated[str | None, PATH] = None
    """Path or URL where the run keeps its ledger (default: where its settings say)."""

    @property
    def steps(self) -> int:
        """The step of an extend."""
        return int(self.value or 0)


def check_control(flags: Control) -> None:
    """
    Refuse words that make no sense for any run.

    Raises:
        ConfigError: Names the word, and what it must be.
    """
    check_name(flags.run, "RUN")
    verb, value = flags.verb, flags.value
    if verb in TAKES and value is None:
        raise ConfigError(f"{verb} takes {TAKES[verb]}, got nothing.")
    if verb not in TAKES and value is not None:
        raise ConfigError(f"{verb} takes nothing more, got {value!r}.")
    if verb == "extend" and not _is_step(value or ""):
        raise ConfigError(f"extend takes {TAKES[verb]}, a whole number, got {value!r}.")
    if verb == "rename":
        check_name(value or "", "rename NAME")
    if flags.dry_run and verb != "remove":
        raise ConfigError(f"--dry-run goes with remove, got {verb}.")


def _is_step(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 12 and int(word) > 0
