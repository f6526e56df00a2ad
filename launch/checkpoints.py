"""
    python launch/checkpoints.py ls my-run
    python launch/checkpoints.py verify my-run
    python launch/checkpoints.py prune my-run --keep 2 --dry-run
    python launch/checkpoints.py export my-run --out my-model

What a run has saved: list it, read every byte of it, remove what need not stay, or make a Hugging
Face folder of it. Works on any place, also while the run trains. The work is in keeping.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from instruct_core.errors import ConfigError
from launch.console import guarded, parse_flags, say

PROGRAM = "python launch/checkpoints.py"


@dataclass(frozen=True)
class Ls:
    """List a run's checkpoints: step, size, age, validation loss, attempt. Compares sizes only."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Name of the run."""
    checkpoints: str = "checkpoints_instruct"
    """Path or URL where runs keep their checkpoints."""


@dataclass(frozen=True)
class Verify:
    """Read every byte of a run's checkpoints and compare hashes; exit code 1 if one is damaged."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Name of the run."""
    step: int | None = None
    """Only this step (default: all)."""
    checkpoints: str = "checkpoints_instruct"
    """Path or URL where runs keep their checkpoints."""


@dataclass(frozen=True)
class Prune:
    """
    Remove checkpoints that need not stay.

    The last few stay, those kept for good, the best by validation loss, and never less than one that
    was read back and found right.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Name of the run."""
    keep: int | None = None
    """Newest checkpoints that stay (default: as the run itself does)."""
    keep_every: int | None = None
    """Steps divisible by this stay, 0 for none (default: as the run itself does)."""
    damaged: bool = False
    """Remove the damaged ones as well that were set aside."""
    dry_run: bool = False
    """Only say what would go."""
    checkpoints: str = "checkpoints_instruct"
    """Path or URL where runs keep their checkpoints."""


@dataclass(frozen=True)
class Export:
    """Make a folder that AutoModelForCausalLM and AutoTokenizer load."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Name of the run."""
    out: str
    """Path or URL of the folder; it must be empty or not there yet."""
    step: int | None = None
    """Which step (default: the newest one that verifies)."""
    checkpoints: str = "checkpoints_instruct"
    """Path or URL where runs keep their checkpoints."""


VERBS = {"ls": Ls, "verify": Verify, "prune": Prune, "export": Export}


def main(arguments: Sequence[str]) -> int:
    verb = arguments[0] if arguments else ""
    if verb in ("", "-h", "--help"):
        say(f"usage: {PROGRAM} {{{','.join(VERBS)}}} RUN [flags]; more: {PROGRAM} VERB --help\n")
        for name, flags in VERBS.items():
            say(f"  {name:8}{(flags.__doc__ or '').strip().splitlines()[0]}")
        return 0
    if verb not in VERBS:
        raise ConfigError(f"The first word must be one of {', '.join(VERBS)}, got {verb!r}.")
    flags = parse_flags(VERBS[verb], arguments[1:], program=f"{PROGRAM} {verb}")
    from launch import keeping

    match flags:
        case Ls():
            return keeping.show(flags)
        case Verify():
            return keeping.verify(flags)
        case Prune():
            return keeping.prune(flags)
        case Export():
            return keeping.export(flags)
    raise AssertionError(flags)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
